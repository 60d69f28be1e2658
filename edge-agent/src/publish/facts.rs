//! What relays hold about this box, as a zone may say it. Pure.
//!
//! A relay may be hostile, and what is taken from it here is signed with the owner's key. So names
//! have to be names, addresses have to be those that senders can come to, and of everything there is
//! a largest number. And a relay has no say in how exchangers are called: `autodiscover` with its
//! addresses would collect passwords, and a name that the owner uses would end the zone.

use std::net::IpAddr;

use sealpost_dns::record::Name;
use sealpost_tunnel::request::{MAX_CLAIMED, Standing};
use sealpost_tunnel::{DomainName, MxName};

use crate::deliver::client::is_plausible;
use crate::registration::mx_set::{self, Known, claim_of, mx_set};
use crate::registration::{mx_names, records};
use crate::zone::plan::{Exchanger, Host};

/// Name servers of one relay.
const MAX_NAME_SERVERS: usize = 4;
/// Name servers in all. A referral with more does not fit into one datagram.
const MAX_ALL_NAME_SERVERS: usize = 13;
/// Addresses of a kind of one relay.
const MAX_ADDRESSES: usize = 8;
/// MX names of the claim at one relay that are looked at.
const MAX_NAMES: usize = 64;

/// One relay of the owner's file.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The owner's name for it.
    pub name: String,
    /// Whether the owner lets it name private addresses.
    pub private_addresses: bool,
    /// What it said last that it holds.
    pub standing: Option<Standing>,
}

/// What the zone of a domain takes from relays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name servers.
    pub name_servers: Vec<Host>,
    /// The mail exchangers.
    pub exchangers: Vec<Exchanger>,
    /// Their names once more, for questions to the mail server.
    pub mx_names: Vec<MxName>,
    /// The relays that serve the zone, or are to.
    pub serving: Vec<String>,
    /// What is missing, a sentence each.
    pub notes: Vec<String>,
}

/// The facts for `domain` out of what `relays` hold, in the order of the owner's file. `own` are the
/// names that the owner's file has for exchangers, beside those that a claim has by default.
pub fn facts(domain: &DomainName, own: &[MxName], relays: &[Relay]) -> Facts {
    let mut facts = Facts::default();
    let default = mx_names::by_default(domain, MAX_CLAIMED);
    let known = |name: &MxName| own.contains(name) || default.contains(name);
    let mut relays: Vec<_> = relays.iter().map(|relay| bounded(domain, relay)).collect();
    for relay in &mut relays {
        let claims = relay.standing.iter_mut().flat_map(|standing| &mut standing.domains);
        let mut names = claims.flat_map(|claim| claim.mx.extract_if(.., |name| !known(name)));
        if let Some(name) = names.next() {
            let more = names.count();
            facts.notes.push(format!(
                "{} has this box receive for {name}{} too, which is left out of the zone. If you \
                 claimed that, name it in the [[zone]] (mx)",
                relay.name,
                if more > 0 { format!(" and {more} more") } else { String::new() }
            ));
        }
    }
    name_servers(domain, &relays, &mut facts);
    let known: Vec<_> = relays
        .iter()
        .map(|relay| Known { relay: &relay.name, standing: relay.standing.as_ref() })
        .collect();
    let set = mx_set(domain, &known);
    facts.notes.extend(set.gaps.iter().map(|gap| records::gap(domain, gap)));
    for exchanger in set.exchangers {
        let mx_set::Exchanger { preference, name, addresses, .. } = exchanger;
        let addresses: Vec<_> = addresses.iter().map(|it| it.address).collect();
        // Without an address it would cost each sender a try.
        let Some(host) = wire(&name).filter(|_| !addresses.is_empty()) else { continue };
        facts.exchangers.push(Exchanger { preference, host: Host { name: host, addresses } });
        facts.mx_names.push(name);
    }
    facts
}

/// A name as DNS has it.
pub fn wire(name: &MxName) -> Option<Name> {
    format!("{name}.").parse().ok()
}

/// The names of relays' name servers. A relay serves the zones of the domains that it holds a claim
/// of. While none does, the domain is about to be claimed, and all relays that serve zones at all are
/// to find theirs in it.
fn name_servers(domain: &DomainName, relays: &[Relay], facts: &mut Facts) {
    let serves = |relay: &&Relay| {
        relay.standing.as_ref().is_some_and(|standing| !standing.name_servers.is_empty())
    };
    let claimed = |relay: &&Relay| {
        relay.standing.as_ref().is_some_and(|standing| claim_of(standing, domain).is_some())
    };
    let any = relays.iter().filter(serves).any(|relay| claimed(&relay));
    for relay in relays.iter().filter(serves).filter(|relay| !any || claimed(relay)) {
        facts.serving.push(relay.name.clone());
        for name in relay.standing.iter().flat_map(|standing| &standing.name_servers) {
            if domain.covers(name) {
                facts.notes.push(format!(
                    "{} calls its name server {name}, which is a name of this domain's own: it is \
                     left out. Tell its operator",
                    relay.name
                ));
                continue;
            }
            let Some(name) = wire(name) else { continue };
            let known = facts.name_servers.iter().any(|host| host.name == name);
            if !known && facts.name_servers.len() < MAX_ALL_NAME_SERVERS {
                facts.name_servers.push(Host { name, addresses: Vec::new() });
            }
        }
    }
}

