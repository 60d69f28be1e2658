//! Sealpost's own programs in the machines of a scenario.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::admin;
use crate::clock::Clock;
use crate::dns::ANCHOR;
use crate::log::Log;
use crate::machine::{Ended, Machine};
use crate::network::{FURTHER_RELAY_V4, NAME_SERVER, RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4};
use crate::process::Process;
use crate::wait::{wait_for, wait_until};

/// The relay's configuration file in its machine.
pub const RELAY_FILE: &str = "/etc/sealpost/relay.toml";
/// The agent's configuration file in its machine.
pub const AGENT_FILE: &str = "/etc/sealpost/agent.toml";

pub(crate) const RELAY: &str = "/opt/sealpost/sealpost-relay";
pub(crate) const AGENT: &str = "/opt/sealpost/sealpost-agent";

/// How the agent introduces a connection to the mail server, and where that listens.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// `v2`, `v1` or `none`.
    pub proxy: &'static str,
    /// The mail server's port on 127.0.0.1.
    pub port: u16,
}

/// Where the relay keeps its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In a file of its own.
    Sqlite,
    /// On a PostgreSQL server in the relay's machine.
    Postgres,
}

/// What differs between relays.
#[derive(Debug, Clone, Copy)]
pub struct RelayFile<'a> {
    /// The relay's name.
    pub hostname: &'a str,
    /// Its address in the invites that it makes.
    pub announce: &'a str,
    /// The URL of a PostgreSQL database; a file without.
    pub registry: Option<&'a str>,
    /// Further lines for the top of the file.
    pub more: &'a str,
}

impl RelayFile<'_> {
    /// The relay of every scenario, on a registry of its own.
    pub const FIRST: RelayFile<'static> = RelayFile {
        hostname: "relay.example.net",
        announce: RELAY_SHARED_V4,
        registry: None,
        more: "",
    };
    /// A relay in the machine [`crate::network::FURTHER_RELAY`].
    pub const FURTHER: RelayFile<'static> = RelayFile {
        hostname: "relay2.example.org",
        announce: FURTHER_RELAY_V4,
        registry: None,
        more: "",
    };
}

/// Writes the relay's configuration file. What proves a domain is asked of the world's name
/// server.
pub fn configure_relay(relay: &Machine, file: RelayFile<'_>) -> Result<()> {
    let RelayFile { hostname, announce, registry, more } = file;
    let registry = registry.map_or(String::new(), |url| format!("registry = \"{url}\"\n"));
    relay.write(
        RELAY_FILE,
        &format!(
            "hostname = \"{hostname}\"\nstate = \"/var/lib/sealpost-relay\"\n{registry}{more}\
             [smtp]\nlisten = [\"0.0.0.0:25\", \"[::]:25\"]\n\
             [tunnel]\nlisten = [\"0.0.0.0:4433\", \"[::]:4433\"]\n\
             announce = [\"{announce}:4433\"]\n\
             [proof]\nresolvers = [\"{NAME_SERVER}:53\"]\ntrust_anchor = \"{ANCHOR}\"\n\
             [admin]\nlisten = \"127.0.0.1:9025\"\n\
             [log]\nformat = \"json\"\nlevel = \"info\"\nclient_addresses = \"full\"\n\
             sessions = \"named\"\n"
        ),
    )
}

/// Writes the agent's configuration file, in which no relay stands yet.
pub fn configure_agent(home: &Machine, service: Service) -> Result<()> {
    let Service { proxy, port } = service;
    home.write(
        AGENT_FILE,
        &format!(
            "state = \"/var/lib/sealpost-agent\"\n\
             [[service]]\nname = \"smtp\"\naddress = \"127.0.0.1:{port}\"\nproxy = \"{proxy}\"\n\
             [admin]\nlisten = \"127.0.0.1:9026\"\n\
             [log]\nformat = \"json\"\nlevel = \"info\"\n"
        ),
    )
}

/// A command of the operator, and the one JSON document that it prints.
pub fn relay_says(relay: &Machine, command: &str) -> Result<Value> {
    let printed = relay.run(&format!("{RELAY} {command} --json --config {RELAY_FILE}"))?;
    serde_json::from_str(&printed).with_context(|| format!("{command} printed {printed:?}"))
}

/// A command of the operator, and what it prints.
pub fn relay_does(relay: &Machine, command: &str) -> Result<String> {
    relay_tries(relay, command)?.expect(0)
}

/// A command of the operator, and how it ends.
pub fn relay_tries(relay: &Machine, command: &str) -> Result<Ended> {
    relay.attempt(&format!("{RELAY} {command} --config {RELAY_FILE}"))
}

