//! A stream on which a relay asks for the zones of this box.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::serve::{SendError, Server, serve};
use sealpost_dns::transfer::tsig::Keys;
use sealpost_tunnel::ResetCode;
use sealpost_tunnel::stream::TunnelStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::offered::{ForRelays, Offered};

/// Streams of one relay at the same time.
const MAX_OF_RELAY: usize = 4;
/// A relay asks and reads at this pace, or the stream ends: a mail zone takes a round trip.
const PACE: Pace =
    Pace { window: Duration::from_secs(10), octets: 20_000, total: Duration::from_secs(120) };

/// Answers relays.
pub struct DnsStreams {
    server: Server<ForRelays>,
    /// Open streams by relay.
    open: Mutex<HashMap<String, usize>>,
}

impl DnsStreams {
    /// With these zones.
    pub fn new(offered: Arc<Offered>) -> Self {
        Self { server: Server::new(ForRelays(offered), Keys::default()), open: Mutex::default() }
    }

    /// The zones.
    pub fn offered(&self) -> &Arc<Offered> {
        &self.server.zones().0
    }

    /// Answers `relay`, which is at `peer`, on `stream`, behind whose header `rest` was read.
    pub async fn answer(
        &self,
        relay: &str,
        peer: IpAddr,
        stream: TunnelStream,
        rest: Bytes,
    ) -> Result<(), SendError> {
        let Some(_place) = self.take(relay) else {
            stream.abort(ResetCode::AgentBusy);
            return Ok(());
        };
        let mut stream = Prefixed { rest, stream };
        let engine = self.offered().engine().clone();
        let plain = |query: &[u8], out: &mut Vec<u8>| engine.answer_stream(query, out);
        let served = serve(&mut stream, &self.server, peer, PACE, plain).await;
        match served {
            // What was not sent to its end must not look as if it were.
            Err(_) => stream.stream.abort(ResetCode::Protocol),
            Ok(()) => stream.stream.send.finish(),
        }
        served
    }

    fn take(&self, relay: &str) -> Option<Place<'_>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(relay.to_owned()).or_default();
        if *own >= MAX_OF_RELAY {
            return None;
        }
        *own += 1;
        Some(Place { open: &self.open, relay: relay.to_owned() })
    }
}

/// One of the streams of a relay, until dropped.
struct Place<'a> {
    open: &'a Mutex<HashMap<String, usize>>,
    relay: String,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.relay) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.relay);
            }
        }
    }
}

/// A stream of which something was read already.
struct Prefixed {
    rest: Bytes,
    stream: TunnelStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_relay_cannot_take_the_places_of_another() {
        let streams = DnsStreams::new(Arc::default());
        let taken: Vec<_> = (0..MAX_OF_RELAY).map(|_| streams.take("r1").unwrap()).collect();
        assert!(streams.take("r1").is_none() && streams.take("r2").is_some());
        drop(taken);
        assert!(streams.take("r1").is_some());
        assert!(streams.open.lock().unwrap().len() <= 1);
    }
}
