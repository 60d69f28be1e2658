//! What the threads count, each for itself; added up when somebody looks.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one thread, which alone writes them. Two threads' never share a cache line (nor the
/// pair that processors fetch at once), so counting costs no more than an addition.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    batches: AtomicU64,
    queries: AtomicU64,
    replies: AtomicU64,
    dropped: AtomicU64,
    handed: AtomicU64,
    unusable: AtomicU64,
    unsent: AtomicU64,
    failed_receives: AtomicU64,
    panics: AtomicU64,
}

/// What happened on UDP since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// System calls that brought queries.
    pub batches: u64,
    /// Datagrams that the engine was asked about.
    pub queries: u64,
    /// Responses that the system took.
    pub replies: u64,
    /// Queries that the engine gave no response to.
    pub dropped: u64,
    /// Queries handed to the transfer module.
    pub handed: u64,
    /// Datagrams that were too long, or came from a port that cannot be answered.
    pub unusable: u64,
    /// Responses that the system did not take, and queries for which the transfer module had no room.
    pub unsent: u64,
    /// Times that the system could not receive.
    pub failed_receives: u64,
    /// Batches that were lost to a fault of the program.
    pub panics: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            queries: self.queries + other.queries,
            replies: self.replies + other.replies,
            dropped: self.dropped + other.dropped,
            handed: self.handed + other.handed,
            unusable: self.unusable + other.unusable,
            unsent: self.unsent + other.unsent,
            failed_receives: self.failed_receives + other.failed_receives,
            panics: self.panics + other.panics,
        }
    }
}

impl Counters {
    /// Adds what a batch brought.
    pub(super) fn add(&self, batch: &Counts) {
        // Only this thread writes, so no atomic addition is needed.
        let add = |counter: &AtomicU64, count: u64| {
            if count > 0 {
                counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
            }
        };
        add(&self.batches, batch.batches);
        add(&self.queries, batch.queries);
        add(&self.replies, batch.replies);
        add(&self.dropped, batch.dropped);
        add(&self.handed, batch.handed);
        add(&self.unusable, batch.unusable);
        add(&self.unsent, batch.unsent);
        add(&self.failed_receives, batch.failed_receives);
        add(&self.panics, batch.panics);
    }

    pub(super) fn panicked(&self) {
        self.add(&Counts { panics: 1, ..Counts::default() });
    }

    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            batches: read(&self.batches),
            queries: read(&self.queries),
            replies: read(&self.replies),
            dropped: read(&self.dropped),
            handed: read(&self.handed),
            unusable: read(&self.unusable),
            unsent: read(&self.unsent),
            failed_receives: read(&self.failed_receives),
            panics: read(&self.panics),
        }
    }
}
