//! When each step of a change of keys may be taken. Pure.
//!
//! A step too early leaves validators with a key and without a signature that it verifies, and the
//! domain is gone for them until their caches forget. Every wait is for caches, counted from when
//! the step before was *seen* at every name server or at the parent zone, never from when it was
//! meant to happen (RFC 7583).

use std::time::Duration;

use domain::base::Ttl;
use sealpost_dns::record::Record;

use super::keys::{Keys, Use};
use super::zone_key::{PublicKey, ZoneKey};

/// Added to every wait: name servers that answer from the old zone for a moment longer, and clocks
/// that differ.
pub const MARGIN: Duration = Duration::from_secs(300);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The zone with the last step is not at all of its name servers yet.
    AwaitServers,
    /// The parent zone does not say what it was asked to.
    AwaitParent,
    /// Caches have to forget for that long.
    Wait(Duration),
    /// The next step may be taken.
    Go,
}

/// The change of a key that the parent zone knows, with both signatures in between (RFC 6781 section
/// 4.1.2): the new key comes into the list and signs beside the old one, then the parent zone is
/// asked to name it, and then the old one goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRoll {
    /// Since when all name servers have the zone with both keys, in seconds since 1970.
    pub both_served: Option<u64>,
    /// Whether the zone asks the parent to name the new key, the second step.
    pub announced: bool,
    /// Since when all name servers of the parent name the new key only, in seconds since 1970.
    pub at_parent: Option<u64>,
    /// The longest TTL of the zone before the change, in seconds.
    pub longest: u32,
    /// The TTL of the list of keys before the change, in seconds.
    pub list: u32,
    /// The TTL of the parent's DS, in seconds.
    pub ds: u32,
}

impl EntryRoll {
    /// What to do at `now`, in seconds since 1970: to announce, and once that is done to retire the
    /// old key.
    pub fn next(&self, now: u64) -> Step {
        let Some(both) = self.both_served else { return Step::AwaitServers };
        if !self.announced {
            return after(&[(both, self.list)], now);
        }
        let Some(parent) = self.at_parent else { return Step::AwaitParent };
        // Signatures of the old key alone need that key in the list for as long as they are kept.
        after(&[(parent, self.ds), (both, self.longest)], now)
    }

    /// The keys to sign with in between. `signs_zone` is for keys that sign everything.
    pub fn keys(&self, old: ZoneKey, new: ZoneKey, signs_zone: bool) -> Keys {
        let using = |key, announced| Use { key, signs_zone, signs_keys: true, announced };
        let here = vec![using(old, !self.announced), using(new, self.announced)];
        Keys { here, ..Keys::default() }
    }
}

/// The change of a key that signs the records only and that the parent zone does not know (RFC 6781
/// section 4.1.1.1): the new one is shown first, then signs, and then the old one goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneRoll {
    /// Since when all name servers have the zone in which the new key is shown, in seconds since
    /// 1970.
    pub shown: Option<u64>,
    /// Whether the new key signs, the second step.
    pub signs: bool,
    /// Since when all name servers have the zone in which it signs, in seconds since 1970.
    pub signed: Option<u64>,
    /// The longest TTL of the zone, in seconds.
    pub longest: u32,
    /// The TTL of the list of keys before the change, in seconds.
    pub list: u32,
}

impl ZoneRoll {
    /// What to do at `now`, in seconds since 1970: to sign with the new key, and once that is done
    /// to drop the old one.
    pub fn next(&self, now: u64) -> Step {
        match (self.signs, self.shown, self.signed) {
            (false, Some(shown), _) => after(&[(shown, self.list)], now),
            (true, _, Some(signed)) => after(&[(signed, self.longest)], now),
            _ => Step::AwaitServers,
        }
    }

