//! Makes a catalog zone: which zones there are in, records out. Each version is made from the one before
//! at the cost of what changed, and is never changed itself. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::{Serial, Ttl};
use domain::rdata::{Ns, Ptr, Soa, Txt, ZoneRecordData};

use super::{VERSION, VERSION_LABEL, ZONES};
use crate::record::{Data, Name, Record};
use crate::transfer::difference::{Difference, apply};
use crate::transfer::journal::Journal;
use crate::transfer::query::{newer, serial_of};
use crate::transfer::serve::Served;

/// Parts of the members, each of which is copied when one of it changes.
const PARTS: usize = 256;
/// Octets of a hash that name a member: 128 bits, which nobody makes collide.
const HASHED: usize = 16;
/// The longest name of a catalog, in octets: what a name can be less the labels of a member.
pub(crate) const LONGEST_NAME: usize = 255 - (1 + 2 * HASHED) - (1 + ZONES.len());

/// Seconds until a secondary asks by itself, and asks again.
const REFRESH: u32 = 300;
const RETRY: u32 = 60;
/// A list that is old is better than none, so it does not expire.
const EXPIRE: u32 = 2_147_483_646;

/// One version of a catalog.
#[derive(Clone)]
pub(crate) struct Edition {
    apex: Name,
    soa: Record,
    /// The records that are no members.
    head: Arc<[Record]>,
    /// The records of members, by their zones.
    parts: Vec<Arc<HashMap<Name, Record>>>,
    journal: Arc<Journal>,
}

/// The zone, and where it comes from if it is to be in the catalog.
pub(crate) type Change = (Name, Option<String>);

impl Edition {
    /// The first version. The name has at most [`LONGEST_NAME`] octets.
    pub(crate) fn first(apex: Name, members: impl IntoIterator<Item = Change>, now: u64) -> Self {
        let version = Txt::build_from_slice(VERSION);
        let version = version.ok().map(|text| {
            let owner = below(&[VERSION_LABEL], &apex);
            record(&owner, ZoneRecordData::Txt(text))
        });
        let invalid = || below(&["invalid"], &Name::root_bytes());
        let ns = record(&apex, ZoneRecordData::Ns(Ns::new(invalid())));
        let mut edition = Self {
            soa: soa(&apex, now as u32),
            head: [ns].into_iter().chain(version).collect(),
            parts: vec![Arc::default(); PARTS],
            journal: Arc::default(),
            apex,
        };
        edition.change(members);
        edition
    }

    /// The next version; none if nothing is other than it was. The serial is the time in Unix seconds, so
    /// that it goes forward over restarts as well.
    pub(crate) fn next(&self, changes: impl IntoIterator<Item = Change>, now: u64) -> Option<Self> {
        let mut next = self.clone();
        let (removed, added) = next.change(changes);
        if removed.is_empty() && added.is_empty() {
            return None;
        }
        let (before, now) = (serial_of(&self.soa), now as u32);
        let serial = if newer(now, before) { now } else { before.wrapping_add(1) };
        next.soa = soa(&self.apex, serial);
        let mut journal = Journal::clone(&self.journal);
        let (from, to) = (self.soa.clone(), next.soa.clone());
        journal.push(Difference { from, removed, to, added });
        next.journal = Arc::new(journal);
        Some(next)
    }

    fn change(&mut self, changes: impl IntoIterator<Item = Change>) -> (Vec<Record>, Vec<Record>) {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (zone, from) in changes {
            let part = &mut self.parts[part(&zone)];
            let new = from.map(|from| member(&self.apex, &zone, &from));
            if part.get(&zone) == new.as_ref() {
                continue;
            }
            let part = Arc::make_mut(part);
            removed.extend(part.remove(&zone));
            if let Some(new) = new {
                part.insert(zone, new.clone());
                added.push(new);
            }
        }
        (removed, added)
    }

