//! Of which catalog each zone is that comes from one, and what becomes of it as catalogs change. Pure.
//!
//! A zone is of the catalog that named it first, until that one does not name it any more; one of the
//! configuration is of no catalog (RFC 9432 sections 5.2 and 5.3). What costs is what changed, however many
//! zones there are.
//!
//! Zones are added at once, but those that go wait in a queue, of which others take as many as they like.
//! A zone that is back before its turn is as it was: a catalog that was emptied by mistake can be repaired
//! while most of its zones are still here (section 6).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::read::Members;
use crate::record::Name;

/// All catalogs and the zones that are here because of them.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    fixed: HashSet<Name>,
    /// In the order in which they are configured: who is the first of two for a new zone.
    catalogs: Vec<(Name, Arc<Members>)>,
    here: HashMap<Name, Place>,
    /// Zones that may have to go; each is looked at once more.
    leaving: VecDeque<Name>,
}

/// Where a zone is from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    catalog: Name,
    label: Bytes,
}

/// What is to be done with a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is to be had from now on, or otherwise than before.
    Add {
        /// The zone.
        zone: Name,
        /// The catalog that it is of.
        catalog: Name,
    },
    /// It is to be forgotten with all that is kept of it.
    Remove(Name),
}

/// What a new version of a catalog brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) changes: Vec<Change>,
    /// Zones that are not taken, as they are the configuration's or another catalog's.
    pub(crate) clashes: Vec<Name>,
    /// Zones that are to go.
    pub(crate) leaving: usize,
}

impl Membership {
    /// The zones of the configuration, which no catalog can have, and the names of all catalogs. Those that are
    /// not there any more lose their zones.
    pub(crate) fn configure(&mut self, fixed: HashSet<Name>, catalogs: &[Name]) -> Listed {
        let mut old = std::mem::take(&mut self.catalogs);
        let mut take = |name: &Name| {
            let at = old.iter().position(|(other, _)| other == name);
            (name.clone(), at.map(|at| old.swap_remove(at).1).unwrap_or_default())
        };
        self.catalogs = catalogs.iter().map(&mut take).collect();
        let before = std::mem::replace(&mut self.fixed, fixed);
        // Nobody else's any more, and the version that is here stays.
        self.here.retain(|zone, _| !self.fixed.contains(zone));
        let freed = before.difference(&self.fixed).cloned().collect::<Vec<_>>();
        let orphans = old.iter().flat_map(|(_, members)| members.keys().cloned());
        let touched: Vec<_> = freed.into_iter().chain(orphans).collect();
        self.settle(touched)
    }

    /// A catalog has these members now.
    pub(crate) fn list(&mut self, catalog: &Name, members: Arc<Members>) -> Listed {
        let Some((_, old)) = self.catalogs.iter_mut().find(|(name, _)| name == catalog) else {
            return Listed::default();
        };
        if Arc::ptr_eq(old, &members) {
            return Listed::default();
        }
        let old = std::mem::replace(old, members.clone());
        let gone = old.keys().filter(|zone| !members.contains_key(*zone));
        let new = members.iter().filter(|(zone, label)| old.get(*zone) != Some(*label));
        let touched: Vec<_> = gone.chain(new.map(|(zone, _)| zone)).cloned().collect();
        let mut listed = self.settle(touched);
        let is_other = |zone: &Name| self.here.get(zone).is_none_or(|at| at.catalog != *catalog);
        listed.clashes.retain(|zone| members.contains_key(zone) && is_other(zone));
        listed
    }

    /// One zone whose turn to go has come; none when nobody waits. It may be added at once to another catalog
    /// that names it, or to the same one with nothing known of it.
    pub(crate) fn next_leaving(&mut self) -> Option<Vec<Change>> {
        while let Some(zone) = self.leaving.pop_front() {
            let Some(here) = self.here.get(&zone) else { continue };
            let wanted = self.wanted(&zone);
            if wanted.as_ref() == Some(here) {
                continue;
            }
            self.here.remove(&zone);
            let mut changes = vec![Change::Remove(zone.clone())];
            changes.extend(wanted.map(|place| self.add(zone, place)));
            return Some(changes);
        }
        None
    }

