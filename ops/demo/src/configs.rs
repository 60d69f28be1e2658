//! The configuration files of relay and agent, as an operator would write them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::arguments::Proxy;

/// The relay's own name.
pub(crate) const RELAY_NAME: &str = "relay.example.net";

/// How long the relay holds a ClientHello for a box that is away. Its default is 20 s; nobody wants
/// to watch that.
pub(crate) const PARK_SECONDS: u64 = 2;

/// A listener on a free loopback port.
const FREE: &str = "127.0.0.1:0";

/// relay.toml
#[derive(Debug, Serialize)]
pub(crate) struct Relay {
    hostname: &'static str,
    state: PathBuf,
    /// The demo has no name servers to prove a domain with, so its box goes by a name under this.
    box_domain: &'static str,
    smtp: Listeners,
    tunnel: Tunnel,
    admin: Admin,
    log: Log,
    limits: Limits,
}

/// agent.toml
#[derive(Debug, Serialize)]
pub(crate) struct Agent {
    state: PathBuf,
    admin: Admin,
    log: Log,
    service: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Listeners {
    listen: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Tunnel {
    listen: Vec<&'static str>,
    announce: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Admin {
    listen: &'static str,
}

#[derive(Debug, Serialize)]
struct Log {
    format: &'static str,
    level: &'static str,
    /// Only relays have it: the hops of the demo say which box a session is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Limits {
    park: String,
}

#[derive(Debug, Serialize)]
struct Service {
    name: &'static str,
    address: String,
    proxy: &'static str,
}

const ADMIN: Admin = Admin { listen: FREE };
const LOG: Log = Log { format: "json", level: "info", sessions: None };

impl Relay {
    /// A relay that keeps its key and its boxes in `state`, and tells boxes to find it at
    /// `announced`. Its boxes have names under `box_domain`.
    pub(crate) fn new(state: PathBuf, announced: SocketAddr, box_domain: &'static str) -> Self {
        Self {
            hostname: RELAY_NAME,
            state,
            box_domain,
            smtp: Listeners { listen: vec![FREE] },
            tunnel: Tunnel { listen: vec![FREE], announce: vec![announced.to_string()] },
            admin: ADMIN,
            log: Log { sessions: Some("named"), ..LOG },
            limits: Limits { park: format!("{PARK_SECONDS}s") },
        }
    }
}

impl Agent {
    /// An agent with one mail server, which has not joined a relay yet.
    pub(crate) fn new(state: PathBuf, mail_server: SocketAddr, proxy: Proxy) -> Self {
        Self {
            state,
            admin: ADMIN,
            log: LOG,
            service: vec![Service {
                name: "smtp",
                address: mail_server.to_string(),
                proxy: proxy.as_str(),
            }],
        }
    }
}

/// Changes what `join` has written about the relay: the demo's sender comes from 127.0.0.1, which
/// an agent takes for a lie otherwise; and where it is asked for, the key is a wrong one.
pub(crate) fn adjust_relay(agent_file: &Path, pin: Option<&str>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(agent_file)?;
    let mut file: toml::Table = text.parse()?;
    let relay = file.get_mut("relay").and_then(|relays| relays.get_mut(0));
    let relay = relay.and_then(toml::Value::as_table_mut).context("join wrote no [[relay]]")?;
    relay.insert("private_senders".into(), true.into());
    if let Some(pin) = pin {
        relay.insert("key".into(), pin.into());
    }
    write(agent_file, &file)
}

/// Writes a configuration file.
pub(crate) fn write(path: &Path, config: &impl Serialize) -> anyhow::Result<()> {
    let text = toml::to_string(config)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_programs_read() {
        let address = "127.0.0.1:9".parse().expect("an address");
        let relay = Relay::new("state \"dir\"".into(), address, "home.example");
        let relay: toml::Table = toml::to_string(&relay).expect("TOML").parse().expect("TOML");
        assert_eq!(relay["smtp"]["listen"][0].as_str(), Some("127.0.0.1:0"));
        assert_eq!(relay["tunnel"]["announce"][0].as_str(), Some("127.0.0.1:9"));
        let agent = Agent::new("s".into(), address, Proxy::V1);
        let agent: toml::Table = toml::to_string(&agent).expect("TOML").parse().expect("TOML");
        assert_eq!(agent["service"][0]["proxy"].as_str(), Some("v1"));
    }
}
