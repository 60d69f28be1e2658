//! A real agent on loopback between a relay that breaks the protocol and mail servers that are
//! not as they should be: nothing is delivered that must not be, and each case has its reason.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use sealpost_agent::agent::Agent;
use sealpost_agent::config::Config;
use sealpost_daemon::config::Source;
use sealpost_daemon::signals::Signals;
use sealpost_tunnel::control::{Hello, TRANSPARENT};
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{Carries, EhloName, Identity, ResetCode, SessionId, StreamHeader, quic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(15);

/// A relay of the test's own and the agent that dialled it.
struct Fixture {
    connection: Connection,
    _control: Control,
    _endpoint: Endpoint,
    admin: SocketAddr,
    _state: tempfile::TempDir,
}

impl Fixture {
    /// An agent whose service `smtp` is at `address`.
    async fn new(address: SocketAddr, proxy: &str) -> Self {
        Self::with(address, proxy, "sealed").await
    }

    /// One whose owner chose `own_address` for the relay.
    async fn with(address: SocketAddr, proxy: &str, own_address: &str) -> Self {
        let relay = Identity::ephemeral();
        let endpoint =
            quic::relay_endpoint("127.0.0.1:0".parse().unwrap(), &relay, &RestartKeys::ephemeral())
                .unwrap();
        let state = tempfile::tempdir().unwrap();
        let text = format!(
            "state = {:?}\nadmin.listen = \"127.0.0.1:0\"\n\
             [[relay]]\nname = \"r1\"\naddresses = [\"[::1]:9\", \"{}\"]\nkey = \"{}\"\n\
             own_address = \"{own_address}\"\n\
             [[service]]\nname = \"smtp\"\naddress = \"{address}\"\nproxy = \"{proxy}\"\n",
            state.path(),
            endpoint.local_addr().unwrap(),
            relay.public(),
        );
        let config = Config::from_source(&Source::from_text("agent.toml", &text)).unwrap();
        let agent = Agent::bind(config).await.unwrap();
        let (admin, key) = (agent.admin_addr().unwrap(), agent.key());
        tokio::spawn(async {
            agent.run(Signals::listen().unwrap(), Path::new("/nonexistent")).await
        });
        let incoming = timeout(PATIENCE, endpoint.accept()).await.unwrap().unwrap();
        let connection = incoming.await.unwrap();
        assert_eq!(quic::peer_key(&connection), Some(key));
        let control = Control::accept(&connection, &Hello::ours("test")).await.unwrap();
        let transparent = control.peer.capabilities & TRANSPARENT != 0;
        assert_eq!(transparent, own_address == "transparent", "the relay is told");
        Self { connection, _control: control, _endpoint: endpoint, admin, _state: state }
    }

    async fn stream(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }

    /// Why the agent ends a stream that begins with `bytes`.
    async fn refusal_of(&self, bytes: &[u8]) -> ResetCode {
        let (_send, mut recv) = self.stream(bytes).await;
        match timeout(PATIENCE, recv.read_to_end(1000)).await.unwrap() {
            Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code.into(),
            other => panic!("{other:?}"),
        }
    }

    async fn http(&self, path: &str) -> String {
        let mut http = TcpStream::connect(self.admin).await.unwrap();
        http.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        http.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn expect_counter(&self, outcome: &str, wanted: u32) {
        let line = format!("sealpost_agent_sessions_total{{outcome=\"{outcome}\"}} {wanted}\n");
        self.expect("/metrics", &line).await;
    }

    async fn expect(&self, path: &str, word: &str) {
        let reached = async {
            while !self.http(path).await.contains(word) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{path} never says {word}"));
    }
}

fn header(service: &str) -> Vec<u8> {
    header_from(service, "192.0.2.1:4000")
}

fn header_from(service: &str, client: &str) -> Vec<u8> {
    let ehlo = EhloName::cleaned(b"mail.sender.example");
    encoded(service, client, Carries::FromTls { sni: None, ehlo })
}

/// Of a connection that is carried from its first byte.
fn first_byte_header(client: &str) -> Vec<u8> {
    encoded("smtp", client, Carries::FromFirstByte)
}

fn encoded(service: &str, client: &str, carries: Carries) -> Vec<u8> {
    StreamHeader {
        service: service.parse().unwrap(),
        client: client.parse().unwrap(),
        local: "198.51.100.1:25".parse().unwrap(),
        session: SessionId::random(),
        carries,
    }
    .encode()
}

/// Nothing listens there.
const DOWN: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9));

/// A mail server that says `replies` in turn, one before each command, then keeps silent.
async fn mail_server(replies: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut command = [0; 1024];
                for reply in replies {
                    tcp.write_all(reply.as_bytes()).await?;
                    if tcp.read(&mut command).await? == 0 {
                        return Ok(());
                    }
                }
                tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await.map(|_| ())
            });
        }
    });
    address
}

