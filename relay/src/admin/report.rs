//! What the live socket answers, as both of its ends know it. Pure.

use std::net::{IpAddr, SocketAddr};

use sealpost_tunnel::PublicKey;
use serde::{Deserialize, Serialize};

pub use crate::ingress::Phase;

/// Most boxes or sessions of one answer.
pub const MOST: usize = 100_000;

/// `GET /status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The relay's version.
    pub version: String,
    /// Its own name.
    pub hostname: String,
    /// The key that boxes pin.
    pub key: PublicKey,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// Where it listens.
    pub listening: Vec<Listening>,
    /// Boxes that have a tunnel.
    pub boxes_connected: usize,
    /// Connections of senders.
    pub sessions_open: usize,
    /// What it knows of its registry.
    pub registry: RegistryStatus,
    /// The last reload, if it was refused.
    pub reload_refused: Option<Mishap>,
    /// What keeps it from doing all of its work, a sentence each; empty when all is well.
    pub trouble: Vec<String>,
}

/// An address that is listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// `smtp`, `tunnel`, `dns` or `admin`.
    pub service: String,
    /// Where.
    pub address: SocketAddr,
}

/// What a relay knows of its registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// `sqlite` or `postgresql`.
    pub kind: String,
    /// Where it is, without a password.
    pub location: String,
    /// The revision that mail is routed by.
    pub revision: u64,
    /// Boxes that may connect.
    pub boxes: usize,
    /// Why the database cannot be followed now.
    pub away: Option<Mishap>,
}

/// What went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mishap {
    /// How long ago it began.
    pub seconds_ago: u64,
    /// In words.
    pub reason: String,
}

/// `GET /boxes`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedBoxes {
    /// How many there are; more than are listed beyond [`MOST`].
    pub connected: usize,
    /// In no order.
    pub boxes: Vec<ConnectedBox>,
}

/// A box that has a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedBox {
    /// Who it is.
    pub key: PublicKey,
    /// How long the newest tunnel has been up.
    pub since_seconds: u64,
    /// How many tunnels it has; more than one only for moments.
    pub tunnels: usize,
    /// Its open sessions.
    pub sessions: usize,
    /// Where it connects from, as far as the log may tell.
    pub address: IpAddr,
    /// What its agent calls itself.
    pub software: String,
}

/// `GET /sessions`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSessions {
    /// How many there are; more than are listed beyond [`MOST`].
    pub open: usize,
    /// Whether it is told for whom they are, as `[log] sessions` says.
    pub named: bool,
    /// In no order.
    pub sessions: Vec<OpenSession>,
}

/// A connection from a sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// The id by which it stands in the logs of both ends.
    pub session: String,
    /// The sender, as far as the log may tell.
    pub client: IpAddr,
    /// How long it has been open.
    pub seconds: u64,
    /// How far it has come.
    pub phase: Phase,
    /// The box, if that may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#box: Option<String>,
    /// The name that the sender asked for, if that may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The relay's address that it came to, if that may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    #[test]
    fn the_longest_answers_fit_into_what_a_client_reads() {
        let long = "x".repeat(255);
        let session = OpenSession {
            session: "f".repeat(16),
            client: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            seconds: u64::MAX,
            phase: Phase::Greeting,
            r#box: Some("x".repeat(32)),
            sni: Some(long.clone()),
            local: Some("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap()),
        };
        let connected = ConnectedBox {
            key: Identity::ephemeral().public(),
            since_seconds: u64::MAX,
            tunnels: 4,
            sessions: 1024,
            address: session.client,
            software: "x".repeat(64),
        };
        for one in [serde_json::to_vec(&session), serde_json::to_vec(&connected)] {
            assert!((one.unwrap().len() + 1) * MOST < super::super::client::MAX_ANSWER);
        }
    }
}
