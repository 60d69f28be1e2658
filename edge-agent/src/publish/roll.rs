//! The change of the key that the parent zone knows, as it stands on disk between one step and the
//! next. [`crate::zone::key_roll`] has the rules; here is what was seen when, so that a box which was off goes on
//! where it was.
//!
//! The new key lies beside the old one until it takes its place. Whoever makes the zone signs with
//! both as long as it does; without it the change is over, whatever else is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::base::iana::Rtype;
use domain::rdata::Ds;
use sealpost_dns::record::{Name, Record};
use sealpost_tunnel::private_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::zone::key_roll::{EntryRoll, Step, longest_ttl};
use crate::zone::keys::Use;
use crate::zone::zone_key::{KeyError, PublicKey, Role};
use crate::zone::{Keys, ZoneKey};

/// For how long a DS is taken to be remembered at least, in seconds. The parent zone may tell more; that
/// it is less is not believed, as nobody has signed it.
const DS_TTL: u32 = 86_400;
/// And at most: resolvers keep nothing longer (RFC 8767 section 4), whatever somebody on the way makes
/// of it.
const MAX_DS_TTL: u32 = 7 * 86_400;

/// What was done and seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// Since when it is under way, in seconds since 1970.
    pub began: u64,
    /// Whether it was given up after the parent was asked for the new key: the old one is then the
    /// one to stay.
    pub back: bool,
    /// Since when all name servers have both keys, in seconds since 1970.
    pub both_served: Option<u64>,
    /// Whether the zone asks the parent for the key that stays.
    pub announced: bool,
    /// Since when the parent names that key only, in seconds since 1970.
    pub at_parent: Option<u64>,
    /// The longest TTL of the zone, in seconds.
    pub longest: u32,
    /// The TTL of the list of keys, in seconds.
    pub list: u32,
    /// The TTL of the parent's DS, in seconds.
    pub ds: u32,
}

/// What the world says at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether every name server has both keys; `None` when one could not be asked.
    pub both_served: Option<bool>,
    /// The DS records at every name server of the parent zone, of which it is proved that the parent has
    /// signed them; `None` when one could not be asked, they do not agree, or it is not proved.
    pub ds: Option<Vec<Ds<Bytes>>>,
    /// Why it is not proved.
    pub unproved: Option<String>,
    /// Their TTL, in seconds.
    pub ds_ttl: u32,
}

/// What came of giving a change up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenUp {
    /// There was none.
    Nothing,
    /// It is over.
    AtOnce,
    /// The parent was asked for the new key: the way back is as long as the way there.
    Back(Roll),
}

/// Why a change of keys does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is nothing to change from.
    #[error("the zone has not been signed yet: start the agent first")]
    NoZone,
    /// A file.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another one is under way.
    #[error(
        "another key of the zone is being changed: wait until that has ended, sealpost-agent dns \
         rollover --status"
    )]
    OtherChange,
    /// The key is not here.
    #[error(
        "the key is not on this box but in the recovery kit of the zone: take it back first, with \
         sealpost-agent dns offline --back, change it, and take it off again"
    )]
    Offline,
    /// One key signs everything, or the other one is lost.
    #[error("the zone has no key of its own for its records yet")]
    NoZoneKey,
    /// A bug.
    #[error("the attempt ended in a fault of this program: {0}")]
    Fault(String),
}

/// The key that stays, and the one that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The one that stays.
    pub stays: PublicKey,
    /// The one that goes.
    pub goes: PublicKey,
}

impl Roll {
    /// Now, for the zone `records` that was signed last.
    pub fn begun(records: &[Record], now: u64) -> Self {
        let lists = records.iter().filter(|record| record.rtype() == Rtype::DNSKEY);
        let list = lists.map(|record| record.ttl().as_secs()).max().unwrap_or_default();
        let longest = longest_ttl(records);
        let (both_served, at_parent) = (None, None);
        let (back, announced, ds) = (false, false, DS_TTL);
        Self { began: now, back, both_served, announced, at_parent, longest, list, ds }
    }

