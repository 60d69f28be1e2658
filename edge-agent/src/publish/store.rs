//! What is kept of a zone on disk: its keys, the last signed version, the records that came by
//! updates, and what was learned of relays and the mail server.
//!
//! Everything is written whole under another name first, so that a crash leaves the old or the new.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sealpost_dns::record::{Name, Record};
use sealpost_tunnel::request::Standing;
use sealpost_tunnel::{DomainName, private_file};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::certificate_keys::Shown;
use super::lock::{Lock, lock};
use super::roll::RollError;
use crate::config::zone::KeyLayout;
use crate::zone::zone_key::{KeyError, Role};
use crate::zone::{Keys, ZoneKey, included, master_file};

/// The longest zone file that is read, in octets: of a zone with as many records as may be, signed.
const MAX_ZONE: u64 = 256 * 1024 * 1024;
/// The longest file about relays and keys, in octets.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;

/// The directory of one zone.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// What a file is known by: one that was replaced has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64, i64, i64);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}", path.display())]
pub struct StoreError {
    path: PathBuf,
    source: io::Error,
}

/// What was learned, and is needed when it cannot be asked again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What each relay said last, by the owner's name for it.
    pub relays: BTreeMap<String, Heard>,
    /// What the mail server showed.
    pub shown: Vec<Shown>,
    /// What it may be given next. A key that is not planned any more may just have come into use, so it
    /// stays for as long as one that is not shown any more.
    pub planned: Vec<Shown>,
    /// When the zone last overtook a newer serial that a relay served, in seconds since 1970.
    pub overtook_at: Option<u64>,
}

/// What a relay said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// That.
    pub standing: Standing,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Where the zones of a box are kept.
pub fn zones(state: &Path) -> PathBuf {
    state.join("zones")
}

impl Store {
    /// The directory of `domain` within that of the box. It need not be there.
    pub fn new(state: &Path, domain: &DomainName) -> Self {
        Self { directory: zones(state).join(domain.as_str()) }
    }

    /// Where everything of the zone is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The key that the parent knows.
    pub fn entry_key(&self) -> PathBuf {
        self.directory.join("entry.key")
    }

    /// The key that signs the records, where that is another.
    pub fn zone_key(&self) -> PathBuf {
        self.directory.join("zone.key")
    }

    /// The version that was signed last.
    pub fn zone_file(&self) -> PathBuf {
        self.directory.join("signed.zone")
    }

    /// The files that a command of the owner's may change while the agent runs.
    pub fn key_files(&self) -> [PathBuf; 3] {
        [self.entry_key(), self.next_entry_key(), self.zone_key()]
    }

    fn updates_file(&self) -> PathBuf {
        self.directory.join("updates.zone")
    }

