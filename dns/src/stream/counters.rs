//! What happens on streams. They carry a small part of all queries, so these are shared.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::transport::Carrier;

/// The counters.
#[derive(Default)]
pub(super) struct Counters {
    connections: [AtomicU64; 3],
    queries: [AtomicU64; 3],
    refused_prefix: AtomicU64,
    refused_full: AtomicU64,
    evicted: AtomicU64,
    dropped: AtomicU64,
    transfers: AtomicU64,
    malformed: AtomicU64,
    unread: AtomicU64,
    failed_handshakes: AtomicU64,
}

/// What happened on streams since the start. Arrays are by carrier: TCP, TLS, QUIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open now.
    pub open: usize,
    /// Connections that got a place.
    pub connections: [u64; 3],
    /// Queries.
    pub queries: [u64; 3],
    /// Connections refused because their network had too many.
    pub refused_prefix: u64,
    /// Connections refused because all places were taken and busy.
    pub refused_full: u64,
    /// Connections that made room for others.
    pub evicted: u64,
    /// Queries that the engine gave no response to.
    pub dropped: u64,
    /// Queries that went to the transfer module.
    pub transfers: u64,
    /// Connections ended because what they carried was no DNS.
    pub malformed: u64,
    /// Connections ended because the client did not read its answers in time.
    pub unread: u64,
    /// Handshakes of TLS and QUIC that failed.
    pub failed_handshakes: u64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn connection(&self, carrier: Carrier) {
        count(&self.connections[carrier as usize]);
    }

    pub(super) fn query(&self, carrier: Carrier) {
        count(&self.queries[carrier as usize]);
    }

    pub(super) fn refused_prefix(&self) {
        count(&self.refused_prefix);
    }

    pub(super) fn refused_full(&self) {
        count(&self.refused_full);
    }

    pub(super) fn evicted(&self) {
        count(&self.evicted);
    }

    pub(super) fn dropped(&self) {
        count(&self.dropped);
    }

    pub(super) fn transfer(&self) {
        count(&self.transfers);
    }

    pub(super) fn malformed(&self) {
        count(&self.malformed);
    }

    pub(super) fn unread(&self) {
        count(&self.unread);
    }

    pub(super) fn failed_handshake(&self) {
        count(&self.failed_handshakes);
    }

    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            open: 0,
            connections: self.connections.each_ref().map(read),
            queries: self.queries.each_ref().map(read),
            refused_prefix: read(&self.refused_prefix),
            refused_full: read(&self.refused_full),
            evicted: read(&self.evicted),
            dropped: read(&self.dropped),
            transfers: read(&self.transfers),
            malformed: read(&self.malformed),
            unread: read(&self.unread),
            failed_handshakes: read(&self.failed_handshakes),
        }
    }
}
