//! The key that the parent zone knows, kept off the box: in a kit that its owner has. The box keeps
//! the list of the zone's keys as that key signed it, for as long as those signatures last, and the
//! key that signs all the rest.
//!
//! What says where the key is, is whether its file is there. While it is, the list beside it counts for
//! nothing: a crash leaves one or the other.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::private_file;

use super::roll::RollError;
use super::store::Store;
use crate::zone::plan::Host;
use crate::zone::sign::{self, endorse};
use crate::zone::zone_key::{KeyError, PublicKey, Role};
use crate::zone::{Keys, Plan, Policy, ZoneKey, build, included, master_file};

/// Why a key cannot go to the kit or come back.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A key or file.
    #[error(transparent)]
    Roll(#[from] RollError),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] sign::SignError),
    /// What was signed makes no valid zone.
    #[error(
        "the list of keys that was just signed makes no valid zone, and nothing was changed: {0}"
    )]
    Void(String),
    /// The kit has another key.
    #[error(
        "the kit holds another key (tag {kit}) than the zone shows its parent (tag {zone}): is it the \
         kit of an earlier key? Nothing was changed"
    )]
    OtherKey {
        /// The tag of the one in the kit.
        kit: u16,
        /// The tag of the one in the zone.
        zone: u16,
    },
    /// The key is here.
    #[error("the key is on this box, which renews all signatures by itself")]
    Here,
    /// The key is in the kit already.
    #[error("the key is in the kit already")]
    Away,
}

impl From<KeyError> for OfflineError {
    fn from(error: KeyError) -> Self {
        Self::Roll(error.into())
    }
}

impl Store {
    /// Where the list of keys lies that was signed with the kit.
    pub fn endorsed_file(&self) -> PathBuf {
        self.entry_key().with_file_name("endorsed.zone")
    }

    /// Whether the key that the parent knows is in a kit.
    pub fn is_offline(&self) -> bool {
        !self.entry_key().exists() && self.endorsed_file().exists()
    }

    /// The list of keys that was signed with the kit; `None` while the key is on the box.
    pub(super) fn endorsed(&self) -> Result<Option<Vec<Record>>, RollError> {
        if !self.is_offline() {
            return Ok(None);
        }
        let path = self.endorsed_file();
        let error = |source| RollError::File { path: path.clone(), source };
        let Some(text) = private_file::read(&path).map_err(error)? else { return Ok(None) };
        // All names in it are whole.
        let read = included::parse(&text, &path, &Name::root_bytes());
        let found = read.map_err(|problem| error(io::Error::other(problem)))?;
        Ok(Some(found.into_iter().map(|it| it.record).collect()))
    }

    /// Begins to sign the records with a key of their own, where one key signs everything, or goes on
    /// with that. Whether it is done: whether the key that the parent knows signs the keys alone.
    pub fn split(&self, records: &[Record], now: u64) -> Result<bool, RollError> {
        let _lock = self.lock()?;
        if self.roll()?.is_some() {
            return Err(RollError::OtherChange);
        }
        if self.zone_key().exists() {
            return Ok(true);
        }
        if !self.entry_key().exists() {
            return Err(RollError::NoZone);
        }
        self.begin_zone_roll_locked(records, now)?;
        Ok(false)
    }

    /// The key to put into a kit.
    pub fn entry_for_kit(&self) -> Result<ZoneKey, OfflineError> {
        if self.is_offline() {
            return Err(OfflineError::Away);
        }
        let key = ZoneKey::load(&self.entry_key(), Role::Entry)?;
        key.ok_or(OfflineError::Roll(RollError::NoZone))
    }

    /// Takes the key off the box, after `kit`, which is the same one as it was read back from the
    /// owner's copy, has signed the list of keys for `validity` from `now` on. When that ends, in
    /// seconds since 1970.
    pub fn take_offline(
        &self,
        apex: &Name,
        kit: &ZoneKey,
        validity: Duration,
        now: u64,
    ) -> Result<u64, OfflineError> {
        let _lock = self.lock()?;
        if self.is_offline() {
            return Err(OfflineError::Away);
        }
        if self.roll()?.is_some() {
            return Err(RollError::OtherChange.into());
        }
        let here = ZoneKey::load(&self.entry_key(), Role::Entry)?.ok_or(RollError::NoZone)?;
        same(kit.public(), here.public())?;
        let ends = self.endorse_locked(apex, kit, validity, now)?;
        let path = self.entry_key();
        let gone = fs::remove_file(&path).and_then(|()| private_file::sync_directory_of(&path));
        gone.map_err(|source| RollError::File { path, source })?;
        Ok(ends)
    }

