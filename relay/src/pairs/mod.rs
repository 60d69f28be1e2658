//! Address pairs: how a few shared addresses tell many boxes apart for senders that name nobody.
//!
//! A box has two mail exchangers at shared addresses, the first at one of `first`, the second at
//! one of `second`. A sender without SNI fails at the first, as the relay cannot know whom it
//! means, and comes to the second at once: where it came from, and where it comes to, names one
//! box. `f` first and `s` second addresses serve `f * s` boxes.
//!
//! No address is both. Were it so, a sender at the second address of one box could as well be at
//! the first of another, and the relay would have to guess.

pub mod history;

use std::collections::HashSet;
use std::net::IpAddr;

use sealpost_tunnel::AddressPair;
use serde::Deserialize;

/// Most addresses of one role; their product is the most pairs that one relay can give.
const MOST: usize = 64;

/// `[pairs]`: which addresses of the relay play which part. None by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRoles {
    /// Addresses of exchangers that are tried first.
    pub first: Vec<IpAddr>,
    /// Addresses of exchangers that are tried next.
    pub second: Vec<IpAddr>,
}

/// The part that a shared address plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Of an exchanger that is tried first: who was here may come to a second one.
    First,
    /// Of an exchanger that is tried next.
    Second,
    /// None: boxes are told apart by names alone.
    Neither,
}

/// Why a choice of addresses makes no pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// One of the lists is empty.
    #[error("[pairs] needs at least one address in `first` and one in `second`")]
    OneSided,
    /// An address stands there twice.
    #[error("{0} stands twice in [pairs]; each address has one place, and is first or second")]
    Twice(IpAddr),
    /// Nobody can connect to it.
    #[error("{0} in [pairs] is no address that a sender can connect to")]
    Nowhere(IpAddr),
    /// More than can be of use.
    #[error("[pairs] has more than {MOST} addresses in one list")]
    TooMany,
}

impl PairRoles {
    /// The same with each address in its one spelling, or what is wrong with it.
    pub fn checked(self) -> Result<Self, RolesError> {
        let canonical = |list: Vec<IpAddr>| list.iter().map(IpAddr::to_canonical).collect();
        let roles = Self { first: canonical(self.first), second: canonical(self.second) };
        if roles.first.is_empty() || roles.second.is_empty() {
            return Err(RolesError::OneSided);
        }
        if roles.first.len().max(roles.second.len()) > MOST {
            return Err(RolesError::TooMany);
        }
        let mut seen = HashSet::new();
        for &address in roles.first.iter().chain(&roles.second) {
            if address.is_unspecified() || address.is_multicast() {
                return Err(RolesError::Nowhere(address));
            }
            if !seen.insert(address) {
                return Err(RolesError::Twice(address));
            }
        }
        Ok(roles)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Whether `pair` is one of these, in this order.
    pub fn have(&self, pair: &AddressPair) -> bool {
        self.first.contains(&pair.first) && self.second.contains(&pair.second)
    }

    /// Whether `address` plays a part.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.first.contains(&address) || self.second.contains(&address)
    }

    /// Those of `addresses` at which boxes without a pair can be found, the best first. Never a
    /// second one: who comes there from the first address of another box is led to that box.
    pub fn without_a_pair(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let canonical = addresses.iter().map(IpAddr::to_canonical);
        let mut found: Vec<_> = canonical.filter(|a| !self.second.contains(a)).collect();
        found.sort_by_key(|address| self.first.contains(address));
        found
    }

    /// The part of `address`.
    pub fn part(&self, address: IpAddr) -> Part {
        if self.first.contains(&address) {
            Part::First
        } else if self.second.contains(&address) {
            Part::Second
        } else {
            Part::Neither
        }
    }

    /// All pairs.
    pub fn all(&self) -> impl Iterator<Item = AddressPair> {
        let second = &self.second;
        self.first
            .iter()
            .flat_map(move |&first| second.iter().map(move |&second| AddressPair { first, second }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(first: &[&str], second: &[&str]) -> Result<PairRoles, RolesError> {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        PairRoles { first: parse(first), second: parse(second) }.checked()
    }

    #[test]
    fn pairs_are_all_combinations_in_order() {
        let roles = roles(&["192.0.2.1", "::ffff:192.0.2.2"], &["192.0.2.3"]).unwrap();
        assert_eq!(roles.all().count(), 2);
        assert!(roles.all().all(|pair| roles.have(&pair)));
        let (a, b) = ("192.0.2.2".parse().unwrap(), "192.0.2.3".parse().unwrap());
        assert!(roles.have(&AddressPair { first: a, second: b }));
        assert!(!roles.have(&AddressPair { first: b, second: a }));
        assert!(roles.contain(b) && !roles.contain("192.0.2.4".parse().unwrap()));
    }

    #[test]
    fn a_box_without_a_pair_is_not_looked_for_at_a_second_address() {
        let roles = roles(&["192.0.2.1"], &["192.0.2.2"]).unwrap();
        let addresses = |text: &str| -> Vec<IpAddr> {
            text.split(' ').map(|address| address.parse().unwrap()).collect()
        };
        let told = addresses("192.0.2.2 192.0.2.1 ::ffff:192.0.2.3 2001:db8::1");
        assert_eq!(roles.without_a_pair(told), addresses("192.0.2.3 2001:db8::1 192.0.2.1"));
    }

    #[test]
    fn an_address_has_one_place() {
        let twice = |address: &str| Err(RolesError::Twice(address.parse().unwrap()));
        assert_eq!(roles(&["192.0.2.1"], &["192.0.2.1"]), twice("192.0.2.1"));
        assert_eq!(roles(&["192.0.2.1", "::ffff:192.0.2.1"], &["192.0.2.2"]), twice("192.0.2.1"));
        assert_eq!(roles(&["192.0.2.1"], &[]), Err(RolesError::OneSided));
        let nowhere = Err(RolesError::Nowhere("0.0.0.0".parse().unwrap()));
        assert_eq!(roles(&["0.0.0.0"], &["192.0.2.2"]), nowhere);
    }
}
