//! What the shield consists of: `[shield]` of the configuration. Nothing, unless the operator says.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::bucket::Rate;
use super::dnsbl::List;

/// A real sender waits 5 minutes for the greeting (RFC 5321 section 4.5.3.2.1); each second of it
/// delays mail, and gains less than the one before.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Each list is asked about each sender.
const MAX_LISTS: usize = 8;
const MAX_RESOLVERS: usize = 8;

/// `[shield]`: what stands before boxes whose owners want it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShieldSettings {
    /// How long the greeting waits for senders that do not. Zero: it does not.
    #[serde(with = "humantime_serde")]
    pub greet_pause: Duration,
    /// DNS lists of senders that are not let in.
    pub lists: Vec<List>,
    /// Whom to ask for them; none means those of the system (`/etc/resolv.conf`).
    pub resolvers: Vec<SocketAddr>,
    /// Connections from one network to one box.
    pub prefix_rate: Option<Rate>,
    /// Connections to one box.
    pub box_rate: Option<Rate>,
}

impl ShieldSettings {
    /// What is wrong with them, and the cure.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.greet_pause > MAX_PAUSE {
            return Err(("greet_pause delays all mail of a box", "use at most 10s"));
        }
        if self.lists.len() > MAX_LISTS {
            return Err(("too many lists: each is asked about each sender", "name at most 8"));
        }
        if self.resolvers.len() > MAX_RESOLVERS {
            return Err(("too many resolvers", "name at most 8"));
        }
        Ok(())
    }
}