    /// Has the kit sign the list of keys anew, for `validity` from `now` on; and with `another` begins to
    /// exchange the key that signs the records, of the zone `records`. When the list ends, in seconds
    /// since 1970.
    pub fn sign_keys(
        &self,
        apex: &Name,
        kit: &ZoneKey,
        validity: Duration,
        another: Option<&[Record]>,
        now: u64,
    ) -> Result<u64, OfflineError> {
        let _lock = self.lock()?;
        let list = match self.endorsed()? {
            Some(list) => list,
            // It was lost, and the kit is what makes it again.
            None if self.zone_key().exists() && !self.entry_key().exists() => Vec::new(),
            None => return Err(OfflineError::Here),
        };
        if let Some(shown) = announced(&list).first() {
            same(kit.public(), shown)?;
        }
        if let Some(records) = another {
            self.begin_zone_roll_locked(records, now)?;
        }
        self.endorse_locked(apex, kit, validity, now)
    }

    /// Takes the key back from the kit onto the box; also onto a new box, that has no keys of the zone
    /// yet.
    pub fn take_back(&self, kit: &ZoneKey) -> Result<(), OfflineError> {
        let _lock = self.lock()?;
        let path = self.entry_key();
        match (self.endorsed()?, ZoneKey::load(&path, Role::Entry)?) {
            (_, Some(here)) => same(kit.public(), here.public())?,
            (list, None) => {
                if let Some(shown) = announced(&list.unwrap_or_default()).first() {
                    same(kit.public(), shown)?;
                }
                let text = kit.to_text()?;
                let made = private_file::create(&path, text.as_bytes());
                made.map_err(|source| RollError::File { path, source })?;
            }
        }
        // It counts for nothing now, and would not be true for ever.
        let _ = fs::remove_file(self.endorsed_file());
        Ok(())
    }

    fn endorse_locked(
        &self,
        apex: &Name,
        kit: &ZoneKey,
        validity: Duration,
        now: u64,
    ) -> Result<u64, OfflineError> {
        let (signs, shown) = self.zone_keys()?;
        let signs = signs.ok_or(RollError::NoZoneKey)?;
        let mut public = vec![signs.public().clone()];
        public.extend(shown);
        let list = endorse(apex, kit, &public, validity, now)?;
        let path = self.endorsed_file();
        let text = master_file::text(&list);
        let keys = Keys::offline(list, signs);
        // Before the present one is given up: that a zone with it is valid, by code that did not sign it.
        let mut plan = Plan::new(apex.clone());
        let name = "name-server.invalid.".parse().expect("a constant name");
        plan.name_servers.push(Host { name, addresses: Vec::new() });
        let built = build(&plan, &keys, &Policy::default(), None, None, now);
        built.map_err(|error| OfflineError::Void(error.to_string()))?;
        let written = private_file::replace(&path, text.as_bytes());
        written.map_err(|source| RollError::File { path, source })?;
        Ok(sign::endorsement_ends(&keys, now).unwrap_or(now))
    }
}

/// The keys that a list signed with a kit asks the parent to name.
fn announced(list: &[Record]) -> Vec<PublicKey> {
    let keys = list.iter().filter_map(|record| match record.data() {
        Data::Dnskey(key) if key.flags() == Role::Entry.flags() => {
            Some(PublicKey::new(key.clone()))
        }
        _ => None,
    });
    keys.collect()
}

