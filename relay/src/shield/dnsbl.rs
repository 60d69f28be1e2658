//! What is asked of a DNS list of clients (DNSBL, RFC 5782), and what its answer means. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sealpost_tunnel::DomainName;
use serde::Deserialize;

/// Octets that an IPv6 address has in a question: 32 digits, each with a dot.
const MAX_REVERSED: usize = 64;
/// Of a name without its final dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// The zone of a list. Some providers put a customer's secret into its first label, so it is not
/// shown whole.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "DomainName")]
pub struct List(DomainName);

/// What a list says of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// That it is listed.
    Listed,
    /// That it is not.
    Clear,
    /// That it does not answer to whoever asks, which says nothing about the client.
    Refuses,
    /// What no list says: its zone is parked, or a resolver lies.
    Nonsense,
}

impl TryFrom<DomainName> for List {
    type Error = String;

    fn try_from(zone: DomainName) -> Result<Self, String> {
        if zone.as_str().len() + MAX_REVERSED > MAX_NAME {
            return Err("the zone of a list has at most 189 octets, so that an IPv6 address can \
                        stand in front of it"
                .into());
        }
        Ok(Self(zone))
    }
}

impl fmt::Display for List {
    /// Its last two labels: enough to know whose it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.0.as_str();
        let mut dots = zone.rmatch_indices('.').map(|(at, _)| at);
        f.write_str(dots.nth(1).map_or(zone, |at| &zone[at + 1..]))
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…{self}")
    }
}

/// The name at which `list` says whether `client` is listed (RFC 5782 sections 2.1 and 2.4).
pub(crate) fn question(client: IpAddr, list: &List) -> String {
    let zone = list.0.as_str();
    match client {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.{zone}.")
        }
        IpAddr::V6(v6) => {
            let mut name = String::with_capacity(MAX_REVERSED + zone.len() + 1);
            for digit in format!("{:032x}", v6.to_bits()).chars().rev() {
                name.extend([digit, '.']);
            }
            name + zone + "."
        }
    }
}

/// The address that no list may list, as it stands for this machine (RFC 5782 section 5). One that
/// does lists everybody: that is how dead lists end.
pub(crate) fn never_listed(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(0xffff_7f00_0001).into(),
    }
}

/// What the addresses mean that stand at the name of a client.
pub(crate) fn reading(answers: impl IntoIterator<Item = Ipv4Addr>) -> Says {
    let answers = answers.into_iter().map(|answer| match answer.octets() {
        // By these lists refuse, mostly a resolver that is open to the world or asks too much. The
        // last one is nobody's listing (RFC 5782 section 5 keeps it free), and some refuse by it.
        [127, 255, 255, _] | [127, 0, 0, 1] => Says::Refuses,
        [127, ..] => Says::Listed,
        _ => Says::Nonsense,
    });
    // One that makes no sense makes the others doubtful.
    answers.fold(Says::Clear, |all, one| match (all, one) {
        (Says::Nonsense, _) | (_, Says::Nonsense) => Says::Nonsense,
        (Says::Refuses, _) | (_, Says::Refuses) => Says::Refuses,
        _ => one,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(zone: &str) -> List {
        List::try_from(zone.parse::<DomainName>().unwrap()).unwrap()
    }

    fn asked(client: &str) -> String {
        question(client.parse().unwrap(), &list("bl.example.org"))
    }

    #[test]
    fn a_client_is_asked_for_backwards() {
        assert_eq!(asked("192.0.2.99"), "99.2.0.192.bl.example.org.");
        // The example of RFC 5782 section 2.4.
        assert_eq!(
            asked("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example.org."
        );
    }

    #[test]
    fn what_is_never_listed_is_of_the_same_family() {
        for (client, never) in [("192.0.2.1", "127.0.0.1"), ("2001:db8::1", "::ffff:127.0.0.1")] {
            let never: IpAddr = never.parse().unwrap();
            assert_eq!(never_listed(client.parse().unwrap()), never);
        }
        // Asked for in its long form, never as an IPv4 address.
        let name = question(never_listed("2001:db8::1".parse().unwrap()), &list("bl.example.org"));
        assert!(
            name.starts_with("1.0.0.0.0.0.f.7.f.f.f.f.0.0.") && name.len() == 64 + 15,
            "{name}"
        );
    }

    #[test]
    fn an_answer_is_a_listing_only_if_all_of_it_is() {
        let says = |answers: &[&str]| reading(answers.iter().map(|text| text.parse().unwrap()));
        for (answers, meaning) in [
            (&[][..], Says::Clear),
            (&["127.0.0.2"], Says::Listed),
            (&["127.0.0.4", "127.0.0.10"], Says::Listed),
            (&["127.255.254.1"], Says::Listed),
            (&["127.255.255.254"], Says::Refuses),
            (&["127.0.0.1"], Says::Refuses),
            (&["127.0.0.2", "127.255.255.255"], Says::Refuses),
            (&["127.255.255.252", "127.0.0.2"], Says::Refuses),
            (&["203.0.113.80"], Says::Nonsense),
            (&["127.0.0.2", "203.0.113.80"], Says::Nonsense),
            (&["203.0.113.80", "127.255.255.254"], Says::Nonsense),
        ] {
            assert_eq!(says(answers), meaning, "{answers:?}");
        }
    }

    #[test]
    fn a_secret_in_the_zone_is_not_shown() {
        let secret = list("secretkey.zen.dq.example.net");
        assert_eq!(
            (format!("{secret}"), format!("{secret:?}")),
            ("example.net".into(), "…example.net".into())
        );
        assert_eq!(format!("{}", list("example.net")), "example.net");
        assert_eq!(format!("{}", list("secret.example.net")), "example.net");
    }

    #[test]
    fn a_zone_leaves_room_for_an_address() {
        let label = "a".repeat(63);
        let zone = |rest: usize| format!("{label}.{label}.{}.b", "c".repeat(rest));
        let longest = list(&zone(59));
        let name = question("2001:db8::1".parse().unwrap(), &longest);
        assert_eq!(name.len(), MAX_NAME + 1);
        assert!(List::try_from(zone(60).parse::<DomainName>().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn only_addresses_of_127_refuse_anybody(answers in proptest::collection::vec(any::<u32>(), 0..5)) {
            let answers: Vec<Ipv4Addr> = answers.into_iter().map(Ipv4Addr::from).collect();
            if reading(answers.iter().copied()) == Says::Listed {
                prop_assert!(!answers.is_empty());
                prop_assert!(answers.iter().all(|a| a.is_loopback() && a.octets()[..3] != [127, 255, 255]));
            }
        }
    }
}
