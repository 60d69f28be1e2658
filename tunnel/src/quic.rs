//! The settings of the QUIC connection between a relay and an agent, with their reasons.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectError, Connecting, Connection, Endpoint, EndpointConfig, IdleTimeout,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use socket2::{Domain, Protocol, Socket, Type};

use crate::identity::{Identity, PublicKey};
use crate::pins;
use crate::restart_keys::RestartKeys;

pub use crate::pins::{Pin, Use};

/// Streams that an agent may have open at a relay at once. A stream slot costs the relay 50 to
/// 60 bytes for every allowed stream of every box, so it allows few.
pub const AGENT_STREAMS: u32 = 16;
/// Streams that a relay may have open at an agent at once: one a connection from a sender.
pub const RELAY_STREAMS: u32 = 1024;
/// How often an agent shows itself: a NAT that forgets a silent UDP binding after 30 s is met
/// with time for a lost packet, and a relay that was killed is noticed before the 20 s for which
/// a restarted relay holds a sender's ClientHello are over.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Silence after which either end takes the connection for dead: two lost keep-alives and more.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// Handshakes under way at once at a relay, before further ones have to wait.
pub const MAX_INCOMING: usize = 4096;
/// Handshakes under way at once before further ones must prove their address first
/// (RFC 9000 section 8.1.2).
pub const RETRY_ABOVE: usize = 256;

/// The server name that agents use; it means nothing, the pin does.
const SERVER_NAME: &str = "relay.sealpost.invalid";
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
const SEND_WINDOW: u64 = 1 << 20;
const SOCKET_BUFFER: usize = 4 << 20;
/// Makes the first retransmission come after 300 ms rather than 1 s (RFC 9002 section 6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// The one crypto provider: AES-128-GCM first, as it costs least and QUIC needs it anyway, and
/// X25519 alone, which keeps the first flight in one packet.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        })
    });
    PROVIDER.clone()
}

/// The relay's end: listens on `address` for whoever proves a key. TLS admits all, for any
/// [`Use`]: what a key may do is decided after the handshake, where it can be said why not.
pub fn relay_endpoint(
    address: SocketAddr,
    identity: &Identity,
    keys: &RestartKeys,
) -> io::Result<Endpoint> {
    let mut endpoint = EndpointConfig::new(Arc::new(keys.reset_key()));
    let id_key = keys.connection_id_key();
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    let socket = udp_socket(address)?;
    let server = relay_server_config(identity, keys);
    Endpoint::new(endpoint, Some(server), socket, Arc::new(TokioRuntime))
}

/// How a relay with `identity` takes connections: for [`Endpoint::set_server_config`] too, when
/// its key has changed. Connections that are open go on with the key that they began with.
pub fn relay_server_config(identity: &Identity, keys: &RestartKeys) -> ServerConfig {
    let tls = pins::server_config(identity).expect("the provider supports TLS 1.3");
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has AES-128-GCM");
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(keys.token_key()));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(AGENT_STREAMS));
    server.transport_config(Arc::new(transport)).migration(true).max_incoming(MAX_INCOMING);
    server
}

/// The agent's end: a socket that dials relays.
pub fn agent_endpoint(address: SocketAddr) -> io::Result<Endpoint> {
    let socket = udp_socket(address)?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// Dials the relay that `pin` means; the result is not trusted before the relay has said
/// something, as a TLS 1.3 client learns only then that it was admitted.
///
/// # Panics
/// For a tunnel to [`Pin::Any`]: mail is carried for a relay that is known, or not at all.
pub fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &Identity,
    pin: Pin,
    purpose: Use,
) -> Result<Connecting, ConnectError> {
    assert!((pin, purpose) != (Pin::Any, Use::Tunnel), "a tunnel is for a relay that is known");
    let tls = pins::client_config(identity, pin, purpose).expect("the provider supports TLS 1.3");
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has AES-128-GCM");
    let mut client = ClientConfig::new(Arc::new(crypto));
    let streams = match purpose {
        Use::Tunnel => RELAY_STREAMS,
        // There a relay only answers.
        Use::Registry => 0,
    };
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .keep_alive_interval(Some(KEEP_ALIVE));
    client.transport_config(Arc::new(transport));
    endpoint.connect_with(client, address, SERVER_NAME)
}

/// What the connection is for, as both ends named it in the handshake.
pub fn purpose(connection: &Connection) -> Option<Use> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Use::from_alpn(&data.protocol?)
}

/// The key that the peer proved in the handshake.
pub fn peer_key(connection: &Connection) -> Option<PublicKey> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    PublicKey::from_spki(chain.first()?).ok()
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // quinn's own default allows a peer to make us buffer without limit.
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        // 1200 bytes pass everywhere (RFC 9000 section 14); quinn then probes for more.
        .initial_mtu(1200)
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("40 s fits")));
    transport
}

/// A UDP socket with large buffers where the system grants them; one for IPv6 is for IPv6 alone,
/// so that `0.0.0.0` and `[::]` can stand side by side.
fn udp_socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