fn same(kit: &PublicKey, zone: &PublicKey) -> Result<(), OfflineError> {
    match kit == zone {
        true => Ok(()),
        false => Err(OfflineError::OtherKey { kit: kit.tag(), zone: zone.tag() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::zone::KeyLayout;
    use crate::publish::roll::tests::{Place, place};
    use crate::publish::zone_key_roll::{SeenVersion, version};

    const NOW: u64 = 1_790_000_000;
    const DAY: u64 = 24 * 3600;
    const YEAR: Duration = Duration::from_secs(365 * DAY);

    fn all(store: &Store) -> Keys {
        store.keys(KeyLayout::Combined).unwrap()
    }

    /// Goes on with the change of the key that signs the records, until it has ended.
    fn finish(store: &Store, now: &mut u64) {
        for _ in 0..20 {
            let Some(roll) = store.zone_roll().unwrap() else { return };
            let seen = SeenVersion { shows: true, signed: roll.signs, served: true, longest: 7200 };
            store.advance_zone_roll(&roll, seen, *now).unwrap();
            *now += 2 * 3600 + 301;
        }
        panic!("it does not end");
    }

    #[test]
    fn the_key_leaves_the_box_signs_from_its_kit_and_comes_back() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        let mut now = NOW;
        let ds = all(&store).ds(&apex);
        let kit = store.entry_for_kit().unwrap();
        let early = store.take_offline(&apex, &kit, YEAR, now).unwrap_err();
        assert!(matches!(early, OfflineError::Roll(RollError::NoZoneKey)), "{early}");
        assert!(store.entry_key().exists(), "one key signs everything, and stays");

        assert!(!store.split(&records, now).unwrap());
        let keys = all(&store);
        assert!(keys.here.len() == 1 && keys.here[0].signs_zone && keys.shown.len() == 1);
        finish(&store, &mut now);
        assert!(store.split(&records, now).unwrap());
        assert_eq!(store.take_offline(&apex, &kit, YEAR, now).unwrap(), now + 365 * DAY);
        assert!(store.is_offline() && !store.entry_key().exists());
        let keys = all(&store);
        assert_eq!((keys.ds(&apex), keys.here.len()), (ds.clone(), 1));
        assert!(!keys.here[0].signs_keys && keys.endorsed.is_some());
        assert!(matches!(store.entry_for_kit(), Err(OfflineError::Away)));
        let error = store.begin_roll(&records, now).unwrap_err();
        assert!(error.to_string().contains("recovery kit"), "{error}");

        // Another key for the records, and with it the list again.
        let before = keys.here[0].key.public().clone();
        now += 300 * DAY;
        store.sign_keys(&apex, &kit, YEAR, Some(&records), now).unwrap();
        assert_eq!(all(&store).here[0].key.public(), &before, "it is not known yet");
        finish(&store, &mut now);
        let after = all(&store);
        assert_ne!(after.here[0].key.public(), &before);
        assert_eq!(store.sign_keys(&apex, &kit, YEAR, None, now).unwrap(), now + 365 * DAY);

        // A list that was lost is made again by the kit.
        fs::remove_file(store.endorsed_file()).unwrap();
        assert!(store.keys(KeyLayout::Combined).is_err(), "no key of another kind takes its place");
        store.sign_keys(&apex, &kit, YEAR, None, now).unwrap();
        assert_eq!(all(&store).ds(&apex), ds);

        let other = ZoneKey::generate(Role::Entry).unwrap();
        for error in [
            store.sign_keys(&apex, &other, YEAR, None, now).unwrap_err(),
            store.take_back(&other).unwrap_err(),
        ] {
            assert!(matches!(error, OfflineError::OtherKey { .. }), "{error}");
        }
        store.take_back(&kit).unwrap();
        store.take_back(&kit).unwrap();
        let keys = all(&store);
        assert_eq!((keys.ds(&apex), keys.here.len(), keys.endorsed), (ds, 2, None));
        assert!(matches!(store.sign_keys(&apex, &kit, YEAR, None, now), Err(OfflineError::Here)));
    }

    #[test]
    fn a_zone_with_two_keys_is_ready_at_once_and_a_crash_leaves_one_or_the_other() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Split);
        assert!(store.split(&records, NOW).unwrap());
        let kit = store.entry_for_kit().unwrap();
        let text = kit.to_text().unwrap();
        store.take_offline(&apex, &kit, YEAR, NOW).unwrap();
        // As if it had ended before the key was gone.
        private_file::create(&store.entry_key(), text.as_bytes()).unwrap();
        assert!(!store.is_offline());
        let keys = all(&store);
        assert!(keys.endorsed.is_none() && keys.here.len() == 2);
        store.take_offline(&apex, &kit, YEAR, NOW).unwrap();
        assert!(store.is_offline());
    }

    #[test]
    fn a_bare_box_takes_the_zone_over_with_the_kit_and_the_ds_stays() {
        let Place { store, apex, _dir, .. } = place(KeyLayout::Split);
        let (kit, ds) = (store.entry_for_kit().unwrap(), all(&store).ds(&apex));
        let dir = tempfile::tempdir().unwrap();
        let bare = Store::new(dir.path(), &"a.example".parse().unwrap());
        bare.take_back(&kit).unwrap();
        assert_eq!(all(&bare).ds(&apex), ds);
        let dir = tempfile::tempdir().unwrap();
        let begun = Store::new(dir.path(), &"a.example".parse().unwrap());
        begun.keys(KeyLayout::Combined).unwrap();
        assert!(matches!(begun.take_back(&kit), Err(OfflineError::OtherKey { .. })));
    }

    #[test]
    fn two_changes_at_once_are_refused() {
        let Place { store, apex, records, _dir } = place(KeyLayout::Combined);
        store.begin_roll(&records, NOW).unwrap();
        assert!(matches!(store.split(&records, NOW), Err(RollError::OtherChange)));
        store.abort_roll().unwrap();
        store.split(&records, NOW).unwrap();
        assert!(matches!(store.begin_roll(&records, NOW), Err(RollError::OtherChange)));
        let kit = store.entry_for_kit().unwrap();
        assert!(store.take_offline(&apex, &kit, Duration::from_secs(DAY), NOW).is_err());
        assert!(store.entry_key().exists());
    }

    #[test]
    fn a_version_tells_whether_it_shows_a_key_and_is_signed_by_it() {
        let Place { store, apex, _dir, .. } = place(KeyLayout::Split);
        let keys = all(&store);
        let mut plan = Plan::new(apex.clone());
        plan.name_servers.push(Host { name: "ns.b.example.".parse().unwrap(), addresses: vec![] });
        let zone = build(&plan, &keys, &Policy::default(), None, None, NOW).unwrap().zone;
        let next = keys.here.iter().find(|using| using.signs_zone).unwrap().key.public();
        let other = ZoneKey::generate(Role::Zone).unwrap();
        let said = |key: &PublicKey| {
            let seen = version(&apex, &zone.records, key, true);
            (seen.shows, seen.signed)
        };
        assert_eq!((said(next), said(other.public())), ((true, true), (false, false)));
        assert_eq!(said(keys.here[0].key.public()), (true, false), "it signs the keys alone");
    }
}
