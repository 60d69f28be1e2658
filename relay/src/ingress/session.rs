//! One connection from a sender, from accept to its last byte. The task that runs it owns all
//! of its state.

use std::net::SocketAddr;
use std::sync::Arc;

use sealpost_tunnel::splice::{self, End, Server, Spliced};
use sealpost_tunnel::{Carries, ServiceName, StreamHeader};
use tokio::net::TcpStream;
use tracing::{debug, info};

use super::Ingress;
use super::alert::Alert;
use super::client_hello::Hello;
use super::greet::Greeted;
use super::limits::{Evicted, Permit};
use super::offer::{Accepted, offer};
use super::open::Listed;
use super::outcome::Outcome;
use super::refusal::{BUSY, Refusal};
use super::visits::Visit;
use crate::boxes::SessionPermit;
use crate::config::Settings;
use crate::pairs::history::{Left, Past};
use crate::registry::{BoxRecord, Snapshot};
use crate::route::{By, NoRoute, RouteKey, Routed, Sni, route};

/// A session, and what its closing line will say.
pub(super) struct Session {
    pub(super) ingress: Arc<Ingress>,
    pub(super) settings: Arc<Settings>,
    pub(super) open: Listed,
    /// Of a client at a shared address, until it is known what comes of it.
    visit: Option<Visit>,
    pub(super) permit: Permit,
    /// The sender was told to begin with TLS, and understands nothing else.
    pub(super) tls: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Whether it is carried from its first byte.
    pub(super) transparent: bool,
}

impl Session {
    pub(super) fn new(
        ingress: Arc<Ingress>,
        settings: Arc<Settings>,
        permit: Permit,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let visit = ingress.visit(client.ip(), local.ip());
        let open = ingress.sessions.enter(client, local);
        Self {
            ingress,
            settings,
            open,
            visit,
            permit,
            tls: false,
            bytes_in: 0,
            bytes_out: 0,
            transparent: false,
        }
    }

    /// Runs the session to its end and writes its closing line.
    pub(super) async fn run(self, tcp: TcpStream, evicted: Evicted) {
        let mut closing = ClosingLine { session: self, outcome: Outcome::Aborted };
        closing.outcome = closing.session.drive(tcp, evicted).await;
    }

    async fn drive(&mut self, mut tcp: TcpStream, mut evicted: Evicted) -> Outcome {
        // Each phase is boxed, so that a session owns the room that its phase needs and not that of
        // the ones before, which are over, nor of those behind, which may never come.
        let offered = Box::pin(async {
            Box::pin(self.meet_shield_of_address(&tcp)).await?;
            if let Some(accepted) = Box::pin(self.carry_from_first_byte(&tcp)).await? {
                return Ok(accepted);
            }
            let greeted = self.greet(&mut tcp).await?;
            Box::pin(self.offer(&tcp, greeted)).await
        });
        let offered = tokio::select! {
            biased;
            () = evicted.happened() => {
                let refusal = if self.tls {
                    Refusal::alert(Alert::InternalError, Outcome::Evicted)
                } else {
                    Refusal::reply(BUSY, Outcome::Evicted)
                };
                // Another waits for the place.
                refusal.leave(&tcp);
                return Outcome::Evicted;
            }
            offered = offered => offered,
        };
        match offered {
            Ok((accepted, permit)) => {
                self.open.is_carried();
                let Accepted { stream, first, home } = accepted;
                let sessions = permit.place().sessions();
                self.ingress.metrics.spliced(self.open.began.elapsed(), home, sessions);
                let idle = self.settings.limits.idle;
                let leaving = self.ingress.draining.cancelled();
                let server = Server::InTunnel;
                let splice = splice::splice_until(tcp, stream, first, idle, server, leaving);
                let spliced = Box::pin(splice).await;
                self.bytes_in += spliced.bytes_to_tunnel;
                self.bytes_out += spliced.bytes_to_tcp;
                outcome_of(&spliced)
            }
            Err(refusal) => {
                let outcome = refusal.outcome;
                tokio::select! {
                    biased;
                    () = evicted.happened() => {}
                    () = Box::pin(refusal.tell(tcp)) => {}
                }
                outcome
            }
        }
    }

    /// Finds the box and a stream on which it answers.
    async fn offer(
        &mut self,
        tcp: &TcpStream,
        greeted: Greeted,
    ) -> Result<(Accepted, SessionPermit), Refusal> {
        let found = self.route(&greeted.hello)?;
        self.open.is_for(found.clone());
        self.meet_shield_of_name(tcp, found.key).await?;
        let place = self.ingress.boxes.place(found.key);
        let permit = place
            .session(self.settings.limits.sessions_per_box)
            .ok_or(Refusal::alert(Alert::InternalError, Outcome::BusyBox))?;
        self.permit.settle();
        self.ingress.metrics.box_has(place.sessions());
        let privacy = self.ingress.privacy;
        info!(
            session = %self.open.id,
            r#box = privacy.named(&found.name),
            sni = privacy.named(self.open.sni().unwrap_or_default()),
            "routed"
        );
        let header = StreamHeader {
            service: ServiceName::smtp(),
            client: self.open.client,
            local: self.open.local,
            session: self.open.id,
            carries: Carries::FromTls {
                sni: match greeted.hello.sni {
                    Sni::Name(name) => Some(name),
                    _ => None,
                },
                ehlo: greeted.ehlo,
            },
        };
        let (park, home) = (self.settings.limits.park, self.settings.limits.home);
        let (hello, metrics) = (&greeted.bytes, &self.ingress.metrics);
        let offered = tokio::select! {
            offered = offer(permit.place(), &header, hello, park, home, metrics) => offered,
            () = sender_left(tcp) => return Err(Refusal::nothing(Outcome::Disconnected)),
        };
        match offered {
            Ok(accepted) => Ok((accepted, permit)),
            Err(outcome) => Err(Refusal::alert(Alert::InternalError, outcome)),
        }
    }

