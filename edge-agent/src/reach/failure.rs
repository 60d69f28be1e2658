//! Why a relay was not reached, for a program to act on and in words for people. Pure.

use std::fmt;
use std::net::SocketAddr;

use quinn::ConnectionError;
use sealpost_tunnel::ResetCode;
use sealpost_tunnel::reset::describe;

/// The TLS alert `access_denied` as a QUIC error code (RFC 9001 section 4.8): a pin failed.
const ACCESS_DENIED: u64 = 0x100 | 49;
/// The TLS alert `no_application_protocol`: the relay does not speak what we ask for.
const NO_PROTOCOL: u64 = 0x100 | 120;

/// Why one attempt came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another key than the expected one answered.
    OtherKey,
    /// The relay does not take this box's key, for this reason.
    KeyNotTaken(ResetCode),
    /// Nothing came.
    NoAnswer,
    /// Anything else, in words.
    Other(String),
}

impl Failure {
    /// What `error` means when it ends an attempt or a tunnel.
    pub fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) if u64::from(error.code) == ACCESS_DENIED => {
                Self::OtherKey
            }
            ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
                // How relays said it that knew their boxes before the handshake.
                ACCESS_DENIED => Self::KeyNotTaken(ResetCode::UnknownBox),
                NO_PROTOCOL => Self::Other(TOO_OLD.into()),
                _ => Self::Other(describe(error)),
            },
            ConnectionError::ApplicationClosed(close) => match ResetCode::from(close.error_code) {
                code @ (ResetCode::UnknownBox | ResetCode::Revoked) => Self::KeyNotTaken(code),
                _ => Self::Other(describe(error)),
            },
            ConnectionError::TimedOut => Self::NoAnswer,
            error => Self::Other(describe(error)),
        }
    }
}

const TOO_OLD: &str =
    "the relay's version knows no such connections; ask its operator to update it";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherKey => {
                "another key answers there than the one that this box knows, and nothing that the \
                 known one signed leads to it: either the key was copied wrongly, or somebody else \
                 answers in the relay's place; ask the relay's operator for its key \
                 (`sealpost-relay key`)"
            }
            Self::KeyNotTaken(ResetCode::Revoked) => {
                "the relay no longer takes this box's key: it was revoked, or another key took its \
                 place. If it was the operator, ask why. If it was a thief with this box's key, the \
                 recovery kit gets its place back: `sealpost-agent recover` on a bare box"
            }
            Self::KeyNotTaken(_) => {
                "the relay does not know this box; join it with an invite from its operator: \
                 `sealpost-agent join URL`"
            }
            Self::NoAnswer => {
                "no answer; is the relay running, and does the network here let UDP to it pass?"
            }
            Self::Other(reason) => reason,
        })
    }
}

/// Why no attempt at any address of a relay succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreached {
    attempts: Vec<(Option<SocketAddr>, Failure)>,
}

impl Unreached {
    /// Adds an attempt; without an address what came before there was one.
    pub(super) fn add(&mut self, address: Option<SocketAddr>, failure: Failure) {
        self.attempts.push((address, failure));
    }

    /// Whether another key answered at one of the addresses at least.
    pub fn other_key(&self) -> bool {
        self.attempts.iter().any(|(_, failure)| *failure == Failure::OtherKey)
    }

    /// Whether the relay, having proved its own key, did not take this box's.
    pub fn key_not_taken(&self) -> bool {
        self.attempts.iter().any(|(_, failure)| matches!(failure, Failure::KeyNotTaken(_)))
    }
}

impl From<Failure> for Unreached {
    fn from(failure: Failure) -> Self {
        Self { attempts: vec![(None, failure)] }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self
            .attempts
            .iter()
            .map(|(address, failure)| match address {
                Some(address) => format!("{address}: {failure}"),
                None => failure.to_string(),
            })
            .collect();
        // The order of the attempts is chance, and a status that changes is news.
        lines.sort();
        f.write_str(&lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_taken_says_what_to_do() {
        let closed = |code: ResetCode| {
            Failure::of(&ConnectionError::ApplicationClosed(quinn::ApplicationClose {
                error_code: code.into(),
                reason: b"go away".to_vec().into(),
            }))
        };
        let unknown = closed(ResetCode::UnknownBox);
        assert_eq!(unknown, Failure::KeyNotTaken(ResetCode::UnknownBox));
        assert!(unknown.to_string().contains("sealpost-agent join"), "{unknown}");
        let revoked = closed(ResetCode::Revoked).to_string();
        assert!(revoked.contains("revoked") && revoked.contains("recover"), "{revoked}");
        assert_eq!(closed(ResetCode::Draining), Failure::Other("go away".into()));
    }

    #[test]
    fn several_attempts_are_told_in_one_order() {
        let address = |text: &str| Some(text.parse().unwrap());
        let mut one = Unreached::default();
        one.add(address("192.0.2.2:1"), Failure::NoAnswer);
        one.add(address("192.0.2.1:1"), Failure::OtherKey);
        let mut other = Unreached::default();
        other.add(address("192.0.2.1:1"), Failure::OtherKey);
        other.add(address("192.0.2.2:1"), Failure::NoAnswer);
        assert_eq!(one.to_string(), other.to_string());
        assert!(one.other_key() && !one.key_not_taken());
    }
}
