//! Offers a sender's ClientHello to its box until a byte comes back from home.
//!
//! Until then nothing has happened that could not happen again: the sender waits, the relay still
//! has the hello. So a tunnel that is lost or replaced meanwhile is no failure; the hello is
//! offered through the next one.

use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, WriteError};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{ResetCode, StreamHeader};
use tokio::time::{Instant, timeout_at};

use super::outcome::Outcome;
use crate::boxes::{Place, Tunnel};
use crate::metrics::Metrics;

/// Most bytes that are taken as the first piece from home.
const FIRST_PIECE: usize = 64 * 1024;

/// A stream on which the mail server at home has answered.
pub(super) struct Accepted {
    pub(super) stream: TunnelStream,
    /// What came from home already.
    pub(super) first: Bytes,
    /// How long that took home.
    pub(super) home: Duration,
}

/// Why one tunnel did not do.
pub(super) enum Miss {
    TunnelLost,
    Superseded,
    Refused(ResetCode),
    Silent,
}

/// Offers `hello` to the box at `place`, waiting at most `park` for a tunnel and then at most
/// `home` for the first byte from the mail server at home.
pub(super) async fn offer(
    place: &Place,
    header: &StreamHeader,
    hello: &Bytes,
    park: Duration,
    home: Duration,
    metrics: &Metrics,
) -> Result<Accepted, Outcome> {
    let preface = Bytes::from([&header.encode()[..], hello].concat());
    let park_until = Instant::now() + park;
    loop {
        let tunnel = match place.newest() {
            Some(tunnel) => tunnel,
            None => parked(metrics, park_until, place.tunnel()).await?,
        };
        // The time at home begins when a tunnel is there.
        let home_until = Instant::now() + home;
        let miss = tokio::select! {
            result = through(&tunnel, preface.clone(), home_until) => match result {
                Ok(accepted) => return Ok(accepted),
                Err(miss) => miss,
            },
            // An agent dials again only after it lost its tunnel: what was offered through the
            // old one may never be answered.
            _ = place.tunnel_after(tunnel.id) => Miss::Superseded,
        };
        match miss {
            Miss::TunnelLost | Miss::Superseded if Instant::now() < park_until => {}
            Miss::TunnelLost | Miss::Superseded => return Err(Outcome::BoxOffline),
            Miss::Refused(ResetCode::Draining | ResetCode::Aborted) => {
                // The agent leaves; its successor is on the way, or it comes back.
                parked(metrics, park_until, place.tunnel_after(tunnel.id)).await?;
            }
            Miss::Refused(code) => return Err(Outcome::refused_by_agent(code)),
            Miss::Silent => return Err(Outcome::HomeTimeout),
        }
    }
}

/// Holds the ClientHello until the box has the tunnel that is waited for.
async fn parked(
    metrics: &Metrics,
    until: Instant,
    tunnel: impl Future<Output = Tunnel>,
) -> Result<Tunnel, Outcome> {
    let mut parked = metrics.park();
    let came = timeout_at(until, tunnel).await;
    parked.ended(came.is_ok());
    came.map_err(|_| Outcome::BoxOffline)
}

/// Opens a stream in `tunnel`, writes `preface`, and waits for the first byte from home.
pub(super) async fn through(
    tunnel: &Tunnel,
    preface: Bytes,
    until: Instant,
) -> Result<Accepted, Miss> {
    let began = Instant::now();
    let (send, recv) = timeout_at(until, tunnel.connection.open_bi())
        .await
        .map_err(|_| Miss::Silent)?
        .map_err(|_: ConnectionError| Miss::TunnelLost)?;
    let mut stream = TunnelStream::new(send, recv);
    let answered = timeout_at(until, async {
        match stream.send.send(preface).await {
            // A refusal is told by a reset of the other direction, which says why.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(_) => return Err(Miss::TunnelLost),
        }
        match stream.recv.read_chunk(FIRST_PIECE, true).await {
            Ok(Some(chunk)) => Ok(chunk.bytes),
            // The mail server at home ended without a word, which says nothing to the sender.
            Ok(None) => Err(Miss::Refused(ResetCode::HomeRefused)),
            Err(ReadError::Reset(code)) => Err(Miss::Refused(code.into())),
            Err(_) => Err(Miss::TunnelLost),
        }
    })
    .await;
    match answered {
        Ok(Ok(first)) => Ok(Accepted { stream, first, home: began.elapsed() }),
        Ok(Err(miss)) => Err(miss),
        Err(_) => {
            stream.abort(ResetCode::HomeTimeout);
            Err(Miss::Silent)
        }
    }
}
