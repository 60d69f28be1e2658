//! Keeps one tunnel to one relay up, for as long as the relay stands in the owner's file.

mod backoff;
mod dial;
mod eyeballs;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sealpost_tunnel::ResetCode;
use sealpost_tunnel::reset::describe;
use sealpost_tunnel::stream::TunnelStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Relay;
use crate::deliver::{Deliveries, session};
use backoff::Backoff;
pub use dial::Dialer;
use dial::Tunnel;

/// What the owner is told about a relay.
#[derive(Debug, Clone)]
pub enum State {
    /// No tunnel; why not, once that is known.
    Down(Option<String>),
    /// A tunnel is up.
    Up {
        /// To this address.
        address: SocketAddr,
        /// Since then.
        since: Instant,
        /// What the relay says of itself, as bits of [`Hello::capabilities`].
        ///
        /// [`Hello::capabilities`]: sealpost_tunnel::control::Hello
        capabilities: u64,
    },
}

/// One relay of the owner's file.
pub struct Uplink {
    /// From the owner's file.
    pub relay: Arc<Relay>,
    state: Mutex<State>,
    /// Ends the uplink: no dialling, no new streams; the tunnel stays until all streams ended.
    leave: CancellationToken,
}

impl Uplink {
    /// An uplink that is not up.
    pub fn new(relay: Relay) -> Self {
        Self {
            relay: Arc::new(relay),
            state: Mutex::new(State::Down(None)),
            leave: CancellationToken::new(),
        }
    }

    /// Its state now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Asks the relay for no new streams and ends when the open ones have ended.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Dials, serves, and dials again, until told to leave.
    pub async fn keep_up(&self, dialer: Dialer, deliveries: Arc<Deliveries>) {
        let mut backoff = Backoff::default();
        let name = self.relay.name.as_str();
        while !self.leave.is_cancelled() {
            let dialled = tokio::select! {
                dialled = dialer.dial(&self.relay) => dialled,
                () = self.leave.cancelled() => return,
            };
            match dialled {
                Ok(tunnel) => {
                    let began = Instant::now();
                    let address = tunnel.connection.remote_address();
                    let software = tunnel.control.peer.software.clone();
                    info!(relay = name, %address, software, "tunnel up");
                    let capabilities = tunnel.control.peer.capabilities;
                    *self.lock() = State::Up { address, since: began, capabilities };
                    let reason = self.serve(tunnel, &deliveries).await;
                    backoff.was_up(began.elapsed());
                    info!(relay = name, %reason, "tunnel down");
                    *self.lock() = State::Down(Some(reason));
                }
                Err(reason) => {
                    // Said once, not at each attempt.
                    let known = matches!(&*self.lock(), State::Down(Some(old)) if *old == reason);
                    if !known {
                        warn!(relay = name, reason, "no tunnel");
                    }
                    *self.lock() = State::Down(Some(reason));
                }
            }
            let pause = backoff.next(rand::random());
            let _ = self.leave.run_until_cancelled(sleep(pause)).await;
        }
    }

    /// Delivers the streams of a tunnel; why it ended.
    async fn serve(&self, tunnel: Tunnel, deliveries: &Arc<Deliveries>) -> String {
        let Tunnel { connection, mut control } = tunnel;
        let open = tokio_util::task::TaskTracker::new();
        let mut relay_leaves = false;
        loop {
            tokio::select! {
                stream = connection.accept_bi() => match stream {
                    Ok((send, recv)) => {
                        let stream = TunnelStream::new(send, recv);
                        let token = open.token();
                        let (deliveries, relay) = (deliveries.clone(), self.relay.clone());
                        deliveries.tasks.clone().spawn(async move {
                            session::deliver(deliveries, relay, stream).await;
                            drop(token);
                        });
                    }
                    Err(reason) => return describe(&reason),
                },
                left = control.peer_leaves(), if !relay_leaves => match left {
                    // It takes no new senders; what is open goes on until it closes.
                    Ok(()) => {
                        relay_leaves = true;
                        info!(relay = self.relay.name, "the relay is shutting down");
                    }
                    Err(error) => {
                        connection.close(ResetCode::Protocol.into(), error.to_string().as_bytes());
                        return error.to_string();
                    }
                },
                () = self.leave.cancelled() => break,
            }
        }
        let _ = control.say_leaving().await;
        open.close();
        tokio::select! {
            () = open.wait() => {
                connection.close(ResetCode::Draining.into(), b"the box leaves");
                "this box leaves".into()
            }
            // Streams that the relay opened before it heard of our leaving are not taken; it
            // offers them elsewhere.
            reason = refuse_streams(&connection) => describe(&reason),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn refuse_streams(connection: &quinn::Connection) -> quinn::ConnectionError {
    loop {
        match connection.accept_bi().await {
            Ok((send, recv)) => TunnelStream::new(send, recv).abort(ResetCode::Draining),
            Err(reason) => return reason,
        }
    }
}
