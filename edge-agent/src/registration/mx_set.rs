//! The mail exchangers of a domain: which name, at which preference, has which addresses. Pure.
//!
//! At one relay there are at most three. IPv6 is one, as an address of the box's own is free there.
//! IPv4 is one when the box has an address of its own, or two: the pair of shared addresses whose
//! order tells it from others when a sender names nobody in TLS. Each has a name of its own, as
//! Sendmail tries one address of a name alone, and as the order of addresses behind one name is
//! anybody's.
//!
//! Several relays come one behind the other, not side by side:
//!
//! - Senders shuffle exchangers of equal preference, and what is between the two addresses of a
//!   pair takes time: a relay that does not answer costs a sender 30 s (Postfix) or more, and by
//!   then the first address is forgotten at the second. So nothing may stand between them.
//! - Postfix tries five addresses in one attempt (`smtp_mx_address_limit`), also where it has no
//!   route to one. So IPv6 is the first of the first relay's, and the last of every further
//!   one's: then the pairs of two relays are among the five.
//!
//! Of shared addresses a set never has two of one family but the box's own pair: two others could
//! be another box's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sealpost_tunnel::request::{DomainStanding, DomainState, Standing};
use sealpost_tunnel::{DomainName, MxName};
use serde::Serialize;

use super::mx_names::{self, PER_RELAY};

/// Between one preference and the next, so that there is room for exchangers of the owner's own.
const STEP: u16 = 10;

/// What is known of one relay of the box's file, in the file's order.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The owner's name for it.
    pub relay: &'a str,
    /// What it holds, unless it was not asked or did not answer.
    pub standing: Option<&'a Standing>,
}

/// How a relay knows that a connection to an address is for this box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The address is the box's alone.
    Own,
    /// The first of the box's pair: by the name in TLS; who gives none fails, and goes on.
    PairFirst,
    /// The second: by the name in TLS, or as the sender just failed at the first.
    PairSecond,
    /// The address is shared: by the name in TLS alone.
    Shared,
}

/// An address of an exchanger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// How the box is known there.
    pub way: Way,
}

/// One mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchanger {
    /// As in the MX record.
    pub preference: u16,
    /// Its name.
    pub name: MxName,
    /// The relay whose addresses it has.
    pub relay: String,
    /// Those.
    pub addresses: Vec<Address>,
}

/// What the set lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// The relay was not asked or did not answer. These names and preferences are left for it.
    Unknown {
        /// Which relay.
        relay: String,
        /// The names.
        names: Vec<MxName>,
        /// The preferences, from the first to the last.
        preferences: (u16, u16),
    },
    /// It holds no claim of the domain.
    NotClaimed {
        /// Which relay.
        relay: String,
    },
    /// It holds one for which no mail comes.
    Suspended {
        /// Which relay.
        relay: String,
    },
    /// The claim has too few names.
    Names {
        /// Which relay.
        relay: String,
        /// How many names are wanted there.
        wanted: usize,
        /// Those that a claim of all relays should have; none when the default is meant.
        claim: Vec<MxName>,
    },
    /// It told no address.
    Addresses {
        /// Which relay.
        relay: String,
        /// A name that has its addresses.
        hostname: MxName,
        /// The name that should have them too.
        name: MxName,
    },
    /// None of the addresses there is one of IPv4.
    NoIpv4 {
        /// Which relay.
        relay: String,
    },
}

/// The exchangers of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MxSet {
    /// In the order of their preference.
    pub exchangers: Vec<Exchanger>,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

