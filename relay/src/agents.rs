//! The QUIC side: boxes connect, prove their key, say hello, and stay.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming};
use sealpost_tunnel::control::{Hello, SERVES_ZONES};
use sealpost_tunnel::greeting::{self, Control, GreetingError};
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::quic::{self, MAX_INCOMING, RETRY_ABOVE};
use sealpost_tunnel::reset::describe;
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{Identity, PublicKey, ResetCode};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::boxes::{Boxes, Event};
use crate::metrics::Metrics;
use crate::privacy::Privacy;
use crate::registrar::Desk;
use crate::registry::Registry;

/// From the first packet of a box to its hello; TLS and one round trip.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the answer to a probe, with time for two lost packets.
const PROBE: Duration = Duration::from_secs(3);
const SOFTWARE: &str = concat!("sealpost-relay ", env!("CARGO_PKG_VERSION"));

/// What all connections of boxes share.
pub struct Agents {
    /// Who may connect.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub boxes: Arc<Boxes>,
    /// What is counted.
    pub metrics: Metrics,
    /// No new boxes are wanted, and those that are here are told.
    pub draining: CancellationToken,
    /// What log lines may tell, of which boxes are told.
    pub privacy: Privacy,
    /// Whether the relay serves the zones of its boxes, of which they are told.
    pub serves_zones: bool,
    /// Where boxes and those that want to be boxes ask.
    pub desk: Arc<Desk>,
    /// Who connected since the registry was last told.
    pub seen: Mutex<HashSet<PublicKey>>,
}

/// One UDP address at which boxes connect.
pub struct AgentListener {
    endpoint: Endpoint,
}

