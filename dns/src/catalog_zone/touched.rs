//! What a catalog that is made here has to look at again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::record::Name;

/// Zones that came, went or come from elsewhere since somebody looked, once somebody looks.
#[derive(Default)]
pub(crate) struct Touched {
    watched: AtomicBool,
    names: Mutex<HashSet<Name>>,
    new: Notify,
}

impl Touched {
    /// From now on.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Relaxed);
    }

    /// One of them, if somebody looks.
    pub(crate) fn add(&self, zone: &Name) {
        if self.watched.load(Relaxed) {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.insert(zone.clone());
            self.new.notify_one();
        }
    }

    /// All of them, as soon as there is one.
    pub(crate) async fn take(&self) -> HashSet<Name> {
        self.new.notified().await;
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
