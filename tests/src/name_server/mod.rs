//! Other people's authoritative servers, NSD and Knot, on loopback: judges of what ours answers and
//! the measure of how fast it does.
//!
//! They run beside the test and need neither root nor a namespace: every file lies in a directory
//! that vanishes, and the port is a free one.

mod knot;
mod nsd;
mod programs;
mod signing;
mod zone_files;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::programs::{Program, skipped};
pub use self::signing::{Denial, Signer};
pub use self::zone_files::{ZoneFile, ZoneFiles};
use crate::wait::wait_until;

/// How long a server may take to start, and so much more for each zone: Knot loads them while it runs.
const START: Duration = Duration::from_secs(20);
const START_OF_ZONE: Duration = Duration::from_millis(1);
/// Another process may take a port between its choice and its use.
const ATTEMPTS: u32 = 3;

/// The server ended by itself, and what it said.
#[derive(Debug)]
struct Ended(String);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Software {
    /// NLnet Labs' NSD.
    Nsd,
    /// CZ.NIC's Knot DNS.
    Knot,
}

impl Software {
    /// Its program, if this machine has it or can get it.
    pub fn program(self) -> Result<Program> {
        match self {
            Software::Nsd => Program::find("nsd", Some("dns")),
            Software::Knot => Program::find("knotd", Some("knot")),
        }
    }

    /// How tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Software::Nsd => "NSD",
            Software::Knot => "Knot",
        }
    }
}

/// How a server is run.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Octets of its largest answer over UDP.
    pub payload: u16,
    /// The processor that it and all its threads are bound to.
    pub processor: Option<usize>,
}

impl Terms {
    /// For judges, who want whole answers.
    pub const JUDGE: Terms = Terms { payload: 4096, processor: None };

    /// For benches: as name servers are run today (RFC 9715), on one processor.
    pub fn bench(processor: usize) -> Terms {
        Terms { payload: 1232, processor: Some(processor) }
    }
}

/// A running server of one process or several. It ends when this is dropped.
#[derive(Debug)]
pub struct NameServer {
    child: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
    _home: tempfile::TempDir,
}

impl NameServer {
    /// Starts the server with all zones and waits until it answers for them.
    pub fn start(software: Software, zones: &ZoneFiles, terms: Terms) -> Result<NameServer> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match NameServer::attempt(software, zones, terms) {
                Err(error) if attempt < ATTEMPTS && error.is::<Ended>() => {
                    eprintln!("{}: {error:#}", software.name());
                }
                started => return started,
            }
        }
    }

    fn attempt(software: Software, zones: &ZoneFiles, terms: Terms) -> Result<NameServer> {
        let program = software.program()?;
        let home = tempfile::tempdir()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let config = home.path().join("server.conf");
        let (text, arguments) = match software {
            Software::Nsd => {
                (nsd::config(home.path(), address, terms, zones), nsd::arguments(&config))
            }
            Software::Knot => {
                (knot::config(home.path(), address, terms, zones), knot::arguments(&config))
            }
        };
        std::fs::write(&config, text)?;
        let log = home.path().join("log");
        let child = on(terms.processor, &program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("start {}", software.name()))?;
        let mut server = NameServer { child, address, log, _home: home };
        let log = server.log.clone();
        match wait_until_served(&mut server.child, address, zones) {
            Ok(()) => Ok(server),
            // It may be that its port was taken.
            Err(error) if server.child.try_wait()?.is_some() => {
                Err(anyhow::Error::new(Ended(tail(&log))).context(error))
            }
            Err(error) => Err(error.context(tail(&log))),
        }
    }

    /// Where it answers, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of its first process; those that it started are its children.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal such as `HUP` to its first process.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "kill: {status}");
        Ok(())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // NSD has several processes; asked to end, the first ends the others.
        let asked = self.signal("TERM");
        let ended = asked.and_then(|()| {
            wait_until("the server to end", Duration::from_secs(10), || {
                Ok(self.child.try_wait()?.is_some())
            })
        });
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The command of a program, bound to one processor if one is named.
pub fn on(processor: Option<usize>, program: &Program) -> Command {
    match processor {
        None => program.command(),
        Some(processor) => program.command_under("taskset", &["-c", &processor.to_string()]),
    }
}

/// A port that nobody uses, neither for UDP nor for TCP: below those that the kernel gives to
/// connections, and picked at random, because other tests pick theirs at the same moment.
pub fn free_port() -> Result<u16> {
    use std::hash::{BuildHasher, RandomState};
    for attempt in 0..100_u32 {
        let port = 10_000 + (RandomState::new().hash_one(attempt) % 22_000) as u16;
        let at = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no port between 10000 and 32000 that is free for both UDP and TCP")
}

/// Waits until a server that was started answers for the zones; of many it is asked for some.
pub fn wait_until_served(server: &mut Child, address: SocketAddr, zones: &ZoneFiles) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let patience = START + START_OF_ZONE * u32::try_from(zones.len())?;
    for zone in zones.probes() {
        wait_until(&format!("{zone} to be served"), patience, || {
            if let Some(status) = server.try_wait()? {
                bail!("the server ended: {status}");
            }
            serves(&socket, zone)
        })?;
    }
    Ok(())
}

/// Whether the server answers with authority for the zone.
fn serves(socket: &UdpSocket, zone: &str) -> Result<bool> {
    let mut query = vec![0x5e, 0xa1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in zone.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).context("a label is too long")?);
        query.extend(label.as_bytes());
    }
    // The root, SOA, IN.
    query.extend([0, 0, 6, 0, 1]);
    let mut answer = [0; 4096];
    // A port that is closed yet shows here as a refused connection.
    let Ok(_) = socket.send(&query) else { return Ok(false) };
    match socket.recv(&mut answer) {
        // Response with AA, NOERROR, and an answer.
        Ok(length) if length > 12 => {
            Ok(answer[2] & 0x84 == 0x84 && answer[3] & 15 == 0 && answer[7] == 1)
        }
        _ => Ok(false),
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