    fn memory_file(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// Keeps everybody else from changing the keys until dropped. Blocks the thread.
    pub(super) fn lock(&self) -> Result<Lock, RollError> {
        let path = self.directory.clone();
        lock(&path).map_err(|source| RollError::File { path, source })
    }

    /// What tells whether anything about the keys on disk is another than before: each file as it
    /// was made.
    pub fn keys_stamp(&self) -> Vec<Option<Stamp>> {
        let files = [
            self.entry_key(),
            self.next_entry_key(),
            self.roll_file(),
            self.zone_key(),
            self.next_zone_key(),
            self.zone_roll_file(),
            self.endorsed_file(),
        ];
        let stamp = |file: &PathBuf| {
            let meta = fs::metadata(file).ok()?;
            Some(Stamp(meta.ino(), meta.mtime(), meta.mtime_nsec()))
        };
        files.iter().map(stamp).collect()
    }

    /// The keys, made where there are none. How many there are is decided when the first is made: a
    /// zone whose keys change at once is void for those who know the old ones.
    pub fn keys(&self, wanted: KeyLayout) -> Result<Keys, RollError> {
        // What several files say together must be of one time.
        let _lock = self.lock()?;
        if let Some(both) = self.roll_keys()? {
            return Ok(both);
        }
        self.settled_keys(wanted)
    }

    /// The keys while that of the parent is not being changed.
    fn settled_keys(&self, wanted: KeyLayout) -> Result<Keys, RollError> {
        let (entry_path, zone_path) = (self.entry_key(), self.zone_key());
        let entry = ZoneKey::load(&entry_path, Role::Entry)?;
        let (zone, other) = self.zone_keys()?;
        let mut keys = match (entry, zone, self.endorsed()?) {
            (Some(entry), None, _) => Keys::combined(entry),
            (Some(entry), Some(zone), _) => Keys::split(entry, zone),
            (None, Some(zone), Some(list)) => return Ok(Keys::offline(list, zone)),
            (None, None, Some(_)) => return Err(KeyError::Content(zone_path).into()),
            (None, _, None) if wanted == KeyLayout::Split => {
                // The zone key first: without it the other would be taken for one that signs all.
                let zone = ZoneKey::load_or_create(&zone_path, Role::Zone)?;
                Keys::split(ZoneKey::load_or_create(&entry_path, Role::Entry)?, zone)
            }
            (None, None, None) => {
                Keys::combined(ZoneKey::load_or_create(&entry_path, Role::Entry)?)
            }
            (None, Some(_), None) => return Err(KeyError::Content(entry_path).into()),
        };
        keys.shown.extend(other);
        Ok(keys)
    }

    /// The version that was signed last.
    pub fn zone(&self, apex: &Name) -> Result<Option<Vec<Record>>, StoreError> {
        self.records(&self.zone_file(), apex)
    }

    /// Keeps a signed version.
    pub fn save_zone(&self, records: &[Record]) -> Result<(), StoreError> {
        self.replace(&self.zone_file(), master_file::text(records).as_bytes())
    }

    /// The records that came by updates.
    pub fn updates(&self, apex: &Name) -> Result<Vec<Record>, StoreError> {
        Ok(self.records(&self.updates_file(), apex)?.unwrap_or_default())
    }

    /// Keeps them.
    pub fn save_updates(&self, records: &[Record]) -> Result<(), StoreError> {
        self.replace(&self.updates_file(), master_file::text(records).as_bytes())
    }

    /// What was learned. A file that cannot be read is as none: all can be learned again.
    pub fn memory(&self) -> Memory {
        let path = self.memory_file();
        let read = bounded(&path, MAX_MEMORY).and_then(|found| match found {
            Some(octets) => serde_json::from_slice(&octets).map_err(io::Error::other),
            None => Ok(Memory::default()),
        });
        read.unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "what was known of relays and keys is lost");
            Memory::default()
        })
    }

    /// Keeps it.
    pub fn save_memory(&self, memory: &Memory) -> Result<(), StoreError> {
        let path = self.memory_file();
        let text = serde_json::to_vec_pretty(memory);
        let text = text.map_err(|error| StoreError { path: path.clone(), source: error.into() })?;
        self.replace(&path, &text)
    }

    fn records(&self, path: &Path, apex: &Name) -> Result<Option<Vec<Record>>, StoreError> {
        let error = |source| StoreError { path: path.into(), source };
        let Some(text) = bounded(path, MAX_ZONE).map_err(error)? else { return Ok(None) };
        let found = included::parse_all(&text, path, apex);
        let found = found.map_err(|problem| error(io::Error::other(problem)))?;
        Ok(Some(found.into_iter().map(|it| it.record).collect()))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let error = |source| StoreError { path: path.into(), source };
        private_file::make_directory(&self.directory).map_err(error)?;
        private_file::replace(path, content).map_err(error)
    }
}

/// A file of at most `most` octets; `None` where there is none.
fn bounded(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > most => Err(io::Error::other("it is far too large")),
        Ok(_) => fs::read(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::records::tests::standing;

    fn store(dir: &Path) -> Store {
        Store::new(dir, &"a.example".parse().unwrap())
    }

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let apex: Name = "a.example.".parse().unwrap();
        assert!(store.zone(&apex).unwrap().is_none() && store.updates(&apex).unwrap().is_empty());
        assert_eq!(store.memory(), Memory::default());
        let records = crate::zone::canonical::tests::records("a.example.", "x 60 TXT \"a\" b\n");
        store.save_zone(&records).unwrap();
        store.save_updates(&records).unwrap();
        assert_eq!(store.zone(&apex).unwrap().unwrap(), records);
        assert_eq!(store.updates(&apex).unwrap(), records);
        let key = sealpost_tunnel::Identity::ephemeral().public();
        let mut memory = Memory::default();
        memory.relays.insert("r1".into(), Heard { standing: standing(key), at: 5 });
        memory.shown.push(Shown { key: [7; 32], gone_since: None });
        store.save_memory(&memory).unwrap();
        assert_eq!(store.memory(), memory);
        fs::write(store.memory_file(), "{").unwrap();
        assert_eq!(store.memory(), Memory::default());
    }

    #[test]
    fn how_many_keys_there_are_does_not_change() {
        for layout in [KeyLayout::Combined, KeyLayout::Split] {
            let dir = tempfile::tempdir().unwrap();
            let store = store(dir.path());
            let count = store.keys(layout).unwrap().here.len();
            assert_eq!(count, if layout == KeyLayout::Split { 2 } else { 1 });
            for again in [KeyLayout::Combined, KeyLayout::Split] {
                assert_eq!(store.keys(again).unwrap().here.len(), count);
            }
        }
    }

    #[test]
    fn a_lost_entry_key_is_not_replaced_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.keys(KeyLayout::Split).unwrap();
        fs::remove_file(store.entry_key()).unwrap();
        assert!(store.keys(KeyLayout::Combined).is_err());
    }
}
