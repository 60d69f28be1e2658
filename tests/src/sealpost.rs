//! Sealpost's own programs in the machines of a scenario.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::admin;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::{RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4};
use crate::process::Process;
use crate::wait::wait_until;

/// The relay's configuration file in its machine.
pub const RELAY_FILE: &str = "/etc/sealpost/relay.toml";
/// The agent's configuration file in its machine.
pub const AGENT_FILE: &str = "/etc/sealpost/agent.toml";

const RELAY: &str = "/opt/sealpost/sealpost-relay";
const AGENT: &str = "/opt/sealpost/sealpost-agent";

/// How the agent introduces a connection to the mail server, and where that listens.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// `v2`, `v1` or `none`.
    pub proxy: &'static str,
    /// The mail server's port on 127.0.0.1.
    pub port: u16,
}

/// Writes both configuration files; the programs make their keys and pin each other's.
pub fn configure(relay: &Machine, home: &Machine, service: Service) -> Result<()> {
    let relay_settings = "hostname = \"relay.example.net\"\nstate = \"/var/lib/sealpost-relay\"\n\
         [smtp]\nlisten = [\"0.0.0.0:25\", \"[::]:25\"]\n\
         [tunnel]\nlisten = [\"0.0.0.0:4433\", \"[::]:4433\"]\n\
         [admin]\nlisten = \"127.0.0.1:9025\"\n\
         [log]\nformat = \"json\"\nlevel = \"info\"\nclient_addresses = \"full\"\nsessions = \"named\"\n";
    relay.write(RELAY_FILE, relay_settings)?;
    let relay_key = key(relay, RELAY, RELAY_FILE)?;
    let Service { proxy, port } = service;
    home.write(
        AGENT_FILE,
        &format!(
            "state = \"/var/lib/sealpost-agent\"\n\
             [[relay]]\nname = \"r1\"\naddresses = [\"{RELAY_SHARED_V4}:4433\"]\nkey = \"{relay_key}\"\n\
             [[service]]\nname = \"smtp\"\naddress = \"127.0.0.1:{port}\"\nproxy = \"{proxy}\"\n\
             [admin]\nlisten = \"127.0.0.1:9026\"\n\
             [log]\nformat = \"json\"\nlevel = \"info\"\n"
        ),
    )?;
    let agent_key = key(home, AGENT, AGENT_FILE)?;
    relay.write(
        RELAY_FILE,
        &format!(
            "{relay_settings}\
             [[box]]\nname = \"home\"\nkey = \"{agent_key}\"\nmx = [\"mx.home.example\"]\n\
             addresses = [\"{RELAY_OWN_V6}\", \"{RELAY_OWN_V4}\"]\n"
        ),
    )
}

fn key(machine: &Machine, program: &str, file: &str) -> Result<String> {
    let printed = machine.run(&format!("{program} key --config {file}"))?;
    printed
        .split_whitespace()
        .find(|word| word.starts_with("ed25519:"))
        .map(str::to_owned)
        .with_context(|| format!("{program} key printed {printed:?}"))
}

/// Starts the relay and waits until it says that it is ready.
pub fn start_relay(machine: &Machine) -> Result<Process> {
    let process = Process::start(machine, "relay", &[RELAY, "run", "--config", RELAY_FILE])?;
    wait_until("the relay to be ready", Duration::from_secs(10), || {
        Ok(admin::get(machine, admin::RELAY, "/readyz").is_ok_and(|(status, _)| status == 200))
    })?;
    Ok(process)
}

/// Starts the agent; see [`expect_tunnel`] and [`expect_self_test`] for what follows.
pub fn start_agent(machine: &Machine) -> Result<Process> {
    Process::start(machine, "agent", &[AGENT, "run", "--config", AGENT_FILE])
}

/// Waits until the agent is connected for the `count`th time since its log began.
pub fn expect_tunnel(home: &Machine, count: usize) -> Result<()> {
    agent_log(home).expect_nth(count, "tunnel up", &[], Duration::from_secs(30)).map(drop)
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
