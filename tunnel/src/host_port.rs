//! Where to connect to, as a person writes it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::MAX_NAME;
use crate::spoken::spoken;

/// Longest text of a faulty address that an error repeats.
const MAX_REPEATED: usize = 100;

/// A host name or address with a port, for example `relay.example.net:4433`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort(String);

/// Why a text is no [`HostPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not HOST:PORT, such as `relay.example.net:4433` or `[2001:db8::1]:4433`")]
pub struct HostPortError(String);

impl HostPort {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters, digits, `-`, `.` and `_`, which some local networks have; an IPv6 address stands in
/// brackets. What has a meaning in an invite's URL cannot be in it.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']').unwrap_or_default();
        let (address, zone) = address.split_once('%').unwrap_or((address, "0"));
        let plain = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric());
        return plain && zone.len() <= 16 && address.parse::<Ipv6Addr>().is_ok();
    }
    let octet = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=MAX_NAME + 1).contains(&host.len()) && host.bytes().all(octet)
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let port = |port: &str| {
            let digits = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
            digits && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        match text.rsplit_once(':') {
            Some((host, number)) if is_host(host) && port(number) => Ok(Self(text.into())),
            _ => Err(HostPortError(spoken(text, MAX_REPEATED))),
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostPortError;

    fn try_from(text: String) -> Result<Self, HostPortError> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(value: HostPort) -> Self {
        value.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_with_a_port_are_taken_as_written() {
        for good in [
            "relay.example.net:4433",
            "Relay.Example.:1",
            "mail_server:25",
            "192.0.2.1:65535",
            "[2001:db8::1]:4433",
            "[fe80::1%2]:25",
        ] {
            assert_eq!(good.parse::<HostPort>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused_with_an_example() {
        let long = format!("{}:25", "a".repeat(300));
        for bad in [
            "",
            ":",
            ":25",
            "relay.example",
            "relay:0",
            "relay:99999",
            "relay:x",
            "relay:+25",
            "relay:000025",
            "relay:",
            "2001:db8::1",
            "2001:db8::1:25",
            "[]:25",
            "[2001:db8::1:25",
            "[relay]:25",
            "[fe80::1%]:25",
            "re lay:25",
            "re/lay:25",
            "a?b#c,d&e:25",
            "bücher.example:25",
            "relay:25\n",
            &long,
        ] {
            let error = bad.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains("is not HOST:PORT") && error.len() < 250, "{error}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics_and_survives_as_it_was(noise in "\\PC{0,40}|[a-f0-9:.%\\[\\]]{0,30}") {
            if let Ok(address) = noise.parse::<HostPort>() {
                prop_assert_eq!(address.to_string(), noise);
            }
        }
    }
}