/// A mail server with TLS that answers every RCPT with `recipient`.
async fn tls_mail_server(recipient: &'static str) -> SocketAddr {
    let key = rcgen::generate_simple_self_signed(vec!["mx.home.example".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut command = vec![0; 1024];
                for reply in ["220 h\r\n", "250-h\r\n250 STARTTLS\r\n"] {
                    tcp.write_all(reply.as_bytes()).await?;
                    let _ = tcp.read(&mut command).await?;
                }
                tcp.write_all(b"220 go\r\n").await?;
                let mut tls = acceptor.accept(tcp).await?;
                loop {
                    let read = tls.read(&mut command).await?;
                    let reply = match &command[..read] {
                        [] => return std::io::Result::Ok(()),
                        said if said.starts_with(b"RCPT") => recipient,
                        _ => "250 2.0.0 Ok",
                    };
                    tls.write_all(format!("{reply}\r\n").as_bytes()).await?;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn bad_headers_are_reset_and_counted() {
    let agent = Fixture::new(DOWN, "none").await;
    let mut trailing = header("smtp");
    trailing.push(0);
    let length = u16::try_from(trailing.len() - 3).unwrap();
    trailing[1..3].copy_from_slice(&length.to_be_bytes());
    let version = [&[9][..], &header("smtp")[1..]].concat();
    for bad in [&trailing[..], &version, &[1, 255, 255], b"EHLO relay\r\n"] {
        assert_eq!(agent.refusal_of(bad).await, ResetCode::HeaderBad);
    }
    agent.expect_counter("header-bad", 4).await;
    assert!(agent.connection.close_reason().is_none(), "one bad stream costs no other");
}

#[tokio::test]
async fn a_stream_for_something_that_the_owner_did_not_name_goes_nowhere() {
    let agent = Fixture::new(DOWN, "none").await;
    for service in ["ssh", "http", "smtp2"] {
        assert_eq!(agent.refusal_of(&header(service)).await, ResetCode::ServiceUnknown);
    }
    agent.expect_counter("service-unknown", 3).await;
}

#[tokio::test]
async fn a_sender_that_the_mail_server_would_trust_is_not_believed() {
    let agent = Fixture::new(tls_mail_server("554 5.7.1 no").await, "v2").await;
    for client in ["127.0.0.1:25", "[::1]:25", "[::ffff:127.0.0.1]:25", "192.168.1.2:25"] {
        let refusal = agent.refusal_of(&header_from("smtp", client)).await;
        assert_eq!(refusal, ResetCode::ClientImplausible, "{client}");
    }
    agent.expect_counter("client-implausible", 4).await;
}

#[tokio::test]
async fn a_mail_server_that_is_down() {
    let agent = Fixture::new(DOWN, "v2").await;
    assert_eq!(agent.refusal_of(&header("smtp")).await, ResetCode::HomeUnreachable);
    agent.expect_counter("home-unreachable", 1).await;
    agent.expect("/status", "is the mail server running?").await;
}

#[tokio::test]
async fn a_mail_server_that_refuses_or_offers_no_tls() {
    for (replies, proxy, code) in [
        (&["421 full\r\n"][..], "none", ResetCode::HomeRefused),
        (&["220 h\r\n", "250 h\r\n"], "none", ResetCode::HomeNoStarttls),
        (&["220 h\r\n", "250-h\r\n250 STARTTLS\r\n", "454 no\r\n"], "none", ResetCode::HomeRefused),
        (&["HTTP/1.1 400 Bad Request\r\n"], "v1", ResetCode::HomeRefused),
    ] {
        let agent = Fixture::new(mail_server(replies).await, proxy).await;
        assert_eq!(agent.refusal_of(&header("smtp")).await, code, "{replies:?}");
        agent.expect_counter(code.label(), 1).await;
        agent.expect("/status", "unproven").await;
    }
}

#[tokio::test]
async fn bytes_between_220_and_tls_are_an_attack() {
    let replies: &[&str] =
        &["220 h\r\n", "250-h\r\n250 STARTTLS\r\n", "220 go\r\n250 2.0.0 injected\r\n"];
    let agent = Fixture::new(mail_server(replies).await, "none").await;
    assert_eq!(agent.refusal_of(&header("smtp")).await, ResetCode::HomeInjection);
    agent.expect_counter("home-injection", 1).await;
}

#[tokio::test]
async fn an_open_relay_gets_no_mail() {
    for recipient in ["250 2.1.5 Ok", "251 2.1.5 Will forward"] {
        let agent = Fixture::new(tls_mail_server(recipient).await, "none").await;
        agent.expect("/status", "\"failed\"").await;
        assert_eq!(agent.refusal_of(&header("smtp")).await, ResetCode::ServiceWithheld);
        agent.expect_counter("service-withheld", 1).await;
        assert!(agent.http("/readyz").await.starts_with("HTTP/1.0 503"));
    }
}

#[tokio::test]
async fn a_mail_server_that_refuses_strangers_gets_mail() {
    for recipient in ["554 5.7.1 Relay access denied", "454 4.7.1 Relay access denied"] {
        let agent = Fixture::new(tls_mail_server(recipient).await, "none").await;
        agent.expect("/status", "\"passed\"").await;
        assert!(agent.http("/readyz").await.starts_with("HTTP/1.0 200"));
        let bytes = [&header("smtp")[..], b"no ClientHello"].concat();
        let (_send, mut recv) = agent.stream(&bytes).await;
        // The server's TLS answers with an alert: the bytes were delivered.
        let answer = timeout(PATIENCE, recv.read_chunk(10, true)).await.unwrap().unwrap();
        assert_eq!(answer.unwrap().bytes[0], 21);
    }
}

#[tokio::test]
async fn a_relay_cannot_choose_to_carry_more_than_what_is_sealed() {
    let agent = Fixture::new(tls_mail_server("554 5.7.1 no").await, "none").await;
    agent.expect("/status", "\"passed\"").await;
    let whole = [first_byte_header("192.0.2.1:4000"), b"EHLO relay\r\n".to_vec()].concat();
    assert_eq!(agent.refusal_of(&whole).await, ResetCode::SealedOnly);
    agent.expect_counter("sealed-only", 1).await;
    assert!(agent.connection.close_reason().is_none(), "one such stream costs no other");
}

#[tokio::test]
async fn where_the_owner_wants_it_the_mail_server_speaks_from_the_first_byte() {
    let home = tls_mail_server("554 5.7.1 no").await;
    let agent = Fixture::with(home, "none", "transparent").await;
    agent.expect("/status", "\"passed\"").await;
    let (mut send, mut recv) = agent.stream(&first_byte_header("192.0.2.1:4000")).await;
    // Nothing was said to it for the sender, who is still silent.
    let mut said = [0; 7];
    timeout(PATIENCE, recv.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"220 h\r\n");
    send.write_all(b"EHLO a\r\n").await.unwrap();
    let mut said = [0; 21];
    timeout(PATIENCE, recv.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"250-h\r\n250 STARTTLS\r\n");
    // What is sealed comes home as ever, and what was never believed is not now.
    let sealed = [&header("smtp")[..], b"no ClientHello"].concat();
    let (_send, mut recv) = agent.stream(&sealed).await;
    let answer = timeout(PATIENCE, recv.read_chunk(10, true)).await.unwrap().unwrap();
    assert_eq!(answer.unwrap().bytes[0], 21);
    let refusal = agent.refusal_of(&first_byte_header("127.0.0.1:25")).await;
    assert_eq!(refusal, ResetCode::ClientImplausible);
}

#[tokio::test]
async fn an_open_relay_gets_no_mail_from_the_first_byte_either() {
    let home = tls_mail_server("250 2.1.5 Ok").await;
    let agent = Fixture::with(home, "none", "transparent").await;
    agent.expect("/status", "\"failed\"").await;
    let refusal = agent.refusal_of(&first_byte_header("192.0.2.1:4000")).await;
    assert_eq!(refusal, ResetCode::ServiceWithheld);
}
