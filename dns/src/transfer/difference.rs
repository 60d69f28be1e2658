//! What changed between two versions of a zone (RFC 1995): found and applied. Pure.

use std::collections::{HashMap, HashSet};

use domain::base::Rtype;

use super::outbound::size;
use super::query::{newer, serial_of};
use crate::record::Record;

/// The step from one version of a zone to a later one.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The SOA record of the earlier version.
    pub from: Record,
    /// What it has and the later one has not, without SOA records.
    pub removed: Vec<Record>,
    /// The SOA record of the later version.
    pub to: Record,
    /// What the later version has and the earlier one had not, without SOA records.
    pub added: Vec<Record>,
}

/// Why there is no difference to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDifference {
    /// A version without a SOA record.
    #[error("a version of the zone has no SOA record")]
    NoSoa,
    /// The serial did not go forward.
    #[error("serial {to} is not newer than {from}")]
    NotForward {
        /// Of the earlier version.
        from: u32,
        /// Of the later one.
        to: u32,
    },
}

/// Why differences do not fit the zone. The cure is to ask for all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// They begin at another version.
    #[error("differences from serial {got}, but the zone has {have}")]
    Serial {
        /// The zone's.
        have: u32,
        /// The difference's.
        got: u32,
    },
    /// A record is removed that is not there.
    #[error("a {0} record is removed that the zone does not have")]
    NotThere(Rtype),
}

impl Difference {
    /// All records in the order in which IXFR sends them.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let removed = std::iter::once(&self.from).chain(&self.removed);
        removed.chain(std::iter::once(&self.to)).chain(&self.added)
    }

    /// Octets of all records without compression.
    pub fn octets(&self) -> usize {
        self.records().map(size).sum()
    }
}

/// The step from `old` to `new`; both have their SOA record anywhere. Names are compared with their
/// case, so that a change of case alone is a change.
pub fn between(old: &[Record], new: &[Record]) -> Result<Difference, NoDifference> {
    let soa = |zone: &[Record]| {
        zone.iter().find(|record| record.rtype() == Rtype::SOA).cloned().ok_or(NoDifference::NoSoa)
    };
    let (from, to) = (soa(old)?, soa(new)?);
    if !newer(serial_of(&to), serial_of(&from)) {
        return Err(NoDifference::NotForward { from: serial_of(&from), to: serial_of(&to) });
    }
    let (before, after) = (exact(old), exact(new));
    let only = |zone: &[Record], other: &HashSet<Vec<u8>>| {
        let mut seen = HashSet::new();
        let records = zone.iter().filter(|record| {
            let key = exact_key(record);
            record.rtype() != Rtype::SOA && !other.contains(&key) && seen.insert(key)
        });
        records.cloned().collect()
    };
    Ok(Difference { removed: only(old, &after), added: only(new, &before), from, to })
}

/// The zone after `differences`, one after the other. What they remove has to be there, or they were
/// made from another zone than the one here. What they add may be there, and is then spelled anew.
pub fn apply(zone: &[Record], differences: &[Difference]) -> Result<Vec<Record>, ApplyError> {
    let mut soa = zone.iter().find(|record| record.rtype() == Rtype::SOA).cloned();
    // Where each record stands; a removed one leaves a hole, so that the others keep their order.
    let mut records: Vec<Option<Record>> = Vec::with_capacity(zone.len());
    let mut places: HashMap<Vec<u8>, usize> = HashMap::with_capacity(zone.len());
    for record in zone.iter().filter(|record| record.rtype() != Rtype::SOA) {
        places.insert(canonical_key(record), records.len());
        records.push(Some(record.clone()));
    }
    for step in differences {
        let have = soa.as_ref().map_or(0, serial_of);
        if soa.is_none() || serial_of(&step.from) != have {
            return Err(ApplyError::Serial { have, got: serial_of(&step.from) });
        }
        for record in &step.removed {
            let place = places.remove(&canonical_key(record));
            let hole = place.and_then(|place| records.get_mut(place));
            *hole.ok_or(ApplyError::NotThere(record.rtype()))? = None;
        }
        for record in &step.added {
            // NSD 4.6 also sends records that did not change, so this is no error.
            let place = *places.entry(canonical_key(record)).or_insert(records.len());
            match records.get_mut(place) {
                Some(there) => *there = Some(record.clone()),
                None => records.push(Some(record.clone())),
            }
        }
        soa = Some(step.to.clone());
    }
    Ok(soa.into_iter().chain(records.into_iter().flatten()).collect())
}

fn exact(zone: &[Record]) -> HashSet<Vec<u8>> {
    zone.iter().map(exact_key).collect()
}

fn exact_key(record: &Record) -> Vec<u8> {
    let mut key = Vec::with_capacity(size(record));
    let Ok(()) = record.compose(&mut key);
    key
}

/// A record's canonical form (RFC 4034 section 6.2): a server may spell a name otherwise where it
/// removes a record.
fn canonical_key(record: &Record) -> Vec<u8> {
    let mut key = Vec::with_capacity(size(record));
    let Ok(()) = record.compose_canonical(&mut key);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture::{records, soa, zone};

    fn sorted(zone: &[Record]) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = zone.iter().map(exact_key).collect();
        keys.sort();
        keys
    }

    #[test]
    fn a_difference_leads_from_the_old_zone_to_the_new_one() {
        for (old, new) in [(zone(1, 3), zone(2, 5)), (zone(1, 5), zone(2, 3))] {
            let step = between(&old, &new).unwrap();
            assert_eq!(step.removed.len() + step.added.len(), 4);
            let got = apply(&old, std::slice::from_ref(&step)).unwrap();
            assert_eq!(sorted(&got), sorted(&new));
            assert_eq!(got[0].rtype(), Rtype::SOA);
        }
    }

    #[test]
    fn a_change_of_case_or_ttl_alone_is_a_change() {
        let zone = |serial, text: &str| [vec![soa(serial)], records(text)].concat();
        let old = zone(1, "www.example.org. 60 IN A 192.0.2.1\n");
        for text in ["WWW.example.org. 60 IN A 192.0.2.1\n", "www.example.org. 61 IN A 192.0.2.1\n"]
        {
            let new = zone(2, text);
            let step = between(&old, &new).unwrap();
            assert_eq!((step.removed.len(), step.added.len()), (1, 1));
            assert_eq!(sorted(&apply(&old, &[step]).unwrap()), sorted(&new));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, b) = (zone(1, 3), zone(2, 5));
        assert_eq!(between(&b, &a), Err(NoDifference::NotForward { from: 2, to: 1 }));
        assert_eq!(between(&a[1..], &b), Err(NoDifference::NoSoa));
        let step = between(&a, &b).unwrap();
        let apply_to = |zone: &[Record]| apply(zone, std::slice::from_ref(&step));
        assert_eq!(apply_to(&b), Err(ApplyError::Serial { have: 2, got: 1 }));
        let with_some_already = apply_to(&zone(1, 4)).unwrap();
        assert_eq!(sorted(&with_some_already), sorted(&b));
        let back = Difference { removed: step.added.clone(), added: Vec::new(), ..step.clone() };
        assert!(matches!(apply(&a, &[back]), Err(ApplyError::NotThere(_))));
    }
}
