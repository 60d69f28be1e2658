//! The dialogue of a session before TLS, up to the sender's whole ClientHello.

use std::io;

use bytes::{Bytes, BytesMut};
use sealpost_tunnel::EhloName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::alert::Alert;
use super::client_hello::{Hello, HelloError, HelloReader, MAX_HELLO};
use super::outcome::Outcome;
use super::preamble::{MAX_LINE, Preamble, Step};
use super::refusal::Refusal;
use super::session::Session;
use crate::pairs::history::Left;

/// No ClientHello of a mail server is known that is longer; those that are have places of their
/// own, so that the memory of all sessions has a bound.
const COMMON_HELLO: usize = 4 * 1024;
/// How many ClientHellos that are longer may be on the way at once.
pub(super) const LARGE_HELLOS: usize = 1024;

const TIMED_OUT: &str = "421 4.4.2 Timed out\r\n";
pub(super) const DRAINING: &str = "421 4.3.2 Shutting down, try again\r\n";

/// What the dialogue before TLS yields.
pub(super) struct Greeted {
    /// What the sender calls itself.
    pub(super) ehlo: EhloName,
    /// What its ClientHello says.
    pub(super) hello: Hello,
    /// The ClientHello as it came.
    pub(super) bytes: Bytes,
}

impl Session {
    /// From 220 to a whole ClientHello, or to a refusal.
    pub(super) async fn greet(&mut self, tcp: &mut TcpStream) -> Result<Greeted, Refusal> {
        let mut buffer = BytesMut::new();
        let limits = &self.settings.limits;
        let (preamble_time, hello_time) = (limits.preamble, limits.client_hello);
        let draining = self.ingress.draining.clone();
        let ehlo = tokio::select! {
            ended = timeout(preamble_time, self.preamble(tcp, &mut buffer)) => match ended {
                Ok(ended) => ended?,
                Err(_) => return Err(Refusal::reply(TIMED_OUT, Outcome::PreambleTimeout)),
            },
            () = draining.cancelled() => return Err(Refusal::reply(DRAINING, Outcome::Draining)),
        };
        // Boxed, as one that does not come so far should not own the room for it.
        match timeout(hello_time, Box::pin(self.client_hello(tcp, &mut buffer))).await {
            Ok(Ok(hello)) => Ok(Greeted { ehlo, hello, bytes: buffer.freeze() }),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::alert(Alert::InternalError, Outcome::HelloTimeout)),
        }
    }

    async fn preamble(
        &mut self,
        tcp: &mut TcpStream,
        buffer: &mut BytesMut,
    ) -> Result<EhloName, Refusal> {
        let (client, address) = (self.open.client.ip(), self.open.local.ip());
        let shared = self.ingress.registry.snapshot().by_address(address).is_none();
        let send_on = shared && self.ingress.visits.sends_on(client, address);
        let mut preamble = Preamble::new(self.settings.hostname.as_str(), send_on);
        let gone = |preamble: &Preamble| Refusal::nothing(preamble.on_disconnect());
        self.say(tcp, &preamble.greeting()).await.map_err(|_| gone(&preamble))?;
        self.ingress.metrics.greeted(self.open.began.elapsed());
        // For a whole line: one octet now and then gains nothing.
        let patience = self.settings.limits.command;
        let mut until = Instant::now() + patience;
        loop {
            match preamble.step(buffer) {
                Step::More => match timeout_at(until, self.read(tcp, buffer, MAX_LINE)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return Err(gone(&preamble)),
                    Err(_) => {
                        return Err(Refusal::reply(TIMED_OUT, Outcome::PreambleTimeout));
                    }
                },
                Step::Reply { consumed, reply } => {
                    let _ = buffer.split_to(consumed);
                    if preamble.refused_mail() {
                        self.visit_ends(Left::Plain);
                    }
                    self.say(tcp, &reply).await.map_err(|_| gone(&preamble))?;
                    until = Instant::now() + patience;
                }
                Step::StartTls { reply } => {
                    buffer.clear();
                    self.tls = true;
                    self.say(tcp, reply).await.map_err(|_| gone(&preamble))?;
                    return Ok(preamble.into_ehlo());
                }
                Step::Close { reply, outcome } => {
                    if outcome == Outcome::RetryElsewhere {
                        self.visit_ends(Left::SentOn);
                    }
                    return Err(Refusal::reply(reply, outcome));
                }
            }
        }
    }

    async fn client_hello(
        &mut self,
        tcp: &TcpStream,
        buffer: &mut BytesMut,
    ) -> Result<Hello, Refusal> {
        let mut reader = HelloReader::default();
        let mut large = None;
        loop {
            if buffer.len() > COMMON_HELLO && large.is_none() {
                let place = self.ingress.large_hellos.clone().try_acquire_owned();
                let busy = |_| Refusal::alert(Alert::InternalError, Outcome::Busy);
                large = Some(place.map_err(busy)?);
            }
            match self.read(tcp, buffer, MAX_HELLO).await {
                Ok(0) | Err(_) => return Err(Refusal::nothing(Outcome::Disconnected)),
                Ok(_) => {}
            }
            match reader.read(buffer) {
                Ok(None) => {}
                Ok(Some(hello)) => return Ok(hello),
                Err(HelloError::NotTls) => {
                    return Err(Refusal::alert(Alert::UnexpectedMessage, Outcome::NotTls));
                }
                Err(HelloError::TooLong) => {
                    return Err(Refusal::alert(Alert::DecodeError, Outcome::HelloTooLong));
                }
            }
        }
    }

    async fn say(&mut self, tcp: &mut TcpStream, reply: &str) -> io::Result<()> {
        debug!(session = %self.open.id, reply = reply.trim_end(), "said");
        self.bytes_out += reply.len() as u64;
        tcp.write_all(reply.as_bytes()).await
    }

    /// Reads what is there into `buffer`, which is let grow to `most`.
    async fn read(
        &mut self,
        tcp: &TcpStream,
        buffer: &mut BytesMut,
        most: usize,
    ) -> io::Result<usize> {
        loop {
            tcp.readable().await?;
            let room = most.saturating_sub(buffer.len()).min(2048);
            buffer.reserve(room);
            let mut limited = bytes::BufMut::limit(&mut *buffer, room);
            match tcp.try_read_buf(&mut limited) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(read) => {
                    self.bytes_in += read as u64;
                    return Ok(read);
                }
                Err(e) => return Err(e),
            }
        }
    }
}
