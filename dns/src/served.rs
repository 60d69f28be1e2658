//! All zones that are served. Reading takes no lock; replacing one zone costs the same however many there
//! are, but for those below it (`nesting`), for each of which it is decided whether it is
//! answered from.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::name::Lower;
use crate::nesting::{Nesting, Turned};
use crate::zone::Zone;

/// Parts, each of which is copied when one of its zones is replaced: with 100,000 zones some
/// dozen of them. An empty part takes less than 100 octets.
const PARTS: usize = 8192;

/// What is here of a zone.
#[derive(Clone)]
pub enum Entry {
    /// It is served.
    Serving(Arc<Zone>),
    /// It is to be served, but what is here of it, if anything, is too old (SERVFAIL). What a zone above it
    /// says is no answer either. Its name in lower case, and what is here of it.
    Expired(Arc<[u8]>, Option<Arc<Zone>>),
}

impl Entry {
    /// Its name in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        match self {
            Self::Serving(zone) => zone.apex_lower(),
            Self::Expired(name, _) => name,
        }
    }

    /// The last version that is here, expired or not.
    pub(crate) fn last(&self) -> Option<Arc<Zone>> {
        match self {
            Self::Serving(zone) => Some(zone.clone()),
            Self::Expired(_, zone) => zone.clone(),
        }
    }
}

/// A zone whose names another zone answers for from now on, or does not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name in lower case, in wire format.
    pub name: Box<[u8]>,
    /// A zone above it is here and does not delegate it.
    pub hidden: bool,
}

/// All zones, by their names.
pub struct ServedZones {
    /// Those that are answered from.
    parts: Box<[ArcSwap<HashTable<Entry>>]>,
    state: RandomState,
    /// For each number of labels whether there was ever a zone with it: most questions need one look.
    depths: [AtomicU64; 2],
    /// All of them. For those alone who change something, one after the other.
    nesting: Mutex<Nesting>,
}

impl Default for ServedZones {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            state: RandomState::default(),
            depths: Default::default(),
            nesting: Mutex::default(),
        }
    }
}

impl ServedZones {
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

    /// Serves a zone instead of what there was of its name, unless one above it is here that does not delegate
    /// it. Says which zones turned by that, itself among them.
    pub fn insert(&self, entry: Entry) -> Vec<Change> {
        let mut nesting = self.nesting();
        let (hidden, new, turned) = nesting.put(entry.clone());
        let mut changes = self.turn(turned);
        self.place(&entry, hidden);
        if new {
            changes.push(Change { name: entry.name().into(), hidden });
        }
        changes
    }

    /// Does not know a zone any more. Says which others turned by that.
    pub fn remove(&self, name: &[u8]) -> Vec<Change> {
        let mut nesting = self.nesting();
        let turned = nesting.remove(name);
        self.change(name, None);
        self.turn(turned)
    }

    /// Whether a zone is here that is not answered from, as one above it does not delegate it.
    pub fn is_hidden(&self, name: &[u8]) -> bool {
        self.nesting().is_hidden(name)
    }

    /// How many zones are hidden so.
    pub fn hidden(&self) -> usize {
        self.nesting().hidden()
    }

    fn nesting(&self) -> MutexGuard<'_, Nesting> {
        self.nesting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, turned: Vec<Turned>) -> Vec<Change> {
        let turn = |Turned { entry, hidden }: Turned| {
            self.place(&entry, hidden);
            Change { name: entry.name().into(), hidden }
        };
        turned.into_iter().map(turn).collect()
    }

    fn place(&self, entry: &Entry, hidden: bool) {
        if hidden {
            return self.change(entry.name(), None);
        }
        let labels = crate::name::labels(entry.name()).count();
        self.depths[labels / 64].fetch_or(1 << (labels % 64), Relaxed);
        self.change(entry.name(), Some(entry));
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
