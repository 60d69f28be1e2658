//! The part of an address that stands for a network.

use std::net::{IpAddr, Ipv6Addr};

/// `address` with all but its first bits cleared.
pub(crate) fn truncate(address: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - v4_bits).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - v6_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_truncated_by_family() {
        assert_eq!(truncate(ip("192.0.2.77"), 24, 48), ip("192.0.2.0"));
        assert_eq!(truncate(ip("::ffff:192.0.2.77"), 24, 48), ip("192.0.2.0"));
        assert_eq!(truncate(ip("2001:db8:1:2::3"), 24, 48), ip("2001:db8:1::"));
        assert_eq!(truncate(ip("2001:db8:1:2::3"), 32, 128), ip("2001:db8:1:2::3"));
    }
}