/// A command of the box's owner, and what it prints.
pub fn agent_does(home: &Machine, command: &str) -> Result<String> {
    agent_tries(home, command)?.expect(0)
}

/// A command of the box's owner, and how it ends.
pub fn agent_tries(home: &Machine, command: &str) -> Result<Ended> {
    home.attempt(&format!("{AGENT} {command} --config {AGENT_FILE}"))
}

/// The record that proves the domain `domain` for the box in `home`, as a line of a zone.
pub fn proof(home: &Machine, domain: &str) -> Result<String> {
    let printed = agent_does(home, "key --json")?;
    let key: Value = serde_json::from_str(&printed).with_context(|| printed.clone())?;
    let fingerprint = key["fingerprint"].as_str().context("the fingerprint of the box")?;
    Ok(format!("_sealpost.{domain}. IN TXT \"sealpost1 box={fingerprint}\"\n"))
}

/// An invite for a box called `name`.
pub fn invite(relay: &Machine, name: &str) -> Result<String> {
    let invite = relay_says(relay, &format!("invite {name}"))?;
    invite["url"].as_str().map(str::to_owned).context("the URL of the invite")
}

/// What operator and owner do so that mail for `home.example` comes to the box called `home`:
/// also to the addresses of the relay that are to be the box's alone.
pub fn register(relay: &Machine, home: &Machine) -> Result<()> {
    let url = invite(relay, "home")?;
    agent_does(home, &format!("join '{url}' --yes --name r1"))?;
    for address in [RELAY_OWN_V6, RELAY_OWN_V4] {
        relay_does(relay, &format!("address add home {address}"))?;
    }
    // Answered when the relay routes by it, and so by all that came before.
    agent_does(home, "domain add home.example").map(drop)
}

/// Starts the relay and waits until it says that it is ready.
pub fn start_relay(machine: &Machine) -> Result<Process> {
    let process = Process::start(machine, "relay", &[RELAY, "run", "--config", RELAY_FILE])?;
    expect_relay(machine)?;
    Ok(process)
}

/// The same under a clock that the scenario moves.
pub fn start_relay_under(clock: &mut Clock, machine: &Machine) -> Result<Process> {
    let process = clock.start(machine, "relay", &[RELAY, "run", "--config", RELAY_FILE])?;
    expect_relay(machine)?;
    Ok(process)
}

fn expect_relay(machine: &Machine) -> Result<()> {
    wait_until("the relay to be ready", Duration::from_secs(10), || {
        Ok(admin::get(machine, admin::RELAY, "/readyz").is_ok_and(|(status, _)| status == 200))
    })
}

/// Starts the agent; see [`expect_tunnel`] and [`expect_self_test`] for what follows.
pub fn start_agent(machine: &Machine) -> Result<Process> {
    Process::start(machine, "agent", &[AGENT, "run", "--config", AGENT_FILE])
}

/// The same under a clock that the scenario moves.
pub fn start_agent_under(clock: &mut Clock, machine: &Machine) -> Result<Process> {
    clock.start(machine, "agent", &[AGENT, "run", "--config", AGENT_FILE])
}

/// Waits until the agent is connected for the `count`th time since its log began.
pub fn expect_tunnel(home: &Machine, count: usize) -> Result<()> {
    agent_log(home).expect_nth(count, "tunnel up", &[], Duration::from_secs(30)).map(drop)
}

/// Waits until `sealpost-agent status` has nothing to complain about: a tunnel is up, and the mail
/// server has passed its test. Returns what it prints then.
pub fn expect_ready(home: &Machine) -> Result<String> {
    wait_for("the box to be ready", Duration::from_secs(30), || {
        let status = agent_tries(home, "status")?;
        Ok((status.code == Some(0)).then_some(status.printed))
    })
}

/// Waits until `sealpost-agent status`, whatever it ends with, prints all of these words.
pub fn expect_status(home: &Machine, words: &[&str]) -> Result<String> {
    let what = format!("{words:?} in the status of the agent");
    wait_for(&what, Duration::from_secs(45), || {
        let status = agent_tries(home, "status")?.printed;
        Ok(words.iter().all(|word| status.contains(word)).then_some(status))
    })
}

/// Waits until the agent has judged the mail server, and demands that `result`.
pub fn expect_self_test(home: &Machine, result: &str) -> Result<()> {
    agent_log(home).expect("self-test", &[("service", "smtp"), ("result", result)]).map(drop)
}

/// The relay's log.
pub fn relay_log(machine: &Machine) -> Log<'_> {
    Log::of(machine, "relay")
}

/// The agent's log.
pub fn agent_log(machine: &Machine) -> Log<'_> {
    Log::of(machine, "agent")
}
