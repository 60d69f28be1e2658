//! Who may have how many connections, counted before anything is read from them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::outcome::Outcome;
use crate::prefix::truncate;

/// Bits of an IPv6 address that one network has for itself; within it addresses are free.
const IPV6_PREFIX: u32 = 64;
/// Bits of an IPv4 address that count as one neighbourhood.
const IPV4_PREFIX: u32 = 24;

/// How many connections are open, in all and by network.
#[derive(Default)]
pub(crate) struct Limits {
    open: AtomicUsize,
    by_prefix: DashMap<IpAddr, usize>,
}

/// One connection that was let in; ends when dropped.
pub(crate) struct Permit {
    limits: Arc<Limits>,
    prefix: IpAddr,
}

impl Limits {
    /// Lets a connection from `client` in, or says which limit is reached.
    pub(crate) fn admit(
        self: &Arc<Self>,
        client: IpAddr,
        total: usize,
        per_prefix: usize,
    ) -> Result<Permit, Outcome> {
        if self.open.load(Ordering::Relaxed) >= total {
            return Err(Outcome::Busy);
        }
        let prefix = prefix_of(client);
        match self.by_prefix.entry(prefix) {
            Entry::Occupied(mut count) if *count.get() < per_prefix => *count.get_mut() += 1,
            Entry::Vacant(place) if per_prefix > 0 => _ = place.insert(1),
            _ => return Err(Outcome::BusyPrefix),
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { limits: self.clone(), prefix })
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut entry) = self.limits.by_prefix.entry(self.prefix) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The network that `client` is counted with.
pub(crate) fn prefix_of(client: IpAddr) -> IpAddr {
    truncate(client, IPV4_PREFIX, IPV6_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_counted_as_one_and_its_places_come_back() {
        let limits = Arc::new(Limits::default());
        let first = limits.admit(ip("2001:db8::1"), 3, 2).unwrap();
        let _second = limits.admit(ip("2001:db8::2"), 3, 2).unwrap();
        assert_eq!(limits.admit(ip("2001:db8::3"), 3, 2).err(), Some(Outcome::BusyPrefix));
        let _other = limits.admit(ip("192.0.2.1"), 3, 2).unwrap();
        assert_eq!(limits.admit(ip("198.51.100.1"), 3, 2).err(), Some(Outcome::Busy));
        drop(first);
        assert!(limits.admit(ip("2001:db8::3"), 3, 2).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_clients_that_left() {
        let limits = Arc::new(Limits::default());
        for last in 0..=255 {
            drop(limits.admit(ip(&format!("192.0.{last}.1")), 10, 10));
        }
        assert_eq!((limits.open(), limits.by_prefix.len()), (0, 0));
        // A refusal leaves nothing behind either.
        assert!(limits.admit(ip("192.0.2.1"), 10, 0).is_err());
        assert_eq!(limits.by_prefix.len(), 0);
    }
}
