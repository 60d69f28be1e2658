//! Which name servers are a domain's own, by what several resolvers tell. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// So many servers of a domain are asked at most.
pub(super) const MAX_SERVERS: usize = 8;

/// A name server at one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: IpAddr,
}

/// What one resolver tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delegation {
    /// The zone that the domain is in.
    pub(super) zone: String,
    /// The zone's name servers.
    pub(super) servers: Vec<Server>,
}

/// The servers that more than half of the resolvers tell of, so that no single one can lead away
/// from the domain's own or add a false one. Each name comes once before any comes twice.
pub(super) fn agreed(told: &[Delegation]) -> Vec<Server> {
    let mut votes: BTreeMap<(&str, &Server), usize> = BTreeMap::new();
    for delegation in told {
        let mut servers: Vec<&Server> = delegation.servers.iter().collect();
        servers.sort();
        servers.dedup();
        for server in servers {
            *votes.entry((&delegation.zone, server)).or_default() += 1;
        }
    }
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut servers: Vec<(usize, &Server)> = votes
        .into_iter()
        .filter(|(_, votes)| 2 * votes > told.len())
        .map(|((_, server), _)| {
            let turn = turns.entry(&server.name).or_default();
            *turn += 1;
            (*turn, server)
        })
        .collect();
    servers.sort();
    servers.into_iter().map(|(_, server)| server.clone()).collect()
}

/// Whether an address lies on networks that are not the internet: a stranger's zone shall not make
/// the relay send packets into its operator's own network. The ranges for documentation count as
/// the internet, as nobody has them at home.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => match inner_v4(v6) {
            Some(v4) => is_private_v4(v4),
            None => is_private_v6(v6),
        },
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || a == 0
        // Shared by customers of one provider (RFC 6598).
        || (a == 100 && b & 0xc0 == 64)
        // IETF protocol assignments, and benchmarks (RFC 2544).
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && b & 0xfe == 18)
        // Multicast, reserved, broadcast.
        || a >= 224
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        // Site-local, deprecated but still routed in places (RFC 3879).
        || address.segments()[0] & 0xffc0 == 0xfec0
        // Translation within one's own network (RFC 8215).
        || address.segments()[..3] == [0x64, 0xff9b, 1]
}

/// The IPv4 address to which packets for an IPv6 address go in the end.
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let joined = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(joined(high, low))
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(joined(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, address: &str) -> Server {
        Server { name: name.into(), address: address.parse().unwrap() }
    }

    fn told(zone: &str, servers: &[(&str, &str)]) -> Delegation {
        let servers = servers.iter().map(|(name, address)| server(name, address)).collect();
        Delegation { zone: zone.into(), servers }
    }

    const TRUE: &[(&str, &str)] =
        &[("a.ns", "192.0.2.1"), ("a.ns", "2001:db8::1"), ("b.ns", "192.0.2.2")];

    #[test]
    fn one_resolver_of_three_neither_adds_nor_removes_a_server() {
        let truth = told("home.example", TRUE);
        let expected = [
            server("a.ns", "192.0.2.1"),
            server("b.ns", "192.0.2.2"),
            server("a.ns", "2001:db8::1"),
        ];
        for lie in [
            told("home.example", &[("evil.ns", "192.0.2.66")]),
            told("home.example", &[("a.ns", "192.0.2.66"), ("a.ns", "192.0.2.66")]),
            told("example", TRUE),
            told("home.example", &[]),
        ] {
            assert_eq!(agreed(&[truth.clone(), lie, truth.clone()]), expected);
        }
        assert_eq!(agreed(&[truth]), expected);
    }

    #[test]
    fn two_that_disagree_leave_nothing() {
        let one = told("home.example", &[("a.ns", "192.0.2.1")]);
        let two = told("home.example", &[("a.ns", "192.0.2.66")]);
        assert_eq!(agreed(&[one, two]), []);
        assert_eq!(agreed(&[]), []);
    }

    #[test]
    fn addresses_inside_somebodys_network_are_told_from_the_internet() {
        for private in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.251",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::fb",
            "::ffff:10.0.0.1",
            "64:ff9b::192.168.1.1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "9.9.9.9",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2001:db8::1",
            "2620:fe::fe",
            "::ffff:192.0.2.1",
            "64:ff9b::9.9.9.9",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
