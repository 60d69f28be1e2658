//! A real relay on loopback, met by boxes that break the protocol and by senders that are too
//! many: each gets its answer and its counter.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use sealpost_daemon::config::Source;
use sealpost_daemon::signals::Signals;
use sealpost_relay::config::Config;
use sealpost_relay::registry::Database;
use sealpost_relay::relay::Relay;
use sealpost_tunnel::control::{Hello, Message, TRANSPARENT};
use sealpost_tunnel::greeting::{Control, Event};
use sealpost_tunnel::pins::{Pin, Use};
use sealpost_tunnel::{Carries, Identity, PublicKey, ResetCode, StreamHeader, quic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(10);
const HELLO: &[u8] = include_bytes!("../../tests/hellos/openssl-3-sni.bin");

/// A running relay that knows one box, called `mx`, with the name mx.home.example.
struct Fixture {
    key: PublicKey,
    home: Identity,
    smtp: SocketAddr,
    tunnel: SocketAddr,
    admin: SocketAddr,
    state: tempfile::TempDir,
}

impl Fixture {
    async fn new(limits: &str, addresses: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let home = Identity::ephemeral();
        let text = format!(
            "hostname = \"relay.example\"\nstate = {:?}\nsmtp.listen = [\"127.0.0.1:0\"]\n\
             tunnel.listen = [\"127.0.0.1:0\"]\nadmin.listen = \"127.0.0.1:0\"\n\
             box_domain = \"home.example\"\nlimits = {{ {limits} }}\n",
            state.path(),
        );
        register(state.path(), home.public(), addresses).await;
        let config = Config::from_source(&Source::from_text("relay.toml", &text));
        let relay = Relay::bind(config.unwrap()).await.unwrap();
        let fixture = Self {
            key: relay.key(),
            home,
            smtp: relay.smtp_addrs().unwrap()[0],
            tunnel: relay.tunnel_addrs().unwrap()[0],
            admin: relay.admin_addr().unwrap(),
            state,
        };
        tokio::spawn(async {
            relay.run(Signals::listen().unwrap(), Path::new("/nonexistent")).await
        });
        fixture
    }

    async fn dial(&self, identity: &Identity) -> Result<Connection, quinn::ConnectionError> {
        let endpoint = quic::agent_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
        quic::dial(&endpoint, self.tunnel, identity, Pin::Exactly(self.key), Use::Tunnel)
            .unwrap()
            .await
    }

    /// A box that said hello and is known to be connected.
    async fn connected(&self) -> (Connection, Control) {
        self.connected_with(0).await
    }

    /// The same with what its owner chose.
    async fn connected_with(&self, capabilities: u64) -> (Connection, Control) {
        let before = self.counter("sealpost_relay_tunnels_total", "connected").await;
        let connection = self.dial(&self.home).await.unwrap();
        let hello = Hello { capabilities, ..Hello::ours("test") };
        let control = Control::open(&connection, &hello).await.unwrap();
        self.expect("sealpost_relay_tunnels_total", "connected", before + 1).await;
        (connection, control)
    }

    async fn metrics(&self) -> String {
        let mut http = TcpStream::connect(self.admin).await.unwrap();
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        http.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn counter(&self, name: &str, outcome: &str) -> u64 {
        let text = self.metrics().await;
        let start = format!("{name}{{outcome=\"{outcome}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
        line.expect("every outcome is counted from the start").parse().unwrap()
    }

    async fn expect(&self, name: &str, outcome: &str, wanted: u64) {
        let reached = async {
            while self.counter(name, outcome).await != wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{outcome} is not {wanted}"));
    }

    async fn expect_session(&self, outcome: &str) {
        self.expect("sealpost_relay_sessions_total", outcome, 1).await;
    }

    /// A sender that has sent its ClientHello.
    async fn sender(&self) -> TcpStream {
        let mut tcp = TcpStream::connect(self.smtp).await.unwrap();
        line(&mut tcp, "220 ").await;
        tcp.write_all(b"EHLO mail.sender.example\r\n").await.unwrap();
        line(&mut tcp, "250 STARTTLS").await;
        tcp.write_all(b"STARTTLS\r\n").await.unwrap();
        line(&mut tcp, "220 ").await;
        tcp.write_all(HELLO).await.unwrap();
        tcp
    }
}

/// Brings the box into the registry as an operator and a box would.
async fn register(state: &Path, key: PublicKey, addresses: &[&str]) {
    let database = Database::open(None, state).await.unwrap();
    let name = "mx".parse().unwrap();
    let now = sealpost_relay::registrar::now();
    let secret = database.invite(&name, 1, Duration::from_secs(60), now).await.unwrap();
    database.join(&secret, key, None, now).await.unwrap();
    for address in addresses {
        database.assign(&name, address.parse().unwrap()).await.unwrap();
    }
}

/// Reads lines up to one that begins with `start`.
async fn line(tcp: &mut TcpStream, start: &str) {
    let mut text = Vec::new();
    while !text.split(|&b| b == b'\n').any(|line| line.starts_with(start.as_bytes()))
        || !text.ends_with(b"\n")
    {
        assert!(timeout(PATIENCE, tcp.read_buf(&mut text)).await.unwrap().unwrap() > 0, "{text:?}");
    }
}

async fn rest(tcp: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    timeout(PATIENCE, tcp.read_to_end(&mut all)).await.unwrap().unwrap();
    all
}

fn closed_for(reason: quinn::ConnectionError) -> ResetCode {
    match reason {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_box_of_an_unknown_version_is_told_so() {
    let relay = Fixture::new("", &[]).await;
    let connection = relay.dial(&relay.home).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let future = Hello { min_version: 200, max_version: 201, ..Hello::ours("from the future") };
    send.write_all(&Message::Hello(future).encode()).await.unwrap();
    let reason = timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(reason.to_string().contains("update the older one"), "{reason}");
    assert_eq!(closed_for(reason), ResetCode::Version);
    relay.expect("sealpost_relay_tunnels_total", "version", 1).await;
}

#[tokio::test]
async fn a_box_that_greets_with_nonsense_is_cut() {
    let relay = Fixture::new("", &[]).await;
    for noise in [&[1, 255, 255][..], &[2, 0, 0], &[1, 0, 1, 1]] {
        let connection = relay.dial(&relay.home).await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(noise).await.unwrap();
        let reason = timeout(PATIENCE, connection.closed()).await.unwrap();
        assert_eq!(closed_for(reason), ResetCode::Protocol);
    }
    relay.expect("sealpost_relay_tunnels_total", "greeting-failed", 3).await;
}

#[tokio::test]
async fn streams_that_carry_no_request_are_reset_and_cost_nothing() {
    let relay = Fixture::new("", &[]).await;
    let (home, _control) = relay.connected().await;
    for at in 0..100 {
        let (mut send, mut recv) =
            timeout(PATIENCE, home.open_bi()).await.expect("places come back").unwrap();
        // Nonsense, and more of it than a request may have.
        let _ = send.write_all(&vec![b'{'; if at % 2 == 0 { 100 } else { 100_000 }]).await;
        let _ = send.finish();
        let ended = timeout(PATIENCE, recv.read_to_end(10)).await.unwrap().unwrap_err();
        let reason = quinn::ReadError::Reset(ResetCode::Protocol.into());
        assert_eq!(ended, quinn::ReadToEndError::Read(reason));
    }
}

#[tokio::test]
async fn a_box_that_is_not_known_is_told_so_before_any_hello() {
    let relay = Fixture::new("", &[]).await;
    let connection = relay.dial(&Identity::ephemeral()).await.unwrap();
    assert!(Control::open(&connection, &Hello::ours("test")).await.is_err());
    let reason = timeout(PATIENCE, connection.closed()).await.unwrap();
    assert_eq!(closed_for(reason), ResetCode::UnknownBox);
    relay.expect("sealpost_relay_tunnels_total", "refused", 1).await;
}

#[tokio::test]
async fn a_revoked_box_is_cut_and_not_admitted_again() {
    let relay = Fixture::new("", &[]).await;
    let (home, _control) = relay.connected().await;
    // As a command of the operator does it: by another connection to the registry.
    let operator = Database::open(None, relay.state.path()).await.unwrap();
    operator.revoke(&"mx".parse().unwrap(), 1_000_000).await.unwrap();
    let reason = timeout(Duration::from_secs(5), home.closed()).await.unwrap();
    assert_eq!(closed_for(reason), ResetCode::Revoked);
    let again = relay.dial(&relay.home).await.unwrap();
    assert_eq!(closed_for(again.closed().await), ResetCode::Revoked);
}

#[tokio::test]
async fn a_box_hears_that_the_registry_changed() {
    let relay = Fixture::new("", &[]).await;
    let (_home, mut control) = relay.connected().await;
    let operator = Database::open(None, relay.state.path()).await.unwrap();
    operator.assign(&"mx".parse().unwrap(), "192.0.2.7".parse().unwrap()).await.unwrap();
    let event = timeout(Duration::from_secs(2), control.next_event()).await.unwrap().unwrap();
    assert_eq!(event, Event::News);
}

#[tokio::test]
async fn a_hoard_of_tunnels_of_one_box_is_bounded() {
    let relay = Fixture::new("", &[]).await;
    let mut tunnels = Vec::new();
    for _ in 0..5 {
        tunnels.push(relay.connected().await);
    }
    let oldest = timeout(PATIENCE, tunnels[0].0.closed()).await.unwrap();
    assert_eq!(closed_for(oldest), ResetCode::Replaced);
    assert!(tunnels[1..].iter().all(|(tunnel, _)| tunnel.close_reason().is_none()));
}

#[tokio::test]
async fn a_box_that_answers_keeps_its_older_tunnel() {
    let relay = Fixture::new("", &[]).await;
    let (old, _control) = relay.connected().await;
    let (_second, _second_control) = relay.connected().await;
    let closed = timeout(Duration::from_secs(5), old.closed()).await;
    assert!(closed.is_err(), "{closed:?}");
}

#[tokio::test]
async fn senders_of_a_box_that_was_killed_do_not_wait_for_the_idle_timeout() {
    let relay = Arc::new(Fixture::new("", &[]).await);
    // A runtime of its own stands for the process of the box.
    let process = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let connecting = relay.clone();
    let (old, _control) = process.spawn(async move { connecting.connected().await }).await.unwrap();
    let mut sender = relay.sender().await;
    let (mut send, _recv) = timeout(PATIENCE, old.accept_bi()).await.unwrap().unwrap();
    send.write_all(b"server hello").await.unwrap();
    sender.read_exact(&mut [0; 12]).await.unwrap();
    process.shutdown_background();
    let (_anew, _anew_control) = relay.connected().await;
    let error = timeout(PATIENCE, sender.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    relay.expect_session("tunnel-lost").await;
}

#[tokio::test]
async fn the_header_tells_the_box_who_is_there_and_the_hello_follows() {
    let relay = Fixture::new("", &[]).await;
    let (home, _control) = relay.connected().await;
    let mut sender = relay.sender().await;
    let (mut send, mut recv) = timeout(PATIENCE, home.accept_bi()).await.unwrap().unwrap();
    let mut wire = Vec::new();
    let (header, taken) = loop {
        match StreamHeader::decode(&wire).unwrap() {
            Some(found) if wire.len() >= found.1 + HELLO.len() => break found,
            _ => {}
        }
        wire.extend_from_slice(&recv.read_chunk(9000, true).await.unwrap().unwrap().bytes);
    };
    assert_eq!(&wire[taken..], HELLO);
    assert_eq!(header.client, sender.local_addr().unwrap());
    assert_eq!(header.local, relay.smtp);
    let Carries::FromTls { sni, ehlo } = header.carries else { panic!("{header:?}") };
    assert_eq!(sni.unwrap().as_str(), "mx.home.example");
    assert_eq!(ehlo.as_str(), "mail.sender.example");
    send.write_all(b"server hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(rest(&mut sender).await, b"server hello");
    drop(sender);
    relay.expect_session("carried").await;
}

#[tokio::test]
async fn a_hello_is_offered_again_when_the_tunnel_is_lost_before_an_answer() {
    let relay = Fixture::new("", &[]).await;
    let (first, _control) = relay.connected().await;
    let mut sender = relay.sender().await;
    let (_send, _recv) = timeout(PATIENCE, first.accept_bi()).await.unwrap().unwrap();
    first.close(0u32.into(), b"power cut");
    let (second, _control) = relay.connected().await;
    let (mut send, mut recv) = timeout(PATIENCE, second.accept_bi()).await.unwrap().unwrap();
    let chunk = recv.read_chunk(9000, true).await.unwrap().unwrap().bytes;
    assert!(chunk.ends_with(HELLO));
    send.write_all(b"server hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(rest(&mut sender).await, b"server hello");
}

#[tokio::test]
async fn a_hello_is_offered_again_when_the_box_dials_anew() {
    // The box lost its network: the old tunnel looks alive, and nothing comes through it.
    let relay = Fixture::new("", &[]).await;
    let (silent, _control) = relay.connected().await;
    let mut sender = relay.sender().await;
    let (_send, mut old) = timeout(PATIENCE, silent.accept_bi()).await.unwrap().unwrap();
    let (second, _control) = relay.connected().await;
    let (mut send, _recv) = timeout(PATIENCE, second.accept_bi()).await.unwrap().unwrap();
    send.write_all(b"server hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(rest(&mut sender).await, b"server hello");
    let old = timeout(PATIENCE, old.read_to_end(9000)).await.unwrap();
    assert!(old.is_err(), "the first offer must not look complete");
}

#[tokio::test]
async fn a_silent_home_is_given_up_with_an_alert() {
    let relay = Fixture::new("home = \"200ms\"", &[]).await;
    let (home, _control) = relay.connected().await;
    let mut sender = relay.sender().await;
    let (_send, mut recv) = timeout(PATIENCE, home.accept_bi()).await.unwrap().unwrap();
    assert_eq!(rest(&mut sender).await, [21, 3, 3, 0, 2, 2, 80]);
    drop(sender);
    relay.expect_session("home-timeout").await;
    let ended = timeout(PATIENCE, recv.read_to_end(9000)).await.unwrap().unwrap_err();
    let reason = quinn::ReadError::Reset(ResetCode::HomeTimeout.into());
    assert_eq!(ended, quinn::ReadToEndError::Read(reason));
}

#[tokio::test]
async fn refusals_of_the_agent_are_named() {
    let relay = Fixture::new("", &[]).await;
    let (home, _control) = relay.connected().await;
    for (code, outcome) in [
        (ResetCode::HomeInjection, "home-injection"),
        (ResetCode::HomeNoStarttls, "home-no-starttls"),
        (ResetCode::ServiceUnknown, "service-unknown"),
        (ResetCode::Other(4711), "agent-refused"),
    ] {
        let mut sender = relay.sender().await;
        let (mut send, mut recv) = timeout(PATIENCE, home.accept_bi()).await.unwrap().unwrap();
        send.reset(code.into()).unwrap();
        recv.stop(code.into()).unwrap();
        assert_eq!(rest(&mut sender).await, [21, 3, 3, 0, 2, 2, 80]);
        drop(sender);
        relay.expect_session(outcome).await;
    }
}

#[tokio::test]
async fn too_many_senders_are_told_to_come_later_and_places_come_back() {
    let relay = Fixture::new("sessions_per_prefix = 2", &[]).await;
    let first = TcpStream::connect(relay.smtp).await.unwrap();
    let mut second = TcpStream::connect(relay.smtp).await.unwrap();
    line(&mut second, "220 ").await;
    let mut third = TcpStream::connect(relay.smtp).await.unwrap();
    assert_eq!(rest(&mut third).await, b"421 4.3.2 Too busy, try again later\r\n");
    relay.expect_session("busy-prefix").await;
    drop(first);
    relay.expect_session("disconnected").await;
    let mut fourth = TcpStream::connect(relay.smtp).await.unwrap();
    line(&mut fourth, "220 ").await;
}

#[tokio::test]
async fn a_full_relay_says_421_at_once() {
    let relay = Fixture::new("sessions = 1", &[]).await;
    let mut first = TcpStream::connect(relay.smtp).await.unwrap();
    line(&mut first, "220 ").await;
    let mut second = TcpStream::connect(relay.smtp).await.unwrap();
    assert!(rest(&mut second).await.starts_with(b"421 4.3.2 "));
    relay.expect_session("busy").await;
}

#[tokio::test]
async fn a_full_box_is_refused_by_banner_where_the_address_names_it() {
    let relay = Fixture::new("sessions_per_box = 1", &["127.0.0.1"]).await;
    let (_home, _control) = relay.connected().await;
    let _first = relay.sender().await;
    // The first holds its place once it was routed.
    let refused = async {
        loop {
            let mut next = TcpStream::connect(relay.smtp).await.unwrap();
            let mut start = [0; 4];
            next.read_exact(&mut start).await.unwrap();
            if &start == b"421 " {
                return;
            }
            drop(next);
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    relay.expect_session("busy-box").await;
}

#[tokio::test]
async fn a_full_box_is_refused_by_alert_where_only_sni_names_it() {
    let relay = Fixture::new("sessions_per_box = 1", &[]).await;
    let (home, _control) = relay.connected().await;
    let _first = relay.sender().await;
    let _offered = timeout(PATIENCE, home.accept_bi()).await.unwrap().unwrap();
    let mut second = relay.sender().await;
    assert_eq!(rest(&mut second).await, [21, 3, 3, 0, 2, 2, 80]);
    drop(second);
    relay.expect_session("busy-box").await;
}

/// The next stream in the tunnel of a box, which demands that it carries a connection from its first
/// byte and that nothing stands behind its header yet.
async fn whole_stream(home: &Connection) -> (SendStream, RecvStream) {
    let (send, mut recv) = timeout(PATIENCE, home.accept_bi()).await.unwrap().unwrap();
    let mut wire = Vec::new();
    let header = loop {
        wire.extend_from_slice(&recv.read_chunk(9000, true).await.unwrap().unwrap().bytes);
        if let Some((header, taken)) = StreamHeader::decode(&wire).unwrap() {
            assert_eq!(taken, wire.len());
            break header;
        }
    };
    assert_eq!(header.carries, Carries::FromFirstByte);
    (send, recv)
}

#[tokio::test]
async fn a_box_that_wants_it_has_its_own_address_carried_from_the_first_byte() {
    let relay = Fixture::new("", &["127.0.0.1"]).await;
    let (home, _control) = relay.connected_with(TRANSPARENT).await;
    let mut sender = TcpStream::connect(relay.smtp).await.unwrap();
    // A sender that talks before it was greeted is heard at home, not here.
    sender.write_all(b"EHLO too early\r\n").await.unwrap();
    let (mut send, mut recv) = whole_stream(&home).await;
    send.write_all(b"554 not you\r\n").await.unwrap();
    let heard = timeout(PATIENCE, recv.read_chunk(9000, true)).await.unwrap().unwrap().unwrap();
    assert_eq!(heard.bytes, b"EHLO too early\r\n"[..]);
    send.finish().unwrap();
    assert_eq!(rest(&mut sender).await, b"554 not you\r\n");
    drop(sender);
    relay.expect_session("carried").await;
    assert!(relay.metrics().await.contains("\nsealpost_relay_transparent_sessions_total 1\n"));
}

#[tokio::test]
async fn only_its_own_address_and_only_while_it_says_so() {
    let shared = Fixture::new("", &[]).await;
    let (_home, _control) = shared.connected_with(TRANSPARENT).await;
    drop(shared.sender().await);
    let own = Fixture::new("", &["127.0.0.1"]).await;
    let mut away = TcpStream::connect(own.smtp).await.unwrap();
    line(&mut away, "220 relay.example ").await;
    let (_old, _old_control) = own.connected_with(TRANSPARENT).await;
    // The newest tunnel has the owner's last word.
    let (_new, _new_control) = own.connected().await;
    let mut sender = TcpStream::connect(own.smtp).await.unwrap();
    line(&mut sender, "220 relay.example ").await;
    sender.write_all(b"MAIL FROM:<a@sender.example>\r\n").await.unwrap();
    line(&mut sender, "451 4.7.0 ").await;
}

#[tokio::test]
async fn a_lost_tunnel_before_the_greeting_costs_a_sender_nothing() {
    let relay = Fixture::new("", &["127.0.0.1"]).await;
    let (first, _control) = relay.connected_with(TRANSPARENT).await;
    let mut sender = TcpStream::connect(relay.smtp).await.unwrap();
    let _silent = whole_stream(&first).await;
    let (second, _control) = relay.connected_with(TRANSPARENT).await;
    let (mut send, _recv) = whole_stream(&second).await;
    send.write_all(b"220 home\r\n").await.unwrap();
    line(&mut sender, "220 home").await;
    // Where no tunnel is left, the session is a sealed one, which can wait for the box.
    let mut sender = TcpStream::connect(relay.smtp).await.unwrap();
    let _silent = whole_stream(&second).await;
    first.close(0u32.into(), b"power cut");
    second.close(0u32.into(), b"power cut");
    line(&mut sender, "220 relay.example ").await;
}

#[tokio::test]
async fn what_keeps_home_from_greeting_is_a_421_greeting() {
    let not_ready = "421 4.3.2 The mail server is not ready, try again later\r\n";
    let busy = "421 4.3.2 Too busy, try again later\r\n";
    for (code, limits, outcome, reply) in [
        (Some(ResetCode::SealedOnly), "", "agent-refused", not_ready),
        (Some(ResetCode::HomeUnreachable), "", "home-unreachable", not_ready),
        (Some(ResetCode::AgentBusy), "", "busy-box", busy),
        (None, "home = \"200ms\"", "home-timeout", not_ready),
    ] {
        let relay = Fixture::new(limits, &["127.0.0.1"]).await;
        let (home, _control) = relay.connected_with(TRANSPARENT).await;
        let mut sender = TcpStream::connect(relay.smtp).await.unwrap();
        let (mut send, mut recv) = whole_stream(&home).await;
        if let Some(code) = code {
            send.reset(code.into()).unwrap();
            recv.stop(code.into()).unwrap();
        }
        assert_eq!(String::from_utf8(rest(&mut sender).await).unwrap(), reply);
        drop(sender);
        relay.expect_session(outcome).await;
    }
}

#[tokio::test]
async fn sessions_from_the_first_byte_have_the_places_of_their_box() {
    let relay = Fixture::new("sessions_per_box = 1", &["127.0.0.1"]).await;
    let (home, _control) = relay.connected_with(TRANSPARENT).await;
    let first = TcpStream::connect(relay.smtp).await.unwrap();
    let _held = whole_stream(&home).await;
    let mut second = TcpStream::connect(relay.smtp).await.unwrap();
    assert_eq!(rest(&mut second).await, b"421 4.3.2 Too busy, try again later\r\n");
    relay.expect_session("busy-box").await;
    drop(first);
    relay.expect_session("disconnected").await;
    let _third = TcpStream::connect(relay.smtp).await.unwrap();
    let _held = whole_stream(&home).await;
}
