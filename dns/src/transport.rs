//! What sockets and the engine have to know of each other.
//!
//! Every thread has a [`Worker`] of its own, with whatever state it needs (a rate limiter, counters),
//! so that nothing on the way of a query is shared or locked. All is monomorphised.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::stream::Messages;
use crate::unix_time;

/// What carried a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A datagram: its source may be forged, its answer must be short.
    Udp,
    /// A connection: the client gets what is sent to its address.
    Stream,
}

/// What carries a stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// RFC 7766, in the clear.
    Tcp,
    /// DNS over TLS, RFC 7858.
    Tls,
    /// DNS over QUIC, RFC 9250.
    Quic,
}

/// The time of a batch of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back and that all threads share.
    pub millis: u64,
    /// Seconds since 1970, which wrap in 2106: what cookies and signatures carry.
    pub unix: u32,
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The client; IPv4 is never in its mapped form.
    pub client: SocketAddr,
    /// How the query came.
    pub via: Via,
    /// When it came.
    pub now: Now,
}

/// What becomes of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The response that was written is sent.
    Send,
    /// Nothing is sent.
    Drop,
    /// It is for the transfer module (AXFR, IXFR, NOTIFY, UPDATE).
    Transfer,
}

/// What answers queries.
pub trait Respond: Send + Sync + 'static {
    /// See [`Worker`].
    type Worker: Worker;

    /// A worker for one more thread.
    fn worker(&self) -> Self::Worker;
}

/// Answers the queries of one thread.
pub trait Worker: Send + 'static {
    /// Answers `query`, which may be anything up to 65,535 octets, into `out`, which is empty.
    ///
    /// What is longer than 65,535 octets is not sent. Must not wait for anything.
    fn respond(&mut self, query: &[u8], asked: &Asked, out: &mut Vec<u8>) -> Reply;
}

/// What serves the queries that need several messages, or time.
pub trait Transfer: Send + Sync + 'static {
    /// Serves `query`, which came from `client`; its messages are written to `to`.
    ///
    /// An error ends the connection, so that the client does not take a part for the whole.
    fn serve(
        &self,
        query: &[u8],
        client: SocketAddr,
        carrier: Carrier,
        to: &mut Messages<'_>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// The process's clocks. Copies tell the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Now {
        Now {
            millis: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            // Cut on purpose.
            unix: unix_time::seconds() as u32,
        }
    }
}

/// IPv4 addresses look the same whichever socket they came through.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        other => other,
    }
}
