//! What the senders of other boxes notice when one box is flooded: time from their connect to the
//! first byte from the mail server at home, in turn without and with hundreds of connections a
//! second to the flooded box: to its own address, and by its name to an address that all share.
//!
//! The relay is the real program on loopback, whose 65,536 networks 127.x.y.0/24 stand for those of
//! the world. Boxes and mail servers at home are played here: they answer at once, so that what is
//! measured is the relay.
//!
//! `cargo bench -p sealpost-tests --bench fairness -- [CONNECTIONS-A-SECOND] [ROUNDS]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use quinn::Connection;
use sealpost_relay::registry::Database;
use sealpost_tests::certificate::Certificate;
use sealpost_tests::programs;
use sealpost_tests::smtp::up_to_tls;
use sealpost_tests::tls_client::TlsClient;
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::quic::{Pin, Use};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Identity, PublicKey, quic};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// The flooded box is the first.
const BOXES: usize = 11;
/// The flooded box's own address.
const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The address that all share.
const SHARED: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// How long one round lasts.
const ROUND: Duration = Duration::from_secs(10);
/// Between two measured senders.
const PAUSE: Duration = Duration::from_millis(10);
/// A measured sender that waits so long has not been served.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what a round left behind.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a connection of the flood stays if the relay leaves it.
const HOLD: Duration = Duration::from_secs(5);
const SERVER_HELLO: &[u8] = &[22; 100];

fn main() {
    let numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    let rate = numbers.first().copied().unwrap_or(500);
    let rounds = numbers.get(1).copied().unwrap_or(6);
    sealpost_daemon::open_files::raise();
    let boxes: Vec<Identity> = (0..BOXES).map(|_| Identity::ephemeral()).collect();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let relay = Arc::new(runtime().block_on(Relay::start(&boxes)));
    let certificate = Certificate::for_name("mx.home.example").unwrap();
    let hellos: Vec<Vec<u8>> = (0..BOXES)
        .map(|at| TlsClient::new(&name(at), &certificate).unwrap().hello().to_vec())
        .collect();

    let (ready, homes_ready) = std::sync::mpsc::channel();
    let homes = relay.clone();
    std::thread::spawn(move || runtime().block_on(serve_all(&homes, boxes, ready)));
    homes_ready.recv().unwrap();

    let flooding = Arc::new(AtomicU32::new(0));
    let opened = Arc::new(AtomicU64::new(0));
    let (on, count, target) = (flooding.clone(), opened.clone(), relay.clone());
    let hello = hellos[0].clone().into();
    std::thread::spawn(move || runtime().block_on(flood(&target, hello, &on, &count)));

    let (mut all_quiet, mut all_flooded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut quiet = measure(&relay, &hellos);
        flooding.store(rate, Relaxed);
        sleep(SETTLE);
        let (before, began) = (opened.load(Relaxed), Instant::now());
        let mut flooded = measure(&relay, &hellos);
        let real = (opened.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        flooding.store(0, Relaxed);
        sleep(SETTLE + HOLD);
        let ratio = [50, 99].map(|p| percentile(&mut flooded, p) / percentile(&mut quiet, p));
        println!(
            "round {round}: quiet p50 {:.2} ms, p99 {:.2} ms ({} senders); flood of {real:.0}/s p50 \
             {:.2} ms, p99 {:.2} ms ({}); x{:.2}, x{:.2}",
            percentile(&mut quiet, 50),
            percentile(&mut quiet, 99),
            quiet.len(),
            percentile(&mut flooded, 50),
            percentile(&mut flooded, 99),
            flooded.len(),
            ratio[0],
            ratio[1]
        );
        all_quiet.extend(quiet);
        all_flooded.extend(flooded);
        ratios.push(ratio[1]);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "all rounds: p50 {:.2} ms to {:.2} ms, p99 {:.2} ms to {:.2} ms; p99 in the flood against \
         quiet: median x{:.2}, from x{:.2} to x{:.2}",
        percentile(&mut all_quiet, 50),
        percentile(&mut all_flooded, 50),
        percentile(&mut all_quiet, 99),
        percentile(&mut all_flooded, 99),
        percentile(&mut ratios.clone(), 50),
        ratios[0],
        ratios[ratios.len() - 1]
    );
    println!("{}", relay.outcomes());
}

fn name(at: usize) -> String {
    if at == 0 { "mx.home.example".into() } else { format!("mx{at}.home.example") }
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// Senders to all boxes but the flooded one, one after the other: milliseconds to spliced.
fn measure(relay: &Relay, hellos: &[Vec<u8>]) -> Vec<f64> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < ROUND {
        let hello = &hellos[1 + times.len() % (hellos.len() - 1)];
        let from = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        from.bind(&SocketAddr::from(([127, 200, 0, 1], 0)).into()).unwrap();
        let start = Instant::now();
        from.connect(&SocketAddr::from((SHARED, relay.smtp.port())).into()).unwrap();
        let mut tcp = TcpStream::from(from);
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        up_to_tls(&mut tcp).unwrap();
        tcp.write_all(hello).unwrap();
        tcp.read_exact(&mut [0; 1]).unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop(tcp);
        sleep(PAUSE);
    }
    times
}

/// As many connections a second as `rate` says at the moment, each from another network.
async fn flood(relay: &Relay, hello: Arc<[u8]>, rate: &AtomicU32, opened: &Arc<AtomicU64>) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut due, mut at) = (0, 0u32);
    loop {
        tick.tick().await;
        due = (due + rate.load(Relaxed)).min(rate.load(Relaxed) * 5);
        while due >= 100 {
            due -= 100;
            at = (at + 1) % 60_000;
            let from = Ipv4Addr::from_bits(0x7f01_0001 + (at << 8));
            let to = if at.is_multiple_of(2) { SHARED } else { OWN };
            let to = SocketAddr::from((to, relay.smtp.port()));
            let (hello, opened) = (hello.clone(), opened.clone());
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::from((from, 0))).unwrap();
                let session = async {
                    let mut tcp = socket.connect(to).await?;
                    opened.fetch_add(1, Relaxed);
                    let mut buffer = [0; 512];
                    for say in [&b"EHLO flood.example\r\n"[..], b"STARTTLS\r\n", &hello] {
                        if tcp.read(&mut buffer).await? == 0 {
                            return Ok(());
                        }
                        tcp.write_all(say).await?;
                    }
                    while tcp.read(&mut buffer).await? > 0 {}
                    std::io::Result::Ok(())
                };
                let _ = tokio::time::timeout(HOLD, session).await;
            });
        }
    }
}