    /// All zones that are here because of a catalog, with that.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Name, &Name)> {
        self.here.iter().map(|(zone, place)| (zone, &place.catalog))
    }

    /// Whether a zone is here because of a catalog.
    pub(crate) fn has(&self, zone: &Name) -> bool {
        self.here.contains_key(zone)
    }

    fn settle(&mut self, touched: Vec<Name>) -> Listed {
        let mut listed = Listed::default();
        for zone in touched {
            let wanted = self.wanted(&zone);
            let names = self.catalogs.iter().filter(|(_, members)| members.contains_key(&zone));
            let clash = names.count() > usize::from(wanted.is_some());
            match (self.here.get(&zone), wanted) {
                (None, Some(place)) => listed.changes.push(self.add(zone.clone(), place)),
                (Some(here), wanted) if wanted.as_ref() != Some(here) => {
                    self.leaving.push_back(zone.clone());
                    listed.leaving += 1;
                }
                _ => {}
            }
            if clash {
                listed.clashes.push(zone);
            }
        }
        listed
    }

    fn add(&mut self, zone: Name, place: Place) -> Change {
        let catalog = place.catalog.clone();
        self.here.insert(zone.clone(), place);
        Change::Add { zone, catalog }
    }

    /// Where a zone is to be from.
    fn wanted(&self, zone: &Name) -> Option<Place> {
        if self.fixed.contains(zone) {
            return None;
        }
        let of = |(catalog, members): &(Name, Arc<Members>)| {
            let label = members.get(zone)?.clone();
            Some(Place { catalog: catalog.clone(), label })
        };
        let holder = self.here.get(zone).map(|here| &here.catalog);
        let holds = self.catalogs.iter().find(|(catalog, _)| Some(catalog) == holder);
        holds.and_then(of).or_else(|| self.catalogs.iter().find_map(of))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::fixture::name;

    fn members(zones: &[(&str, &'static str)]) -> Arc<Members> {
        let member = |(zone, label): &(&str, &'static str)| (name(zone), Bytes::from(*label));
        Arc::new(zones.iter().map(member).collect())
    }

    fn add(zone: &str, catalog: &str) -> Change {
        Change::Add { zone: name(zone), catalog: name(catalog) }
    }

    fn two() -> Membership {
        let mut both = Membership::default();
        both.configure([name("fixed.example")].into(), &[name("one"), name("two")]);
        both
    }

    #[test]
    fn a_change_costs_a_change() {
        let mut all = two();
        let many: Vec<_> = (0..1000).map(|number| format!("z{number}.example")).collect();
        let mut zones: Members = many.iter().map(|zone| (name(zone), Bytes::from("a"))).collect();
        assert_eq!(all.list(&name("one"), Arc::new(zones.clone())).changes.len(), 1000);
        zones.insert(name("new.example"), Bytes::from("a"));
        let listed = all.list(&name("one"), Arc::new(zones.clone()));
        assert_eq!(listed.changes, [add("new.example", "one")]);
        zones.remove(&name("z5.example"));
        let listed = all.list(&name("one"), Arc::new(zones.clone()));
        assert_eq!((listed.changes.len(), listed.leaving), (0, 1));
        assert_eq!(all.next_leaving(), Some(vec![Change::Remove(name("z5.example"))]));
        assert_eq!(all.next_leaving(), None);
        assert_eq!(all.list(&name("one"), Arc::new(zones)), Listed::default());
    }

    #[test]
    fn what_is_back_before_its_turn_stays() {
        let mut all = two();
        let zones = members(&[("a.example", "1"), ("b.example", "2")]);
        all.list(&name("one"), zones.clone());
        assert_eq!(all.list(&name("one"), Arc::default()).leaving, 2);
        assert!(all.next_leaving().is_some());
        let back = all.list(&name("one"), zones).changes;
        assert_eq!(back.len(), 1);
        assert_eq!(all.next_leaving(), None);
    }

    #[test]
    fn another_label_begins_anew() {
        let mut all = two();
        all.list(&name("one"), members(&[("a.example", "1")]));
        let listed = all.list(&name("one"), members(&[("a.example", "2")]));
        assert_eq!((listed.changes, listed.clashes.len(), listed.leaving), (vec![], 0, 1));
        let anew = vec![Change::Remove(name("a.example")), add("a.example", "one")];
        assert_eq!(all.next_leaving(), Some(anew));
    }

    #[test]
    fn nobody_takes_what_is_another_s() {
        let mut all = two();
        let zones = members(&[("a.example", "1"), ("fixed.example", "2")]);
        let listed = all.list(&name("one"), zones.clone());
        assert_eq!(listed.changes, [add("a.example", "one")]);
        assert_eq!(listed.clashes, [name("fixed.example")]);
        let listed = all.list(&name("two"), members(&[("a.example", "1")]));
        assert_eq!((listed.changes, listed.clashes), (vec![], vec![name("a.example")]));
        // It goes to whoever names it then.
        let listed = all.list(&name("one"), members(&[("fixed.example", "2")]));
        assert_eq!((listed.clashes.len(), listed.leaving), (0, 1));
        let moved = vec![Change::Remove(name("a.example")), add("a.example", "two")];
        assert_eq!(all.next_leaving(), Some(moved));
        // A zone of the configuration that is one no longer is its catalog's.
        let listed = all.configure(HashSet::new(), &[name("one"), name("two")]);
        assert_eq!(listed.changes, [add("fixed.example", "one")]);
        let listed = all.configure([name("a.example")].into(), &[name("two")]);
        assert_eq!(all.next_leaving(), Some(vec![Change::Remove(name("fixed.example"))]));
        assert_eq!((listed.leaving, all.all().count(), all.next_leaving()), (1, 0, None));
    }

    proptest! {
        #[test]
        fn in_the_end_all_is_as_the_catalogs_say(steps in prop::collection::vec((
            0_usize..3, prop::collection::btree_map(0_u8..6, 0_u8..2, 0..5), any::<bool>(),
        ), 0..20)) {
            let names = [name("one"), name("two"), name("three")];
            let zone = |number: u8| name(&format!("z{number}.example"));
            let mut all = Membership::default();
            all.configure([zone(0)].into(), &names);
            let (mut last, mut here) = (HashMap::new(), HashSet::new());
            let mut obey = |changes: Vec<Change>| for change in changes {
                match change {
                    Change::Add { zone, .. } => assert!(here.insert(zone), "added twice"),
                    Change::Remove(zone) => assert!(here.remove(&zone), "was not there"),
                }
            };
            for (catalog, zones, leave) in steps {
                let zones: Members = zones
                    .into_iter()
                    .map(|(number, label)| (zone(number), Bytes::from(vec![label])))
                    .collect();
                obey(all.list(&names[catalog], Arc::new(zones.clone())).changes);
                last.insert(catalog, zones);
                if leave {
                    obey(all.next_leaving().unwrap_or_default());
                }
            }
            while let Some(changes) = all.next_leaving() {
                obey(changes);
            }
            let mut wanted: HashSet<Name> = last.into_values().flat_map(Members::into_keys).collect();
            wanted.remove(&zone(0));
            prop_assert_eq!(&here, &wanted);
            prop_assert_eq!(all.all().count(), wanted.len());
        }
    }
}