    /// What is next at `now`, in seconds since 1970.
    pub fn next(&self, now: u64) -> Step {
        self.rules().next(now)
    }

    fn rules(&self) -> EntryRoll {
        let Self { both_served, announced, at_parent, longest, list, ds, .. } = *self;
        EntryRoll { both_served, announced, at_parent, longest, list, ds }
    }

    /// Takes note of what was `seen` at `now`, and takes the step of announcing when it may be
    /// taken. Whether the old key may go.
    pub fn advance(&mut self, seen: &Seen, apex: &Name, pair: &Pair, now: u64) -> bool {
        // A clock that was ahead and was set back: the waits begin anew, rather than to last until then.
        for since in [&mut self.both_served, &mut self.at_parent] {
            *since = since.map(|since| since.min(now));
        }
        if self.both_served.is_none() && seen.both_served == Some(true) {
            self.both_served = Some(now);
        }
        if let Some(ds) = &seen.ds {
            let names = |key: &PublicKey| ds.iter().any(|ds| key.is_named_by(apex, ds));
            if names(&pair.goes) {
                self.ds = self.ds.max(seen.ds_ttl.min(MAX_DS_TTL));
            }
            // Where the parent names no key at all, nobody can be led to the old one.
            let done = !names(&pair.goes) && (names(&pair.stays) || ds.is_empty());
            self.at_parent = if done { self.at_parent.or(Some(now)) } else { None };
        }
        if self.next(now) != Step::Go {
            return false;
        }
        if self.announced {
            return true;
        }
        self.announced = true;
        false
    }
}

/// The change that `file` tells of, which is under way as long as there is a next key.
pub(super) fn under_way<T: DeserializeOwned>(
    next_key: &Path,
    file: PathBuf,
) -> Result<Option<T>, RollError> {
    if !next_key.exists() {
        return Ok(None);
    }
    let error = |source| RollError::File { path: file.clone(), source };
    let Some(text) = private_file::read(&file).map_err(error)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|source| error(source.into()))
}

impl Store {
    /// Where the next key lies while one takes over.
    pub fn next_entry_key(&self) -> PathBuf {
        self.entry_key().with_extension("key.next")
    }

    pub(super) fn roll_file(&self) -> PathBuf {
        self.entry_key().with_file_name("rollover.json")
    }

    /// The change that is under way.
    pub fn roll(&self) -> Result<Option<Roll>, RollError> {
        under_way(&self.next_entry_key(), self.roll_file())
    }

    /// Begins a change, or goes on with the one that is under way.
    pub fn begin_roll(&self, records: &[Record], now: u64) -> Result<Roll, RollError> {
        let _lock = self.lock()?;
        if let Some(roll) = self.roll()? {
            return Ok(roll);
        }
        if self.is_offline() {
            return Err(RollError::Offline);
        }
        if self.zone_roll()?.is_some() {
            return Err(RollError::OtherChange);
        }
        if !self.entry_key().exists() || records.is_empty() {
            return Err(RollError::NoZone);
        }
        let roll = Roll::begun(records, now);
        // The notes first: the key beside the old one is what makes it a change.
        self.save_roll(&roll)?;
        ZoneKey::load_or_create(&self.next_entry_key(), Role::Entry)?;
        Ok(roll)
    }

    /// Takes note of what was `seen` at `now` of the change `roll` of `pair`, and takes the step that
    /// may be taken: the change then, and whether it has ended. `None` when it is not that change any
    /// more: what was done meanwhile by a command, or by the agent, counts.
    pub fn advance_roll(
        &self,
        roll: &Roll,
        pair: &Pair,
        seen: &Seen,
        apex: &Name,
        now: u64,
    ) -> Result<Option<(Roll, bool)>, RollError> {
        let _lock = self.lock()?;
        let present = self.roll()?;
        if present.as_ref() != Some(roll) || self.roll_pair(roll)?.as_ref() != Some(pair) {
            return Ok(None);
        }
        let mut next = roll.clone();
        let ended = next.advance(seen, apex, pair, now);
        if ended {
            self.end_roll(&next)?;
        } else if next != *roll {
            self.save_roll(&next)?;
        }
        Ok(Some((next, ended)))
    }

