//! Asks one relay: a short connection of its own, on which the relay must prove its key first.

use std::path::Path;
use std::time::Duration;

use quinn::Connection;
use sealpost_tunnel::ask::{ANSWER_TIMEOUT, AskError, ask};
use sealpost_tunnel::quic::{Pin, Use};
use sealpost_tunnel::request::{Refusal, RefusalCode, Standing};
use sealpost_tunnel::{Answer, Identity, PublicKey, RelayRef, Request, ResetCode};
use tokio::time::timeout;

use super::keys::{self, Which};
use super::pins::Pins;
use super::succession::{connect, follow};
use crate::reach::Sockets;
use crate::reach::failure::{Failure, Unreached};

/// For the answer to a request.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a relay did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AskFailure {
    /// It was not reached, or did not prove its key.
    #[error("{0}")]
    Unreached(Unreached),
    /// It refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// No answer came in time.
    #[error("the relay did not answer within {} s; try again later", .0.as_secs())]
    Silent(Duration),
    /// The connection or the stream ended before the answer.
    #[error("the relay broke off: {0}")]
    BrokeOff(String),
    /// It was reached, and does not take this box's key.
    #[error("{0}")]
    KeyNotTaken(Failure),
    /// Its answer is none to what was asked.
    #[error("the relay's answer cannot be used: {0}")]
    Answer(String),
    /// This box has no key.
    #[error("this box has no key yet; join a relay first: `sealpost-agent join URL`")]
    NoKey,
    /// This box's key cannot be read.
    #[error(transparent)]
    Key(#[from] sealpost_tunnel::identity::IdentityError),
}

impl AskFailure {
    /// The relay's reason, when it refused.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// Whether the relay answered that this box's key is unknown or no longer good.
    pub fn key_not_taken(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                matches!(refusal.code, RefusalCode::UnknownBox | RefusalCode::KeyRevoked)
            }
            Self::Unreached(unreached) => unreached.key_not_taken(),
            Self::KeyNotTaken(_) => true,
            _ => false,
        }
    }

    /// Whether the same may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code.may_pass(),
            Self::Unreached(unreached) => !unreached.other_key() && !unreached.key_not_taken(),
            Self::Silent(_) | Self::BrokeOff(_) => true,
            Self::KeyNotTaken(_) | Self::Answer(_) | Self::NoKey | Self::Key(_) => false,
        }
    }
}

/// Connects to relays.
pub struct Asker {
    sockets: Sockets,
    pins: Pins,
}

impl Asker {
    /// For the box whose directory is `state`.
    pub fn new(state: &Path) -> anyhow::Result<Self> {
        Ok(Self { sockets: Sockets::bind()?, pins: Pins::new(state) })
    }

    /// The keys that relays have changed to.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Connects to `relay` as the box with `identity`. A relay that changed its key is followed.
    pub async fn connect(&self, relay: &RelayRef, identity: &Identity) -> Result<Line, AskFailure> {
        let known = self.pins.trusted(relay.key);
        match self.connect_to(relay, known, identity).await {
            Err(unreached) if unreached.other_key() => {
                let followed = follow(&self.sockets, &self.pins, &relay.addresses, relay.key).await;
                let Ok(key) = followed else {
                    return Err(AskFailure::Unreached(unreached));
                };
                self.connect_to(relay, key, identity).await
            }
            other => other,
        }
        .map_err(AskFailure::Unreached)
    }

    async fn connect_to(
        &self,
        relay: &RelayRef,
        key: PublicKey,
        identity: &Identity,
    ) -> Result<Line, Unreached> {
        let connection = self
            .sockets
            .first(&relay.addresses, |endpoint, address| {
                let identity = identity.clone();
                async move {
                    connect(&endpoint, address, &identity, Pin::Exactly(key), Use::Registry).await
                }
            })
            .await?;
        Ok(Line { connection, us: identity.public(), relay: key })
    }

    /// Connects as the box whose directory is `state`, and asks for its standing. In the middle of
    /// a rotation a relay may know the next key already.
    pub async fn as_box(
        &self,
        relay: &RelayRef,
        state: &Path,
    ) -> Result<(Line, Standing), AskFailure> {
        let present = keys::read(state, Which::Present)?.ok_or(AskFailure::NoKey)?;
        let refused = match self.standing_of(relay, &present).await {
            Err(refused) if refused.key_not_taken() => refused,
            other => return other,
        };
        match keys::read(state, Which::Next)? {
            Some(next) if next.public() != present.public() => self.standing_of(relay, &next).await,
            _ => Err(refused),
        }
    }

    async fn standing_of(
        &self,
        relay: &RelayRef,
        identity: &Identity,
    ) -> Result<(Line, Standing), AskFailure> {
        let line = self.connect(relay, identity).await?;
        let standing = line.standing(&Request::Standing).await?;
        Ok((line, standing))
    }

    /// Closes all lines and gives relays a moment to notice.
    pub async fn close(&self) {
        self.sockets.close("asked").await;
    }
}

/// A connection to a relay that proved its key.
pub struct Line {
    connection: Connection,
    us: PublicKey,
    /// The key that the relay proved.
    pub relay: PublicKey,
}

impl Line {
    /// Asks what is answered with the box's standing.
    pub async fn standing(&self, request: &Request) -> Result<Standing, AskFailure> {
        match self.ask(request).await? {
            Answer::Standing(standing) if standing.key == self.us => Ok(*standing),
            Answer::Standing(standing) => Err(AskFailure::Answer(format!(
                "it speaks of a box with the key {}, and ours is {}",
                standing.key, self.us
            ))),
            _ => Err(AskFailure::Answer("it is none to what was asked".into())),
        }
    }

    /// Asks to be forgotten.
    pub async fn leave(&self) -> Result<(), AskFailure> {
        match self.ask(&Request::Leave).await? {
            Answer::Left => Ok(()),
            _ => Err(AskFailure::Answer("it is none to what was asked".into())),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, AskFailure> {
        let limit = match request {
            // For which the relay asks the domain's name servers first.
            Request::Claim { .. } => ANSWER_TIMEOUT,
            _ => ANSWER,
        };
        match timeout(limit, ask(&self.connection, request)).await {
            Err(_) => Err(AskFailure::Silent(limit)),
            Ok(Ok(Answer::Refused(refusal))) => Err(AskFailure::Refused(refusal)),
            Ok(Ok(answer)) => Ok(answer),
            // The stream may learn of the end of its connection first.
            Ok(Err(error)) => Err(match self.connection.close_reason().map(|e| Failure::of(&e)) {
                Some(failure @ Failure::KeyNotTaken(_)) => AskFailure::KeyNotTaken(failure),
                Some(failure) => AskFailure::BrokeOff(failure.to_string()),
                None => without_answer(&error, limit),
            }),
        }
    }
}

fn without_answer(error: &AskError, limit: Duration) -> AskFailure {
    match error {
        AskError::Timeout(_) => AskFailure::Silent(limit),
        AskError::Reset(ResetCode::ServiceUnknown) => AskFailure::Answer(
            "its version knows no such requests; ask its operator to update it".into(),
        ),
        AskError::Document(error) => AskFailure::Answer(format!("it is {error}")),
        error => AskFailure::BrokeOff(error.to_string()),
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.close(ResetCode::Draining.into(), b"asked");
    }
}
