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
    smtp: Listeners,
    tunnel: Listeners,
    admin: Admin,
    log: Log,
    limits: Limits,
    #[serde(rename = "box", skip_serializing_if = "Vec::is_empty")]
    boxes: Vec<Box>,
}

/// agent.toml
#[derive(Debug, Serialize)]
pub(crate) struct Agent {
    state: PathBuf,
    admin: Admin,
    log: Log,
    relay: Vec<RelayEntry>,
    service: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Listeners {
    listen: Vec<&'static str>,
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
struct Box {
    name: &'static str,
    key: String,
    mx: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RelayEntry {
    name: &'static str,
    addresses: Vec<String>,
    key: String,
    /// The demo's sender comes from 127.0.0.1, which an agent takes for a lie otherwise.
    private_senders: bool,
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
    /// A relay without boxes that keeps its key in `state`.
    pub(crate) fn new(state: PathBuf) -> Self {
        Self {
            hostname: RELAY_NAME,
            state,
            smtp: Listeners { listen: vec![FREE] },
            tunnel: Listeners { listen: vec![FREE] },
            admin: ADMIN,
            log: Log { sessions: Some("named"), ..LOG },
            limits: Limits { park: format!("{PARK_SECONDS}s") },
            boxes: Vec::new(),
        }
    }

    /// With the one box of the demo. It has no address of its own, so it is found by name (SNI).
    pub(crate) fn with_box(mut self, key: String, mx: &str) -> Self {
        self.boxes.push(Box { name: "home", key, mx: vec![mx.to_owned()] });
        self
    }
}

impl Agent {
    /// An agent of one relay with one mail server.
    pub(crate) fn new(
        state: PathBuf,
        relay: SocketAddr,
        relay_key: String,
        mail_server: SocketAddr,
        proxy: Proxy,
    ) -> Self {
        Self {
            state,
            admin: ADMIN,
            log: LOG,
            relay: vec![RelayEntry {
                name: "r1",
                addresses: vec![relay.to_string()],
                key: relay_key,
                private_senders: true,
            }],
            service: vec![Service {
                name: "smtp",
                address: mail_server.to_string(),
                proxy: proxy.as_str(),
            }],
        }
    }
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
        let relay =
            Relay::new("state \"dir\"".into()).with_box("ed25519:x".into(), "mx.home.example");
        let relay: toml::Table = toml::to_string(&relay).expect("TOML").parse().expect("TOML");
        assert_eq!(relay["smtp"]["listen"][0].as_str(), Some("127.0.0.1:0"));
        assert_eq!(relay["box"][0]["mx"][0].as_str(), Some("mx.home.example"));
        let address = "127.0.0.1:9".parse().expect("an address");
        let agent = Agent::new("s".into(), address, "ed25519:x".into(), address, Proxy::V1);
        let agent: toml::Table = toml::to_string(&agent).expect("TOML").parse().expect("TOML");
        assert_eq!(agent["relay"][0]["addresses"][0].as_str(), Some("127.0.0.1:9"));
        assert_eq!(agent["service"][0]["proxy"].as_str(), Some("v1"));
    }
}