    /// Keeps what was seen.
    fn save_roll(&self, roll: &Roll) -> Result<(), RollError> {
        let path = self.roll_file();
        let error = |source| RollError::File { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(roll).map_err(|source| error(source.into()))?;
        private_file::replace(&path, &text).map_err(error)
    }

    /// Both keys, of which one stays.
    pub fn roll_pair(&self, roll: &Roll) -> Result<Option<Pair>, RollError> {
        let old = ZoneKey::load(&self.entry_key(), Role::Entry)?;
        let new = ZoneKey::load(&self.next_entry_key(), Role::Entry)?;
        let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
        let (old, new) = (old.public().clone(), new.public().clone());
        let (stays, goes) = if roll.back { (old, new) } else { (new, old) };
        Ok(Some(Pair { stays, goes }))
    }

    /// Ends the change: one key is left.
    fn end_roll(&self, roll: &Roll) -> Result<(), RollError> {
        let (old, new) = (self.entry_key(), self.next_entry_key());
        // Either is one step for whoever looks at it, also after a crash.
        let ended = match roll.back {
            true => fs::remove_file(&new),
            false => fs::rename(&new, &old),
        };
        // The notes may not go before that is on disk: a next key without notes is no change, and then
        // only the old key would sign, which the parent does not name any more.
        let ended = ended.and_then(|()| private_file::sync_directory_of(&new));
        ended.map_err(|source| RollError::File { path: new, source })?;
        let _ = fs::remove_file(self.roll_file());
        Ok(())
    }

    /// Gives the change up. Before the parent was asked for the new key that is one step; afterwards
    /// the way back is as long as the way there.
    pub fn abort_roll(&self) -> Result<GivenUp, RollError> {
        let _lock = self.lock()?;
        let Some(mut roll) = self.roll()? else { return Ok(GivenUp::Nothing) };
        if !roll.announced {
            roll.back = true;
            self.end_roll(&roll)?;
            return Ok(GivenUp::AtOnce);
        }
        (roll.back, roll.at_parent) = (!roll.back, None);
        self.save_roll(&roll)?;
        Ok(GivenUp::Back(roll))
    }

    /// The keys of the change that is under way, to sign with.
    pub(super) fn roll_keys(&self) -> Result<Option<Keys>, RollError> {
        let Some(roll) = self.roll()? else { return Ok(None) };
        let old = ZoneKey::load(&self.entry_key(), Role::Entry)?;
        let new = ZoneKey::load(&self.next_entry_key(), Role::Entry)?;
        let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
        let zone = ZoneKey::load(&self.zone_key(), Role::Zone)?;
        let (goes, stays) = if roll.back { (new, old) } else { (old, new) };
        let mut keys = roll.rules().keys(goes, stays, zone.is_none());
        keys.here.extend(zone.map(|key| Use {
            key,
            signs_zone: true,
            signs_keys: false,
            announced: false,
        }));
        Ok(Some(keys))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::zone::KeyLayout;
    use crate::zone::canonical::tests::records;

    const NOW: u64 = 1_790_000_000;
    const HOUR: u64 = 3600;

    /// Where a zone of a few records has its new keys, until dropped.
    pub(in crate::publish) struct Place {
        pub(in crate::publish) _dir: tempfile::TempDir,
        pub(in crate::publish) store: Store,
        pub(in crate::publish) apex: Name,
        pub(in crate::publish) records: Vec<Record>,
    }

    pub(in crate::publish) fn place(layout: KeyLayout) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), &"a.example".parse().unwrap());
        store.keys(layout).unwrap();
        let records = records("a.example.", "@ 3600 NS b.\nx 7200 TXT x\n");
        Place { _dir: dir, store, apex: "a.example.".parse().unwrap(), records }
    }

    fn tags(keys: Vec<Ds<Bytes>>) -> Vec<u16> {
        keys.iter().map(Ds::key_tag).collect()
    }

    #[test]
    fn a_change_goes_from_step_to_step_and_leaves_the_new_key() {
        for layout in [KeyLayout::Combined, KeyLayout::Split] {
            let Place { store, apex, records, _dir } = place(layout);
            let before = store.keys(layout).unwrap();
            let mut roll = store.begin_roll(&records, NOW).unwrap();
            assert_eq!(store.begin_roll(&records, NOW + 9).unwrap(), roll, "goes on");
            let pair = store.roll_pair(&roll).unwrap().unwrap();
            let keys = store.keys(layout).unwrap();
            assert_eq!(keys.here.len(), before.here.len() + 1);
            assert_eq!(
                keys.ds(&apex),
                before.ds(&apex),
                "the parent is asked for the old one still"
            );

            let mut seen = Seen::default();
            assert!(!roll.advance(&seen, &apex, &pair, NOW) && roll.both_served.is_none());
            seen.both_served = Some(true);
            seen.ds = Some(vec![pair.goes.ds(&apex)]);
            seen.ds_ttl = 100_000;
            assert!(!roll.advance(&seen, &apex, &pair, NOW) && !roll.announced);
            assert_eq!(roll.ds, 100_000);
            roll.advance(&seen, &apex, &pair, NOW + 2 * HOUR);
            assert!(roll.announced);
            store.save_roll(&roll).unwrap();
            assert_eq!(store.roll().unwrap().unwrap(), roll);
            assert_eq!(tags(store.keys(layout).unwrap().ds(&apex)), [pair.stays.tag()]);

            assert_eq!(roll.next(NOW + 3 * HOUR), Step::AwaitParent);
            seen.ds = Some(vec![pair.stays.ds(&apex), pair.goes.ds(&apex)]);
            roll.advance(&seen, &apex, &pair, NOW + 3 * HOUR);
            assert_eq!(roll.at_parent, None, "both are not one");
            seen.ds = Some(vec![pair.stays.ds(&apex)]);
            assert!(!roll.advance(&seen, &apex, &pair, NOW + 4 * HOUR));
            assert!(roll.advance(&seen, &apex, &pair, NOW + 4 * HOUR + 100_300));
            store.end_roll(&roll).unwrap();
            assert!(store.roll().unwrap().is_none());
            let after = store.keys(layout).unwrap();
            assert_eq!(after.here.len(), before.here.len());
            assert_eq!(tags(after.ds(&apex)), [pair.stays.tag()]);
        }
    }

    #[test]
    fn a_change_can_be_given_up_at_once_before_the_parent_knows_and_slowly_after() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let before = tags(store.keys(KeyLayout::Combined).unwrap().ds(&apex));
        assert_eq!(store.abort_roll().unwrap(), GivenUp::Nothing);
        store.begin_roll(&records, NOW).unwrap();
        assert_eq!(store.abort_roll().unwrap(), GivenUp::AtOnce);
        assert!(store.roll().unwrap().is_none());

        let mut roll = store.begin_roll(&records, NOW).unwrap();
        (roll.both_served, roll.announced) = (Some(NOW), true);
        store.save_roll(&roll).unwrap();
        let GivenUp::Back(mut back) = store.abort_roll().unwrap() else { panic!("at once") };
        assert_eq!(tags(store.keys(KeyLayout::Combined).unwrap().ds(&apex)), before);
        let pair = store.roll_pair(&back).unwrap().unwrap();
        assert_eq!(vec![pair.stays.tag()], before);
        let ds = Some(vec![pair.stays.ds(&apex)]);
        let seen = Seen { both_served: Some(true), ds, ds_ttl: 60, unproved: None };
        back.advance(&seen, &apex, &pair, NOW + HOUR);
        assert!(back.advance(&seen, &apex, &pair, NOW + 1000 * HOUR));
        store.end_roll(&back).unwrap();
        let after = store.keys(KeyLayout::Combined).unwrap();
        assert_eq!((tags(after.ds(&apex)), after.here.len()), (before, 1));
    }

    #[test]
    fn a_clock_that_was_ahead_delays_no_step_for_years() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let mut roll = store.begin_roll(&records, NOW).unwrap();
        let pair = store.roll_pair(&roll).unwrap().unwrap();
        let seen = Seen { both_served: Some(true), ..Seen::default() };
        roll.advance(&seen, &apex, &pair, NOW + 100_000 * HOUR);
        roll.advance(&seen, &apex, &pair, NOW);
        assert_eq!(roll.both_served, Some(NOW));
        roll.advance(&seen, &apex, &pair, NOW + 2 * HOUR);
        assert!(roll.announced);
    }

    #[test]
    fn what_was_seen_before_somebody_else_took_a_step_counts_for_nothing() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let roll = store.begin_roll(&records, NOW).unwrap();
        let pair = store.roll_pair(&roll).unwrap().unwrap();
        let seen = Seen { both_served: Some(true), ..Seen::default() };
        let step = |roll: &Roll| store.advance_roll(roll, &pair, &seen, &apex, NOW).unwrap();
        let (next, ended) = step(&roll).unwrap();
        assert!(!ended && next.both_served == Some(NOW));
        assert_eq!(step(&roll), None, "it stands elsewhere now");
        store.abort_roll().unwrap();
        assert_eq!(step(&next), None, "it was given up");
        store.begin_roll(&records, NOW).unwrap();
        assert_eq!(step(&next), None, "that is another one");
    }

    #[test]
    fn the_agent_and_a_command_at_once_leave_a_change_that_is_whole() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let seen = Seen { both_served: Some(true), ..Seen::default() };
        std::thread::scope(|scope| {
            let agent = || {
                for hour in 0..60 {
                    let Ok(Some(roll)) = store.roll() else { continue };
                    let Ok(Some(pair)) = store.roll_pair(&roll) else { continue };
                    store.advance_roll(&roll, &pair, &seen, &apex, NOW + hour * HOUR).unwrap();
                }
            };
            let owner = || {
                for _ in 0..30 {
                    store.begin_roll(&records, NOW).unwrap();
                    store.abort_roll().unwrap();
                }
            };
            let signer = || {
                for _ in 0..60 {
                    let keys = store.keys(KeyLayout::Combined).unwrap();
                    let announced = keys.here.iter().filter(|using| using.announced).count();
                    assert!(keys.here.len() <= 2 && announced == 1, "{keys:?}");
                }
            };
            scope.spawn(agent);
            scope.spawn(owner);
            scope.spawn(signer);
        });
    }

    #[test]
    fn no_ttl_that_somebody_makes_up_hurries_or_stops_a_change() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let roll = store.begin_roll(&records, NOW).unwrap();
        let pair = store.roll_pair(&roll).unwrap().unwrap();
        for (said, kept) in [(0, DS_TTL), (100_000, 100_000), (u32::MAX, MAX_DS_TTL)] {
            let mut roll = roll.clone();
            let ds = Some(vec![pair.goes.ds(&apex)]);
            roll.advance(&Seen { ds, ds_ttl: said, ..Seen::default() }, &apex, &pair, NOW);
            assert_eq!(roll.ds, kept);
        }
    }

    #[test]
    fn what_a_crash_leaves_is_one_or_the_other() {
        let Place { store, records, _dir, .. } = place(KeyLayout::Combined);
        let roll = store.begin_roll(&records, NOW).unwrap();
        // The notes are there and the key is not: before its beginning or after its end.
        fs::remove_file(store.next_entry_key()).unwrap();
        assert!(store.roll().unwrap().is_none());
        assert_eq!(store.keys(KeyLayout::Combined).unwrap().here.len(), 1);
        assert_eq!(store.begin_roll(&records, NOW).unwrap(), roll);
        assert!(place(KeyLayout::Combined).store.begin_roll(&[], NOW).is_err());
    }
}
