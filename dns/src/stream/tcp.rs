//! Listens for TCP, and for TLS on top of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use sealpost_daemon::open_files;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::limits::{Full, Permit};
use super::{Streams, connection};
use crate::transport::{Carrier, Respond, Transfer, canonical};

/// Connections that the system may hold until they are accepted.
const BACKLOG: i32 = 1024;
/// Connections that are taken before others have their turn.
const ACCEPT_AT_ONCE: usize = 16;
/// How long to wait when the system has no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// For saying goodbye on TLS.
const GOODBYE: Duration = Duration::from_secs(1);

/// One listening address, for TCP or for TLS.
pub struct StreamListener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl StreamListener {
    /// Binds `address` for DNS over TCP; one for IPv6 is for IPv6 alone.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        // What is accepted inherits it. Answers are written whole, so there is nothing to wait for.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { tcp: TcpListener::from_std(socket.into())?, tls: None })
    }

    /// Binds `address` for DNS over TLS, with a configuration from [`super::tls_config`].
    pub fn bind_tls(address: SocketAddr, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self { tls: Some(TlsAcceptor::from(config)), ..Self::bind(address)? })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `streams` shut down; connections run in `tasks`.
    pub async fn run<R: Respond, T: Transfer>(
        self,
        streams: Arc<Streams<R, T>>,
        tasks: TaskTracker,
    ) {
        for count in 1usize.. {
            let accepted = tokio::select! {
                () = streams.draining.cancelled() => return,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((tcp, client)) => self.admit(&streams, &tasks, tcp, canonical(client)),
                Err(error) if open_files::exhausted(&error) => {
                    warn!(%error, "cannot accept connections; raise the limit of open files");
                    sleep(EXHAUSTED_PAUSE).await;
                }
                // The peer was gone before we took the connection.
                Err(error) => debug!(%error, "accept failed"),
            }
            if count.is_multiple_of(ACCEPT_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn admit<R: Respond, T: Transfer>(
        &self,
        streams: &Arc<Streams<R, T>>,
        tasks: &TaskTracker,
        tcp: TcpStream,
        client: SocketAddr,
    ) {
        let Some(permit) = permit(streams, client) else { return };
        let streams = streams.clone();
        match self.tls.clone() {
            None => {
                streams.counters.connection(Carrier::Tcp);
                tasks.spawn(async move {
                    let mut tcp = tcp;
                    connection::serve(&streams, &mut tcp, client, Carrier::Tcp, &permit).await;
                });
            }
            Some(acceptor) => {
                streams.counters.connection(Carrier::Tls);
                tasks.spawn(
                    async move { serve_tls(&streams, acceptor, tcp, client, &permit).await },
                );
            }
        }
    }
}

/// A place for a connection of `client`, if there is one.
pub(super) fn permit<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    client: SocketAddr,
) -> Option<Permit> {
    match streams.limits.admit(client.ip()) {
        Ok((permit, _)) => Some(permit),
        Err(Full::Prefix) => {
            streams.counters.refused_prefix();
            None
        }
        Err(Full::Places) => {
            streams.counters.refused_full();
            None
        }
    }
}

async fn serve_tls<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    client: SocketAddr,
    permit: &Permit,
) {
    let accepted = tokio::select! {
        accepted = timeout(streams.settings.idle, acceptor.accept(tcp)) => accepted,
        () = permit.evicted() => return streams.counters.evicted(),
        () = streams.draining.cancelled() => return,
    };
    let Ok(Ok(tls)) = accepted else {
        return streams.counters.failed_handshake();
    };
    // On the heap: it is larger than all that a TCP connection needs.
    let mut tls = Box::new(tls);
    connection::serve(streams, &mut tls, client, Carrier::Tls, permit).await;
    let _ = timeout(GOODBYE, tls.shutdown()).await;
}
