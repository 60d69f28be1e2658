//! The servers that are measured: NSD, Knot and ours, each a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sealpost_dns::catalog::Entry;
use sealpost_dns::rate_limit::{Rate, Rates};
use sealpost_tests::name_server::{NameServer, Software, Terms, ZoneFiles};

use crate::{ours, zones};

/// The argument that makes this program our server.
pub(crate) const SERVE: &str = "serve";
/// What replaces a zone in our server.
const SWAP: &str = "swap";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nsd,
    Knot,
    Ours,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Nsd, Kind::Knot, Kind::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nsd => "NSD",
            Kind::Knot => "Knot",
            Kind::Ours => "ours",
        }
    }
}

/// A running server. It ends when this is dropped.
pub(crate) enum Server {
    Theirs(NameServer),
    Ours(Box<Ours>),
}

impl Server {
    /// Starts it on one processor, and waits until it serves all zones.
    pub(crate) fn start(kind: Kind, zones: &ZoneFiles, processor: usize) -> Result<Server> {
        let software = match kind {
            Kind::Nsd => Software::Nsd,
            Kind::Knot => Software::Knot,
            Kind::Ours => return Ok(Server::Ours(Box::new(Ours::start(zones, processor)?))),
        };
        Ok(Server::Theirs(NameServer::start(software, zones, Terms::bench(processor))?))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Server::Theirs(server) => server.address(),
            Server::Ours(server) => server.address,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Server::Theirs(server) => server.pid(),
            Server::Ours(server) => server.child.id(),
        }
    }
}

/// Our server in a process of its own.
pub(crate) struct Ours {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
    address: SocketAddr,
    _list: tempfile::TempDir,
}

impl Ours {
    pub(crate) fn start(zones: &ZoneFiles, processor: usize) -> Result<Ours> {
        let directory = tempfile::tempdir()?;
        let list = directory.path().join("zones");
        let lines = zones.iter().map(|zone| format!("{} {}\n", zone.apex, zone.path.display()));
        std::fs::write(&list, lines.collect::<String>())?;
        let mut child = Command::new("taskset")
            .args(["-c", &processor.to_string()])
            .arg(std::env::current_exe()?)
            .arg(SERVE)
            .arg(&list)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let say = child.stdin.take();
        let mut hear = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        hear.read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("our server said {line:?}"))?;
        Ok(Ours { child, say, hear, address, _list: directory })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the zone of [`zones::successor`], and waits until it is served.
    pub(crate) fn swap(&mut self, serial: u32) -> Result<()> {
        writeln!(self.say.as_ref().context("it has ended")?, "{SWAP} {serial}")?;
        let mut line = String::new();
        self.hear.read_line(&mut line)?;
        ensure!(line.trim() == SWAP, "our server said {line:?}");
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.say.take());
        let _ = self.child.wait();
    }
}

/// Serves the zones of a list until standard input ends.
pub(crate) fn serve(list: &Path) -> Result<()> {
    let text = std::fs::read_to_string(list)?;
    let zones = text.lines().filter_map(|line| line.split_once(' '));
    let engine = ours::engine(zones.map(|(apex, path)| (apex, Path::new(path))), Some(counted()))?;
    let serving = ours::serve(engine.clone())?;
    println!("{}", serving.address);
    for line in std::io::stdin().lines() {
        let line = line?;
        let Some((SWAP, serial)) = line.split_once(' ') else { bail!("{line:?} is not known") };
        let (apex, text) = zones::successor(serial.parse()?);
        engine.catalog.insert(Entry::Serving(ours::compile(apex, &text)?));
        println!("{SWAP}");
    }
    Ok(())
}

/// Limits that count every response and that nobody reaches.
fn counted() -> Rates {
    let rate = Some(Rate { per_second: NonZeroU32::MAX, burst: NonZeroU32::MAX });
    Rates { answer: rate, referral: rate, no_data: rate, nx_domain: rate, error: rate, slip: None }
}
