//! The visits of clients at shared addresses, as all sessions see them: [`History`] in pieces, so
//! that no lock stands in the way of more than its few neighbours.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::pairs::Part;
use crate::pairs::history::{History, Left, Past, VisitId, network_of};

/// Each network is in one of these. 512 visits of about 64 octets in each are 4 MiB in all.
const PIECES: u64 = 128;

/// Recent visits of all clients.
pub(crate) struct Visits {
    pieces: Vec<Mutex<History>>,
    hasher: RandomState,
}

/// A visit for as long as it lasts; one that is dropped ended in no special way.
pub(crate) struct Visit {
    visits: Arc<Visits>,
    client: IpAddr,
    id: Option<VisitId>,
}

impl Default for Visits {
    fn default() -> Self {
        let now = Instant::now();
        let pieces = (0..PIECES).map(|_| Mutex::new(History::new(now))).collect();
        Self { pieces, hasher: RandomState::new() }
    }
}

impl Visits {
    /// `client` has connected to the shared `address`, which plays `part`.
    pub(crate) fn arrive(self: &Arc<Self>, client: IpAddr, address: IpAddr, part: Part) -> Visit {
        let id = self.piece(client).arrive(client, address, part, Instant::now());
        Visit { visits: self.clone(), client, id }
    }

    /// Whether `client` is to be sent to the next mail exchanger when it greets at `address`.
    pub(crate) fn sends_on(&self, client: IpAddr, address: IpAddr) -> bool {
        self.piece(client).sends_on(client, address, Instant::now())
    }

    /// What is known of `client`.
    pub(crate) fn past(&self, client: IpAddr) -> Past {
        self.piece(client).past(client, Instant::now())
    }

    /// `client` has been led to a box for its visit to `first`.
    pub(crate) fn spend(&self, client: IpAddr, first: IpAddr) {
        self.piece(client).spend(client, first, Instant::now());
    }

    fn piece(&self, client: IpAddr) -> MutexGuard<'_, History> {
        let index = (self.hasher.hash_one(network_of(client)) % PIECES) as usize;
        self.pieces[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// The visit is over; the connection may go on.
    pub(crate) fn ends(mut self, how: Left) {
        self.end(how);
    }

    fn end(&mut self, how: Left) {
        if let Some(id) = self.id.take() {
            self.visits.piece(self.client).leave(id, how, Instant::now());
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end(Left::Otherwise);
    }
}
