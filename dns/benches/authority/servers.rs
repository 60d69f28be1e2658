//! The servers that are measured: NSD, Knot and ours, each a process of its own.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use domain::base::Rtype;
use sealpost_dns::rate_limit::{Rate, Rates};
use sealpost_dns::served::Entry;
use sealpost_dns::store::Store;
use sealpost_dns::transfer::timers::Standing;
use sealpost_tests::name_server::{
    NameServer, Software, Terms, ZoneFile, ZoneFiles, free_port, wait_until_served,
};
use tempfile::TempDir;

use crate::master_file::records;
use crate::{ours, zones};

/// The argument that makes this program our server.
pub(crate) const SERVE: &str = "serve";
/// What replaces a zone in our server.
const SWAP: &str = "swap";
/// Seconds until zones expire that were kept.
const KEPT: u64 = 28 * 86_400;
/// Each waits for the disk, zone after zone.
const WRITERS: usize = 16;

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
    Ours(Installed),
}

impl Server {
    /// Starts it on one processor, and waits until it serves all zones.
    pub(crate) fn start(kind: Kind, zones: &Prepared, processor: usize) -> Result<Server> {
        let software = match kind {
            Kind::Nsd => Software::Nsd,
            Kind::Knot => Software::Knot,
            Kind::Ours => return Ok(Server::Ours(Installed::start(zones, processor)?)),
        };
        let started = NameServer::start(software, &zones.files, Terms::bench(processor))?;
        Ok(Server::Theirs(started))
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

/// Zones as each server has them when it starts: in master files, and as our program kept them.
pub(crate) struct Prepared {
    files: ZoneFiles,
    state: TempDir,
}

impl Prepared {
    /// Writes them as our program does, and its configuration with them.
    pub(crate) fn new(files: ZoneFiles) -> Result<Prepared> {
        let state = tempfile::tempdir()?;
        let store = Store::open(state.path().join("zones"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        // None of them is to be refreshed while it is measured.
        let standing = Standing { refreshed: now, expires: now + KEPT };
        let zones: Vec<_> = files.iter().collect();
        let share = zones.len().div_ceil(WRITERS).max(1);
        thread::scope(|scope| {
            let write = |share: &[&ZoneFile]| {
                for zone in share {
                    let mut records = records(&std::fs::read_to_string(&zone.path)?)?;
                    let soa = records.iter().position(|record| record.rtype() == Rtype::SOA);
                    records.swap(0, soa.context("a zone without SOA")?);
                    store.save(&zone.apex.parse()?, &records, standing, None)?;
                }
                anyhow::Ok(())
            };
            let writers: Vec<_> =
                zones.chunks(share).map(|share| scope.spawn(move || write(share))).collect();
            writers.into_iter().try_for_each(|writer| match writer.join() {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(Prepared { files, state })
    }

    /// The configuration of our program: limits that count every response and that nobody reaches.
    fn config(&self, address: SocketAddr) -> String {
        let most = u32::MAX;
        let state = self.state.path().display();
        let mut config = format!(
            "state = \"{state}\"\nlisten = [\"{address}\"]\nthreads = 1\n\
             admin.listen = \"127.0.0.1:0\"\nlog.level = \"warn\"\n[rate_limit]\n\
             answers = {most}\nreferrals = {most}\nno_data = {most}\nnx_domain = {most}\nerrors = {most}\n"
        );
        for zone in self.files.iter() {
            // Writing to a string does not fail. At this address nobody is.
            let _ = write!(
                config,
                "[[zone]]\nname = \"{}\"\nprimaries = [{{ address = \"127.0.0.1:1\" }}]\n",
                zone.apex
            );
        }
        config
    }
}

/// `sealpost-dns`, started with the zones that it kept.
pub(crate) struct Installed {
    child: Child,
    address: SocketAddr,
    _config: TempDir,
}

impl Installed {
    fn start(zones: &Prepared, processor: usize) -> Result<Installed> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("dns.toml");
        std::fs::write(&config, zones.config(address))?;
        let child = Command::new("taskset")
            .args(["-c", &processor.to_string(), env!("CARGO_BIN_EXE_sealpost-dns")])
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()?;
        let mut installed = Installed { child, address, _config: directory };
        wait_until_served(&mut installed.child, address, &zones.files)?;
        Ok(installed)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our engine and its sockets in a process of its own, whose zones can be replaced at a word.
pub(crate) struct Swapped {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
    address: SocketAddr,
    _list: tempfile::TempDir,
}

impl Swapped {
    pub(crate) fn start(zones: &ZoneFiles, processor: usize) -> Result<Swapped> {
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
        Ok(Swapped { child, say, hear, address, _list: directory })
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

impl Drop for Swapped {
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
        engine.served.insert(Entry::Serving(ours::compile(apex, &text)?));
        println!("{SWAP}");
    }
    Ok(())
}

/// Limits that count every response and that nobody reaches.
fn counted() -> Rates {
    let rate = Some(Rate { per_second: NonZeroU32::MAX, burst: NonZeroU32::MAX });
    Rates { answer: rate, referral: rate, no_data: rate, nx_domain: rate, error: rate, slip: None }
}
