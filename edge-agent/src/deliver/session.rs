//! One stream from a relay, from its header to its last byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sealpost_tunnel::header::{HeaderError, MAX_ENCODED};
use sealpost_tunnel::splice::{self, End, Server, Spliced};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Carries, EhloName, Opening, ResetCode, StreamHeader};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Deliveries, client, dialogue, proxy};
use crate::config::{OwnAddress, Relay};

/// Outcomes of sessions besides the reasons for which a stream is refused.
pub const OUTCOMES: [&str; 6] =
    ["carried", "home-reset", "relay-reset", "idle", "tunnel-lost", "aborted"];

/// A relay sends the header in its first packet.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// From the header to the mail server's 220 to STARTTLS, or to its greeting where that is carried,
/// with a self-test that may have to be waited for: the relay gives up after 29 s, and should be
/// told why before.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(25);

/// Serves `stream`, which came through `relay`, whose tunnel ends at `peer`.
pub async fn deliver(
    deliveries: Arc<Deliveries>,
    relay: Arc<Relay>,
    peer: IpAddr,
    mut stream: TunnelStream,
) {
    let began = Instant::now();
    let header = match timeout(HEADER_DEADLINE, read_header(&mut stream)).await {
        Ok(Ok((Opening::Connection(header), rest))) => Some((header, rest)),
        Ok(Ok((Opening::Dns(session), rest))) => {
            let relay = relay.name.as_str();
            match Box::pin(deliveries.dns.answer(relay, peer, stream, rest)).await {
                Ok(()) => debug!(%session, relay, "answered DNS"),
                Err(error) => debug!(%session, relay, %error, "a DNS stream broke"),
            }
            return;
        }
        Ok(Err(error)) => {
            debug!(relay = relay.name, %error, "a stream began with no header");
            None
        }
        Err(_) => {
            debug!(relay = relay.name, "a stream had no header in time");
            None
        }
    };
    let Some((header, rest)) = header else {
        stream.abort(ResetCode::HeaderBad);
        deliveries.metrics.session_ended(ResetCode::HeaderBad.label());
        return;
    };
    let mut closing = ClosingLine {
        deliveries: &deliveries,
        relay: &relay.name,
        header: &header,
        began,
        outcome: "aborted",
        bytes_in: 0,
        bytes_out: 0,
    };
    let refused = match connect(&deliveries, &relay, &header, &stream).await {
        Ok((tcp, _place)) => {
            let (idle, leaving) = (deliveries.idle, deliveries.leaving.cancelled());
            let server = Server::AtTcp;
            let spliced = splice::splice_until(tcp, stream, rest, idle, server, leaving).await;
            closing.bytes_in = spliced.bytes_to_tcp;
            closing.bytes_out = spliced.bytes_to_tunnel;
            closing.outcome = outcome_of(&spliced);
            return;
        }
        Err(code) => code,
    };
    stream.abort(refused);
    closing.outcome = match refused {
        ResetCode::TcpReset => "relay-reset",
        code => code.label(),
    };
}

