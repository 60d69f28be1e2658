//! The DNS records that the owner of a domain publishes. Pure.

use std::net::IpAddr;

use sealpost_tunnel::{DomainName, Fingerprint, MxName};

use super::mx_set::{Exchanger, Gap, MxSet};

/// How long resolvers may keep them, in seconds.
const TTL: u32 = 3600;

/// The record that proves that the box with the key `fingerprint` may have `domain`.
pub fn proof(domain: &str, fingerprint: Fingerprint) -> String {
    format!("{PROOF_LABEL}.{domain}. {TTL} IN TXT \"{}\"", proof_text(fingerprint))
}

/// Where that record stands, in front of the domain.
pub const PROOF_LABEL: &str = "_sealpost";

/// What it says.
pub fn proof_text(fingerprint: Fingerprint) -> String {
    format!("sealpost1 box={fingerprint}")
}

/// The records that lead mail for `domain` to the exchangers of `set`.
pub fn mail(domain: &DomainName, set: &MxSet) -> Vec<String> {
    let exchangers = set.exchangers.iter();
    exchangers.clone().map(|it| mx(domain, it)).chain(exchangers.flat_map(addresses)).collect()
}

/// The record that makes `exchanger` one for `domain`.
pub fn mx(domain: &DomainName, exchanger: &Exchanger) -> String {
    format!("{domain}. {TTL} IN MX {} {}.", exchanger.preference, exchanger.name)
}

/// Those with its addresses.
pub fn addresses(exchanger: &Exchanger) -> Vec<String> {
    let name = &exchanger.name;
    let record = |address| match address {
        IpAddr::V4(address) => format!("{name}. {TTL} IN A {address}"),
        IpAddr::V6(address) => format!("{name}. {TTL} IN AAAA {address}"),
    };
    exchanger.addresses.iter().map(|address| record(address.address)).collect()
}

/// The record that lets a sender check the key of the mail server behind `name`: the certificate
/// is the server's own (3), its public key counts (1), as SHA-256 (1), which is `key` in
/// hexadecimal (RFC 7672 section 3.1.1).
pub fn tlsa(name: &MxName, key: &str) -> String {
    format!("_25._tcp.{name}. {TTL} IN TLSA 3 1 1 {key}")
}

/// What is to be done about `gap`, in a sentence.
pub fn gap(domain: &DomainName, gap: &Gap) -> String {
    let list = |names: &[MxName]| names.iter().map(MxName::as_str).collect::<Vec<_>>().join(", ");
    match gap {
        Gap::Unknown { relay, names, preferences: (first, last) } => {
            let names = match names.is_empty() {
                true => String::new(),
                false => format!(" with {}", list(names)),
            };
            format!(
                "{relay} did not say what it holds: leave the records for it as they are, MX \
                 {first} to {last}{names}"
            )
        }
        Gap::NotClaimed { relay } => format!(
            "{relay} takes no mail for {domain}: sealpost-agent domain add {domain} --relay {relay}"
        ),
        Gap::Suspended { relay } => format!(
            "{relay} takes no mail for {domain} until it finds the proof again: sealpost-agent \
             domain add {domain}"
        ),
        Gap::Names { relay, wanted, claim } => {
            let names: String = claim.iter().map(|name| format!(" --mx {name}")).collect();
            format!(
                "at {relay} there should be {wanted} MX names for all senders to get through, and \
                 fewer are claimed. Claim more, then look here again: sealpost-agent domain add \
                 {domain}{names}"
            )
        }
        Gap::NoIpv4 { relay } => format!(
            "{relay} tells no IPv4 address for this box: senders without IPv6 do not get through \
             there. Ask its operator"
        ),
        Gap::Addresses { relay, hostname, name } => {
            format!("{relay} tells no addresses: {name} needs those of {hostname} (A, AAAA)")
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::registration::mx_set::tests::holding;
    use crate::registration::mx_set::{Known, mx_set};
    use sealpost_tunnel::request::Standing;
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
            name_servers: Vec::new(),
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

        let held = holding(&["2001:db8:1::a"], true, &[], "mx mx2 mx3");
        let known = Known { relay: "r1", standing: Some(&held) };
        let domain = "a.example".parse().unwrap();
        assert_eq!(
            mail(&domain, &mx_set(&domain, &[known])),
            [
                "a.example. 3600 IN MX 10 mx.a.example.",
                "a.example. 3600 IN MX 20 mx2.a.example.",
                "a.example. 3600 IN MX 30 mx3.a.example.",
                "mx.a.example. 3600 IN AAAA 2001:db8:1::a",
                "mx2.a.example. 3600 IN A 203.0.113.11",
                "mx3.a.example. 3600 IN A 203.0.113.22",
            ]
        );
        let name = "mx.a.example".parse().unwrap();
        assert_eq!(tlsa(&name, "ab"), "_25._tcp.mx.a.example. 3600 IN TLSA 3 1 1 ab");
    }

    #[test]
    fn a_gap_says_what_to_type() {
        let domain = "a.example".parse().unwrap();
        let claim = ["in.a.example", "in2.a.example"].map(|name| name.parse().unwrap()).to_vec();
        let names = |claim| gap(&domain, &Gap::Names { relay: "r1".into(), wanted: 3, claim });
        assert!(names(vec![]).ends_with(": sealpost-agent domain add a.example"));
        let typed = "domain add a.example --mx in.a.example --mx in2.a.example";
        assert!(names(claim.clone()).ends_with(typed));
        let unknown = Gap::Unknown { relay: "r2".into(), names: claim, preferences: (40, 60) };
        let said = gap(&domain, &unknown);
        assert!(said.ends_with("MX 40 to 60 with in.a.example, in2.a.example"), "{said}");
    }
}
