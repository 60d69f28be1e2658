//! Keeps one tunnel to one relay up, for as long as the relay stands in the owner's file.

mod backoff;
mod dial;
mod standing;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sealpost_tunnel::greeting::Event;
use sealpost_tunnel::request::Standing;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{PublicKey, ResetCode};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Relay;
use crate::deliver::{Deliveries, session};
use crate::reach::failure::Failure;
use crate::registration::keys::Which;
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
        /// The key that the relay proved.
        key: PublicKey,
        /// The tunnel itself.
        connection: quinn::Connection,
    },
}

/// The word that a tunnel came up or ended, or that a relay said what it holds; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Changed(Arc<watch::Sender<()>>);

impl Changed {
    /// Says it.
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    /// Hears it from now on.
    pub fn hear(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// One relay of the owner's file.
pub struct Uplink {
    /// From the owner's file.
    pub relay: Arc<Relay>,
    state: Mutex<State>,
    changed: Changed,
    /// What the relay said last that it holds about this box, and when.
    standing: Mutex<Option<(Standing, Instant)>>,
    /// Ends the uplink: no dialling, no new streams; the tunnel stays until all streams ended.
    leave: CancellationToken,
}

impl Uplink {
    /// An uplink that is not up. `changed` is told of all that becomes of it.
    pub fn new(relay: Relay, changed: Changed) -> Self {
        Self {
            relay: Arc::new(relay),
            changed,
            state: Mutex::new(State::Down(None)),
            standing: Mutex::default(),
            leave: CancellationToken::new(),
        }
    }

    /// Its state now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// What the relay said last that it holds about this box, and when.
    pub fn standing(&self) -> Option<(Standing, Instant)> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the relay for no new streams and ends when the open ones have ended.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Dials, serves, and dials again, until told to leave.
    pub async fn keep_up(&self, dialer: Dialer, deliveries: Arc<Deliveries>) {
        let mut backoff = Backoff::default();
        let mut which = Which::default();
        let name = self.relay.name.as_str();
        while !self.leave.is_cancelled() {
            let dialled = tokio::select! {
                dialled = dialer.dial(&self.relay, which) => dialled,
                () = self.leave.cancelled() => return,
            };
            match dialled {
                Ok(tunnel) => {
                    let began = Instant::now();
                    let address = tunnel.connection.remote_address();
                    let software = tunnel.control.peer.software.clone();
                    info!(relay = name, %address, software, "tunnel up");
                    let capabilities = tunnel.control.peer.capabilities;
                    let key = tunnel.relay;
                    let connection = tunnel.connection.clone();
                    *self.lock() =
                        State::Up { address, since: began, capabilities, key, connection };
                    self.changed.tell();
                    let reason = self.serve(tunnel, &deliveries).await;
                    backoff.was_up(began.elapsed());
                    info!(relay = name, %reason, "tunnel down");
                    *self.lock() = State::Down(Some(reason));
                    self.changed.tell();
                }
                Err(unreached) => {
                    if unreached.key_not_taken() {
                        // In the middle of a rotation a relay knows one of two keys.
                        which = which.other();
                    }
                    let reason = unreached.to_string();
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
        let Tunnel { connection, mut control, us, .. } = tunnel;
        let open = tokio_util::task::TaskTracker::new();
        let news = Notify::new();
        let first = self.standing().is_none();
        let asking = standing::follow(&connection, us, &news, first, |s| self.keep(s));
        let mut asking = std::pin::pin!(asking);
        let mut relay_leaves = false;
        loop {
            tokio::select! {
                stream = connection.accept_bi() => match stream {
                    Ok((send, recv)) => {
                        let stream = TunnelStream::new(send, recv);
                        let token = open.token();
                        let (deliveries, relay) = (deliveries.clone(), self.relay.clone());
                        let peer = connection.remote_address().ip();
                        deliveries.tasks.clone().spawn(async move {
                            session::deliver(deliveries, relay, peer, stream).await;
                            drop(token);
                        });
                    }
                    Err(reason) => return Failure::of(&reason).to_string(),
                },
                event = control.next_event(), if !relay_leaves => match event {
                    // It takes no new senders; what is open goes on until it closes.
                    Ok(Event::Leaving) => {
                        relay_leaves = true;
                        info!(relay = self.relay.name, "the relay is shutting down");
                    }
                    Ok(Event::News) => news.notify_one(),
                    Err(error) => {
                        // The stream may learn of the end of its connection first.
                        if let Some(reason) = connection.close_reason() {
                            return Failure::of(&reason).to_string();
                        }
                        connection.close(ResetCode::Protocol.into(), error.to_string().as_bytes());
                        return error.to_string();
                    }
                },
                () = &mut asking => {}
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
            reason = refuse_streams(&connection) => Failure::of(&reason).to_string(),
        }
    }

    fn keep(&self, now: Standing) {
        let mut kept = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.as_ref().map(|(before, _)| before);
        standing::tell(&self.relay.name, before, &now);
        let news = before != Some(&now);
        *kept = Some((now, Instant::now()));
        drop(kept);
        // A relay that repeats itself keeps nobody busy.
        if news {
            self.changed.tell();
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
