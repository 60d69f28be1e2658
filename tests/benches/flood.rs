//! What senders notice of a flood: 100,000 connections that say nothing and 20,000 that drip one
//! octet now and then, each from an address of its own in 2,000 networks and opened anew when the
//! relay cuts it, and half-open handshakes beside them, against a relay with its defaults. A sender
//! delivers to a real mail server behind it, one message after the other, first in quiet and then
//! in the flood.
//!
//! `cargo bench -p sealpost-tests --bench flood -- [SECONDS] [CONNECTIONS-A-SECOND]`, as root.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV6};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sealpost_tests::crowd;
use sealpost_tests::machine::Machine;
use sealpost_tests::message::Message;
use sealpost_tests::network::RELAY_SHARED_V6;
use sealpost_tests::scene::{MX_NAME, Scene, Setup, scenario};
use sealpost_tests::smtp::{deliver, up_to_tls};
use sealpost_tests::tls_client::TlsClient;
use sealpost_tests::{admin, certificate::Certificate};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

/// Connections that say nothing.
const SILENT: u32 = 100_000;
/// Connections that say something, very slowly.
const SLOW: u32 = 20_000;
/// Networks that they come from.
const NETWORKS: u32 = 2_000;
/// What one process holds: fewer than the open files that most systems allow.
const A_PROCESS: u32 = 15_000;
/// Between two octets of a slow one.
const DRIP: Duration = Duration::from_secs(3);
/// Handshakes that are begun and never finished, each second.
const HALF_OPEN: u32 = 5_000;
/// Messages before the flood.
const QUIET: usize = 200;
/// Messages that a Postfix sends in the flood, beside those that are measured.
const BY_POSTFIX: usize = 20;
/// The relay's own memory may not be more than this, whatever comes.
const CAP: u64 = 128_000_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, first, count, rate] = &arguments[..] {
        let (first, count) = (first.parse()?, count.parse()?);
        return flood(kind, first, count, rate.parse()?);
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let seconds = numbers.next().unwrap_or(120);
    let rate = u32::try_from(numbers.next().unwrap_or(4_000))?;
    // Senders come by the listener that is flooded: each has a queue of its own in the kernel.
    let setup = Setup { mx: RELAY_SHARED_V6, ..Setup::STANDARD };
    scenario(setup, |scene| measure(scene, Duration::from_secs(seconds), rate))
}

