//! How a relay is reached: its names are looked up, its addresses tried in turn, and the first
//! that proves itself is used.

mod eyeballs;
pub mod failure;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use quinn::Endpoint;
use sealpost_tunnel::{HostPort, ResetCode, quic};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use eyeballs::{STAGGER, order};
use failure::{Failure, Unreached};

/// For one attempt, from the first packet to what it is made for.
const ATTEMPT: Duration = Duration::from_secs(10);
/// For looking one host name up.
const LOOKUP: Duration = Duration::from_secs(10);
/// How long relays may take to acknowledge that we are gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The sockets that dial, one a family; clones share them.
#[derive(Clone)]
pub struct Sockets {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl Sockets {
    /// Binds a socket of each family that this machine has.
    pub fn bind() -> anyhow::Result<Self> {
        let v4 = quic::agent_endpoint((Ipv4Addr::UNSPECIFIED, 0).into());
        let v6 = quic::agent_endpoint((Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        match (v4, v6) {
            (Err(error), None) => Err(error).context("cannot open a UDP socket"),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6 }),
        }
    }

    /// Makes an `attempt` at each of `addresses`, a little one after the other; the first that
    /// succeeds wins, and the others are dropped, which closes what they have.
    pub async fn first<T, F>(
        &self,
        addresses: &[HostPort],
        attempt: impl Fn(Endpoint, SocketAddr) -> F,
    ) -> Result<T, Unreached>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut unreached = Unreached::default();
        let found = look_up(addresses, &mut unreached).await;
        if !found.is_empty() {
            // What could not be looked up does not matter where another name was found.
            unreached = Unreached::default();
        }
        let mut attempts = JoinSet::new();
        for (at, address) in order(&found).into_iter().enumerate() {
            let endpoint = if address.is_ipv6() { &self.v6 } else { &self.v4 };
            let Some(endpoint) = endpoint.clone() else {
                let reason = "this machine has no socket for such addresses";
                unreached.add(Some(address), Failure::Other(reason.into()));
                continue;
            };
            let delay = STAGGER * u32::try_from(at).unwrap_or(u32::MAX);
            let attempt = attempt(endpoint, address);
            attempts.spawn(async move {
                sleep(delay).await;
                let ended = timeout(ATTEMPT, attempt).await;
                (address, ended.unwrap_or(Err(Failure::NoAnswer)))
            });
        }
        while let Some(ended) = attempts.join_next().await {
            match ended {
                Ok((_, Ok(won))) => return Ok(won),
                Ok((address, Err(failure))) => {
                    debug!(%address, %failure, "attempt failed");
                    unreached.add(Some(address), failure);
                }
                Err(error) => unreached.add(None, Failure::Other(error.to_string())),
            }
        }
        Err(unreached)
    }

    /// Closes all connections, and gives relays a moment to acknowledge it.
    pub async fn close(&self, reason: &str) {
        for endpoint in [&self.v4, &self.v6].into_iter().flatten() {
            endpoint.close(ResetCode::Draining.into(), reason.as_bytes());
            let _ = timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
    }
}

async fn look_up(addresses: &[HostPort], unreached: &mut Unreached) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for address in addresses {
        let reason = match timeout(LOOKUP, tokio::net::lookup_host(address.as_str())).await {
            Ok(Ok(addresses)) => {
                found.extend(addresses);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "looking it up took too long".into(),
        };
        unreached.add(None, Failure::Other(format!("{}: {reason}", address.as_str())));
    }
    found
}
