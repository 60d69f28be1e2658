//! Follows a relay to the key that it changed to. That another key answers changes nothing by
//! itself: the key that was known must have signed that the other takes its place.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Connection, Endpoint};
use sealpost_tunnel::ask::ask;
use sealpost_tunnel::handover::{Handover, follows};
use sealpost_tunnel::quic::{self, Pin, Use};
use sealpost_tunnel::{Answer, HostPort, Identity, PublicKey, Request, ResetCode};
use tracing::warn;

use super::pins::Pins;
use crate::reach::Sockets;
use crate::reach::failure::{Failure, Unreached};

/// Connects to `address`; the relay must prove `pin`, and nothing more is known of it.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &Identity,
    pin: Pin,
    purpose: Use,
) -> Result<Connection, Failure> {
    let connecting = quic::dial(endpoint, address, identity, pin, purpose)
        .map_err(|error| Failure::Other(error.to_string()))?;
    connecting.await.map_err(|error| Failure::of(&error))
}

/// The key to which the relay at `addresses` has changed, when what `pin` stands for in `pins`
/// signed so; it is kept there.
pub(crate) async fn follow(
    sockets: &Sockets,
    pins: &Pins,
    addresses: &[HostPort],
    pin: PublicKey,
) -> Result<PublicKey, Unreached> {
    let known = pins.trusted(pin);
    // Whoever answers there need not learn who asks.
    let stranger = Arc::new(Identity::ephemeral());
    let (key, changes) = sockets
        .first(addresses, |endpoint, address| {
            let stranger = stranger.clone();
            async move { ask_there(&endpoint, address, &stranger, known).await }
        })
        .await?;
    if key != known {
        warn!(
            from = %known, to = %key,
            "the relay changed its key, and the old key signed so: the new one counts from now on"
        );
        if let Err(error) = pins.keep(pin, &changes) {
            warn!(%error, "cannot keep that the relay changed its key; it is asked again next time");
        }
    }
    Ok(key)
}

async fn ask_there(
    endpoint: &Endpoint,
    address: SocketAddr,
    stranger: &Identity,
    known: PublicKey,
) -> Result<(PublicKey, Vec<Handover>), Failure> {
    let connection = connect(endpoint, address, stranger, Pin::Any, Use::Registry).await?;
    let presented = quic::peer_key(&connection).ok_or(Failure::OtherKey)?;
    let answer = ask(&connection, &Request::Succession { from: known }).await;
    connection.close(ResetCode::Draining.into(), b"asked");
    match answer {
        Ok(Answer::Succession { chain }) => {
            changes(known, chain, presented).map(|changes| (presented, changes))
        }
        _ => None,
    }
    .ok_or(Failure::OtherKey)
}

/// What of `chain` leads from `known` to `presented`, when it does.
fn changes(
    known: PublicKey,
    mut chain: Vec<Handover>,
    presented: PublicKey,
) -> Option<Vec<Handover>> {
    if !follows(known, &chain, presented) {
        return None;
    }
    // Behind the key in use there may be one that is only announced.
    let length = match known == presented {
        true => 0,
        false => chain.iter().position(|change| change.to == presented)? + 1,
    };
    chain.truncate(length);
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::handover::Purpose;

    #[test]
    fn only_what_the_known_key_signed_is_followed_and_no_further_than_to_the_key_in_use() {
        let [a, b, c, d] = [(); 4].map(|()| Identity::ephemeral());
        let sign = |from: &Identity, to: &Identity| {
            Handover::sign(Purpose::RelayKey, from, to.public(), None)
        };
        let chain = vec![sign(&a, &b), sign(&b, &c)];
        let found = |known: &Identity, presented: &Identity| {
            changes(known.public(), chain.clone(), presented.public()).map(|found| found.len())
        };
        assert_eq!(found(&a, &b), Some(1));
        assert_eq!(found(&a, &c), Some(2));
        assert_eq!(found(&a, &a), Some(0));
        assert_eq!(found(&a, &d), None);
        // A key that was given up leads nobody who has left it already.
        assert_eq!(found(&b, &c), None);
        assert_eq!(changes(a.public(), vec![], b.public()), None);
    }
}
