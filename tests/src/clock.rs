//! A clock that is decades off, for single programs of a machine (Debian's libfaketime).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::machine::{Ended, Machine};
use crate::packages::unpacked;
use crate::process::Process;
use crate::sealpost::{AGENT, AGENT_FILE, RELAY, RELAY_FILE};

const LIBRARY: &str = "/run/libfaketime.so";

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
        // Programs that run must not lose what they have mapped.
        if !machine.path(LIBRARY).exists() {
            fs::copy(library()?, machine.path(LIBRARY))?;
            // It keeps something in shared memory, and /dev is that of the world outside.
            machine.run("mount -t tmpfs wrong-clock /dev/shm")?;
        }
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

fn library() -> Result<PathBuf> {
    let tree = unpacked("faketime")?.join("usr/lib");
    fs::read_dir(&tree)?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|library| library.exists())
        .with_context(|| format!("no libfaketime in {}", tree.display()))
}
