//! One attempt to reach a relay: all of its addresses, and a reason in words when none answers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use quinn::{Connection, ConnectionError, Endpoint};
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::{Control, GreetingError};
use sealpost_tunnel::reset::describe;
use sealpost_tunnel::{Identity, ResetCode, quic};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::eyeballs::{STAGGER, order};
use crate::config::Relay;

/// From the first packet to the relay's hello.
const ATTEMPT: Duration = Duration::from_secs(10);
/// For looking one host name up.
const LOOKUP: Duration = Duration::from_secs(10);
const SOFTWARE: &str = concat!("sealpost-agent ", env!("CARGO_PKG_VERSION"));

/// The TLS alert `access_denied` as a QUIC error code (RFC 9001 section 4.8): a pin failed.
const ACCESS_DENIED: u64 = 0x100 | 49;

/// The sockets that dial, one a family.
#[derive(Clone)]
pub struct Dialer {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    identity: Identity,
}

/// A tunnel on which both ends said hello.
pub(super) struct Tunnel {
    pub(super) connection: Connection,
    pub(super) control: Control,
}

impl Dialer {
    /// Binds a socket of each family that this machine has.
    pub fn bind(identity: Identity) -> anyhow::Result<Self> {
        let v4 = quic::agent_endpoint((Ipv4Addr::UNSPECIFIED, 0).into());
        let v6 = quic::agent_endpoint((Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        match (v4, v6) {
            (Err(error), None) => Err(error).context("cannot open a UDP socket"),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6, identity }),
        }
    }

    /// The sockets, to be closed last.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.v4, &self.v6].into_iter().flatten()
    }

    /// Dials `relay` at all of its addresses; the first that says hello wins.
    pub(super) async fn dial(&self, relay: &Relay) -> Result<Tunnel, String> {
        let addresses = order(&look_up(relay).await?);
        let mut attempts = JoinSet::new();
        for (at, address) in addresses.into_iter().enumerate() {
            let (dialer, relay) = (self.clone(), relay.clone());
            let delay = STAGGER * u32::try_from(at).unwrap_or(u32::MAX);
            attempts.spawn(async move {
                sleep(delay).await;
                timeout(ATTEMPT, dialer.dial_one(&relay, address))
                    .await
                    .unwrap_or_else(|_| Err(NO_ANSWER.into()))
                    .map_err(|reason| format!("{address}: {reason}"))
            });
        }
        let mut reasons = Vec::new();
        while let Some(ended) = attempts.join_next().await {
            match ended {
                // Dropping the others closes what they have.
                Ok(Ok(tunnel)) => return Ok(tunnel),
                Ok(Err(reason)) => {
                    debug!(relay = relay.name, reason, "attempt failed");
                    reasons.push(reason);
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        reasons.sort();
        Err(reasons.join("; "))
    }

    async fn dial_one(&self, relay: &Relay, address: SocketAddr) -> Result<Tunnel, String> {
        let endpoint = if address.is_ipv6() { &self.v6 } else { &self.v4 };
        let endpoint = endpoint.as_ref().ok_or("this machine has no socket for such addresses")?;
        let connecting = quic::dial(endpoint, address, &self.identity, relay.key)
            .map_err(|error| error.to_string())?;
        let connection = connecting.await.map_err(|error| self.explain(&error))?;
        match Control::open(&connection, &Hello::ours(SOFTWARE)).await {
            Ok(control) => Ok(Tunnel { connection, control }),
            Err(GreetingError::Connection(error)) => Err(self.explain(&error)),
            // The stream may learn of the end of its connection first.
            Err(GreetingError::Stream(reason)) => Err(match connection.close_reason() {
                Some(error) => self.explain(&error),
                None => reason,
            }),
            Err(error) => {
                let code = match error {
                    GreetingError::Version { .. } => ResetCode::Version,
                    _ => ResetCode::Protocol,
                };
                connection.close(code.into(), error.to_string().as_bytes());
                Err(error.to_string())
            }
        }
    }

    /// What went wrong and what to do, in words.
    fn explain(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::TransportError(error) if u64::from(error.code) == ACCESS_DENIED => {
                "another key answers there than the one in this box's file: either the key was \
                 copied wrongly, or somebody else answers in the relay's place; ask the relay's \
                 operator for its key (`sealpost-relay key`)"
                    .into()
            }
            ConnectionError::ConnectionClosed(close)
                if u64::from(close.error_code) == ACCESS_DENIED =>
            {
                format!(
                    "the relay does not know this box; give its operator this box's key: {}",
                    self.identity.public()
                )
            }
            ConnectionError::TimedOut => NO_ANSWER.into(),
            error => describe(error),
        }
    }
}

const NO_ANSWER: &str =
    "no answer; is the relay running, and does the network here let UDP to it pass?";

async fn look_up(relay: &Relay) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for address in &relay.addresses {
        match timeout(LOOKUP, tokio::net::lookup_host(address.as_str())).await {
            Ok(Ok(addresses)) => found.extend(addresses),
            Ok(Err(error)) => reasons.push(format!("{}: {error}", address.as_str())),
            Err(_) => reasons.push(format!("{}: looking it up took too long", address.as_str())),
        }
    }
    if found.is_empty() { Err(reasons.join("; ")) } else { Ok(found) }
}
