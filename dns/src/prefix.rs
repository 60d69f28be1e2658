//! The network that a client is counted with. Within a network addresses are free for its owner, so a
//! limit by address would limit nobody.

use std::net::IpAddr;

/// Bits of an IPv4 address that count as one network.
const IPV4_BITS: u32 = 24;
/// Bits of an IPv6 address that count as one network: what one customer commonly has (RFC 6177).
const IPV6_BITS: u32 = 56;
/// Where IPv4 networks stand among the IPv6 ones: in `ff00::/8`, which is multicast and so never the
/// source of a query.
const IPV4_MARK: u64 = 0xffff_ffff_0000_0000;

/// A client's network: /24 of IPv4, /56 of IPv6. An IPv4 address is the same in its mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(u64);

impl Prefix {
    /// The network of `client`.
    pub fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(v4) => Self(IPV4_MARK | u64::from(v4.to_bits() >> (32 - IPV4_BITS))),
            IpAddr::V6(v6) => {
                let kept = v6.to_bits() >> (128 - IPV6_BITS);
                // 56 bits fit.
                Self(u64::try_from(kept).unwrap_or(u64::MAX))
            }
        }
    }

    /// As a number, for hashing.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Prefix {
        Prefix::of(text.parse().unwrap())
    }

    #[test]
    fn neighbours_are_one_network_and_families_never_meet() {
        assert_eq!(of("192.0.2.1"), of("192.0.2.255"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.7"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:ff:1::"));
        assert_ne!(of("2001:db8:0:100::"), of("2001:db8::"));
        assert_ne!(of("0.0.0.0"), of("::"));
    }
}
