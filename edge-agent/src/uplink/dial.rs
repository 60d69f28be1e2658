//! One attempt to bring a tunnel up: all addresses of the relay, until one says hello.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Connection, Endpoint};
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::{Control, GreetingError};
use sealpost_tunnel::quic::{Pin, Use};
use sealpost_tunnel::{Identity, PublicKey, ResetCode};

use crate::config::Relay;
use crate::reach::Sockets;
use crate::reach::failure::{Failure, Unreached};
use crate::registration::keys::{Keys, Which};
use crate::registration::pins::Pins;
use crate::registration::succession::{connect, follow};

const SOFTWARE: &str = concat!("sealpost-agent ", env!("CARGO_PKG_VERSION"));

/// What it takes to dial; clones share it.
#[derive(Clone)]
pub struct Dialer {
    sockets: Sockets,
    keys: Arc<Keys>,
    pins: Pins,
}

/// A tunnel on which both ends said hello.
pub(super) struct Tunnel {
    pub(super) connection: Connection,
    pub(super) control: Control,
    /// The key that we proved.
    pub(super) us: PublicKey,
    /// The key that the relay proved.
    pub(super) relay: PublicKey,
}

impl Dialer {
    /// Dials through `sockets`, proves one of `keys`, and demands of relays what `pins` says.
    pub fn new(sockets: Sockets, keys: Arc<Keys>, pins: Pins) -> Self {
        Self { sockets, keys, pins }
    }

    /// The sockets, to be closed last.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Dials `relay` at all of its addresses; the first that says hello wins. A relay that changed
    /// its key is followed.
    pub(super) async fn dial(&self, relay: &Relay, which: Which) -> Result<Tunnel, Unreached> {
        let identity = self.keys.read(which);
        let known = self.pins.trusted(relay.key);
        match self.dial_key(relay, known, &identity).await {
            Err(unreached) if unreached.other_key() => {
                let followed = follow(&self.sockets, &self.pins, &relay.addresses, relay.key);
                let Ok(key) = followed.await else {
                    return Err(unreached);
                };
                self.dial_key(relay, key, &identity).await
            }
            other => other,
        }
    }

    async fn dial_key(
        &self,
        relay: &Relay,
        key: PublicKey,
        identity: &Arc<Identity>,
    ) -> Result<Tunnel, Unreached> {
        let hello = Hello { capabilities: relay.capabilities(), ..Hello::ours(SOFTWARE) };
        let attempt = |endpoint: Endpoint, address| {
            let (identity, hello) = (identity.clone(), hello.clone());
            async move { dial_one(&endpoint, address, &identity, key, hello).await }
        };
        self.sockets.first(&relay.addresses, attempt).await
    }
}

async fn dial_one(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &Identity,
    relay: PublicKey,
    hello: Hello,
) -> Result<Tunnel, Failure> {
    let pin = Pin::Exactly(relay);
    let connection = connect(endpoint, address, identity, pin, Use::Tunnel).await?;
    match Control::open(&connection, &hello).await {
        Ok(control) => Ok(Tunnel { connection, control, us: identity.public(), relay }),
        Err(GreetingError::Connection(error)) => Err(Failure::of(&error)),
        // The stream may learn of the end of its connection first.
        Err(GreetingError::Stream(reason)) => Err(match connection.close_reason() {
            Some(error) => Failure::of(&error),
            None => Failure::Other(reason),
        }),
        Err(error) => {
            let code = match error {
                GreetingError::Version { .. } => ResetCode::Version,
                _ => ResetCode::Protocol,
            };
            connection.close(code.into(), error.to_string().as_bytes());
            Err(Failure::Other(error.to_string()))
        }
    }
}
