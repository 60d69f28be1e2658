//! Zones within zones. A zone below another one that is here too is answered from only if that one
//! delegates it: an NS RRset at its apex, where the other zone's own names end (RFC 1034 section 4.2.1).
//! Otherwise the zone above answers, as if the other was not here: whoever has the name above decides what
//! is below, and two zones here may be of two owners. Pure.
//!
//! What a zone above says counts even when it has expired, so that nobody gains by waiting for that. One
//! of which nothing ever came says nothing.
//!
//! It is decided when one of the zones changes, and costs a look at the names above it and at the zones
//! below it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::name::{labels, sort_key};
use crate::served::Entry;
use crate::zone::Zone;

/// All zones, in canonical order: those below a zone stand right behind it.
#[derive(Default)]
pub(crate) struct Nesting {
    places: BTreeMap<Vec<u8>, Place>,
    hidden: usize,
}

struct Place {
    entry: Entry,
    hidden: bool,
}

impl Place {
    /// Whether it would be served if it was not hidden: those are counted.
    fn counts(&self) -> usize {
        usize::from(self.hidden && matches!(self.entry, Entry::Serving(_)))
    }
}

/// A zone that others hide from now on, or do not any more.
pub(crate) struct Turned {
    pub(crate) entry: Entry,
    pub(crate) hidden: bool,
}

impl Nesting {
    /// Has this instead of what there was of its name. Says whether it is hidden, whether that is news (a zone
    /// that was not here was not hidden), and which zones below it turned.
    pub(crate) fn put(&mut self, entry: Entry) -> (bool, bool, Vec<Turned>) {
        let key = key(entry.name());
        let above = self.above(entry.name());
        let hidden = hides(above.as_deref(), entry.name());
        let mine = if hidden { above } else { entry.last() };
        let place = Place { entry, hidden };
        self.hidden += place.counts();
        let before = self.places.insert(key.clone(), place);
        self.hidden -= before.as_ref().map_or(0, Place::counts);
        let was_hidden = before.is_some_and(|before| before.hidden);
        (hidden, was_hidden != hidden, self.settle(&key, mine))
    }

    /// Forgets a zone. Says which below it turned.
    pub(crate) fn remove(&mut self, name: &[u8]) -> Vec<Turned> {
        let key = key(name);
        let Some(before) = self.places.remove(&key) else { return Vec::new() };
        self.hidden -= before.counts();
        let above = self.above(name);
        self.settle(&key, above)
    }

    /// Whether a zone is here that another one hides.
    pub(crate) fn is_hidden(&self, name: &[u8]) -> bool {
        self.places.get(&key(name)).is_some_and(|place| place.hidden)
    }

    /// How many are hidden that would be served.
    pub(crate) fn hidden(&self) -> usize {
        self.hidden
    }

    /// What is known of the nearest zone above a name that answers.
    fn above(&self, name: &[u8]) -> Option<Arc<Zone>> {
        let mut rest = name;
        while let Some(length) = labels(rest).next().map(<[u8]>::len) {
            rest = &rest[1 + length..];
            if let Some(place) = self.places.get(&key(rest)).filter(|place| !place.hidden) {
                return place.entry.last();
            }
        }
        None
    }

    /// Decides anew for all below a name, which `nearest` answers for, if anything does.
    fn settle(&mut self, at: &[u8], nearest: Option<Arc<Zone>>) -> Vec<Turned> {
        let mut turned = Vec::new();
        // Those that answer, each within the one before.
        let mut within: Vec<(&[u8], Option<Arc<Zone>>)> = Vec::new();
        let behind = (Bound::Excluded(at), Bound::Unbounded);
        for (key, place) in self.places.range_mut::<[u8], _>(behind) {
            if !key.starts_with(at) {
                break;
            }
            while within.last().is_some_and(|(above, _)| !key.starts_with(above)) {
                within.pop();
            }
            let above = within.last().map_or(&nearest, |(_, zone)| zone);
            let hidden = hides(above.as_deref(), place.entry.name());
            if hidden != place.hidden {
                self.hidden -= place.counts();
                place.hidden = hidden;
                self.hidden += place.counts();
                turned.push(Turned { entry: place.entry.clone(), hidden });
            }
            if !hidden {
                within.push((key, place.entry.last()));
            }
        }
        turned
    }
}

