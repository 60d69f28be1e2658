//! The DNS records that the owner of a domain publishes. Pure.

use std::net::IpAddr;

use sealpost_tunnel::request::Standing;
use sealpost_tunnel::{DomainName, Fingerprint, MxName};

/// How long resolvers may keep them, in seconds.
const TTL: u32 = 3600;

/// The record that proves that the box with the key `fingerprint` may have `domain`.
pub fn proof(domain: &str, fingerprint: Fingerprint) -> String {
    format!("_sealpost.{domain}. {TTL} IN TXT \"sealpost1 box={fingerprint}\"")
}

/// The records that lead mail for `domain` to the MX names `mx`, at the relay that said `standing`.
/// Where that named no addresses, a comment as zone files have it says so.
pub fn mail(domain: &DomainName, mx: &[MxName], standing: &Standing) -> Vec<String> {
    let mut records: Vec<_> =
        mx.iter().map(|name| format!("{domain}. {TTL} IN MX 10 {name}.")).collect();
    if addresses(standing).next().is_none() {
        let host = &standing.hostname;
        records.push(format!("; each MX name needs the addresses of {host} too (A, AAAA)"));
    }
    for name in mx {
        records.extend(addresses(standing).map(|address| match address {
            IpAddr::V4(address) => format!("{name}. {TTL} IN A {address}"),
            IpAddr::V6(address) => format!("{name}. {TTL} IN AAAA {address}"),
        }));
    }
    records
}

/// Where senders find the box: at its own addresses, and at shared ones for a family in which it
/// has none of its own.
fn addresses(standing: &Standing) -> impl Iterator<Item = IpAddr> {
    let own = &standing.addresses;
    let missing = |v4: bool| !own.iter().any(|address| address.is_ipv4() == v4);
    let (v4, v6) = (missing(true), missing(false));
    let shared = standing.shared.iter().filter(move |a| if a.is_ipv4() { v4 } else { v6 });
    own.iter().chain(shared).copied()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sealpost_tunnel::{Identity, PublicKey};

    /// A box without domains.
    pub(crate) fn standing(key: PublicKey) -> Standing {
        Standing {
            name: "alice".parse().unwrap(),
            key,
            hostname: "relay.example.net".parse().unwrap(),
            own_name: None,
            addresses: vec![],
            shared: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            pair: None,
            domains_allowed: 5,
            domains: vec![],
            recovery: None,
        }
    }

    #[test]
    fn records_can_be_pasted_into_a_zone() {
        let key = Identity::ephemeral().public();
        let proof = proof("example.org", key.fingerprint());
        let wanted = "_sealpost.example.org. 3600 IN TXT \"sealpost1 box=";
        assert!(proof.starts_with(wanted) && proof.len() == wanted.len() + 44, "{proof}");

        let mut standing = standing(key);
        let (domain, mx) = ("example.org".parse().unwrap(), ["mx.example.org".parse().unwrap()]);
        assert_eq!(
            mail(&domain, &mx, &standing),
            [
                "example.org. 3600 IN MX 10 mx.example.org.",
                "mx.example.org. 3600 IN A 198.51.100.1",
                "mx.example.org. 3600 IN AAAA 2001:db8::1",
            ]
        );
        standing.shared.clear();
        let records = mail(&domain, &mx, &standing);
        assert!(records[1].starts_with("; ") && records[1].contains("of relay.example.net"));
        standing.shared = vec!["198.51.100.1".parse().unwrap()];
        standing.addresses = vec!["2001:db8:1::a".parse().unwrap()];
        assert_eq!(
            mail(&domain, &mx, &standing)[1..],
            [
                "mx.example.org. 3600 IN AAAA 2001:db8:1::a",
                "mx.example.org. 3600 IN A 198.51.100.1"
            ]
        );
    }
}
