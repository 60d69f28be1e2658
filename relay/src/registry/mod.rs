//! Who may have what: which box owns which key, MX names and addresses.
//!
//! The data path reads an immutable [`Snapshot`] that is swapped whole, so it neither waits for
//! the database nor sees half a change, and goes on when the database is away. [`Database`] holds
//! the records; [`follow`] brings what changed there into the snapshot.

mod addresses;
pub mod boxes;
mod changes;
mod checks;
mod claims;
mod database;
pub mod domains;
mod error;
pub mod follow;
mod invites;
mod joining;
mod keys;
mod own_prefix;
mod pairs;
mod snapshot;

use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sealpost_tunnel::{DomainName, PublicKey};
use tokio::sync::watch;

pub use addresses::Assigned;
pub use changes::{Changed, Changes, Retired};
pub use checks::Due;
pub use database::{Database, Kind, registry_file};
pub use error::RegistryError;
pub use invites::Invited;
pub use own_prefix::OwnPrefix;
pub use snapshot::{BoxRecord, Snapshot};

/// Seconds of a day.
pub const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// The current snapshot.
pub struct Registry {
    current: ArcSwap<Snapshot>,
    revision: watch::Sender<u64>,
}

/// What a change means for boxes that are connected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Keys that may not be connected any more.
    pub gone: Vec<PublicKey>,
    /// Keys in whose place their holder put another: what runs on them may come to its end.
    pub rotated: Vec<PublicKey>,
    /// Keys of boxes of which something else changed.
    pub changed: Vec<PublicKey>,
    /// Domains that a box had and does not have any more, or not under the same key.
    pub moved: Vec<DomainName>,
    /// Names, keys or addresses that two boxes have in the database; they lead nowhere.
    pub conflicts: Vec<String>,
}

impl Registry {
    /// A registry that holds `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        let revision = watch::Sender::new(snapshot.revision());
        Self { current: ArcSwap::from_pointee(snapshot), revision }
    }

    /// What holds now; keep it for one decision, not for a session.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Brings `changes` in, all at once. One task alone may call this.
    pub fn apply(&self, changes: Changes) -> Effects {
        let (next, effects) = self.current.load().after(changes);
        let revision = next.revision();
        self.current.store(Arc::new(next));
        self.revision.send_replace(revision);
        effects
    }

    /// Waits until the data path knows `revision`.
    pub async fn reached(&self, revision: u64) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.revision.subscribe().wait_for(|now| *now >= revision).await;
    }
}

/// Reads a text of the database.
fn parse<T: FromStr>(text: &str) -> Result<T, RegistryError> {
    text.parse().map_err(|_| RegistryError::Content(format!("the text `{text}`")))
}

/// A number as the database has it.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
