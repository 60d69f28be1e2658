//! Remembers for some seconds which clients failed on a shared address because they named nobody.
//!
//! OpenSMTPD, Exim and others answer a failed handshake by coming back to the same address in
//! plaintext. A 421 to that attempt's EHLO moves them on to the next mail exchanger.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

/// How long a failure is remembered.
const WINDOW: Duration = Duration::from_secs(10);
/// Most clients that are remembered; beyond it a client is just not moved on.
const CAPACITY: usize = 65_536;

/// Recent failures by client address.
pub(crate) struct Failures {
    recent: DashMap<IpAddr, Instant>,
    began: Instant,
    /// When everything older than the window was last forgotten, in seconds since `began`.
    swept: AtomicU64,
}

impl Default for Failures {
    fn default() -> Self {
        Self { recent: DashMap::default(), began: Instant::now(), swept: AtomicU64::new(0) }
    }
}

impl Failures {
    /// `client` named nobody where a name was needed.
    pub(crate) fn note(&self, client: IpAddr, now: Instant) {
        self.sweep(now);
        if self.recent.len() < CAPACITY {
            self.recent.insert(client, now);
        }
    }

    /// `client` named somebody, so it is of the kind that must not be sent away.
    pub(crate) fn forgive(&self, client: IpAddr) {
        self.recent.remove(&client);
    }

    /// Whether `client` failed just now.
    pub(crate) fn is_recent(&self, client: IpAddr, now: Instant) -> bool {
        self.sweep(now);
        self.recent.remove_if(&client, |_, at| now.duration_since(*at) >= WINDOW).is_none()
            && self.recent.contains_key(&client)
    }

    /// Forgets what is over, at most once in a window: the relay keeps no list of who wrote.
    fn sweep(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        let swept = self.swept.load(Ordering::Relaxed);
        let due = seconds >= swept.saturating_add(WINDOW.as_secs());
        let claimed =
            || self.swept.compare_exchange(swept, seconds, Ordering::Relaxed, Ordering::Relaxed);
        if due && claimed().is_ok() {
            self.recent.retain(|_, at| now.saturating_duration_since(*at) < WINDOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_remembered_for_its_window_and_forgiven_by_a_name() {
        let failures = Failures::default();
        let (client, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        assert!(!failures.is_recent(client, now));
        failures.note(client, now);
        assert!(failures.is_recent(client, now + WINDOW / 2));
        assert!(!failures.is_recent(client, now + WINDOW));
        assert_eq!(failures.recent.len(), 0);
        failures.note(client, now);
        failures.forgive(client);
        assert!(!failures.is_recent(client, now));
    }

    #[test]
    fn a_flood_of_clients_is_bounded() {
        let failures = Failures::default();
        let now = Instant::now();
        for bits in 0..u32::try_from(CAPACITY).unwrap() + 10 {
            failures.note(IpAddr::from(bits.to_be_bytes()), now);
        }
        assert_eq!(failures.recent.len(), CAPACITY);
        failures.note(IpAddr::from([255; 4]), now + WINDOW * 2);
        assert_eq!(failures.recent.len(), 1);
    }
}
