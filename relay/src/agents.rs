//! The QUIC side: boxes connect, prove their key, say hello, and stay.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, Incoming};
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::{Control, GreetingError};
use sealpost_tunnel::quic::{self, MAX_INCOMING, RETRY_ABOVE};
use sealpost_tunnel::reset::describe;
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Identity, PublicKey, ResetCode};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::boxes::Boxes;
use crate::metrics::Metrics;
use crate::privacy::Privacy;
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
}

/// One UDP address at which boxes connect.
pub struct AgentListener {
    endpoint: Endpoint,
}

impl AgentListener {
    /// Binds `address`; admits the boxes that the registry knows at the time of each handshake.
    pub fn bind(
        address: SocketAddr,
        identity: &Identity,
        keys: &RestartKeys,
        registry: Arc<Registry>,
    ) -> io::Result<Self> {
        let admission = move |key: &PublicKey| registry.snapshot().by_key(key).is_some();
        Ok(Self { endpoint: quic::relay_endpoint(address, identity, admission, keys)? })
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
                    Ok(Some((connection, control, key))) => {
                        stay(&agents, connection, control, key).await;
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

async fn greet(agents: &Agents, incoming: Incoming) -> Option<(Connection, Control, PublicKey)> {
    let address = agents.privacy.shown(incoming.remote_address().ip());
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => {
            // Mostly a key that is not known here; the peer is told by a TLS alert.
            agents.metrics.tunnel("handshake-failed");
            debug!(%address, error = describe(&error), "a box was not admitted");
            return None;
        }
    };
    let key = quic::peer_key(&connection)?;
    let ours = Hello { capabilities: agents.privacy.capabilities(), ..Hello::ours(SOFTWARE) };
    match Control::accept(&connection, &ours).await {
        Ok(control) => Some((connection, control, key)),
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

/// From hello to goodbye. While nothing happens this task waits and owns no buffer.
async fn stay(agents: &Agents, connection: Connection, mut control: Control, key: PublicKey) {
    // It may have been revoked since the handshake began.
    let Some(record) = agents.registry.snapshot().by_key(&key).cloned() else {
        agents.metrics.tunnel("refused");
        connection.close(ResetCode::Revoked.into(), b"this box is not known here");
        return;
    };
    let id = agents.boxes.connect(key, connection.clone());
    agents.metrics.tunnel("connected");
    let (name, software) = (record.name.as_str(), control.peer.software.clone());
    let address = agents.privacy.shown(connection.remote_address().ip());
    info!(r#box = name, %address, software, "box connected");

    let place = agents.boxes.place(key);
    // The newest tunnel that this one has been compared with.
    let mut newest = id;
    let (mut peer_leaves, mut told) = (false, false);
    let reason = loop {
        tokio::select! {
            reason = connection.closed() => break reason,
            left = control.peer_leaves(), if !peer_leaves => {
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
            // Agents open no other streams in this version. What they would send on one must not
            // fill the window of the connection.
            Ok((send, recv)) = connection.accept_bi() => {
                TunnelStream::new(send, recv).abort(ResetCode::ServiceUnknown);
            }
            // A box dials anew when it lost its tunnel, or was killed and started again: what it
            // left here would keep senders waiting until the idle timeout.
            newer = place.tunnel_after(newest), if !peer_leaves => {
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

/// Whether the box is still at the other end of an old tunnel.
async fn answers(connection: &Connection, control: &mut Control) -> bool {
    let before = connection.stats().udp_rx.datagrams;
    if control.probe().await.is_err() {
        return false;
    }
    sleep(PROBE).await;
    connection.stats().udp_rx.datagrams != before
}