fn measure(scene: &mut Scene, time: Duration, rate: u32) -> Result<()> {
    let crowd = crowd::join(&mut scene.network)?;
    let from = &scene.network.sender;
    let quiet = from.enter(|| send(&scene.certificate, |sent| sent < QUIET))?;
    println!("quiet: {quiet}");
    let before = memory(&scene.network.relay, "VmRSS:")?;

    let total = SILENT + SLOW;
    let mut processes = Vec::new();
    for (kind, first, end) in [("silent", 0, SILENT), ("slow", SILENT, total)] {
        for first in (first..end).step_by(A_PROCESS as usize) {
            let count = A_PROCESS.min(end - first);
            let share = (u64::from(rate) * u64::from(count) / u64::from(total)).max(1);
            processes.push(Flood::start(&crowd, kind, first, count, share)?);
        }
    }
    processes.push(Flood::start(&crowd, "half-open", 0, NETWORKS, HALF_OPEN.into())?);
    let counts = || {
        let all = processes.iter().map(|process| *process.counts.lock().unwrap());
        all.fold([0; 4], |sum: [u64; 4], one| std::array::from_fn(|at| sum[at] + one[at]))
    };
    // The flood is there when each of its connections was opened once.
    let began = Instant::now();
    while counts()[0] < u64::from(total) {
        ensure!(began.elapsed() < Duration::from_secs(300), "no flood: {:?}", counts());
        sleep(Duration::from_millis(100));
    }
    println!("{total} connections were opened once in {:.1?}", began.elapsed());
    let evicted_before = outcomes(scene)?;
    let opened_before = counts()[0];
    let (cpu_before, counted_before) = (cpu(&scene.network.relay)?, counted(&scene.network.relay)?);
    let began = Instant::now();
    let mut by_postfix = 0;
    let open = AtomicU64::new(0);
    let samples = AtomicU64::new(0);
    let flooded = std::thread::scope(|scope| {
        let certificate = &scene.certificate;
        let sender =
            scope.spawn(move || from.enter(|| send(certificate, |_| began.elapsed() < time)));
        while !sender.is_finished() {
            open.fetch_add(counts()[1], Relaxed);
            samples.fetch_add(1, Relaxed);
            let due = time.as_secs_f64() * by_postfix as f64 / BY_POSTFIX as f64;
            if by_postfix < BY_POSTFIX && began.elapsed().as_secs_f64() >= due {
                by_postfix += 1;
                scene.send(&Message::small("in the flood"))?;
            }
            sleep(Duration::from_millis(100));
        }
        sender.join().unwrap()
    })?;
    let [opened, open_now, cut, failed] = counts();
    let took = began.elapsed().as_secs_f64();
    println!("flood: {flooded}");
    println!(
        "  the flood opened {:.0} connections a second ({opened} in all, {cut} of them were cut, \
         {failed} failed); on average {} were open, {open_now} at the end",
        (opened - opened_before) as f64 / took,
        open.load(Relaxed) / samples.load(Relaxed).max(1)
    );
    let (cpu, counted) = (cpu(&scene.network.relay)?, counted(&scene.network.relay)?);
    let [unheard, half_open] = [0, 1].map(|at| counted[at] - counted_before[at]);
    println!(
        "  the relay used {:.0} % of a processor itself and {:.0} % in the kernel; {unheard} times its queue of \
         new connections was full; {half_open} handshakes got a cookie",
        (cpu[0] - cpu_before[0]) / took * 100.0,
        (cpu[1] - cpu_before[1]) / took * 100.0
    );
    let peak = memory(&scene.network.relay, "VmHWM:")?;
    println!(
        "  the relay's memory: {:.1} MB before, {:.1} MB at most; its cap is {:.0} MB",
        before as f64 / 1e6,
        peak as f64 / 1e6,
        CAP as f64 / 1e6
    );
    println!("  outcomes during the measure:");
    for ((outcome, after), (_, before)) in outcomes(scene)?.into_iter().zip(evicted_before) {
        if after > before {
            println!("    {outcome}: {}", after - before);
        }
    }
    drop(processes);
    let log = scene.server()?.log(&scene.network.sender);
    let count = |what| log.lines().filter(|line| line.contains(what)).count();
    println!(
        "  Postfix: {BY_POSTFIX} messages, {} sent, {} times deferred",
        count("status=sent"),
        count("status=deferred")
    );
    println!(
        "time to spliced in the flood against quiet: median x{:.2}, p99 x{:.2}",
        flooded.percentile(50) / quiet.percentile(50),
        flooded.percentile(99) / quiet.percentile(99)
    );
    ensure!(flooded.delivered == flooded.tried, "mail was not delivered");
    ensure!(count("status=sent") >= BY_POSTFIX, "Postfix could not deliver all");
    ensure!(half_open > 0, "no handshake was left half open");
    ensure!(peak <= CAP, "more memory than the cap");
    Ok(())
}

/// What a sender noticed.
#[derive(Default)]
struct Sent {
    tried: usize,
    at_once: usize,
    delivered: usize,
    /// Seconds from the connect to the first byte from the mail server at home, sorted.
    spliced: Vec<f64>,
    trouble: Vec<String>,
}

impl Sent {
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.spliced.len().saturating_sub(1);
        self.spliced.get(last * percent / 100).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tried, at_once, delivered, .. } = self;
        let ms = |percent| self.percentile(percent) * 1e3;
        write!(
            f,
            "{tried} messages, {at_once} delivered at the first attempt, {delivered} in the end; \
             time to spliced: median {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            ms(50),
            ms(90),
            ms(99),
            ms(100)
        )?;
        for trouble in self.trouble.iter().take(5) {
            write!(f, "\n  {trouble}")?;
        }
        Ok(())
    }
}

/// Delivers one message after the other while `more` says so of their number.
fn send(certificate: &Certificate, more: impl Fn(usize) -> bool) -> Result<Sent> {
    const ATTEMPTS: usize = 5;
    let mut sent = Sent::default();
    while more(sent.tried) {
        sent.tried += 1;
        for attempt in 0..ATTEMPTS {
            match send_one(certificate) {
                Ok(spliced) => {
                    sent.at_once += usize::from(attempt == 0);
                    sent.delivered += 1;
                    sent.spliced.push(spliced.as_secs_f64());
                    break;
                }
                Err(error) => sent.trouble.push(format!("{error:#}")),
            }
        }
    }
    sent.spliced.sort_by(f64::total_cmp);
    Ok(sent)
}