fn key(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len());
    sort_key(name, &mut key);
    key
}

/// Whether the nearest zone above a name keeps the name for itself.
fn hides(above: Option<&Zone>, name: &[u8]) -> bool {
    above.is_some_and(|zone| !zone.delegates(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::record::Name;
    use crate::transfer::fixture::records;

    fn name(apex: &str) -> Name {
        apex.parse().unwrap()
    }

    fn lower(apex: &str) -> Vec<u8> {
        name(apex).as_slice().to_ascii_lowercase()
    }

    /// A zone with these delegations.
    fn zone(apex: &str, cuts: &[&str]) -> Entry {
        let cuts: String =
            cuts.iter().map(|cut| format!("{cut}. 60 IN NS ns.elsewhere.\n")).collect();
        let text = format!(
            "{apex}. 60 IN SOA ns.elsewhere. host.elsewhere. 1 2 3 4 5\n\
             {apex}. 60 IN NS ns.elsewhere.\n{cuts}"
        );
        Entry::Serving(Arc::new(Zone::compile(&name(apex), &records(&text)).unwrap()))
    }

    fn expired(entry: &Entry) -> Entry {
        Entry::Expired(entry.name().into(), entry.last())
    }

    fn hidden(nesting: &Nesting, all: &[&str]) -> Vec<String> {
        let hidden = all.iter().filter(|apex| nesting.is_hidden(&lower(apex)));
        let hidden: Vec<String> = hidden.map(|apex| (*apex).to_owned()).collect();
        assert_eq!(hidden.len(), nesting.hidden());
        hidden
    }

    #[test]
    fn a_zone_is_hidden_until_the_one_above_delegates_it() {
        let all = ["example.org", "sub.example.org", "other.example.org", "example.net"];
        let mut nesting = Nesting::default();
        for apex in ["sub.example.org", "other.example.org", "example.net"] {
            let (hidden, new, turned) = nesting.put(zone(apex, &[]));
            assert!(!hidden && !new && turned.is_empty());
        }
        let (_, _, turned) = nesting.put(zone("example.org", &["other.example.org"]));
        assert_eq!(turned.len(), 1);
        assert!(turned[0].hidden && turned[0].entry.name() == lower("sub.example.org"));
        assert_eq!(hidden(&nesting, &all), ["sub.example.org"]);
        // Another version of it changes nothing.
        let (is, new, turned) = nesting.put(zone("sub.example.org", &[]));
        assert!(is && !new && turned.is_empty());
        // The zone above delegates it, expires, delegates it no more, and goes.
        let both = zone("Example.ORG", &["SUB.example.org", "other.example.org"]);
        let (_, _, turned) = nesting.put(both.clone());
        assert!(turned.len() == 1 && !turned[0].hidden);
        assert!(nesting.put(expired(&both)).2.is_empty());
        let none = zone("example.org", &["www.sub.example.org"]);
        assert_eq!(nesting.put(none.clone()).2.len(), 2);
        assert!(nesting.put(expired(&none)).2.is_empty());
        assert_eq!(hidden(&nesting, &all), ["sub.example.org", "other.example.org"]);
        assert_eq!(nesting.remove(&lower("example.org")).len(), 2);
        assert_eq!(hidden(&nesting, &all), [""; 0]);
        // One that never came says nothing.
        let never = Entry::Expired(lower("example.org").into(), None);
        assert!(nesting.put(never).2.is_empty());
        // And one that comes without a version is hidden as well.
        nesting.put(zone("example.net", &[]));
        let (is, new, _) = nesting.put(Entry::Expired(lower("a.example.net").into(), None));
        assert!(is && new && nesting.hidden() == 0);
        assert!(nesting.remove(&lower("a.example.net")).is_empty());
        assert_eq!(nesting.hidden(), 0);
    }

    #[test]
    fn a_hidden_zone_delegates_nothing() {
        let all = ["a", "b.a", "c.b.a", "d.c.b.a"];
        let mut nesting = Nesting::default();
        nesting.put(zone("d.c.b.a", &[]));
        nesting.put(zone("c.b.a", &["d.c.b.a"]));
        nesting.put(zone("b.a", &["c.b.a"]));
        assert_eq!(hidden(&nesting, &all), [""; 0]);
        nesting.put(zone("a", &[]));
        assert_eq!(hidden(&nesting, &all), ["b.a", "c.b.a", "d.c.b.a"]);
        // Past the zone between, which is not answered from.
        nesting.put(zone("a", &["c.b.a"]));
        assert_eq!(hidden(&nesting, &all), ["b.a"]);
        nesting.put(zone("a", &["b.a"]));
        assert_eq!(hidden(&nesting, &all), [""; 0]);
        // The zone between is elsewhere: the one that is here does not delegate what is below.
        nesting.remove(&lower("b.a"));
        assert_eq!(hidden(&nesting, &all), ["c.b.a", "d.c.b.a"]);
    }

    /// By the rule alone, from the top.
    fn expected(all: &BTreeMap<usize, Entry>) -> BTreeSet<usize> {
        let mut hidden = BTreeSet::new();
        // In the order of `NAMES`, whose parents stand before them.
        for (at, entry) in all {
            let above = all.iter().filter(|(other, it)| {
                let above = crate::name::before(entry.name(), it.name());
                above.is_some_and(|octets| octets > 0) && !hidden.contains(*other)
            });
            let nearest = above.max_by_key(|(_, it)| it.name().len());
            let zone = nearest.and_then(|(_, it)| it.last());
            if zone.is_some_and(|zone| !zone.delegates(entry.name())) {
                hidden.insert(*at);
            }
        }
        hidden
    }

    const NAMES: [&str; 8] = ["a", "b", "b.a", "ab.a", "c.b.a", "x.ab.a", "d.c.b.a", "a.b"];

    proptest! {
        #[test]
        fn any_order_of_changes_ends_alike(
            changes in prop::collection::vec((0usize..8, 0u8..4, any::<u8>()), 0..30),
        ) {
            let (mut nesting, mut all) = (Nesting::default(), BTreeMap::new());
            let mut shown = BTreeSet::new();
            for (at, what, cuts) in changes {
                let apex = NAMES[at];
                let within = |cut: &&str| cut.ends_with(&format!(".{apex}"));
                let cuts = NAMES.iter().enumerate().filter(|(bit, _)| cuts >> bit & 1 == 1);
                let cuts: Vec<_> = cuts.map(|(_, cut)| *cut).filter(|cut| within(cut)).collect();
                let entry = match what {
                    0 => None,
                    1 => Some(Entry::Expired(lower(apex).into(), None)),
                    2 => Some(expired(&zone(apex, &cuts))),
                    _ => Some(zone(apex, &cuts)),
                };
                let turned = match entry {
                    None => {
                        all.remove(&at);
                        shown.remove(&at);
                        nesting.remove(&lower(apex))
                    }
                    Some(entry) => {
                        all.insert(at, entry.clone());
                        let (hidden, _, turned) = nesting.put(entry);
                        if hidden { shown.remove(&at) } else { shown.insert(at) };
                        turned
                    }
                };
                for Turned { entry, hidden } in turned {
                    let at = NAMES.iter().position(|it| lower(it) == entry.name()).unwrap();
                    let news = if hidden { shown.remove(&at) } else { shown.insert(at) };
                    prop_assert!(news);
                }
                let hidden = expected(&all);
                let visible = all.keys().copied().filter(|at| !hidden.contains(at));
                prop_assert_eq!(&shown, &visible.collect::<BTreeSet<_>>());
                let serving = |at: &&usize| matches!(all[*at], Entry::Serving(_));
                prop_assert_eq!(nesting.hidden(), hidden.iter().filter(serving).count());
            }
        }
    }
}
