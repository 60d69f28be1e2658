//! Addresses by arithmetic: the number of a box is the end of its IPv6 address, so that neither a
//! table nor a socket a box is needed. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// An IPv6 prefix of the relay out of which each box has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct OwnPrefix {
    network: u128,
    length: u32,
}

/// Why a text is no [`OwnPrefix`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnPrefixError {
    /// Not of the form.
    #[error("`{0}` is not an IPv6 prefix such as `2001:db8:1:2::/64`")]
    Form(String),
    /// Too long or too short.
    #[error(
        "a prefix of {0} bits: it must have 48 to 96, so that every box gets an address and \
         no more is taken than the relay was given (a /64 is usual)"
    )]
    Length(u32),
    /// Bits behind the prefix.
    #[error("`{0}` has bits set behind the prefix; write the network, `{1}`")]
    Host(String, Ipv6Addr),
}

impl OwnPrefix {
    /// The address of the box with the number `id`.
    pub fn address(self, id: u64) -> Option<Ipv6Addr> {
        let end = u128::from(id);
        (end & self.mask() == 0).then(|| Ipv6Addr::from_bits(self.network | end))
    }

    /// The number of the box that `address` belongs to, if there is such a box.
    pub fn id(self, address: IpAddr) -> Option<u64> {
        let IpAddr::V6(address) = address else { return None };
        let bits = address.to_bits();
        if bits & self.mask() != self.network {
            return None;
        }
        u64::try_from(bits & !self.mask()).ok()
    }

    fn mask(self) -> u128 {
        u128::MAX << (128 - self.length)
    }
}

impl FromStr for OwnPrefix {
    type Err = OwnPrefixError;

    fn from_str(text: &str) -> Result<Self, OwnPrefixError> {
        let form = || OwnPrefixError::Form(text.into());
        let (address, length) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv6Addr = address.parse().map_err(|_| form())?;
        let length: u32 = length.parse().map_err(|_| form())?;
        if !(48..=96).contains(&length) {
            return Err(OwnPrefixError::Length(length));
        }
        let prefix = Self { network: address.to_bits(), length };
        let network = prefix.network & prefix.mask();
        if network != prefix.network {
            return Err(OwnPrefixError::Host(text.into(), Ipv6Addr::from_bits(network)));
        }
        Ok(prefix)
    }
}

impl TryFrom<String> for OwnPrefix {
    type Error = OwnPrefixError;

    fn try_from(text: String) -> Result<Self, OwnPrefixError> {
        text.parse()
    }
}

impl fmt::Display for OwnPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from_bits(self.network), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_the_end_of_the_address() {
        let prefix: OwnPrefix = "2001:db8:1:2::/64".parse().unwrap();
        assert_eq!(prefix.address(256).unwrap().to_string(), "2001:db8:1:2::100");
        assert_eq!(prefix.id("2001:db8:1:2::100".parse().unwrap()), Some(256));
        for foreign in ["2001:db8:1:3::100", "::100", "192.0.2.1", "::ffff:192.0.2.1"] {
            assert_eq!(prefix.id(foreign.parse().unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_has_no_address() {
        let prefix: OwnPrefix = "2001:db8::/96".parse().unwrap();
        assert!(prefix.address(u64::from(u32::MAX)).is_some());
        assert_eq!(prefix.address(u64::from(u32::MAX) + 1), None);
    }

    #[test]
    fn bad_prefixes_say_what_is_wrong() {
        for (bad, word) in [
            ("2001:db8::", "such as"),
            ("192.0.2.0/24", "such as"),
            ("2001:db8::/32", "48 to 96"),
            ("2001:db8::/128", "48 to 96"),
            ("2001:db8::1/64", "write the network, `2001:db8::`"),
        ] {
            let error = bad.parse::<OwnPrefix>().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn address_and_number_are_inverse(id: u64, length in 48u32..=96) {
            let network = Ipv6Addr::from_bits(0x2001_0db8_u128 << 96);
            let prefix: OwnPrefix = format!("{network}/{length}").parse().unwrap();
            if let Some(address) = prefix.address(id) {
                prop_assert_eq!(prefix.id(address.into()), Some(id));
            }
        }
    }
}
