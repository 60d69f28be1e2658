//! DNS over streams: TCP (RFC 7766), TLS (RFC 7858) and QUIC (RFC 9250), with one limit of connections
//! for all three.
//!
//! Queries of a connection are answered in their order, as each takes microseconds; those that take
//! long (transfers) hold up their own TCP connection only, and not even that on QUIC.
//!
//! **Why not hickory-server,** which has all three. Its handler gets parsed queries and returns
//! records, which it encodes itself. Responses of ours that went through its encoder (0.26.3), and its
//! source, show what would be lost:
//! - Names are compressed anew, so that octets differ from those that a TSIG was made over; the Z bit
//!   is cleared; a SVCB record with its keys in another order is not carried at all.
//! - An AXFR is many messages. On QUIC it ends the stream after the first. On TCP its queue of answers
//!   does not wait for the client but fails when it is full.
//! - It answers malformed queries itself, without the engine's EDNS, cookies and counters.
//! - It has no limit of connections, none per network, and no time limit for a client that does not
//!   read.
//!
//! Its parts below that (`hickory-net`) are framing over tokio-rustls and quinn; what remains of it
//! here is less than the adapter was.
//!
//! **Limits.** A connection's place is its own while its query is worked on. While it waits for its
//! client it can be taken by a newcomer when there are no others, from whoever waited longest. Nothing
//! waits for a client without a time limit. An idle connection has half a kilobyte.

mod connection;
mod counters;
mod frame;
mod limits;
mod messages;
mod quic;
mod tcp;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::counters::Counters;
pub use self::counters::Counts;
use self::limits::Limits;
pub use self::messages::Messages;
pub use self::quic::QuicListener;
pub use self::tcp::StreamListener;
pub use self::tls::{TlsError, tls_config};
use crate::transport::{Asked, Carrier, Clock, Reply, Respond, Transfer, Via, Worker};

/// What clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one network (/24 of IPv4, /56 of IPv6).
    pub per_prefix: usize,
    /// How long a client may take for its next whole query, and for its handshake.
    pub idle: Duration,
    /// How long a client may take to read an answer, or one message of a transfer.
    pub write: Duration,
    /// How long a whole transfer may take.
    pub transfer: Duration,
    /// Transfers at one time; others wait for as long as `idle`.
    pub transfers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_prefix: 64,
            // RFC 7766 section 6.2.3: a few seconds.
            idle: Duration::from_secs(10),
            write: Duration::from_secs(10),
            // 100 MB at half a megabit a second.
            transfer: Duration::from_secs(1800),
            transfers: 16,
        }
    }
}

/// What all streams of a runtime share.
pub struct Streams<R: Respond, T> {
    desk: Mutex<Desk<R::Worker>>,
    transfer: T,
    settings: Settings,
    limits: Arc<Limits>,
    transfers: Semaphore,
    counters: Counters,
    clock: Clock,
    draining: CancellationToken,
}

/// Where queries are answered, one at a time: with one runtime there is nobody to wait for.
struct Desk<W> {
    worker: W,
    out: Vec<u8>,
}

impl<R: Respond, T: Transfer> Streams<R, T> {
    /// Streams that are answered by `handler` and, what takes several messages, by `transfer`.
    pub fn new(handler: &R, transfer: T, settings: Settings, clock: Clock) -> Arc<Self> {
        let desk = Desk { worker: handler.worker(), out: Vec::new() };
        Arc::new(Self {
            desk: Mutex::new(desk),
            transfer,
            settings,
            limits: Arc::new(Limits::new(settings.connections, settings.per_prefix)),
            transfers: Semaphore::new(settings.transfers.min(Semaphore::MAX_PERMITS)),
            counters: Counters::default(),
            clock,
            draining: CancellationToken::new(),
        })
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts { open: self.limits.open(), ..self.counters.read() }
    }

    /// Accepts no more, and ends connections as soon as their queries are answered.
    pub fn shutdown(&self) {
        self.draining.cancel();
    }

    /// Answers `query`; a response, which is not empty, is given to `send` before the next is made.
    fn answer(
        &self,
        query: &[u8],
        client: SocketAddr,
        carrier: Carrier,
        send: impl FnOnce(&[u8]),
    ) -> Reply {
        self.counters.query(carrier);
        let asked = Asked { client, via: Via::Stream, now: self.clock.now() };
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let Desk { worker, out } = &mut *desk;
        out.clear();
        let mut reply = worker.respond(query, &asked, out);
        if out.is_empty() && reply == Reply::Send {
            reply = Reply::Drop;
        }
        match reply {
            Reply::Send => send(out),
            Reply::Drop => self.counters.dropped(),
            Reply::Transfer => self.counters.transfer(),
        }
        reply
    }
}