impl AgentListener {
    /// Binds `address`. Every key may finish the handshake; what it may do then is decided by what
    /// the registry knows of it.
    pub fn bind(address: SocketAddr, identity: &Identity, keys: &RestartKeys) -> io::Result<Self> {
        Ok(Self { endpoint: quic::relay_endpoint(address, identity, keys)? })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The endpoint, to be closed last.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Accepts until the relay drains; connections run in `connections`.
    pub async fn run(self, agents: Arc<Agents>, connections: TaskTracker) {
        let handshakes = TaskTracker::new();
        loop {
            let incoming = tokio::select! {
                () = agents.draining.cancelled() => return,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            // Under a flood with forged addresses a peer must first show that it gets our
            // packets, which costs us no state.
            if handshakes.len() > RETRY_ABOVE && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            if handshakes.len() >= MAX_INCOMING {
                // Its first packet is sent again after 300 ms, when there may be room.
                incoming.ignore();
                continue;
            }
            let token = handshakes.token();
            let agents = agents.clone();
            connections.spawn(async move {
                let address = agents.privacy.shown(incoming.remote_address().ip());
                let greeted = timeout(HANDSHAKE, greet(&agents, incoming)).await;
                drop(token);
                match greeted {
                    Ok(Some(Greeted::Tunnel(connection, control, key))) => {
                        stay(&agents, connection, control, key).await;
                    }
                    Ok(Some(Greeted::Question(connection, key))) => {
                        agents.metrics.tunnel("question");
                        agents.desk.serve(&connection, key).await;
                    }
                    Ok(None) => {}
                    Err(_) => {
                        agents.metrics.tunnel("handshake-failed");
                        debug!(%address, "a box did not finish its handshake in time");
                    }
                }
            });
        }
    }
}

/// What a connection turned out to be for.
enum Greeted {
    /// Mail.
    Tunnel(Connection, Control, PublicKey),
    /// Asking the registry.
    Question(Connection, PublicKey),
}

async fn greet(agents: &Agents, incoming: Incoming) -> Option<Greeted> {
    let address = agents.privacy.shown(incoming.remote_address().ip());
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => {
            agents.metrics.tunnel("handshake-failed");
            debug!(%address, error = describe(&error), "a box was not admitted");
            return None;
        }
    };
    let key = quic::peer_key(&connection)?;
    match quic::purpose(&connection)? {
        Use::Registry => return Some(Greeted::Question(connection, key)),
        Use::Tunnel => {}
    }
    // Before the hello, so that the box does not believe that it has a tunnel.
    if !admitted(agents, &connection, &key) {
        return None;
    }
    let zones = if agents.serves_zones { SERVES_ZONES } else { 0 };
    let capabilities = agents.privacy.capabilities() | zones;
    let ours = Hello { capabilities, ..Hello::ours(SOFTWARE) };
    match Control::accept(&connection, &ours).await {
        Ok(control) => Some(Greeted::Tunnel(connection, control, key)),
        Err(error) => {
            let (outcome, code) = match error {
                GreetingError::Version { .. } => ("version", ResetCode::Version),
                _ => ("greeting-failed", ResetCode::Protocol),
            };
            agents.metrics.tunnel(outcome);
            debug!(%address, %error, "a box broke off its greeting");
            connection.close(code.into(), error.to_string().as_bytes());
            None
        }
    }
}

/// Whether a box with `key` may have a tunnel; it is told if not.
fn admitted(agents: &Agents, connection: &Connection, key: &PublicKey) -> bool {
    let snapshot = agents.registry.snapshot();
    if snapshot.by_key(key).is_some() {
        return true;
    }
    let (code, words) = if snapshot.is_retired(key) {
        (ResetCode::Revoked, "the key of this box was revoked or replaced")
    } else {
        (ResetCode::UnknownBox, "no box with this key is known here")
    };
    agents.metrics.tunnel("refused");
    debug!(%key, reason = code.label(), "a box was not admitted");
    connection.close(code.into(), words.as_bytes());
    false
}

/// From hello to goodbye. While nothing happens this task waits and owns no buffer.
async fn stay(agents: &Agents, connection: Connection, mut control: Control, key: PublicKey) {
    let id = agents.boxes.connect(key, connection.clone(), &control.peer);
    // Only now: whoever is revoked from here on is cut, as it stands in `boxes`.
    if !admitted(agents, &connection, &key) {
        agents.boxes.disconnect(key, id);
        return;
    }
    let record = agents.registry.snapshot().by_key(&key).cloned();
    let name = record.map(|record| record.name.clone()).unwrap_or_default();
    agents.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    agents.metrics.tunnel("connected");
    let (name, software) = (name.as_str(), control.peer.software.clone());
    let address = agents.privacy.shown(connection.remote_address().ip());
    info!(r#box = name, %address, software, "box connected");

    let place = agents.boxes.place(key);
    // The newest tunnel that this one has been compared with.
    let mut newest = id;
    let mut news = place.news();
    let (mut peer_leaves, mut told) = (false, false);
    let reason = loop {
        tokio::select! {
            reason = connection.closed() => break reason,
            left = leaves(&mut control), if !peer_leaves => {
                // A box that leaves closes when its streams have ended.
                peer_leaves = true;
                agents.boxes.disconnect(key, id);
                if let Err(error @ (GreetingError::Order | GreetingError::Control(_))) = left {
                    debug!(r#box = name, %error, "a box broke the order of its control stream");
                    connection.close(ResetCode::Protocol.into(), error.to_string().as_bytes());
                }
            }
            () = agents.draining.cancelled(), if !told => {
                told = true;
                let _ = control.say_leaving().await;
            }
            // What a box asks of the registry, and tells of its zones.
            Ok((send, recv)) = connection.accept_bi() => agents.desk.take(key, send, recv),
            // A box dials anew when it lost its tunnel, or was killed and started again: what it
            // left here would keep senders waiting until the idle timeout.
            event = place.event_after(newest, news), if !peer_leaves => {
                let newer = match event {
                    Event::News(heard) => {
                        news = heard;
                        let _ = control.say_news().await;
                        continue;
                    }
                    Event::Newer(newer) => newer,
                };
                newest = newer.id;
                if !answers(&connection, &mut control).await {
                    connection.close(ResetCode::Replaced.into(), b"the box has a newer tunnel");
                }
            }
        }
    };
    drop(place);
    agents.boxes.disconnect(key, id);
    agents.metrics.tunnel("ended");
    info!(r#box = name, reason = describe(&reason), "box gone");
}

/// Waits until the box says that it leaves.
async fn leaves(control: &mut Control) -> Result<(), GreetingError> {
    loop {
        match control.next_event().await? {
            greeting::Event::Leaving => return Ok(()),
            // It is for relays to say.
            greeting::Event::News => {}
        }
    }
}

/// Whether the box is still at the other end of an old tunnel.
async fn answers(connection: &Connection, control: &mut Control) -> bool {
    let before = connection.stats().udp_rx.datagrams;
    if control.probe().await.is_err() {
        return false;
    }
    sleep(PROBE).await;
    connection.stats().udp_rx.datagrams != before
}
