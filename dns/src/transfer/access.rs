//! Who may have a zone, and who may say that it changed: rules of an address prefix, a key, or both.
//! Without a rule nobody may. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::record::Name;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// Why text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address or prefix; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/48")]
pub struct PrefixError(String);

/// One who may. At least one of both is given, and what is given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// From there, signed or not.
    From(Prefix),
    /// Whoever has this key, from everywhere.
    Key(Name),
    /// Whoever has this key, and only from there.
    KeyFrom(Name, Prefix),
}

impl Prefix {
    /// The addresses that have the first `bits` bits in common with `address`. More bits than there
    /// are mean all of them.
    pub fn new(address: IpAddr, bits: u8) -> Self {
        let address = address.to_canonical();
        let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
        Self { address: masked(address, bits), bits }
    }

    /// Whether `address` is one of them. An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.chars().take(64).collect());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(error)?,
        };
        Ok(Self::new(address, bits))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Rule {
    /// Whether a request from `client`, signed with the key of that name, is of this rule.
    pub fn admits(&self, client: IpAddr, key: Option<&Name>) -> bool {
        match self {
            Self::From(prefix) => prefix.contains(client),
            Self::Key(name) => key == Some(name),
            Self::KeyFrom(name, prefix) => key == Some(name) && prefix.contains(client),
        }
    }
}

/// Whether any of the rules admits a request.
pub fn admitted(rules: &[Rule], client: IpAddr, key: Option<&Name>) -> bool {
    rules.iter().any(|rule| rule.admits(client, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture::name;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_rules_nobody_may() {
        assert!(!admitted(&[], ip("127.0.0.1"), Some(&name("key"))));
    }

    #[test]
    fn a_rule_of_both_wants_both() {
        let near = "192.0.2.0/24".parse().unwrap();
        let rule = [Rule::KeyFrom(name("key"), near)];
        let key = name("KEY");
        assert!(admitted(&rule, ip("192.0.2.9"), Some(&key)));
        assert!(!admitted(&rule, ip("192.0.3.9"), Some(&key)));
        assert!(!admitted(&rule, ip("192.0.2.9"), None));
        assert!(!admitted(&rule, ip("192.0.2.9"), Some(&name("other"))));
        assert!(admitted(&[Rule::Key(name("key"))], ip("::1"), Some(&key)));
        assert!(admitted(&[Rule::From(near)], ip("::ffff:192.0.2.1"), None));
    }

    #[test]
    fn prefixes_are_read_and_compared_by_their_bits() {
        for (prefix, inside, outside) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.77/25", "192.0.2.1", "192.0.2.128"),
            ("2001:db8:5::/47", "2001:db8:4::1", "2001:db8:6::"),
            ("0.0.0.0/0", "255.1.2.3", "::"),
            ("::/0", "2001:db8::", "1.2.3.4"),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            assert!(prefix.contains(ip(inside)), "{prefix} {inside}");
            assert!(!prefix.contains(ip(outside)), "{prefix} {outside}");
        }
        for bad in ["", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3.4/-1", "host"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
