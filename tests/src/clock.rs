//! Clocks for single programs of a machine (Debian's libfaketime): one that is decades off, and one
//! that a scenario moves while they run.
//!
//! Only the date is another. Spans of time are measured as they are (`CLOCK_MONOTONIC`), or programs
//! would wait for ever; so timers that do not look at the date do not see that it was moved. Programs
//! in Go ask the kernel themselves and cannot be deceived, nor can one that is linked statically.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::{Ended, Machine};
use crate::packages::unpacked;
use crate::process::Process;
use crate::sealpost::{AGENT, AGENT_FILE, RELAY, RELAY_FILE};

const LIBRARY: &str = "/run/libfaketime.so";
/// Says how far off a [`Clock`] is.
const OFFSET: &str = "/run/clock";
/// For how many seconds a program remembers what stood there, and until the next one begins.
const REMEMBERED: u32 = 0;

const DAY: Duration = Duration::from_secs(86_400);

/// What programs on a machine believe of the time.
#[derive(Debug, Clone, Copy)]
pub struct WrongClock<'a> {
    machine: &'a Machine,
    date: &'a str,
}

impl<'a> WrongClock<'a> {
    /// Programs that are started through it begin at `date`, such as `2001-02-03 04:05:06`, or so
    /// far from the true time as `-40d` says. Their clock goes on from there.
    pub fn on(machine: &'a Machine, date: &'a str) -> Result<Self> {
        install(machine)?;
        Ok(Self { machine, date })
    }

    /// As [`crate::sealpost::relay_tries`].
    pub fn relay_tries(&self, command: &str) -> Result<Ended> {
        let [preload, time, kept] = self.environment();
        self.machine.attempt(&format!(
            "env {preload} '{time}' {kept} {RELAY} {command} --config {RELAY_FILE}"
        ))
    }

    /// As [`crate::sealpost::agent_tries`].
    pub fn agent_tries(&self, command: &str) -> Result<Ended> {
        let [preload, time, kept] = self.environment();
        self.machine.attempt(&format!(
            "env {preload} '{time}' {kept} {AGENT} {command} --config {AGENT_FILE}"
        ))
    }

    /// As [`crate::sealpost::start_agent`].
    pub fn start_agent(&self) -> Result<Process> {
        let environment = self.environment();
        let mut line = vec!["env"];
        line.extend(environment.iter().map(String::as_str));
        line.extend([AGENT, "run", "--config", AGENT_FILE]);
        Process::start(self.machine, "agent", &line)
    }

    fn environment(&self) -> [String; 3] {
        let date = self.date;
        let time = if date.starts_with(['-', '+']) { date.to_owned() } else { format!("@{date}") };
        [
            format!("LD_PRELOAD={LIBRARY}"),
            format!("FAKETIME={time}"),
            // What measures spans of time is right on a machine whose date is wrong.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }
}

/// A clock that runs, and that a scenario moves on. All programs that it was given see the same time.
#[derive(Debug, Default)]
pub struct Clock {
    /// Where it is read, as the world outside finds it.
    files: BTreeSet<PathBuf>,
    ahead: Duration,
}

impl Clock {
    /// The first words of a command that runs a program of this machine under this clock.
    pub fn command(&mut self, machine: &Machine) -> Result<Vec<String>> {
        install(machine)?;
        self.files.insert(machine.path(OFFSET));
        self.write()?;
        Ok(vec![
            "env".to_owned(),
            format!("LD_PRELOAD={LIBRARY}"),
            format!("FAKETIME_TIMESTAMP_FILE={OFFSET}"),
            format!("FAKETIME_CACHE_DURATION={REMEMBERED}"),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            // A file is as old as it is.
            "NO_FAKE_STAT=1".to_owned(),
        ])
    }

    /// Starts a program under this clock, see [`Process::start`].
    pub fn start(&mut self, machine: &Machine, name: &str, program: &[&str]) -> Result<Process> {
        let command = self.command(machine)?;
        let command = command.iter().map(String::as_str).chain(program.iter().copied());
        Process::start(machine, name, &command.collect::<Vec<_>>())
    }

    /// So many days pass at once. All programs know it when this returns; what they wait for may still
    /// take as long as if none had passed.
    pub fn advance(&mut self, days: u32) -> Result<()> {
        self.pass(DAY * days)
    }

    /// The same for spans that are no days, in whole seconds.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        self.ahead += time;
        self.write()?;
        sleep(Duration::from_secs(u64::from(REMEMBERED) + 1));
        Ok(())
    }

    fn write(&self) -> Result<()> {
        for file in &self.files {
            // At once: half a line would be another time.
            let new = file.with_extension("new");
            fs::write(&new, format!("+{}\n", self.ahead.as_secs()))?;
            fs::rename(&new, file)?;
        }
        Ok(())
    }
}

fn install(machine: &Machine) -> Result<()> {
    // Programs that run must not lose what they have mapped.
    if !machine.path(LIBRARY).exists() {
        fs::copy(library()?, machine.path(LIBRARY))?;
        // It keeps something in shared memory, and /dev is that of the world outside.
        machine.run("mount -t tmpfs wrong-clock /dev/shm")?;
    }
    Ok(())
}

/// The one for programs of several threads.
fn library() -> Result<PathBuf> {
    let tree = unpacked("faketime")?.join("usr/lib");
    fs::read_dir(&tree)?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|library| library.exists())
        .with_context(|| format!("no libfaketime in {}", tree.display()))
}