    /// The key that signs, and the one that is shown beside it.
    pub fn keys(&self, old: ZoneKey, new: ZoneKey) -> (ZoneKey, PublicKey) {
        let (signs, shown) = if self.signs { (new, old) } else { (old, new) };
        (signs, shown.public().clone())
    }
}

/// The longest TTL of a zone, in seconds.
pub fn longest_ttl(records: &[Record]) -> u32 {
    records.iter().map(Record::ttl).max().unwrap_or(Ttl::ZERO).as_secs()
}

/// Waits until all that was kept since some time for some seconds is forgotten. A clock that was set
/// back waits anew.
fn after(kept: &[(u64, u32)], now: u64) -> Step {
    let left = kept.iter().map(|(since, ttl)| {
        let wait = u64::from(*ttl) + MARGIN.as_secs();
        wait.saturating_sub(now.saturating_sub(*since))
    });
    match left.max() {
        None | Some(0) => Step::Go,
        Some(left) => Step::Wait(Duration::from_secs(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::zone_key::Role;
    use proptest::prelude::*;

    const ROLL: EntryRoll = EntryRoll {
        both_served: None,
        announced: false,
        at_parent: None,
        longest: 86_400,
        list: 3600,
        ds: 7200,
    };

    fn wait(seconds: u64) -> Step {
        Step::Wait(Duration::from_secs(seconds))
    }

    #[test]
    fn a_new_entry_key_is_announced_when_the_old_list_is_forgotten() {
        assert_eq!(ROLL.next(1 << 40), Step::AwaitServers);
        let served = EntryRoll { both_served: Some(1000), ..ROLL };
        assert_eq!(served.next(1000), wait(3900));
        assert_eq!(served.next(4900), Step::Go);
        let announced = EntryRoll { announced: true, ..served };
        assert_eq!(announced.next(1 << 40), Step::AwaitParent);
        let early = EntryRoll { at_parent: Some(5000), ..announced };
        assert_eq!(early.next(20_000), wait(1000 + 86_700 - 20_000), "old signatures are kept");
        let late = EntryRoll { at_parent: Some(100_000), ..announced };
        assert_eq!(late.next(100_001), wait(7499), "the old DS is kept");
        assert_eq!(late.next(107_500), Step::Go);
    }

    #[test]
    fn a_new_zone_key_signs_when_it_is_known_and_the_old_one_goes_when_it_is_not_needed() {
        let roll =
            ZoneRoll { shown: None, signs: false, signed: None, longest: 86_400, list: 3600 };
        assert_eq!(roll.next(5), Step::AwaitServers);
        let roll = ZoneRoll { shown: Some(1000), ..roll };
        assert_eq!(roll.next(1000), wait(3900));
        assert_eq!(roll.next(10_000), Step::Go);
        let roll = ZoneRoll { signs: true, ..roll };
        assert_eq!(roll.next(10_000), Step::AwaitServers);
        let roll = ZoneRoll { signed: Some(10_000), ..roll };
        assert_eq!(roll.next(10_000), wait(86_700));
        assert_eq!(roll.next(96_700), Step::Go);
    }

    #[test]
    fn the_parent_is_asked_for_one_of_both_keys() {
        let key = || ZoneKey::generate(Role::Entry).unwrap();
        let apex = "a.example.".parse().unwrap();
        for announced in [false, true] {
            let (old, new) = (key(), key());
            let expected = if announced { new.public() } else { old.public() }.ds(&apex);
            let keys = EntryRoll { announced, ..ROLL }.keys(old, new, true);
            assert_eq!(keys.ds(&apex), [expected]);
            assert_eq!(keys.valid_ds(&apex).len(), 2, "either is valid at the parent");
        }
    }

    /// What a validator may be given at some time: while name servers follow, the one or the other.
    struct Versions<T>(Vec<(u64, u64, T)>);

    impl<T: Copy> Versions<T> {
        /// `late` chooses among the servers.
        fn at(&self, time: u64, late: bool) -> T {
            let came = |(begin, end, _): &&(u64, u64, T)| time >= if late { *end } else { *begin };
            self.0.iter().rev().find(came).map_or(self.0[0].2, |(.., version)| *version)
        }
    }

    /// The first time from `now` on at which `next` allows the step.
    fn first(mut now: u64, next: impl Fn(u64) -> Step) -> u64 {
        loop {
            match next(now) {
                Step::Go => return now,
                Step::Wait(left) => now += left.as_secs(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Keys by their bits.
    const OLD: u8 = 1;
    const NEW: u8 = 2;

    /// How long ago a validator asked for each record, as parts of what it may be kept, and which
    /// server it asked.
    type Cache = [(f64, bool); 3];

    fn cache() -> impl Strategy<Value = Cache> {
        prop::array::uniform3((0.0..1.0f64, any::<bool>()))
    }

    fn asked(now: u64, kept: u32, part: f64) -> u64 {
        now - (f64::from(kept) * part) as u64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        /// Whatever a validator keeps, and whenever it asks for the rest, it finds a way from the
        /// parent's DS to the records.
        #[test]
        fn no_validator_loses_its_way_in_a_change_of_the_entry_key(
            (spread, slow) in (0..100_000u64, 0..1_000_000u64),
            (longest, list, ds) in (0..700_000u32, 0..100_000u32, 0..200_000u32),
            (cache, when) in (cache(), 0.0..1.0f64),
        ) {
            let begin = 2_000_000;
            let served = begin + spread;
            let mut roll = EntryRoll { both_served: Some(served), longest, list, ds, ..ROLL };
            let announced = first(served, |now| roll.next(now));
            let (parent, at_parent) = (announced + slow, announced + slow + spread);
            roll = EntryRoll { announced: true, at_parent: Some(at_parent), ..roll };
            let retired = first(at_parent, |now| roll.next(now));

            let parents = Versions(vec![(0, 0, OLD), (parent, at_parent, NEW)]);
            // The list has the keys that sign it, and the records too.
            let zones =
                Versions(vec![(0, 0, OLD), (begin, served, OLD | NEW), (retired, retired + spread, NEW)]);
            let end = retired + spread + u64::from(longest) + u64::from(ds);
            let now = begin + ((end - begin) as f64 * when) as u64;
            let [(a, b), (c, d), (e, f)] = cache;
            let ds = parents.at(asked(now, ds, a), b);
            let list = zones.at(asked(now, list, c), d);
            let records = zones.at(asked(now, longest, e), f);
            prop_assert!(ds & list != 0, "the DS leads to no key");
            prop_assert!(list & records != 0, "no key verifies the records");
        }

        #[test]
        fn no_validator_loses_its_way_in_a_change_of_the_zone_key(
            spread in 0..100_000u64,
            (longest, list) in (0..700_000u32, 0..100_000u32),
            (cache, when) in (cache(), 0.0..1.0f64),
        ) {
            let begin = 2_000_000;
            let shown = begin + spread;
            let roll = ZoneRoll { shown: Some(shown), signs: false, signed: None, longest, list };
            let signs = first(shown, |now| roll.next(now));
            let signed = signs + spread;
            let roll = ZoneRoll { signs: true, signed: Some(signed), ..roll };
            let dropped = first(signed, |now| roll.next(now));

            let lists =
                Versions(vec![(0, 0, OLD), (begin, shown, OLD | NEW), (dropped, dropped + spread, NEW)]);
            let signatures = Versions(vec![(0, 0, OLD), (signs, signed, NEW)]);
            let end = dropped + spread + u64::from(longest) + u64::from(list);
            let now = begin + ((end - begin) as f64 * when) as u64;
            let [(a, b), (c, d), _] = cache;
            let list = lists.at(asked(now, list, a), b);
            let records = signatures.at(asked(now, longest, c), d);
            prop_assert!(list & records != 0, "no key verifies the records");
        }
    }
}