/// The set for `domain` of the box that has `relays`.
pub fn mx_set(domain: &DomainName, relays: &[Known<'_>]) -> MxSet {
    let mut set = MxSet::default();
    let mut used = BTreeSet::new();
    for (place, known) in relays.iter().enumerate() {
        let relay = known.relay.to_owned();
        let claim = match known.standing {
            None => None,
            Some(standing) => match claim_of(standing, domain) {
                None => {
                    set.gaps.push(Gap::NotClaimed { relay });
                    continue;
                }
                Some(claim) => Some((standing, claim)),
            },
        };
        // What is free is for this relay and those behind it.
        let free = free_names(domain, &relays[place..], &used);
        let takers = relays[place..].iter().filter(|known| takes_names(domain, known)).count();
        let share = (free.len() / takers.max(1)).clamp(1, PER_RELAY);
        let first = preference(place, 0);
        let Some((standing, claim)) = claim else {
            let names: Vec<_> = free.into_iter().take(share).collect();
            used.extend(names.iter().cloned());
            let preferences = (first, preference(place, PER_RELAY - 1));
            set.gaps.push(Gap::Unknown { relay, names, preferences });
            continue;
        };
        if claim.state == DomainState::Suspended {
            set.gaps.push(Gap::Suspended { relay: relay.clone() });
        }
        let names: Vec<_> =
            free.into_iter().filter(|name| claim.mx.contains(name)).take(share).collect();
        used.extend(names.iter().cloned());
        let roles = roles(standing, place == 0);
        let wanted = roles.len().max(1);
        if names.len() < wanted {
            let claim = names_to_claim(domain, relays);
            set.gaps.push(Gap::Names { relay: relay.clone(), wanted, claim });
        }
        if let (true, Some(name)) = (roles.is_empty(), names.first()) {
            let (hostname, name) = (standing.hostname.clone(), name.clone());
            set.gaps.push(Gap::Addresses { relay: relay.clone(), hostname, name: name.clone() });
            let addresses = Vec::new();
            set.exchangers.push(Exchanger { preference: first, name, relay, addresses });
            continue;
        }
        if !roles.iter().any(|role| role.addresses[0].address.is_ipv4()) {
            set.gaps.push(Gap::NoIpv4 { relay: relay.clone() });
        }
        for (role, name) in merged(roles, names.len()).into_iter().zip(names) {
            let preference = preference(place, role.slot);
            let (relay, addresses) = (relay.clone(), role.addresses);
            set.exchangers.push(Exchanger { preference, name, relay, addresses });
        }
    }
    set.exchangers.sort_by_key(|exchanger| exchanger.preference);
    set
}

/// The preference of an exchanger of the relay at `place` in the file.
fn preference(place: usize, slot: usize) -> u16 {
    let number = place * PER_RELAY + slot + 1;
    u16::try_from(number).unwrap_or(u16::MAX).saturating_mul(STEP)
}

/// The claim of `domain` in `standing`.
pub fn claim_of<'a>(standing: &'a Standing, domain: &DomainName) -> Option<&'a DomainStanding> {
    standing.domains.iter().find(|claim| claim.domain == *domain)
}

/// Whether some of the names are for this relay.
fn takes_names(domain: &DomainName, known: &Known<'_>) -> bool {
    known.standing.is_none_or(|standing| claim_of(standing, domain).is_some())
}