/// The header, and what came behind it.
async fn read_header(stream: &mut TunnelStream) -> Result<(Opening, Bytes), HeaderProblem> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some((header, taken)) = Opening::decode(&buffer)? {
            return Ok((header, buffer.split_off(taken).freeze()));
        }
        // A buffer of `MAX_ENCODED` octets always decides, so there is room.
        match stream.recv.read_chunk(MAX_ENCODED, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(HeaderProblem::Ended),
            Err(error) => return Err(HeaderProblem::Stream(error)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum HeaderProblem {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the stream ended inside its header")]
    Ended,
    #[error(transparent)]
    Stream(quinn::ReadError),
}

/// A connection to the mail server on which TLS may begin, or which is greeting.
async fn connect(
    deliveries: &Deliveries,
    relay: &Relay,
    header: &StreamHeader,
    stream: &TunnelStream,
) -> Result<(TcpStream, OwnedSemaphorePermit), ResetCode> {
    let whole = header.carries == Carries::FromFirstByte;
    if whole && relay.own_address != OwnAddress::Transparent {
        // Else a relay could choose what is the owner's to choose: to read the mail of those who do
        // without TLS, and to keep others from it.
        warn!(
            session = %header.session,
            relay = relay.name,
            "refused: the relay wants to carry a connection from its first byte, and the file does \
             not say own_address = \"transparent\" for it"
        );
        return Err(ResetCode::SealedOnly);
    }
    let places = deliveries.places.clone();
    let place = places.try_acquire_owned().map_err(|_| ResetCode::AgentBusy)?;
    let service = deliveries.services.by_name(&header.service).ok_or(ResetCode::ServiceUnknown)?;
    let client = header.client.ip();
    if !relay.private_senders && !client::is_plausible(client, &client::own_addresses()) {
        warn!(
            session = %header.session,
            relay = relay.name,
            %client,
            "refused: the relay claims a sender that cannot have come over the Internet"
        );
        return Err(ResetCode::ClientImplausible);
    }
    let until = Instant::now() + DELIVERY_DEADLINE;
    let leading = async {
        service.may_deliver().await?;
        info!(
            session = %header.session,
            service = %header.service,
            client = %header.client,
            sni = header.sni().map_or("", |sni| sni.as_str()),
            to = service.config.address.as_str(),
            "delivering"
        );
        let proxy_header = proxy::encode(service.config.proxy, header);
        let led = match &header.carries {
            Carries::FromTls { ehlo, .. } => {
                let ehlo = ehlo_name(ehlo, header.client);
                dialogue::up_to_tls(&service.config, &proxy_header, &ehlo, until).await
            }
            Carries::FromFirstByte => {
                dialogue::up_to_greeting(&service.config, &proxy_header, until).await
            }
        };
        led.map_err(|error| {
            info!(session = %header.session, %error, "not delivered");
            error.code()
        })
    };
    tokio::select! {
        tcp = leading => Ok((tcp?, place)),
        // The sender is gone.
        _ = stream.send.stopped() => Err(ResetCode::TcpReset),
    }
}

/// What the sender called itself, or its address where it did not (RFC 5321 section 4.1.3).
fn ehlo_name(ehlo: &EhloName, client: SocketAddr) -> String {
    match (ehlo.as_str(), client) {
        ("", SocketAddr::V4(client)) => format!("[{}]", client.ip()),
        ("", SocketAddr::V6(client)) => format!("[IPv6:{}]", client.ip()),
        (name, _) => name.to_owned(),
    }
}

/// As at the relay: a reset counts only while neither side had ended with a FIN.
fn outcome_of(spliced: &Spliced) -> &'static str {
    match (spliced.to_tunnel, spliced.to_tcp) {
        (End::Left, _) | (_, End::Left) => ResetCode::Draining.label(),
        (End::Idle, _) | (_, End::Idle) => "idle",
        (End::TunnelLost, _) | (_, End::TunnelLost) => "tunnel-lost",
        (End::Finished, _) | (_, End::Finished) => "carried",
        (End::TcpReset, _) => "home-reset",
        (End::PeerReset(_), _) => "relay-reset",
    }
}

/// Writes the closing line of a session, also when its task is cancelled or panics.
struct ClosingLine<'a> {
    deliveries: &'a Deliveries,
    relay: &'a str,
    header: &'a StreamHeader,
    began: Instant,
    outcome: &'static str,
    bytes_in: u64,
    bytes_out: u64,
}

impl Drop for ClosingLine<'_> {
    fn drop(&mut self) {
        self.deliveries.metrics.session_ended(self.outcome);
        self.deliveries.metrics.carried(self.bytes_in, self.bytes_out);
        info!(
            session = %self.header.session,
            relay = self.relay,
            service = %self.header.service,
            client = %self.header.client,
            mode = match self.header.carries {
                Carries::FromTls { .. } => "sealed",
                Carries::FromFirstByte => "transparent",
            },
            outcome = self.outcome,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session"
        );
    }
}