fn send_one(certificate: &Certificate) -> Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let client = TlsClient::new(MX_NAME, certificate)?;
    let relay = SocketAddr::new(RELAY_SHARED_V6.parse()?, 25);
    let began = Instant::now();
    let mut stream = std::net::TcpStream::connect_timeout(&relay, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    up_to_tls(&mut stream)?;
    stream.write_all(client.hello())?;
    ensure!(stream.peek(&mut [0])? == 1, "closed after the ClientHello");
    let spliced = began.elapsed();
    deliver(&mut client.finish(stream)?, &Message::small("measured"))?;
    Ok(spliced)
}

/// A value of the relay's process in its `status`, in bytes.
fn memory(relay: &Machine, what: &str) -> Result<u64> {
    let status = relay.run("cat /proc/$(cat /run/relay.pid)/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("the memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Seconds of a processor that the relay has used, itself and in the kernel.
fn cpu(relay: &Machine) -> Result<[f64; 2]> {
    const TICKS: f64 = 100.0;
    let stat = relay.run("cat /proc/$(cat /run/relay.pid)/stat")?;
    let behind_name = stat.rsplit(") ").next().context("the times")?;
    let times: Vec<f64> =
        behind_name.split(' ').skip(11).map_while(|time| time.parse().ok()).collect();
    Ok([times[0] / TICKS, times[1] / TICKS])
}

/// What the relay's kernel counted: how often it dropped a connection because the relay had not taken
/// those before it, and how many handshakes it answered with a cookie instead of memory, which it does
/// when too many are half open.
fn counted(relay: &Machine) -> Result<[u64; 2]> {
    let table = relay.run("grep ^TcpExt: /proc/net/netstat")?;
    let mut lines = table.lines().map(|line| line.split(' '));
    let (names, counts) = (lines.next().context("names")?, lines.next().context("counts")?);
    let counters: HashMap<_, _> = names.zip(counts).collect();
    let count = |name| anyhow::Ok(counters.get(name).context(name)?.parse()?);
    Ok([count("ListenOverflows")?, count("SyncookiesSent")?])
}

fn outcomes(scene: &Scene) -> Result<Vec<(String, u64)>> {
    let (_, metrics) = admin::get(&scene.network.relay, admin::RELAY, "/metrics")?;
    let counters = metrics.lines().filter_map(|line| {
        let (outcome, count) =
            line.strip_prefix("sealpost_relay_sessions_total{outcome=\"")?.split_once("\"} ")?;
        Some((outcome.to_owned(), count.parse().ok()?))
    });
    Ok(counters.collect())
}

/// A process of the flood. It ends when this is dropped.
struct Flood {
    child: Child,
    /// Opened, open now, cut by the relay, not opened.
    counts: Arc<Mutex<[u64; 4]>>,
}

impl Flood {
    fn start(from: &Machine, kind: &str, first: u32, count: u32, rate: u64) -> Result<Self> {
        let mut child = Command::new("nsenter")
            .args([&format!("--target={}", from.pid()), "--net"])
            // A flood comes from other machines: the relay and the senders here go first.
            .args(["nice", "--adjustment=19"])
            .arg(std::env::current_exe()?)
            .args([kind, &first.to_string(), &count.to_string(), &rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let counts = Arc::new(Mutex::new([0; 4]));
        let (told, output) = (counts.clone(), BufReader::new(child.stdout.take().unwrap()));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
                *told.lock().unwrap() = std::array::from_fn(|_| numbers.next().unwrap());
            }
        });
        Ok(Self { child, counts })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What one process of the flood does until its standard input ends.
fn flood(kind: &str, first: u32, count: u32, rate: u32) -> Result<()> {
    sealpost_daemon::open_files::raise();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let relay = SocketAddr::new(RELAY_SHARED_V6.parse()?, 25);
    if kind == "half-open" {
        return half_open(relay, count, rate);
    }
    let slow = kind == "slow";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let counts: &'static [AtomicU64; 4] = Box::leak(Box::default());
        let (idle, mut closed) = mpsc::unbounded_channel();
        for at in first..first + count {
            idle.send(at)?;
        }
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let (mut due, mut ticks) = (0, 0u32);
        loop {
            tick.tick().await;
            ticks += 1;
            // What could not be opened in its time is not made up for.
            due = (due + rate).min(rate * 5);
            while due >= 100 {
                let Ok(at) = closed.try_recv() else { break };
                due -= 100;
                let idle = idle.clone();
                tokio::spawn(async move {
                    let opened = one(relay, at, slow, counts).await.is_ok();
                    counts[if opened { 2 } else { 3 }].fetch_add(1, Relaxed);
                    let _ = idle.send(at);
                });
            }
            if ticks.is_multiple_of(20) {
                let [a, b, c, d] = counts.each_ref().map(|count| count.load(Relaxed));
                println!("{a} {b} {c} {d}");
            }
        }
    })
}

/// One connection until the relay cuts it; an error if there was none.
async fn one(relay: SocketAddr, at: u32, slow: bool, counts: &[AtomicU64; 4]) -> Result<()> {
    let socket = TcpSocket::new_v6()?;
    let port = u16::try_from(1024 + at % 60_000)?;
    socket.bind(SocketAddrV6::new(crowd::address(at % NETWORKS, at), port, 0, 0).into())?;
    let mut tcp = socket.connect(relay).await?;
    counts[0].fetch_add(1, Relaxed);
    counts[1].fetch_add(1, Relaxed);
    let _ = if slow { drip(&mut tcp, at).await } else { until_closed(&mut tcp).await };
    counts[1].fetch_sub(1, Relaxed);
    Ok(())
}

async fn until_closed(tcp: &mut (impl AsyncReadExt + Unpin)) -> Result<()> {
    let mut buffer = [0; 64];
    while tcp.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Half of the slow ones drip their EHLO, the others their ClientHello.
async fn drip(tcp: &mut tokio::net::TcpStream, at: u32) -> Result<()> {
    const HELLO: &[u8] = include_bytes!("../hellos/openssl-3-sni.bin");
    let mut buffer = [0; 512];
    let mut octets = &b"EHLO a.very.slow.mail.server.example\r\n"[..];
    if at.is_multiple_of(2) {
        for command in ["EHLO slow.example\r\n", "STARTTLS\r\n"] {
            let _ = tcp.read(&mut buffer).await?;
            tcp.write_all(command.as_bytes()).await?;
        }
        octets = HELLO;
    }
    let (mut reads, mut writes) = tcp.split();
    let dripping = async {
        for octet in octets {
            writes.write_all(&[*octet]).await?;
            tokio::time::sleep(DRIP).await;
        }
        std::future::pending::<()>().await;
        Ok(())
    };
    tokio::select! {
        ended = until_closed(&mut reads) => ended,
        ended = dripping => ended,
    }
}

/// Begins `rate` handshakes a second from addresses that nobody answers for.
fn half_open(relay: SocketAddr, networks: u32, rate: u32) -> Result<()> {
    /// A raw socket of this protocol sends whole packets and receives none. Sockets for TCP would
    /// each be offered every segment of the flood, in the time of whoever sent it: the relay.
    const IPPROTO_RAW: i32 = 255;
    let SocketAddr::V6(to) = relay else { unreachable!() };
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    // A raw socket has no ports.
    socket.connect(&SocketAddrV6::new(*to.ip(), 0, 0, 0).into())?;
    let began = Instant::now();
    for sent in 0u32.. {
        let port = u16::try_from(1024 + sent / networks % 60_000)?;
        let from = SocketAddrV6::new(crowd::unreachable(sent % networks, 1), port, 0, 0);
        socket.send(&syn(from, to, sent))?;
        if sent.is_multiple_of(50) {
            let due = Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
            sleep(due.saturating_sub(began.elapsed()));
        }
    }
    Ok(())
}

/// The packet of a SYN: RFC 8200 section 3, RFC 9293 section 3.1.
fn syn(from: SocketAddrV6, to: SocketAddrV6, sequence: u32) -> Vec<u8> {
    const LENGTH: u8 = 20;
    const TCP: u8 = 6;
    const HOP_LIMIT: u8 = 64;
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(sequence.wrapping_mul(2_654_435_761).to_be_bytes());
    // No acknowledgement; 5 words, SYN; window; checksum and urgent pointer.
    segment.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    // The checksum covers a pseudo-header too: RFC 8200 section 8.1.
    let words = [&addresses[..], &[0, LENGTH, 0, TCP], &segment].concat();
    let sum: u32 = words.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded).unwrap_or(u16::MAX);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let version = [0x60, 0, 0, 0];
    [&version[..], &[0, LENGTH, TCP, HOP_LIMIT], &addresses, &segment].concat()
}
