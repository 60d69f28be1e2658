//! DNS over QUIC (RFC 9250): a stream for each query, and its answers back through it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::transfer;
use super::frame::{self, First, LONGEST};
use super::limits::Permit;
use super::messages::write;
use super::{Streams, tcp};
use crate::transport::{Carrier, Reply, Respond, Transfer, canonical};

/// DOQ_NO_ERROR (RFC 9250 section 4.3).
const NO_ERROR: VarInt = VarInt::from_u32(0);
/// DOQ_INTERNAL_ERROR.
const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
/// DOQ_PROTOCOL_ERROR.
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
/// DOQ_EXCESSIVE_LOAD.
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// Queries of one connection at one time.
const QUERIES: u32 = 32;
/// Octets that one connection may have on their way to us.
const CONNECTION_WINDOW: u32 = 4 * LONGEST as u32;
/// Octets that one connection may have on their way to the client.
const SEND_WINDOW: u64 = 512 * 1024;
/// Handshakes at one time; what comes beyond is not heard, and is sent again by its client.
const HANDSHAKES: usize = 1024;
/// Handshakes from which on a client must first show that it gets our packets, which costs us no
/// memory.
const RETRY_ABOVE: usize = 64;
/// Octets that the system is asked to hold.
const SYSTEM_BUFFER: usize = 1 << 20;
/// For what was sent to arrive, at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// One listening address.
pub struct QuicListener {
    endpoint: Endpoint,
}

impl QuicListener {
    /// Binds `address`, with a configuration from [`super::tls_config`]; one for IPv6 is for IPv6 alone.
    /// `idle` is how long a connection may be silent.
    pub fn bind(
        address: SocketAddr,
        config: Arc<rustls::ServerConfig>,
        idle: Duration,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // As much as the system grants.
        let _ = socket.set_recv_buffer_size(SYSTEM_BUFFER);
        let _ = socket.set_send_buffer_size(SYSTEM_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let crypto = QuicServerConfig::try_from(config).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(idle)?)).max_incoming(HANDSHAKES);
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(server), socket.into(), runtime)?;
        Ok(Self { endpoint })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Accepts until `streams` shut down; connections run in `tasks`. Returns when what was sent last
    /// has arrived, or a second later.
    pub async fn run<R: Respond, T: Transfer>(
        self,
        streams: Arc<Streams<R, T>>,
        tasks: TaskTracker,
    ) {
        let handshakes = TaskTracker::new();
        loop {
            let incoming = tokio::select! {
                () = streams.draining.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            if handshakes.len() > RETRY_ABOVE && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            if handshakes.len() >= HANDSHAKES {
                incoming.ignore();
                continue;
            }
            let client = canonical(incoming.remote_address());
            let Some(permit) = tcp::permit(&streams, client) else {
                incoming.refuse();
                continue;
            };
            let (streams, token) = (streams.clone(), handshakes.token());
            tasks.spawn(async move {
                let connection = greet(&streams, incoming, &permit).await;
                drop(token);
                if let Some(connection) = connection {
                    serve(streams, connection, client, Arc::new(permit)).await;
                }
            });
        }
        let _ = timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }
}

fn transport(idle: Duration) -> io::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(QUERIES))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // quinn's own defaults allow a peer to make us buffer much.
        .stream_receive_window(VarInt::from_u32(LONGEST as u32))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::try_from(idle).map_err(io::Error::other)?));
    Ok(transport)
}

async fn greet<R: Respond, T: Transfer>(
    streams: &Streams<R, T>,
    incoming: Incoming,
    permit: &Permit,
) -> Option<Connection> {
    streams.counters.connection(Carrier::Quic);
    let greeted = tokio::select! {
        greeted = timeout(streams.settings.idle, incoming) => greeted,
        () = permit.evicted() => {
            streams.counters.evicted();
            return None;
        }
    };
    match greeted {
        Ok(Ok(connection)) => Some(connection),
        failed => {
            streams.counters.failed_handshake();
            debug!(?failed, "handshake failed");
            None
        }
    }
}

/// Serves a connection to its end. What still runs when it is closed is dropped with it.
async fn serve<R: Respond, T: Transfer>(
    streams: Arc<Streams<R, T>>,
    connection: Connection,
    client: SocketAddr,
    permit: Arc<Permit>,
) {
    let mut queries = JoinSet::new();
    loop {
        tokio::select! {
            opened = connection.accept_bi() => {
                let Ok((send, receive)) = opened else { return };
                let (streams, connection, permit) = (streams.clone(), connection.clone(), permit.clone());
                queries.spawn(async move {
                    let query = Query { streams: &streams, client, permit: &permit };
                    if let Err(code) = query.serve(send, receive).await {
                        connection.close(code, b"");
                    }
                });
            }
            Some(_) = queries.join_next() => {}
            () = permit.evicted() => {
                streams.counters.evicted();
                return connection.close(EXCESSIVE_LOAD, b"");
            }
            () = streams.draining.cancelled() => break,
        }
    }
    while queries.join_next().await.is_some() {}
    connection.close(NO_ERROR, b"");
}

/// What a query's stream needs of its connection.
struct Query<'a, R: Respond, T> {
    streams: &'a Streams<R, T>,
    client: SocketAddr,
    permit: &'a Permit,
}

impl<R: Respond, T: Transfer> Query<'_, R, T> {
    /// Answers the query of one stream. An error is the code that ends the whole connection.
    async fn serve(&self, mut send: SendStream, mut receive: RecvStream) -> Result<(), VarInt> {
        let streams = self.streams;
        // To its end, as a client has to close its side after the query (section 4.2).
        let read = timeout(streams.settings.idle, receive.read_to_end(LONGEST)).await;
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(quinn::ReadToEndError::TooLong)) => return Err(self.malformed()),
            // Gave up, or is too slow. This stream is lost to it, the connection is not.
            Ok(Err(_)) | Err(_) => {
                let _ = send.reset(INTERNAL_ERROR);
                return Ok(());
            }
        };
        // One query, and nothing after it; its ID is 0 (section 4.2.1), as there is nothing to confuse.
        let query = match frame::first(&read) {
            First::Message(query @ [0, 0, ..], used) if used == read.len() => query,
            _ => return Err(self.malformed()),
        };
        let Some(_hold) = self.permit.hold() else {
            return Ok(());
        };
        let mut out = Vec::new();
        let reply = streams.answer(query, self.client, Carrier::Quic, |answer| {
            let _ = frame::push(&mut out, answer);
        });
        let sent = match reply {
            Reply::Send if !out.is_empty() => write(&mut send, &out, streams.settings.write).await,
            Reply::Send | Reply::Drop => Err(io::Error::other("there is no answer")),
            Reply::Transfer => {
                transfer(streams, &mut send, self.client, Carrier::Quic, query).await
            }
        };
        match sent {
            Ok(()) => _ = send.finish(),
            Err(error) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    streams.counters.unread();
                }
                // A client must not take a part for the whole.
                let _ = send.reset(INTERNAL_ERROR);
            }
        }
        Ok(())
    }

    fn malformed(&self) -> VarInt {
        self.streams.counters.malformed();
        PROTOCOL_ERROR
    }
}
