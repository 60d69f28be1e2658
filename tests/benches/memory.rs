//! What an idle box and an idle session cost the relay: memory of the real program with 1,000
//! boxes connected, then with 1,000 sessions open that say nothing.
//!
//! `cargo bench -p sealpost-tests --bench memory -- [COUNT]`; needs 4 open files a session.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quinn::Connection;
use sealpost_relay::registry::Database;
use sealpost_tests::programs;
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::quic::{Pin, Use};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Identity, PublicKey, quic};
use tokio::time::sleep;

const CLIENT_HELLO: &[u8] = include_bytes!("../hellos/openssl-3-sni.bin");
const SERVER_HELLO: &[u8] = &[22; 100];
/// For everything that is owed to finish before memory is read.
const SETTLE: Duration = Duration::from_secs(5);

fn main() {
    let count = std::env::args().filter_map(|a| a.parse().ok()).next_back().unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(count));
}

async fn measure(count: usize) {
    let boxes: Vec<Identity> = (0..count).map(|_| Identity::ephemeral()).collect();
    let relay = Relay::start(&boxes).await;
    sleep(SETTLE).await;
    let empty = relay.memory();
    println!("{count} boxes known, none connected: {} KB", empty / 1024);

    let began = Instant::now();
    let endpoint = quic::agent_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut connected = Vec::new();
    for identity in &boxes {
        let connecting =
            quic::dial(&endpoint, relay.tunnel, identity, Pin::Exactly(relay.key), Use::Tunnel)
                .unwrap();
        let connection = connecting.await.unwrap();
        let control = Control::open(&connection, &Hello::ours("bench")).await.unwrap();
        connected.push((connection, control));
    }
    println!("{count} boxes connected one after the other in {:.2?}", began.elapsed());
    sleep(SETTLE).await;
    let idle_boxes = relay.memory();
    report("idle box", empty, idle_boxes, count);

    let began = Instant::now();
    let home = connected[0].0.clone();
    let serving = tokio::spawn(serve(home, count));
    let smtp = relay.smtp;
    let open = move || (0..count).map(|_| open_session(smtp)).collect::<Vec<_>>();
    let senders = tokio::task::spawn_blocking(open).await.unwrap();
    let streams = serving.await.unwrap();
    println!("{count} sessions opened in {:.2?}", began.elapsed());
    sleep(SETTLE).await;
    report("idle session", idle_boxes, relay.memory(), count);
    drop((senders, streams, connected));
}

/// Answers each sender's ClientHello with a few bytes, then keeps silent.
async fn serve(home: Connection, count: usize) -> Vec<TunnelStream> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let (send, recv) = home.accept_bi().await.unwrap();
        let mut stream = TunnelStream::new(send, recv);
        stream.recv.read_chunk(usize::MAX, true).await.unwrap();
        stream.send.send(SERVER_HELLO.into()).await.unwrap();
        streams.push(stream);
    }
    streams
}

fn open_session(relay: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(relay).unwrap();
    let mut reply = [0; 512];
    for command in ["EHLO mail.sender.example\r\n", "STARTTLS\r\n"] {
        let _ = tcp.read(&mut reply).unwrap();
        tcp.write_all(command.as_bytes()).unwrap();
    }
    let _ = tcp.read(&mut reply).unwrap();
    tcp.write_all(CLIENT_HELLO).unwrap();
    tcp.read_exact(&mut reply[..SERVER_HELLO.len()]).unwrap();
    tcp
}

fn report(what: &str, before: u64, after: u64, count: usize) {
    let each = after.saturating_sub(before) as f64 / count as f64 / 1024.0;
    println!("{what}: {each:.1} KB ({} KB to {} KB)", before / 1024, after / 1024);
}

/// Brings `boxes` into the registry.
async fn register(state: &Path, boxes: &[Identity]) {
    let database = Database::open(None, state).await.unwrap();
    for (at, identity) in boxes.iter().enumerate() {
        let name = if at == 0 { "mx".into() } else { format!("mx{at}") };
        let hour = Duration::from_secs(3600);
        let secret = database.invite(&name.parse().unwrap(), 1, hour, 0).await.unwrap();
        database.join(&secret, identity.public(), None, 0).await.unwrap();
    }
}

struct Relay {
    child: Child,
    key: PublicKey,
    smtp: SocketAddr,
    tunnel: SocketAddr,
    _state: tempfile::TempDir,
}

impl Relay {
    async fn start(boxes: &[Identity]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let config = state.path().join("relay.toml");
        let mut text = format!(
            "hostname = \"relay.example.net\"\nstate = {:?}\nsmtp.listen = [\"127.0.0.1:0\"]\n\
             tunnel.listen = [\"127.0.0.1:0\"]\nadmin.listen = \"127.0.0.1:0\"\n\
             log = {{ format = \"json\", level = \"info\" }}\n\
             limits = {{ sessions = 100000, sessions_per_prefix = 100000, sessions_per_box = 1024 }}\n",
            state.path()
        );
        // The box called mx gets the name mx.home.example.
        text += "box_domain = \"home.example\"\n";
        register(state.path(), boxes).await;
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(programs::directory().unwrap().join("sealpost-relay"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut key, mut addresses) = (None, Vec::new());
        while addresses.len() < 3 {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the relay ended");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            match event["message"].as_str() {
                Some("relay") => key = event["key"].as_str().map(|key| key.parse().unwrap()),
                Some("listening") => {
                    addresses.push(event["address"].as_str().unwrap().parse().unwrap());
                }
                _ => {}
            }
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, key: key.unwrap(), smtp: addresses[0], tunnel: addresses[1], _state: state }
    }

    /// Bytes of the relay's own memory; what the kernel keeps for its sockets is not in it.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
