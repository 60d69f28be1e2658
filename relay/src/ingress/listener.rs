//! Accepts connections on port 25, and turns away what is too much before it costs anything.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Ingress, session};

const BACKLOG: i32 = 1024;
/// How long to wait when the system has no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after about this long.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// The banner of a relay that has no room (RFC 5321 section 3.1); closing at once matters, as
/// Sendmail otherwise waits for a reply to its EHLO.
const BUSY: &[u8] = b"421 4.3.2 Too busy, try again later\r\n";

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
        loop {
            let accepted = tokio::select! {
                () = ingress.draining.cancelled() => return,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((tcp, client)) => admit(&ingress, &sessions, tcp, client),
                Err(e) if is_ours(&e) => {
                    warn!(error = %e, "cannot accept connections; raise the limit of open files");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The peer was gone before we took the connection.
                Err(e) => debug!(error = %e, "accept failed"),
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
    let (total, per_prefix) = (settings.limits.sessions, settings.limits.sessions_per_prefix);
    let permit = match ingress.limits.admit(client.ip(), total, per_prefix) {
        Ok(permit) => permit,
        Err(outcome) => {
            // In place and without waiting: a flood must not get a task for each connection.
            let _ = tcp.try_write(BUSY);
            ingress.metrics.session_ended(outcome);
            // It goes to the next exchanger, and its coming from here says whom it means.
            drop(ingress.visit(client.ip(), local.ip()));
            debug!(client = %ingress.privacy.shown(client.ip()), outcome = outcome.label(), "turned away");
            return;
        }
    };
    if let Err(e) = prepare(&tcp) {
        debug!(error = %e, "connection was gone before it began");
        return;
    }
    let session = session::Session::new(ingress.clone(), settings, client, local);
    sessions.spawn(async move {
        session.run(tcp).await;
        drop(permit);
    });
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    // Nagle's algorithm against delayed acknowledgements costs 40 ms a turn.
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// IPv4 addresses look the same whichever socket they came through.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an accept failed because this process or system has no room.
fn is_ours(e: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(e.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS | ENOMEM))
}
