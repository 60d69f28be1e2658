//! Which relay is meant: where it listens and which key it must prove.

use std::fmt;
use std::str::FromStr;

use crate::host_port::{HostPort, HostPortError};
use crate::identity::{PublicKey, PublicKeyError};

/// The most addresses of one relay in an invite or a recovery kit.
pub const MAX_ADDRESSES: usize = 16;

/// A relay as somebody else is told of it. As text, which is its form in a recovery kit:
/// `HOST:PORT,HOST:PORT,ed25519:…`, the key last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRef {
    /// Where it listens: at least one, at most [`MAX_ADDRESSES`]; all are tried.
    pub addresses: Vec<HostPort>,
    /// The key that it must prove.
    pub key: PublicKey,
}

/// Why a text names no relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayRefError {
    /// There are none, or more than [`MAX_ADDRESSES`].
    #[error("a relay has 1 to {MAX_ADDRESSES} addresses here, not {0}")]
    Count(usize),
    /// One is none.
    #[error(transparent)]
    Address(#[from] HostPortError),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
}

/// As many addresses as there may be, read one by one.
pub(crate) fn read_addresses<'a>(
    texts: impl Iterator<Item = &'a str> + Clone,
) -> Result<Vec<HostPort>, RelayRefError> {
    let count = texts.clone().count();
    if !(1..=MAX_ADDRESSES).contains(&count) {
        return Err(RelayRefError::Count(count));
    }
    Ok(texts.map(str::parse).collect::<Result<_, _>>()?)
}

impl fmt::Display for RelayRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.addresses {
            write!(f, "{address},")?;
        }
        write!(f, "{}", self.key)
    }
}

impl FromStr for RelayRef {
    type Err = RelayRefError;

    fn from_str(text: &str) -> Result<Self, RelayRefError> {
        let (addresses, key) = text.rsplit_once(',').ok_or(RelayRefError::Count(0))?;
        Ok(Self { addresses: read_addresses(addresses.split(','))?, key: key.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    #[test]
    fn a_relay_survives_text() {
        let addresses = ["relay.example.net:4433", "[2001:db8::1]:4433"];
        let relay = RelayRef {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            key: Identity::ephemeral().public(),
        };
        assert_eq!(relay.to_string().parse(), Ok(relay));
    }

    #[test]
    fn what_names_no_relay_says_which_part_is_wrong() {
        let key = Identity::ephemeral().public();
        let many = "r:1,".repeat(MAX_ADDRESSES + 1);
        let error = |text: &str| text.parse::<RelayRef>().unwrap_err();
        assert_eq!(error(&key.to_string()), RelayRefError::Count(0));
        assert_eq!(error(&format!("{many}{key}")), RelayRefError::Count(17));
        assert!(matches!(error(&format!(",{key}")), RelayRefError::Address(_)));
        assert!(matches!(error("r:1,r:2"), RelayRefError::Key(_)));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "\\PC{0,80}", key in any::<bool>()) {
            let tail = if key { Identity::ephemeral().public().to_string() } else { String::new() };
            let _ = format!("{noise}{tail}").parse::<RelayRef>();
        }
    }
}
