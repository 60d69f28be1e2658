//! What the relay's log may tell about senders and boxes, and how the boxes are told about it.

use std::net::IpAddr;

use sealpost_tunnel::control::{LOGS_FULL_ADDRESSES, LOGS_SESSIONS};
use serde::Deserialize;

use crate::prefix::truncate;

/// How much of a sender's address is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAddresses {
    /// The /24 of an IPv4 address, the /48 of an IPv6 address.
    #[default]
    Truncated,
    /// All of it.
    Full,
}

/// What the log says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sessions {
    /// Not for whom it was: nobody can read in the log who writes to whom.
    #[default]
    Anonymous,
    /// The box, the name that the sender asked for, and the address that it connected to.
    Named,
}

/// What the log may tell about senders and boxes. A box's owner is told (`sealpost-agent status`),
/// so it is fixed from start to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privacy {
    client_addresses: ClientAddresses,
    sessions: Sessions,
}

impl Privacy {
    /// As the configuration says.
    pub fn new(client_addresses: ClientAddresses, sessions: Sessions) -> Self {
        Self { client_addresses, sessions }
    }

    /// An address as it may stand in a log.
    pub fn shown(&self, address: IpAddr) -> IpAddr {
        match self.client_addresses {
            ClientAddresses::Truncated => truncate(address, 24, 48),
            ClientAddresses::Full => address,
        }
    }

    /// `what` tells for whom a session was.
    pub fn named<T>(&self, what: T) -> Option<T> {
        (self.sessions == Sessions::Named).then_some(what)
    }

    /// What boxes are told, as bits of [`Hello::capabilities`].
    ///
    /// [`Hello::capabilities`]: sealpost_tunnel::control::Hello
    pub fn capabilities(&self) -> u64 {
        let full = self.client_addresses == ClientAddresses::Full;
        let full = if full { LOGS_FULL_ADDRESSES } else { 0 };
        self.named(LOGS_SESSIONS).unwrap_or(0) | full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_does_not_say_who_writes_to_whom_unless_asked_and_boxes_are_told() {
        let quiet = Privacy::new(ClientAddresses::default(), Sessions::default());
        assert_eq!((quiet.named("home"), quiet.capabilities()), (None, 0));
        let named = Privacy::new(ClientAddresses::Full, Sessions::Named);
        assert_eq!(named.named("home"), Some("home"));
        assert_eq!(named.capabilities(), LOGS_SESSIONS | LOGS_FULL_ADDRESSES);
    }

    #[test]
    fn client_addresses_are_truncated_unless_asked() {
        let client = IpAddr::from([192, 0, 2, 77]);
        let shown = |how| Privacy::new(how, Sessions::Anonymous).shown(client).to_string();
        assert_eq!(shown(ClientAddresses::Truncated), "192.0.2.0");
        assert_eq!(shown(ClientAddresses::Full), "192.0.2.77");
    }
}
