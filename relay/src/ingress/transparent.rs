//! Connections to an address of one box whose owner wants them carried from their first byte: the
//! mail server at home greets, and the relay says nothing, unless it has to refuse.
//!
//! Whether the owner wants that, the tunnel says that is there now. Where none is there, or none that
//! says so, the session goes on as a sealed one: that is stronger, and it is what can hold a sender's
//! ClientHello until the box is back. A sender that waits for its greeting is not held: before
//! anything was said, a session can still become any.

use bytes::Bytes;
use sealpost_tunnel::control::TRANSPARENT;
use sealpost_tunnel::{Carries, ResetCode, ServiceName, StreamHeader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::info;

use super::greet::DRAINING;
use super::offer::{Accepted, Miss, through};
use super::outcome::Outcome;
use super::refusal::{BUSY, Refusal};
use super::session::{Session, sender_left};
use crate::boxes::{Place, SessionPermit};

/// For whatever keeps the mail server at home from greeting.
const NOT_READY: &str = "421 4.3.2 The mail server is not ready, try again later\r\n";

impl Session {
    /// The greeting of the mail server at home, if the address is one box's alone and its owner wants
    /// connections carried from their first byte; `None` for the dialogue of a sealed session.
    pub(super) async fn carry_from_first_byte(
        &mut self,
        tcp: &TcpStream,
    ) -> Result<Option<(Accepted, SessionPermit)>, Refusal> {
        let owner = self.ingress.registry.snapshot().by_address(self.open.local.ip()).cloned();
        let Some(owner) = owner else {
            return Ok(None);
        };
        let place = self.ingress.boxes.place(owner.key);
        if place.capabilities() & TRANSPARENT == 0 {
            return Ok(None);
        }
        let permit = place.session(self.settings.limits.sessions_per_box);
        let permit = permit.ok_or(Refusal::reply(BUSY, Outcome::BusyBox))?;
        self.ingress.metrics.box_has(place.sessions());
        let header = StreamHeader {
            service: ServiceName::smtp(),
            client: self.open.client,
            local: self.open.local,
            session: self.open.id,
            carries: Carries::FromFirstByte,
        };
        // One time for all attempts: the sender has heard nothing yet, and waits for each of them. It
        // has waited since it connected, as the shield may have a pause.
        let home = self.settings.limits.home;
        let until = (Instant::from_std(self.open.began) + home).max(Instant::now() + home / 2);
        let offered = tokio::select! {
            offered = offer(&place, &header, until) => offered,
            () = sender_left(tcp) => Err(Refusal::nothing(Outcome::Disconnected)),
            () = self.ingress.draining.cancelled() => {
                Err(Refusal::reply(DRAINING, Outcome::Draining))
            }
        };
        if matches!(offered, Ok(None)) {
            return Ok(None);
        }
        self.transparent = true;
        self.permit.settle();
        self.open.is_for(owner.clone());
        let privacy = self.ingress.privacy;
        info!(session = %self.open.id, r#box = privacy.named(&owner.name), "routed");
        Ok(offered?.map(|accepted| (accepted, permit)))
    }
}

/// Offers the connection through the newest tunnel of the box; `None` when that is gone, or its
/// owner's choice is another now.
async fn offer(
    place: &Place,
    header: &StreamHeader,
    until: Instant,
) -> Result<Option<Accepted>, Refusal> {
    let preface = Bytes::from(header.encode());
    let mut last = None;
    loop {
        let Some(tunnel) = place.newest().filter(|tunnel| {
            tunnel.capabilities & TRANSPARENT != 0 && last.is_none_or(|last| tunnel.id > last)
        }) else {
            return Ok(None);
        };
        last = Some(tunnel.id);
        let missed = tokio::select! {
            offered = through(&tunnel, preface.clone(), until) => match offered {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(missed) => missed,
            },
            _ = place.tunnel_after(tunnel.id) => Miss::Superseded,
        };
        let outcome = match missed {
            Miss::TunnelLost
            | Miss::Superseded
            | Miss::Refused(ResetCode::Draining | ResetCode::Aborted) => continue,
            Miss::Refused(code) => Outcome::refused_by_agent(code),
            Miss::Silent => Outcome::HomeTimeout,
        };
        let reply = if outcome == Outcome::BusyBox { BUSY } else { NOT_READY };
        return Err(Refusal::reply(reply, outcome));
    }
}
