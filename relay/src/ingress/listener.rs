//! Accepts connections on port 25, and turns away what is too much before it costs anything.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealpost_daemon::open_files;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::limits::{Bounds, Evicted, Permit};
use super::outcome::Outcome;
use super::refusal::BUSY;
use super::{Ingress, session};
use crate::config::Limits;

/// Connections that the system may hold until they are accepted; it takes less when its own limit
/// (`net.core.somaxconn`) is lower. Beyond it new ones are dropped unheard, also those of senders.
const BACKLOG: i32 = 4096;
/// Connections that are taken before others have their turn, so that a sender in the middle of its
/// dialogue does not wait behind a flood of new ones.
const ACCEPT_AT_ONCE: usize = 16;
/// How often the log says that all places are taken.
const TELL_FULL: Duration = Duration::from_secs(60);
/// How long to wait when the system has no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the system asks whether the peer is still there; with the defaults of Linux one
/// that vanished is noticed 11 minutes later.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// One listening address.
pub struct Listener {
    tcp: TcpListener,
}

impl Listener {
    /// Binds `address`; one for IPv6 is for IPv6 alone, so that `0.0.0.0` can stand beside it.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        // What is accepted has these from its listener, which saves three system calls each.
        // Nagle's algorithm against delayed acknowledgements costs 40 ms a turn.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { tcp: TcpListener::from_std(socket.into())? })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the relay drains; sessions run in `sessions`.
    pub async fn run(self, ingress: Arc<Ingress>, sessions: TaskTracker) {
        let mut draining = pin!(ingress.draining.cancelled());
        let mut told_full = None;
        for count in 1usize.. {
            let accepted = tokio::select! {
                () = &mut draining => return,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((tcp, client)) => admit(&ingress, &sessions, tcp, client),
                Err(e) if open_files::exhausted(&e) => {
                    warn!(error = %e, "cannot accept connections; raise the limit of open files");
                    ingress.limits.evict_oldest();
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The peer was gone before we took the connection.
                Err(e) => debug!(error = %e, "accept failed"),
            }
            tell_full(&ingress, &mut told_full);
            if count.is_multiple_of(ACCEPT_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn admit(ingress: &Arc<Ingress>, sessions: &TaskTracker, tcp: TcpStream, client: SocketAddr) {
    let client = canonical(client);
    let Ok(local) = tcp.local_addr().map(canonical) else {
        return;
    };
    let settings = ingress.settings.load_full();
    let (permit, evicted) = match permit(ingress, &settings.limits, client, local) {
        Ok(permitted) => permitted,
        Err(outcome) => {
            // In place and without waiting: a flood must not get a task for each connection.
            // Closing at once matters, as Sendmail otherwise waits for a reply to its EHLO.
            let _ = tcp.try_write(BUSY.as_bytes());
            ingress.metrics.session_ended(outcome);
            // It goes to the next exchanger, and its coming from here says whom it means.
            drop(ingress.visit(client.ip(), local.ip()));
            debug!(client = %ingress.privacy.shown(client.ip()), outcome = outcome.label(), "turned away");
            return;
        }
    };
    let session = session::Session::new(ingress.clone(), settings, permit, client, local);
    sessions.spawn(session.run(tcp, evicted));
}

/// A place for a connection from `client` to the relay's address `local`, or why there is none.
fn permit(
    ingress: &Ingress,
    limits: &Limits,
    client: SocketAddr,
    local: SocketAddr,
) -> Result<(Permit, Evicted), Outcome> {
    // Whom a connection to an own address is for is known already, so that nobody else has to pay
    // for a box that is full.
    let owner = ingress.registry.snapshot().by_address(local.ip()).map(|owner| owner.key);
    if owner.is_some_and(|key| ingress.boxes.sessions(key) >= limits.sessions_per_box) {
        return Err(Outcome::BusyBox);
    }
    let bounds = Bounds {
        places: limits.sessions.min(ingress.room),
        per_prefix: limits.sessions_per_prefix,
        patience: limits.preamble + limits.client_hello,
    };
    ingress.limits.admit(client.ip(), bounds, Instant::now())
}

/// Says in the log that all places are taken, and not too often.
fn tell_full(ingress: &Ingress, told: &mut Option<Instant>) {
    if ingress.was_full() && told.is_none_or(|at| at.elapsed() >= TELL_FULL) {
        *told = Some(Instant::now());
        let places = ingress.places();
        warn!(
            places,
            "all places are taken; connections without a ClientHello make room for new ones"
        );
    }
}

/// IPv4 addresses look the same whichever socket they came through.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