    /// How many zones it names.
    pub(crate) fn members(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

impl Served for Edition {
    fn soa(&self) -> Record {
        self.soa.clone()
    }

    fn records(&self) -> Vec<Record> {
        let members = self.parts.iter().flat_map(|part| part.values());
        std::iter::once(&self.soa).chain(&*self.head).chain(members).cloned().collect()
    }

    fn expires_in(&self) -> Option<u32> {
        Some(EXPIRE)
    }

    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        self.journal.since(serial)
    }
}

/// The record of a member. Its label is other when the zone comes from elsewhere: whoever pinned the keys
/// of the one before then forgets them (section 5.6).
fn member(apex: &Name, zone: &Name, from: &str) -> Record {
    let name = zone.as_slice().to_ascii_lowercase();
    let hash = digest(&SHA256, &[&name, from.as_bytes()].concat());
    let label: String =
        hash.as_ref()[..HASHED].iter().map(|octet| format!("{octet:02x}")).collect();
    record(&below(&[&label, ZONES], apex), ZoneRecordData::Ptr(Ptr::new(zone.clone())))
}

fn part(zone: &Name) -> usize {
    let name = zone.as_slice().to_ascii_lowercase();
    usize::from(digest(&SHA256, &name).as_ref()[0]) % PARTS
}

fn soa(apex: &Name, serial: u32) -> Record {
    let invalid = || below(&["invalid"], &Name::root_bytes());
    let [refresh, retry, expire] = [REFRESH, RETRY, EXPIRE].map(Ttl::from_secs);
    let serial = Serial::from(serial);
    let soa = Soa::new(invalid(), invalid(), serial, refresh, retry, expire, Ttl::ZERO);
    record(apex, ZoneRecordData::Soa(soa))
}

fn record(owner: &Name, data: Data) -> Record {
    Record::new(owner.clone(), Class::IN, Ttl::ZERO, data)
}

/// The name of these labels, each of 63 octets at most, below another.
fn below(labels: &[&str], name: &Name) -> Name {
    let label = |label: &&str| [&[label.len() as u8][..], label.as_bytes()].concat();
    let octets: Vec<u8> = labels.iter().flat_map(label).chain(name.as_slice().to_vec()).collect();
    Name::from_octets(octets.into()).expect("the apex leaves room")
}

/// What a fuzzer calls: a catalog whose members come and go as a stranger's octets say, in steps. What is
/// made is read as it was meant, and the differences of the steps lead there.
pub fn exercise(mut octets: &[u8]) {
    const MOST: usize = 1_000;
    let apex = below(&["catalog"], &Name::root_bytes());
    let mut wanted: HashMap<Name, String> = HashMap::new();
    let first = Edition::first(apex.clone(), [], 1);
    let mut edition = first.clone();
    // A zone changes once in a step.
    let mut changes = HashMap::new();
    while let Some((&[what, from], rest)) = octets.split_first_chunk() {
        let (label, rest) = rest.split_at(usize::from(what % 32).min(rest.len()));
        octets = rest;
        let name = [&[label.len() as u8][..], label, &[0]].concat();
        // An empty label is the root's.
        let Ok(zone) = Name::from_octets(Bytes::from(name)) else { continue };
        let from = (from % 4 != 0).then(|| from.to_string());
        match &from {
            Some(from) => wanted.insert(zone.clone(), from.clone()),
            None => wanted.remove(&zone),
        };
        changes.insert(zone, from);
        if what >= 128 {
            edition = edition.next(changes.drain(), u64::from(what)).unwrap_or(edition);
        }
    }
    edition = edition.next(changes, 1).unwrap_or(edition);
    let read = |records: &[Record]| super::read::read(&apex, records, MOST);
    let members = read(&edition.records());
    if wanted.len() > MOST {
        return assert_eq!(members, Err(super::read::Broken::TooMany(MOST)));
    }
    let names = |zones: &mut dyn Iterator<Item = &Name>| -> std::collections::HashSet<Name> {
        zones.cloned().collect()
    };
    let found = members.as_ref().map(|members| names(&mut members.keys()));
    assert_eq!(found, Ok(names(&mut wanted.keys())));
    if let Some(steps) = edition.steps_since(1) {
        let steps: Vec<_> = steps.iter().map(|step| Difference::clone(step)).collect();
        let applied = apply(&first.records(), &steps).map(|records| read(&records));
        assert_eq!(applied, Ok(members));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog_zone::read::{Members, read};
    use crate::transfer::fixture::name;

    fn zone(number: u8) -> Name {
        name(&format!("Zone-{number}.example"))
    }

    fn members(edition: &Edition) -> Members {
        read(&name("catalog.example"), &edition.records(), usize::MAX).unwrap()
    }

    #[test]
    fn the_serial_is_the_time_and_never_goes_back() {
        let serial = |edition: &Edition| serial_of(&edition.soa);
        let first = Edition::first(name("catalog.example"), [], 1000);
        let second = first.next([(zone(1), Some("a".into()))], 1000).unwrap();
        let third = second.next([(zone(1), None)], 5).unwrap();
        let fourth = third.next([(zone(1), Some("a".into()))], 2000).unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(serial), [1000, 1001, 1002, 2000]);
        assert!(fourth.next([(zone(1), Some("a".into())), (zone(2), None)], 3000).is_none());
    }

    #[test]
    fn the_label_stays_until_the_zone_comes_from_elsewhere() {
        let one = |from: &str| {
            let member = [(zone(1), Some(from.to_owned()))];
            members(&Edition::first(name("catalog.example"), member, 1))
        };
        assert_eq!(one("a"), one("a"));
        let (a, b) = (one("a"), one("b"));
        assert_eq!(a.keys().next(), b.keys().next());
        assert_ne!(a, b);
    }

    #[test]
    fn names_of_any_octets_are_members() {
        exercise(b"");
        exercise(&[1, 1, b'A', 129, 2, b'a', 2, 1, b'.', 0, 130, 0, 0, 1, 7]);
    }

    #[test]
    fn the_longest_name_has_members() {
        let label = "x".repeat(63);
        let apex = format!("{label}.{label}.{label}.{}", "y".repeat(LONGEST_NAME - 3 * 64 - 2));
        let apex = name(&apex);
        assert_eq!(apex.as_slice().len(), LONGEST_NAME);
        let edition = Edition::first(apex.clone(), [(zone(1), Some(String::new()))], 1);
        assert_eq!(read(&apex, &edition.records(), 1).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_made_is_what_is_read_and_steps_lead_there(changes in prop::collection::vec(
            prop::collection::btree_map(0_u8..20, prop::option::of("[ab]"), 0..6), 1..12,
        )) {
            let apex = name("catalog.example");
            let mut wanted = BTreeMap::new();
            let first = Edition::first(apex.clone(), [], 1);
            let mut edition = first.clone();
            for step in changes {
                for (number, from) in &step {
                    match from {
                        Some(from) => wanted.insert(zone(*number), from.clone()),
                        None => wanted.remove(&zone(*number)),
                    };
                }
                let step = step.into_iter().map(|(number, from)| (zone(number), from));
                edition = edition.next(step, 1).unwrap_or(edition);
            }
            let whole = wanted.into_iter().map(|(zone, from)| (zone, Some(from)));
            let whole = Edition::first(apex.clone(), whole, 9);
            prop_assert_eq!(members(&edition), members(&whole));
            prop_assert_eq!(edition.members(), whole.members());
            if let Some(steps) = edition.steps_since(1) {
                let steps: Vec<_> = steps.iter().map(|step| Difference::clone(step)).collect();
                let applied = apply(&first.records(), &steps).unwrap();
                prop_assert_eq!(read(&apex, &applied, 99).unwrap(), members(&edition));
            }
        }
    }
}
