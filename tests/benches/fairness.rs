//! What the senders of other boxes notice when one box is flooded: time from their connect to the
//! first byte from the mail server at home, in turn without and with hundreds of connections a
//! second to the flooded box: to its own address, and by its name to an address that all share.
//!
//! The relay is the real program on loopback, whose 65,536 networks 127.x.y.0/24 stand for those of
//! the world. Boxes and mail servers at home are played here: they answer at once, so that what is
//! measured is the relay. The flood is a process of its own, which gives way to all others, as floods
//! come from other machines. On a virtual machine the host may take processors away, for tens of
//! milliseconds at a time; rounds in which it took more than a little are shown and not counted.
//!
//! `cargo bench -p sealpost-tests --bench fairness -- [CONNECTIONS-A-SECOND] [ROUNDS]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use quinn::Connection;
use sealpost_relay::registry::Database;
use sealpost_tests::certificate::Certificate;
use sealpost_tests::processors::Processors;
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
const ROUND: Duration = Duration::from_secs(3);
/// Between two measured senders.
const PAUSE: Duration = Duration::from_millis(10);
/// A measured sender that waits so long has not been served.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what a round left behind.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a connection of the flood stays if the relay leaves it.
const HOLD: Duration = Duration::from_secs(1);
const SERVER_HELLO: &[u8] = &[22; 100];

/// Rounds in which the host took more of the processors' time are not counted.
const TAKEN_AT_MOST: f64 = 0.03;

/// The argument that makes this program the flood.
const FLOOD: &str = "flood";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [FLOOD, port] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return flood(port.parse().unwrap());
    }
    let numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    let rate = numbers.first().copied().unwrap_or(500);
    let rounds = numbers.get(1).copied().unwrap_or(20);
    sealpost_daemon::open_files::raise();
    let boxes: Vec<Identity> = (0..BOXES).map(|_| Identity::ephemeral()).collect();
    let relay = Arc::new(runtime().block_on(Relay::start(&boxes)));
    let certificate = Certificate::for_name("mx.home.example").unwrap();
    let hellos: Vec<Vec<u8>> = (0..BOXES)
        .map(|at| TlsClient::new(&name(at), &certificate).unwrap().hello().to_vec())
        .collect();

    let (ready, homes_ready) = std::sync::mpsc::channel();
    let homes = relay.clone();
    std::thread::spawn(move || runtime().block_on(serve_all(&homes, boxes, ready)));
    homes_ready.recv().unwrap();

    let mut flood = Flood::start(relay.smtp.port());
    let (mut all_quiet, mut all_flooded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut round, mut counted) = (0, 0);
    while counted < rounds && round < rounds * 4 {
        round += 1;
        let host = Processors::now().unwrap();
        let mut quiet = measure(&relay, &hellos);
        flood.set(rate);
        sleep(SETTLE);
        let (before, began) = (flood.opened(), Instant::now());
        let mut flooded = measure(&relay, &hellos);
        let real = (flood.opened() - before) as f64 / began.elapsed().as_secs_f64();
        let taken = host.taken_since().unwrap();
        flood.set(0);
        sleep(SETTLE + HOLD);
        let ratio = [50, 99].map(|p| percentile(&mut flooded, p) / percentile(&mut quiet, p));
        println!(
            "round {round}: quiet p50 {:.2} ms, p99 {:.2} ms ({} senders); flood of {real:.0}/s p50 \
             {:.2} ms, p99 {:.2} ms ({}); x{:.2}, x{:.2}; the host took {:.0} %",
            percentile(&mut quiet, 50),
            percentile(&mut quiet, 99),
            quiet.len(),
            percentile(&mut flooded, 50),
            percentile(&mut flooded, 99),
            flooded.len(),
            ratio[0],
            ratio[1],
            taken * 100.0
        );
        if taken > TAKEN_AT_MOST {
            continue;
        }
        counted += 1;
        all_quiet.extend(quiet);
        all_flooded.extend(flooded);
        ratios.push(ratio[1]);
    }
    assert!(counted > 0, "the host left no round in peace; come again later");
    ratios.sort_by(f64::total_cmp);
    println!(
        "{counted} rounds of {round} were counted: p50 {:.2} ms to {:.2} ms, p99 {:.2} ms to {:.2} ms; p99 in the flood against \
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
    relay.stop();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
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

/// The process of the flood. It ends when this is dropped.
struct Flood {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Flood {
    fn start(port: u16) -> Self {
        let mut child = Command::new("nice")
            .arg("--adjustment=19")
            .arg(std::env::current_exe().unwrap())
            .args([FLOOD, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, hear) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, say: Some(say), hear: BufReader::new(hear) }
    }

    /// From now on so many connections a second.
    fn set(&mut self, rate: u32) {
        self.ask(&rate.to_string());
    }

    /// How many connections there were.
    fn opened(&mut self) -> u64 {
        self.ask("opened")
    }

    fn ask(&mut self, what: &str) -> u64 {
        writeln!(self.say.as_ref().unwrap(), "{what}").unwrap();
        let mut line = String::new();
        self.hear.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.say.take());
        let _ = self.child.wait();
    }
}

/// Floods as standard input says, until it ends, and answers each line with the connections so far.
fn flood(port: u16) {
    sealpost_daemon::open_files::raise();
    let rate: &'static AtomicU32 = Box::leak(Box::default());
    let opened: &'static AtomicU64 = Box::leak(Box::default());
    std::thread::spawn(move || runtime().block_on(connect(port, rate, opened)));
    for line in std::io::stdin().lines() {
        if let Ok(new) = line.unwrap().parse() {
            rate.store(new, Relaxed);
        }
        println!("{}", opened.load(Relaxed));
    }
}

/// As many connections a second as `rate` says at the moment, each from another network.
async fn connect(port: u16, rate: &AtomicU32, opened: &'static AtomicU64) {
    let certificate = Certificate::for_name("mx.home.example").unwrap();
    let hello: Arc<[u8]> = TlsClient::new(&name(0), &certificate).unwrap().hello().into();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut due, mut at) = (0, 0u32);
    loop {
        tick.tick().await;
        due = (due + rate.load(Relaxed)).min(rate.load(Relaxed) * 5);
        while due >= 100 {
            due -= 100;
            at = (at + 1) % 60_000;
            let from = Ipv4Addr::from_bits(0x7f01_0001 + (at << 8));
            let to = SocketAddr::from((if at.is_multiple_of(2) { SHARED } else { OWN }, port));
            let hello = hello.clone();
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
    child: Mutex<Child>,
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
        Self { child: Mutex::new(child), key: key.unwrap(), smtp, tunnel, admin, _state: state }
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

    /// Ends the program, also when threads that go on to the end of the bench know it still.
    fn stop(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}
