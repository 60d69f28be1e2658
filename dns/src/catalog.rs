//! All zones that are served. Reading takes no lock; replacing one zone costs the same however many there
//! are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::name::Lower;
use crate::zone::Zone;

/// Parts of the catalog, each of which is copied when one of its zones is replaced: with 100,000 zones some
/// dozen of them. An empty part takes less than 100 octets.
const PARTS: usize = 8192;

/// What the catalog has of a zone.
#[derive(Clone)]
pub enum Entry {
    /// It is served.
    Serving(Arc<Zone>),
    /// It is to be served, but what is here of it, if anything, is too old (SERVFAIL). What a zone above it
    /// says is no answer either. Its name in lower case.
    Expired(Arc<[u8]>),
}

impl Entry {
    /// Its name in lower case.
    fn name(&self) -> &[u8] {
        match self {
            Self::Serving(zone) => zone.apex_lower(),
            Self::Expired(name) => name,
        }
    }
}

/// All zones, by their names.
pub struct Catalog {
    parts: Box<[ArcSwap<HashTable<Entry>>]>,
    state: RandomState,
    /// For each number of labels whether there was ever a zone with it: most questions need one look.
    depths: [AtomicU64; 2],
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            state: RandomState::default(),
            depths: Default::default(),
        }
    }
}

impl Catalog {
    fn hash(&self, name: &[u8]) -> u64 {
        use std::hash::BuildHasher;
        self.state.hash_one(name)
    }

    fn part(&self, hash: u64) -> &ArcSwap<HashTable<Entry>> {
        // The table uses the lower bits and the highest seven.
        &self.parts[(hash >> 40) as usize % PARTS]
    }

    /// Gives `look` the zone that a name belongs to: the one with the longest name. The one above, if
    /// `above`, for what the parent says of a zone (RFC 4035 section 3.1.4.1); there may be none.
    pub fn with<T>(&self, name: &Lower, above: bool, look: impl FnOnce(Option<&Entry>) -> T) -> T {
        let all = name.labels();
        let highest = if above { all.saturating_sub(1) } else { all };
        // The parent's view may not be here.
        for labels in (0..=highest).rev().chain(above.then_some(all)) {
            let depth = self.depths[labels / 64].load(Relaxed);
            if depth >> (labels % 64) & 1 == 0 {
                continue;
            }
            let suffix = name.suffix(labels);
            let hash = self.hash(suffix);
            let part = self.part(hash).load();
            if let Some(entry) = part.find(hash, |entry| entry.name() == suffix) {
                return look(Some(entry));
            }
        }
        look(None)
    }

    /// Serves a zone instead of what there was of its name.
    pub fn insert(&self, entry: Entry) {
        let labels = crate::name::labels(entry.name()).count();
        self.depths[labels / 64].fetch_or(1 << (labels % 64), Relaxed);
        self.change(entry.name(), Some(&entry));
    }

    /// Does not know a zone any more.
    pub fn remove(&self, name: &[u8]) {
        self.change(name, None);
    }

    fn change(&self, name: &[u8], entry: Option<&Entry>) {
        let hash = self.hash(name);
        self.part(hash).rcu(|part| {
            let mut part = HashTable::clone(part);
            if let Ok(old) = part.find_entry(hash, |old| old.name() == name) {
                old.remove();
            }
            if let Some(entry) = entry {
                part.insert_unique(hash, entry.clone(), |entry| self.hash(entry.name()));
            }
            part
        });
    }
}
