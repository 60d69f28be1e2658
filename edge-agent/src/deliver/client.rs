//! Whether a sender can have the address that a relay claims for it.
//!
//! Mail servers trust addresses: a default Postfix takes mail for anybody from 127.0.0.1 and from
//! its own addresses, many also from the home network. The PROXY header tells it what the relay
//! said, so a dishonest relay that claims such an address could send spam through the mail server
//! at home. A sender that came to a relay over the Internet has none of them. What cannot be told
//! here is a public address that the owner made the mail server trust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a sender on the Internet can have `client`; `own` are the addresses of this machine.
pub fn is_plausible(client: IpAddr, own: &[IpAddr]) -> bool {
    let client = client.to_canonical();
    let global = match client {
        IpAddr::V4(client) => is_global_v4(client),
        IpAddr::V6(client) => is_global_v6(client),
    };
    global && !own.contains(&client)
}

/// The addresses of this machine's interfaces now.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().map(|interface| interface.ip()).collect()
}

/// Not loopback, private, shared by a provider's customers (RFC 6598), link-local, multicast or
/// reserved. The networks for documentation pass: nobody trusts them, and tests live there.
fn is_global_v4(client: Ipv4Addr) -> bool {
    let [first, second, ..] = client.octets();
    let shared = first == 100 && (64..128).contains(&second);
    !(client.is_loopback()
        || client.is_private()
        || client.is_link_local()
        || shared
        || first == 0
        || first >= 224)
}

/// Of the block for global unicast (RFC 4291 section 2.4).
fn is_global_v6(client: Ipv6Addr) -> bool {
    client.segments()[0] & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plausible(client: &str) -> bool {
        let own = ["203.0.113.64".parse().unwrap(), "2001:db8:7::1".parse().unwrap()];
        is_plausible(client.parse().unwrap(), &own)
    }

    #[test]
    fn addresses_of_the_internet_are_plausible() {
        for client in ["192.0.2.1", "8.8.8.8", "203.0.113.63", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert!(plausible(client), "{client}");
        }
    }

    #[test]
    fn addresses_that_mail_servers_trust_are_not() {
        for client in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!plausible(client), "{client}");
        }
    }

    #[test]
    fn neither_are_those_of_this_machine() {
        for client in ["203.0.113.64", "::ffff:203.0.113.64", "2001:db8:7::1"] {
            assert!(!plausible(client), "{client}");
        }
        assert!(plausible("203.0.113.65"), "a neighbour may send mail");
        assert!(own_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