/// Connects all boxes; their mail servers answer each ClientHello at once and then keep silent.
async fn serve_all(relay: &Relay, boxes: Vec<Identity>, ready: std::sync::mpsc::Sender<()>) {
    let endpoint = quic::agent_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut controls = Vec::new();
    for identity in &boxes {
        let pin = Pin::Exactly(relay.key);
        let connecting = quic::dial(&endpoint, relay.tunnel, identity, pin, Use::Tunnel).unwrap();
        let connection = connecting.await.unwrap();
        controls.push(Control::open(&connection, &Hello::ours("bench")).await.unwrap());
        tokio::spawn(serve(connection));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    ready.send(()).unwrap();
    std::future::pending::<()>().await;
}

async fn serve(home: Connection) {
    while let Ok((send, recv)) = home.accept_bi().await {
        tokio::spawn(async move {
            let mut stream = TunnelStream::new(send, recv);
            if let Ok(Some(_)) = stream.recv.read_chunk(usize::MAX, true).await {
                let _ = stream.send.send(SERVER_HELLO.into()).await;
                while let Ok(Some(_)) = stream.recv.read_chunk(usize::MAX, true).await {}
                stream.send.finish();
            }
        });
    }
}

struct Relay {
    child: Child,
    key: PublicKey,
    smtp: SocketAddr,
    tunnel: SocketAddr,
    admin: SocketAddr,
    _state: tempfile::TempDir,
}

impl Relay {
    async fn start(boxes: &[Identity]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let database = Database::open(None, state.path()).await.unwrap();
        for (at, identity) in boxes.iter().enumerate() {
            let name = name(at).split('.').next().unwrap().parse().unwrap();
            let hour = Duration::from_secs(3600);
            let secret = database.invite(&name, 1, hour, 0).await.unwrap();
            database.join(&secret, identity.public(), None, 0).await.unwrap();
        }
        database.assign(&"mx".parse().unwrap(), OWN.into()).await.unwrap();
        let config = state.path().join("relay.toml");
        let text = format!(
            "hostname = \"relay.example.net\"\nstate = {:?}\nbox_domain = \"home.example\"\n\
             smtp.listen = [\"0.0.0.0:0\"]\ntunnel.listen = [\"127.0.0.1:0\"]\n\
             admin.listen = \"127.0.0.1:0\"\nlog = {{ format = \"json\", level = \"info\" }}\n",
            state.path()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(programs::directory().unwrap().join("sealpost-relay"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut key, mut addresses) = (None, Vec::<SocketAddr>::new());
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
        // Its log goes to a file on a relay as well.
        let mut file = std::fs::File::create(state.path().join("log")).unwrap();
        std::thread::spawn(move || std::io::copy(&mut log, &mut file));
        let [smtp, tunnel, admin] = addresses[..] else { panic!("three addresses") };
        Self { child, key: key.unwrap(), smtp, tunnel, admin, _state: state }
    }

    /// How the sessions ended, as the relay counts them.
    fn outcomes(&self) -> String {
        let mut http = TcpStream::connect(self.admin).unwrap();
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        http.read_to_string(&mut text).unwrap();
        let counters = text.lines().filter_map(|line| {
            line.strip_prefix("sealpost_relay_sessions_total{outcome=")
                .filter(|rest| !rest.ends_with(" 0"))
        });
        counters.collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
