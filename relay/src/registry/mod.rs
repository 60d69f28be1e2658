//! Who may have what: which box owns which key, MX names and addresses.
//!
//! The data path reads an immutable [`Snapshot`] that is swapped whole, so it neither waits for
//! whoever keeps the records nor sees half a change. Records come from the configuration file.

mod snapshot;

use std::sync::Arc;

use arc_swap::ArcSwap;
use sealpost_tunnel::PublicKey;
pub use snapshot::{BoxRecord, Conflict, Snapshot};

/// The current snapshot.
pub struct Registry {
    current: ArcSwap<Snapshot>,
}

impl Registry {
    /// A registry that holds `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(snapshot) }
    }

    /// What holds now; keep it for one decision, not for a session.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces everything at once; returns the keys that are no longer known.
    pub fn replace(&self, next: Snapshot) -> Vec<PublicKey> {
        let next = Arc::new(next);
        let before = self.current.swap(next.clone());
        before.boxes().map(|b| b.key).filter(|key| next.by_key(key).is_none()).collect()
    }
}