    fn route(&mut self, hello: &Hello) -> Result<Arc<BoxRecord>, Refusal> {
        let (client, local) = (self.open.client.ip(), self.open.local.ip());
        if let Sni::Name(name) = &hello.sni {
            self.open.asked_for(name.clone());
            self.visit_ends(Left::Served);
        }
        let snapshot = self.ingress.registry.snapshot();
        let metrics = &self.ingress.metrics;
        if snapshot.by_address(local).is_none() {
            metrics.client_hello(named(&hello.sni, &snapshot));
        }
        if !hello.speaks_mail {
            return Err(Refusal::alert(Alert::NoApplicationProtocol, Outcome::AlpnRefused));
        }
        let past = match hello.sni {
            Sni::Absent => self.ingress.visits.past(client),
            _ => Past::default(),
        };
        let key = RouteKey { local, sni: hello.sni.clone(), past };
        match route(&snapshot, &key) {
            Ok(Routed { record, by }) => {
                if let By::Pair(pair) = by {
                    metrics.pair("hit");
                    self.ingress.visits.spend(client, pair.first);
                    self.visit_ends(Left::Served);
                }
                Ok(record.clone())
            }
            Err(no_route) => {
                match no_route {
                    NoRoute::PairAmbiguous => metrics.pair("ambiguous"),
                    NoRoute::SniAbsent if snapshot.pair_roles().second.contains(&local) => {
                        metrics.pair("missed");
                    }
                    _ => {}
                }
                if hello.sni == Sni::Absent {
                    // Now, and not when it has gone: it comes to the next exchanger before that.
                    self.visit_ends(Left::Unnamed);
                }
                Err(refusal_of(no_route))
            }
        }
    }

    /// What came of a client at a shared address is known.
    pub(super) fn visit_ends(&mut self, how: Left) {
        if let Some(visit) = self.visit.take() {
            visit.ends(how);
        }
    }
}

fn refusal_of(no_route: NoRoute) -> Refusal {
    let (alert, outcome) = match no_route {
        NoRoute::SniAbsent => (Alert::UnrecognizedName, Outcome::SniAbsent),
        NoRoute::SniBad => (Alert::UnrecognizedName, Outcome::SniBad),
        NoRoute::SniUnknown => (Alert::UnrecognizedName, Outcome::SniUnknown),
        NoRoute::PairAmbiguous => (Alert::UnrecognizedName, Outcome::PairAmbiguous),
        NoRoute::HelloMalformed => (Alert::DecodeError, Outcome::HelloMalformed),
    };
    Refusal::alert(alert, outcome)
}

/// What the operator is told that a ClientHello on a shared address named; one of
/// [`crate::metrics::NAMED`].
fn named(sni: &Sni, snapshot: &Snapshot) -> &'static str {
    match sni {
        Sni::Name(name) if snapshot.by_mx(name).is_some() => "match",
        Sni::Name(_) => "unknown",
        Sni::Absent => "absent",
        Sni::Bad => "bad",
        Sni::Unreadable => "unreadable",
    }
}

/// The session with the outcome that its closing line tells, also when the task panics.
struct ClosingLine {
    session: Session,
    outcome: Outcome,
}

impl Drop for ClosingLine {
    fn drop(&mut self) {
        let Self { session: s, outcome } = self;
        let privacy = s.ingress.privacy;
        s.ingress.metrics.session_ended(*outcome);
        if s.transparent {
            s.ingress.metrics.transparent_session_ended();
        }
        s.ingress.metrics.carried(s.bytes_in, s.bytes_out);
        if *outcome == Outcome::Evicted {
            // A flood must not get a line for each connection.
            debug!(session = %s.open.id, client = %privacy.shown(s.open.client.ip()), "evicted");
            return;
        }
        info!(
            session = %s.open.id,
            client = %privacy.shown(s.open.client.ip()),
            local = privacy.named(s.open.local).map(tracing::field::display),
            r#box = privacy.named(s.open.box_name().unwrap_or_default()),
            sni = privacy.named(s.open.sni().unwrap_or_default()),
            // Where few boxes want it so, this tells for which of them the session was.
            mode = privacy.named(if s.transparent { "transparent" } else { "sealed" }),
            outcome = outcome.label(),
            bytes_in = s.bytes_in,
            bytes_out = s.bytes_out,
            duration_ms = u64::try_from(s.open.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session"
        );
    }
}

/// Who ends a session first with a FIN has said all, and many no longer take what the other says
/// then: Postfix as a sender does not wait for the answer to QUIT, and mail servers close before
/// the sender's close_notify. So a reset counts only while neither side had ended.
fn outcome_of(spliced: &Spliced) -> Outcome {
    match (spliced.to_tunnel, spliced.to_tcp) {
        (End::Left, _) | (_, End::Left) => Outcome::Draining,
        (End::Idle, _) | (_, End::Idle) => Outcome::Idle,
        (End::TunnelLost, _) | (_, End::TunnelLost) => Outcome::TunnelLost,
        (End::Finished, _) | (_, End::Finished) => Outcome::Carried,
        (End::TcpReset, _) => Outcome::SenderReset,
        (End::PeerReset(_), _) => Outcome::HomeReset,
    }
}

/// Resolves when the sender has ended or reset the connection; never once it has sent more.
pub(super) async fn sender_left(tcp: &TcpStream) {
    let mut byte = [0; 1];
    if let Ok(1..) = tcp.peek(&mut byte).await {
        std::future::pending::<()>().await;
    }
}