/// The names of the claims at `relays`. The owner will publish them: mail must not be led to a name
/// outside the domain, whatever a relay says.
fn claimed(domain: &DomainName, relays: &[Known<'_>]) -> impl Iterator<Item = MxName> {
    let claims = relays.iter().filter_map(|known| claim_of(known.standing?, domain));
    claims.flat_map(|claim| claim.mx.iter().cloned()).filter(|name| domain.covers(name))
}

fn free_names(domain: &DomainName, relays: &[Known<'_>], used: &BTreeSet<MxName>) -> Vec<MxName> {
    mx_names::in_order(claimed(domain, relays).filter(|name| !used.contains(name)))
}

/// The names that a claim at all `relays` should have.
fn names_to_claim(domain: &DomainName, relays: &[Known<'_>]) -> Vec<MxName> {
    let held = mx_names::in_order(claimed(domain, relays));
    if mx_names::to_claim(domain, &held, relays.len()) != held {
        return Vec::new();
    }
    mx_names::further(domain, &held, relays.len() * PER_RELAY)
}

/// What one exchanger is for.
struct Role {
    slot: usize,
    addresses: Vec<Address>,
}

/// The roles at the relay that said `standing`, the first of the box's or a further one.
fn roles(standing: &Standing, first_relay: bool) -> Vec<Role> {
    let v6 = own_or_shared(standing, IpAddr::is_ipv6);
    let mut v4 = vec![own_or_shared(standing, IpAddr::is_ipv4)];
    let own = v4[0].iter().any(|address| address.way == Way::Own);
    if let (Some(pair), false) = (standing.pair, own) {
        v4 = vec![
            vec![Address { address: pair.first, way: Way::PairFirst }],
            vec![Address { address: pair.second, way: Way::PairSecond }],
        ];
    }
    v4.resize(2, Vec::new());
    if first_relay {
        v4.insert(0, v6);
    } else {
        v4.push(v6);
    }
    let slots = v4.into_iter().enumerate();
    let roles = slots.map(|(slot, addresses)| Role { slot, addresses });
    roles.filter(|role| !role.addresses.is_empty()).collect()
}

/// All of the box's own addresses of a family, or a single one that it shares.
fn own_or_shared(standing: &Standing, family: fn(&IpAddr) -> bool) -> Vec<Address> {
    let of = |addresses: &[IpAddr], way| {
        let fitting = addresses.iter().copied().filter(family);
        fitting.map(|address| Address { address, way }).collect::<Vec<_>>()
    };
    let own = of(&standing.addresses, Way::Own);
    if own.is_empty() {
        of(&standing.shared, Way::Shared).into_iter().take(1).collect()
    } else {
        own
    }
}

/// `roles` for `names` names. Where there are too few, the second address of a pair is left out
/// first, as the order of two addresses behind one name is anybody's; then one name has both
/// families.
fn merged(mut roles: Vec<Role>, names: usize) -> Vec<Role> {
    if roles.len() > names {
        roles.retain(|role| role.addresses[0].way != Way::PairSecond);
    }
    if roles.len() > names && names > 0 {
        let rest = roles.split_off(1);
        let addresses = rest.into_iter().flat_map(|role| role.addresses);
        roles[0].addresses.extend(addresses);
    }
    roles
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sealpost_tunnel::Identity;
    use sealpost_tunnel::request::{AddressPair, ProofMethod};

    use crate::registration::records::tests::standing;

    const OWN: [&str; 2] = ["2001:db8:1::a", "203.0.113.7"];
    const PAIR: [&str; 2] = ["203.0.113.11", "203.0.113.22"];

    fn domain() -> DomainName {
        "a.example".parse().unwrap()
    }

    /// What a relay holds of a box with `own` addresses and maybe a pair, which shares `shared`,
    /// and claimed `names`.
    pub(crate) fn holding(own: &[&str], pair: bool, shared: &[&str], names: &str) -> Standing {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let mut standing = standing(Identity::ephemeral().public());
        standing.addresses = addresses(own);
        standing.shared = addresses(shared);
        standing.pair = pair.then(|| AddressPair {
            first: PAIR[0].parse().unwrap(),
            second: PAIR[1].parse().unwrap(),
        });
        standing.domains = vec![DomainStanding {
            domain: domain(),
            mx: names
                .split_whitespace()
                .map(|name| format!("{name}.a.example").parse().unwrap())
                .collect(),
            state: DomainState::Proved,
            method: ProofMethod::Txt,
            detail: String::new(),
            suspends_on: None,
        }];
        standing
    }

    const SHARED: [&str; 4] = ["203.0.113.1", "203.0.113.2", "2001:db8:1::1", "2001:db8:1::2"];
    const DEFAULT: &str = "mx mx2 mx3";

    /// Exchangers as one line each: preference, first label, addresses with the way.
    fn shown(set: &MxSet) -> Vec<String> {
        let line = |exchanger: &Exchanger| {
            let label = exchanger.name.as_str().split('.').next().unwrap();
            let mut line = format!("{} {label}", exchanger.preference);
            for Address { address, way } in &exchanger.addresses {
                line.push_str(&format!(" {address} {way:?}"));
            }
            line
        };
        set.exchangers.iter().map(line).collect()
    }

    fn set(relays: &[Option<&Standing>]) -> MxSet {
        const NAMES: [&str; 3] = ["r1", "r2", "r3"];
        let known = |(&standing, relay)| Known { relay, standing };
        mx_set(&domain(), &relays.iter().zip(NAMES).map(known).collect::<Vec<_>>())
    }

    #[test]
    fn a_box_at_one_relay_gets_what_it_has_there() {
        type Case<'a> = (&'a [&'a str], bool, &'a [&'a str], &'a [&'a str]);
        let cases: [Case<'_>; 9] = [
            (&OWN, false, &SHARED, &["10 mx 2001:db8:1::a Own", "20 mx2 203.0.113.7 Own"]),
            // An address of its own is better than a pair.
            (&OWN, true, &SHARED, &["10 mx 2001:db8:1::a Own", "20 mx2 203.0.113.7 Own"]),
            (
                &OWN[..1],
                true,
                &SHARED,
                &[
                    "10 mx 2001:db8:1::a Own",
                    "20 mx2 203.0.113.11 PairFirst",
                    "30 mx3 203.0.113.22 PairSecond",
                ],
            ),
            (
                &[],
                true,
                &SHARED,
                &[
                    "10 mx 2001:db8:1::1 Shared",
                    "20 mx2 203.0.113.11 PairFirst",
                    "30 mx3 203.0.113.22 PairSecond",
                ],
            ),
            (
                &[],
                true,
                &SHARED[..2],
                &["20 mx 203.0.113.11 PairFirst", "30 mx2 203.0.113.22 PairSecond"],
            ),
            (&OWN[1..], false, &SHARED[..2], &["20 mx 203.0.113.7 Own"]),
            (&OWN[1..], false, &SHARED, &["10 mx 2001:db8:1::1 Shared", "20 mx2 203.0.113.7 Own"]),
            // Two shared ones might be the pair of another box.
            (&OWN[..1], false, &SHARED, &["10 mx 2001:db8:1::a Own", "20 mx2 203.0.113.1 Shared"]),
            (&[], false, &SHARED, &["10 mx 2001:db8:1::1 Shared", "20 mx2 203.0.113.1 Shared"]),
        ];
        for (own, pair, shared, wanted) in cases {
            let set = set(&[Some(&holding(own, pair, shared, DEFAULT))]);
            assert_eq!(shown(&set), wanted, "{own:?} {pair} {shared:?}");
            assert_eq!(set.gaps, []);
        }
        let several = ["2001:db8:1::a", "2001:db8:1::100"];
        let set = set(&[Some(&holding(&several, false, &[], "mx"))]);
        assert_eq!(shown(&set), ["10 mx 2001:db8:1::a Own 2001:db8:1::100 Own"]);
        assert_eq!(set.gaps, [Gap::NoIpv4 { relay: "r1".into() }]);
    }

    #[test]
    fn a_relay_that_tells_no_address_has_a_gap() {
        let held = holding(&[], false, &[], DEFAULT);
        let set = set(&[Some(&held)]);
        assert_eq!(shown(&set), ["10 mx"]);
        let name = "mx.a.example".parse().unwrap();
        let hostname = held.hostname.clone();
        assert_eq!(set.gaps, [Gap::Addresses { relay: "r1".into(), hostname, name }]);
    }

    #[test]
    fn with_too_few_names_no_sender_meets_the_pair_in_the_wrong_order() {
        let with = |names| set(&[Some(&holding(&OWN[..1], true, &SHARED, names))]);
        let gap = |claim: &str| Gap::Names {
            relay: "r1".into(),
            wanted: 3,
            claim: claim
                .split_whitespace()
                .map(|n| format!("{n}.a.example").parse().unwrap())
                .collect(),
        };
        // As all were published before there were pairs.
        let one = with("mx");
        assert_eq!(shown(&one), ["10 mx 2001:db8:1::a Own 203.0.113.11 PairFirst"]);
        assert_eq!(one.gaps, [gap("")], "the default is completed by itself");
        let two = with("mail in");
        assert_eq!(shown(&two), ["10 in 2001:db8:1::a Own", "20 mail 203.0.113.11 PairFirst"]);
        assert_eq!(two.gaps, [gap("in in2 mail")]);
        assert_eq!(with("").gaps, [gap("")]);
    }

    #[test]
    fn relays_come_one_behind_the_other_with_names_of_their_own() {
        const SIX: &str = "mx mx2 mx3 mx4 mx5 mx6";
        let first = holding(&OWN[..1], true, &SHARED, SIX);
        let second = holding(&["2001:db8:2::a"], true, &[], SIX);
        let both = set(&[Some(&first), Some(&second)]);
        let wanted = [
            "10 mx 2001:db8:1::a Own",
            "20 mx2 203.0.113.11 PairFirst",
            "30 mx3 203.0.113.22 PairSecond",
            "40 mx4 203.0.113.11 PairFirst",
            "50 mx5 203.0.113.22 PairSecond",
            "60 mx6 2001:db8:2::a Own",
        ];
        assert_eq!(shown(&both), wanted);
        assert_eq!(both.gaps, []);
        // A relay with less leaves the names of the next as they are.
        let less = holding(&OWN[1..], false, &[], SIX);
        assert_eq!(
            shown(&set(&[Some(&less), Some(&second)])),
            ["20 mx 203.0.113.7 Own", wanted[3], wanted[4], wanted[5]]
        );
        // Operators who know nothing of each other.
        let apart = holding(&OWN[..1], true, &SHARED, DEFAULT);
        assert_eq!(shown(&set(&[Some(&apart), Some(&second)])), wanted);

        // One that was not asked keeps its place.
        let unknown = set(&[None, Some(&second)]);
        assert_eq!(shown(&unknown), wanted[3..]);
        let names = second.domains[0].mx[..3].to_vec();
        let gap = Gap::Unknown { relay: "r1".into(), names, preferences: (10, 30) };
        assert_eq!(unknown.gaps, [gap]);
        // One without a claim takes nothing.
        let mut without = second.clone();
        without.domains.clear();
        let unclaimed = set(&[Some(&first), Some(&without)]);
        assert_eq!(shown(&unclaimed), wanted[..3]);
        assert_eq!(unclaimed.gaps, [Gap::NotClaimed { relay: "r2".into() }]);
    }

    #[test]
    fn relays_that_share_few_names_get_one_each() {
        let held = |names| holding(&OWN[..1], true, &[], names);
        let (first, second) = (held("mx mx2"), held("mx mx2"));
        let both = set(&[Some(&first), Some(&second)]);
        let addresses = |label: &str, v6: &str, v4: &str| format!("{label} {v6} {v4}");
        let (v6, v4) = ("2001:db8:1::a Own", "203.0.113.11 PairFirst");
        assert_eq!(shown(&both), [addresses("10 mx", v6, v4), addresses("40 mx2", v4, v6)]);
        assert_eq!(both.gaps.len(), 2);
        let lonely = set(&[Some(&held("mx")), Some(&held("mx"))]);
        assert_eq!(shown(&lonely), [addresses("10 mx", v6, v4)]);
        let of: Vec<_> = lonely
            .gaps
            .iter()
            .map(|gap| matches!(gap, Gap::Names { relay, .. } if relay == "r2"))
            .collect();
        assert_eq!(of, [false, true]);
    }

    #[test]
    fn every_combination_has_distinct_names_and_pairs_in_order_with_nothing_between() {
        let six = "mx mx2 mx3 mx4 mx5 mx6";
        let mut tried = 0;
        for bits in 0..256_u32 {
            let has = |bit: u32| bits & 1 << bit != 0;
            let standings: Vec<_> = [0, 4]
                .map(|base| {
                    let mut own = Vec::new();
                    own.extend(has(base).then_some(OWN[0]));
                    own.extend(has(base + 1).then_some(OWN[1]));
                    let shared: &[&str] = if has(base + 3) { &SHARED } else { &[] };
                    holding(&own, has(base + 2), shared, six)
                })
                .into();
            for known in [[Some(&standings[0]), Some(&standings[1])], [None, Some(&standings[1])]] {
                let set = set(&known);
                let names: BTreeSet<_> = set.exchangers.iter().map(|e| &e.name).collect();
                assert_eq!(names.len(), set.exchangers.len());
                assert!(set.exchangers.windows(2).all(|two| two[0].preference < two[1].preference));
                let ways: Vec<_> =
                    set.exchangers.iter().flat_map(|e| &e.addresses).map(|a| a.way).collect();
                for (at, way) in ways.iter().enumerate() {
                    let before = at.checked_sub(1).map(|at| ways[at]);
                    assert_eq!(*way == Way::PairSecond, before == Some(Way::PairFirst), "{ways:?}");
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 512);
    }
}