/// The relay with as much of its standing as may be used for `domain`.
fn bounded(domain: &DomainName, relay: &Relay) -> Relay {
    let usable = |address: &IpAddr| {
        !address.is_unspecified()
            && !address.is_multicast()
            && (relay.private_addresses || is_plausible(*address, &[]))
    };
    let bounded = |standing: &Standing| {
        let mut standing = standing.clone();
        standing.name_servers.truncate(MAX_NAME_SERVERS);
        for addresses in [&mut standing.addresses, &mut standing.shared] {
            addresses.retain(usable);
            addresses.truncate(MAX_ADDRESSES);
        }
        standing.pair = standing.pair.filter(|pair| usable(&pair.first) && usable(&pair.second));
        standing.domains.retain(|claim| claim.domain == *domain);
        standing.domains.truncate(1);
        standing.domains.iter_mut().for_each(|claim| claim.mx.truncate(MAX_NAMES));
        standing
    };
    Relay { standing: relay.standing.as_ref().map(bounded), ..relay.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::mx_set::tests::holding;

    fn domain() -> DomainName {
        "a.example".parse().unwrap()
    }

    fn relay(name: &str, standing: Standing, servers: &[&str]) -> Relay {
        let name_servers = servers.iter().map(|name| name.parse().unwrap()).collect();
        let standing = Some(Standing { name_servers, ..standing });
        Relay { name: name.into(), private_addresses: false, standing }
    }

    fn shown(hosts: &[Host]) -> Vec<String> {
        hosts.iter().map(|host| host.name.to_string()).collect()
    }

    #[test]
    fn exchangers_and_name_servers_come_from_the_relays_that_hold_the_domain() {
        let held = relay("r1", holding(&["203.0.113.7"], false, &[], "mx"), &["ns.r1.example"]);
        let mut other = holding(&["203.0.113.8"], false, &[], "mx");
        other.domains.clear();
        let other = relay("r2", other, &["ns.r2.example", "ns2.r2.example"]);
        let both = facts(&domain(), &[], &[held, other.clone()]);
        assert_eq!(shown(&both.name_servers), ["ns.r1.example"]);
        assert_eq!((both.exchangers.len(), both.serving), (1, vec!["r1".to_owned()]));
        assert!(
            both.notes.iter().any(|note| note.contains("r2 takes no mail")),
            "{:?}",
            both.notes
        );
        // Nobody holds it yet: it is about to be claimed.
        let alone = facts(&domain(), &[], &[other]);
        assert_eq!(shown(&alone.name_servers), ["ns.r2.example", "ns2.r2.example"]);
        assert!(alone.exchangers.is_empty());
    }

    #[test]
    fn a_hostile_relay_cannot_lead_home_or_fill_the_zone() {
        let private = ["127.0.0.1", "192.168.1.1", "::1", "fe80::1", "0.0.0.0", "224.0.0.1"];
        let mut hostile = holding(&private, false, &private, "mx mx2");
        hostile.pair = Some(sealpost_tunnel::AddressPair {
            first: "203.0.113.1".parse().unwrap(),
            second: "10.0.0.1".parse().unwrap(),
        });
        let names: Vec<_> = (0..50).map(|n| format!("ns{n}.r.example")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let found = facts(&domain(), &[], &[relay("r", hostile.clone(), &names)]);
        assert!(found.exchangers.is_empty(), "{:?}", found.exchangers);
        assert_eq!(found.name_servers.len(), MAX_NAME_SERVERS);
        let trial = Relay { private_addresses: true, ..relay("r", hostile, &[]) };
        assert!(!facts(&domain(), &[], &[trial]).exchangers.is_empty());

        let many: Vec<_> = (1..100).map(|n| format!("203.0.113.{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let found = facts(&domain(), &[], &[relay("r", holding(&many, false, &[], "mx"), &[])]);
        assert_eq!(found.exchangers[0].host.addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_relay_does_not_choose_how_exchangers_are_called() {
        let standing = holding(&["203.0.113.7"], false, &[], "autodiscover mx2 mail");
        let relay = relay("r1", standing, &[]);
        let named = |own: &[MxName]| -> Vec<String> {
            let found = facts(&domain(), own, std::slice::from_ref(&relay));
            found.mx_names.iter().map(ToString::to_string).collect()
        };
        assert_eq!(named(&[]), ["mx2.a.example"]);
        assert_eq!(named(&["mail.a.example".parse().unwrap()]), ["mail.a.example"]);
        let notes = facts(&domain(), &[], &[relay]).notes;
        let told = |note: &String| note.contains("autodiscover.a.example and 1 more");
        assert!(notes.iter().any(told), "{notes:?}");
    }

    #[test]
    fn a_name_server_within_the_domain_is_left_out() {
        let standing = holding(&["203.0.113.7"], false, &[], "mx");
        let relay = relay("r", standing, &["ns.a.example", "a.example", "ns.r.example"]);
        let found = facts(&domain(), &[], &[relay]);
        assert_eq!(shown(&found.name_servers), ["ns.r.example"]);
        assert_eq!(found.notes.iter().filter(|note| note.contains("left out")).count(), 2);
    }

    #[test]
    fn relays_of_one_fleet_name_the_same_servers_once() {
        let servers = ["ns1.r.example", "ns2.r.example"];
        let standing = || holding(&["203.0.113.7"], false, &[], "mx");
        let found = facts(
            &domain(),
            &[],
            &[relay("r1", standing(), &servers), relay("r2", standing(), &servers)],
        );
        assert_eq!((found.name_servers.len(), found.serving.len()), (2, 2));
    }
}
