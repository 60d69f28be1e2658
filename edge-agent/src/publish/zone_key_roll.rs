//! The change of the key that signs the records, as it stands on disk between one step and the next;
//! also from one key for everything to two. [`ZoneRoll`] has the rules.
//!
//! The next key lies beside the present one until it takes its place. The parent zone knows neither, so
//! nothing is asked of it.

use std::fs;
use std::path::PathBuf;

use domain::base::iana::Rtype;
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::private_file;
use serde::{Deserialize, Serialize};

use super::roll::{RollError, under_way};
use super::store::Store;
use crate::zone::ZoneKey;
use crate::zone::key_roll::{Step, ZoneRoll, longest_ttl};
use crate::zone::zone_key::{PublicKey, Role};

/// What was done and seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneKeyRoll {
    /// Since when it is under way, in seconds since 1970.
    pub began: u64,
    /// Since when all name servers show the next key, in seconds since 1970.
    pub shown: Option<u64>,
    /// Whether it signs.
    pub signs: bool,
    /// Since when all name servers have the zone that it signed, in seconds since 1970.
    pub signed: Option<u64>,
    /// The longest TTL of the zone, in seconds.
    pub longest: u32,
    /// The TTL of the list of keys, in seconds.
    pub list: u32,
}

/// What the version on disk is, and whether the world has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenVersion {
    /// Whether it shows the next key.
    pub shows: bool,
    /// Whether the next key alone signs its records.
    pub signed: bool,
    /// Whether every name server has it, or a newer one.
    pub served: bool,
    /// Its longest TTL, in seconds.
    pub longest: u32,
}

impl ZoneKeyRoll {
    fn begun(records: &[Record], now: u64) -> Self {
        let lists = records.iter().filter(|record| record.rtype() == Rtype::DNSKEY);
        let list = lists.map(|record| record.ttl().as_secs()).max().unwrap_or_default();
        let longest = longest_ttl(records);
        Self { began: now, shown: None, signs: false, signed: None, longest, list }
    }

    /// What is next at `now`, in seconds since 1970.
    pub fn next(&self, now: u64) -> Step {
        let Self { shown, signs, signed, longest, list, .. } = *self;
        ZoneRoll { shown, signs, signed, longest, list }.next(now)
    }

    /// Takes note of what was seen at `now`, and takes the step that may be taken. Whether the old key
    /// may go; `from_one` is where the old one is the entry key, which stays.
    fn advance(&mut self, seen: SeenVersion, from_one: bool, now: u64) -> bool {
        // A clock that was ahead and was set back, as in a change of the entry key.
        for since in [&mut self.shown, &mut self.signed] {
            *since = since.map(|since| since.min(now));
        }
        if seen.served && seen.shows {
            self.shown = self.shown.or(Some(now));
        }
        if seen.served && seen.signed && self.signs {
            self.signed = self.signed.or(Some(now));
        }
        if self.next(now) != Step::Go {
            return false;
        }
        if self.signs || from_one {
            return true;
        }
        self.signs = true;
        self.longest = self.longest.max(seen.longest);
        false
    }
}

/// What the version `records` is to a change to `next`.
pub fn version(apex: &Name, records: &[Record], next: &PublicKey, served: bool) -> SeenVersion {
    let own = || records.iter().filter(|record| record.owner() == apex);
    let shows = own().any(|it| matches!(it.data(), Data::Dnskey(key) if key == next.dnskey()));
    let mut signers = own().filter_map(|record| match record.data() {
        Data::Rrsig(rrsig) if rrsig.type_covered() == Rtype::SOA => Some(rrsig.key_tag()),
        _ => None,
    });
    let first = signers.next();
    let signed = first == Some(next.tag()) && signers.next().is_none();
    SeenVersion { shows, signed, served, longest: longest_ttl(records) }
}

impl Store {
    /// Where the next key that signs the records lies while one takes over.
    pub fn next_zone_key(&self) -> PathBuf {
        self.zone_key().with_extension("key.next")
    }

    pub(super) fn zone_roll_file(&self) -> PathBuf {
        self.zone_key().with_file_name("zone-rollover.json")
    }

    /// The change that is under way.
    pub fn zone_roll(&self) -> Result<Option<ZoneKeyRoll>, RollError> {
        under_way(&self.next_zone_key(), self.zone_roll_file())
    }

    /// Begins a change, or goes on with the one that is under way. The lock is held.
    pub(super) fn begin_zone_roll_locked(
        &self,
        records: &[Record],
        now: u64,
    ) -> Result<ZoneKeyRoll, RollError> {
        if let Some(roll) = self.zone_roll()? {
            return Ok(roll);
        }
        if self.roll()?.is_some() {
            return Err(RollError::OtherChange);
        }
        if records.is_empty() {
            return Err(RollError::NoZone);
        }
        let roll = ZoneKeyRoll::begun(records, now);
        // The notes first: the key beside the old one is what makes it a change.
        self.save_zone_roll(&roll)?;
        ZoneKey::load_or_create(&self.next_zone_key(), Role::Zone)?;
        Ok(roll)
    }

    /// Takes note of what was `seen` at `now` of the change `roll`, and takes the step that may be
    /// taken. Whether it has ended; `None` when it is not that change any more.
    pub fn advance_zone_roll(
        &self,
        roll: &ZoneKeyRoll,
        seen: SeenVersion,
        now: u64,
    ) -> Result<Option<(ZoneKeyRoll, bool)>, RollError> {
        let _lock = self.lock()?;
        if self.zone_roll()?.as_ref() != Some(roll) {
            return Ok(None);
        }
        let mut next = roll.clone();
        let ended = next.advance(seen, !self.zone_key().exists(), now);
        if ended {
            self.end_zone_roll()?;
        } else if next != *roll {
            self.save_zone_roll(&next)?;
        }
        Ok(Some((next, ended)))
    }

    fn end_zone_roll(&self) -> Result<(), RollError> {
        let (new, old) = (self.next_zone_key(), self.zone_key());
        let ended = fs::rename(&new, &old).and_then(|()| private_file::sync_directory_of(&old));
        ended.map_err(|source| RollError::File { path: new, source })?;
        let _ = fs::remove_file(self.zone_roll_file());
        Ok(())
    }

    fn save_zone_roll(&self, roll: &ZoneKeyRoll) -> Result<(), RollError> {
        let path = self.zone_roll_file();
        let error = |source| RollError::File { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(roll).map_err(|source| error(source.into()))?;
        private_file::replace(&path, &text).map_err(error)
    }

    /// The key that signs the records now, where that is not the entry key, and the other one that the
    /// zone shows.
    pub(super) fn zone_keys(&self) -> Result<(Option<ZoneKey>, Option<PublicKey>), RollError> {
        let present = ZoneKey::load(&self.zone_key(), Role::Zone)?;
        let Some(roll) = self.zone_roll()? else { return Ok((present, None)) };
        let next = ZoneKey::load(&self.next_zone_key(), Role::Zone)?;
        let (signs, shown) = if roll.signs { (next, present) } else { (present, next) };
        Ok((signs, shown.map(|key| key.public().clone())))
    }
}
