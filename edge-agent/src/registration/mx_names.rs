//! The MX names of a claim: which come by default, in which order they are used, and which could
//! be added. Pure.
//!
//! They stand beside each other beneath the domain, so that one certificate for `*.example.org`
//! is good for all of them: a wildcard stands for a single label (RFC 9525 section 6.3).

use std::collections::BTreeSet;

use sealpost_tunnel::request::MAX_CLAIMED;
use sealpost_tunnel::{DomainName, MxName};

/// How many names the mail exchangers at one relay need at most: one for IPv6, and two for IPv4.
pub const PER_RELAY: usize = 3;

/// The first name when the owner named none.
const FIRST: &str = "mx";

/// The names when the owner named none, for a box with `relays` relays: `mx`, `mx2`, `mx3` and so
/// on. None where the domain is too long for a name beneath it.
pub fn by_default(domain: &DomainName, relays: usize) -> Vec<MxName> {
    further(domain, &[], relays * PER_RELAY)
}

/// The names to claim at a relay that holds the claim of `domain` with the names `held`, when the
/// owner named none: those that are held; and with them what a new claim gets by default, where
/// all are of that kind.
pub fn to_claim(domain: &DomainName, held: &[MxName], relays: usize) -> Vec<MxName> {
    let default = by_default(domain, relays);
    if held.iter().all(|name| default.contains(name)) { default } else { held.to_vec() }
}

/// `have` and more like them, `wanted` in all, or as many as a claim may have.
pub fn further(domain: &DomainName, have: &[MxName], wanted: usize) -> Vec<MxName> {
    let mut names: BTreeSet<_> = have.iter().cloned().collect();
    let first = in_order(have.iter().cloned());
    let pattern = first.first().map(Pattern::of).filter(|pattern| pattern.beneath(domain));
    let (pattern, from) = match pattern {
        Some(pattern) => (pattern, pattern.number.saturating_add(1)),
        None => (Pattern { stem: FIRST, number: 1, rest: domain.as_str() }, 1),
    };
    for number in (from..).take(MAX_CLAIMED + have.len()) {
        if names.len() >= wanted.min(MAX_CLAIMED) {
            break;
        }
        // A label or name that is too long is none, and neither are those that follow it.
        let Ok(name) = pattern.name(number) else { break };
        names.insert(name);
    }
    in_order(names)
}

/// `names` as people count: `mx`, `mx2`, `mx10`. In this order they are used.
pub fn in_order(names: impl IntoIterator<Item = MxName>) -> Vec<MxName> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by(|a, b| (Pattern::of(a), a).cmp(&(Pattern::of(b), b)));
    names.dedup();
    names
}

/// A name whose first label may end with a number; the first of a row may be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern<'a> {
    rest: &'a str,
    stem: &'a str,
    number: u32,
}

impl<'a> Pattern<'a> {
    fn of(name: &'a MxName) -> Self {
        let (label, rest) = name.as_str().split_once('.').unwrap_or((name.as_str(), ""));
        let stem = label.trim_end_matches(|c: char| c.is_ascii_digit());
        match label[stem.len()..].parse() {
            Ok(number) if !stem.is_empty() => Self { stem, number, rest },
            _ => Self { stem: label, number: 1, rest },
        }
    }

    /// Whether its names stand beneath `domain`: those of the domain itself do not.
    fn beneath(&self, domain: &DomainName) -> bool {
        let above = self.rest.strip_suffix(domain.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }

    fn name(&self, number: u32) -> Result<MxName, sealpost_tunnel::names::NameError> {
        let Self { stem, rest, .. } = self;
        match number {
            1 => format!("{stem}.{rest}").parse(),
            number => format!("{stem}{number}.{rest}").parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<MxName> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    fn domain() -> DomainName {
        "a.example".parse().unwrap()
    }

    #[test]
    fn each_relay_brings_three_names_as_far_as_a_claim_goes() {
        assert_eq!(by_default(&domain(), 1), names("mx.a.example mx2.a.example mx3.a.example"));
        assert_eq!(
            by_default(&domain(), 2)[3..],
            names("mx4.a.example mx5.a.example mx6.a.example")
        );
        let many = by_default(&domain(), 100);
        assert_eq!(many.len(), MAX_CLAIMED);
        assert_eq!(many[15].as_str(), "mx16.a.example");
        let label = "a".repeat(60);
        let long: DomainName =
            format!("{label}.{label}.{label}.{}.example", "a".repeat(59)).parse().unwrap();
        // There is room for one character less than `mx2.` needs.
        assert_eq!(by_default(&long, 1).len(), 1, "{}", long.as_str().len());
    }

    #[test]
    fn names_of_the_owners_choice_stay_alone_and_others_are_completed() {
        let claimed = |held: &str| to_claim(&domain(), &names(held), 1);
        let default = by_default(&domain(), 1);
        for held in ["", "mx.a.example", "mx2.a.example", "mx.a.example mx3.a.example"] {
            assert_eq!(claimed(held), default, "{held}");
        }
        for held in ["mail.a.example", "mx.a.example mail.a.example", "a.example", "mx4.a.example"]
        {
            assert_eq!(claimed(held), names(held));
        }
    }

    #[test]
    fn further_names_are_like_the_first() {
        for (have, wanted) in [
            ("mail.a.example", "mail.a.example mail2.a.example mail3.a.example"),
            ("mx1.a.example", "mx1.a.example mx2.a.example mx3.a.example"),
            ("mx9.b.a.example", "mx9.b.a.example mx10.b.a.example mx11.b.a.example"),
            ("mx3.a.example mx.a.example", "mx.a.example mx2.a.example mx3.a.example"),
            // Beside the domain itself stand other people's.
            ("a.example", "a.example mx.a.example mx2.a.example"),
            ("x.a.example b.a.example", "b.a.example b2.a.example x.a.example"),
            ("4.a.example", "4.a.example 42.a.example 43.a.example"),
        ] {
            assert_eq!(further(&domain(), &names(have), 3), in_order(names(wanted)), "{have}");
        }
        let four = names("a.a.example b.a.example c.a.example d.a.example");
        assert_eq!(further(&domain(), &four, 3), four);
    }

    #[test]
    fn the_order_is_that_of_counting() {
        let sorted =
            names("mail.a.example mx.a.example mx2.a.example mx10.a.example mx3.b.example");
        let mut mixed = sorted.clone();
        mixed.reverse();
        mixed.push(sorted[0].clone());
        assert_eq!(in_order(mixed), sorted);
    }
}
