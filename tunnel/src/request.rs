//! What a box asks of a relay's registry, and the answers.
//!
//! On any stream but the first of a tunnel, and on every stream of a registry connection, the
//! agent sends one JSON document and ends its direction; the relay answers in the same way. It
//! never asks itself. Fields that a reader does not know are skipped, and a field that is new must
//! be one that may be missing.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::handover::{Handover, MAX_CHAIN};
use crate::identity::PublicKey;
use crate::invite::Secret;
use crate::names::{DomainName, MxName};
use crate::spoken::spoken;

pub use crate::refusal::{Refusal, RefusalCode};
pub use crate::standing::{AddressPair, DomainStanding, DomainState, ProofMethod, Standing};

/// The longest request, in octets.
pub const MAX_REQUEST: usize = 16 * 1024;
/// The longest answer, in octets.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// The most MX names of one claim.
pub const MAX_CLAIMED: usize = 16;
const MAX_DETAIL: usize = 300;

/// What a box may ask. Who asks is the key that its connection proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// To be registered under the name that the invite is for.
    Join {
        /// The invite's.
        secret: Secret,
        /// The public half of the recovery key, where one was made already.
        #[serde(default)]
        recovery: Option<PublicKey>,
    },
    /// What the registry holds about the box.
    Standing,
    /// To receive for names of a domain that is proved.
    Claim {
        /// The domain.
        domain: DomainName,
        /// The domain itself or names beneath it, at most [`MAX_CLAIMED`]; none is for the
        /// relay's default.
        #[serde(default)]
        mx: Vec<MxName>,
    },
    /// To give a domain up.
    Release {
        /// The domain.
        domain: DomainName,
    },
    /// To take the place of the box's former key, which signed so.
    Rotate {
        /// From the box's former key to the one that asks.
        handover: Handover,
    },
    /// To take the place of a lost box key, which is revoked.
    Recover {
        /// From the recovery key to the one that asks.
        handover: Handover,
    },
    /// To register a recovery key.
    SetRecovery {
        /// Its public half.
        recovery: PublicKey,
        /// From the recovery key that is registered, when there is one.
        #[serde(default)]
        by: Option<Handover>,
    },
    /// To be forgotten.
    Leave,
    /// The handovers from a former key of the relay to its present one; anybody may ask.
    Succession {
        /// The key that the asker knows.
        from: PublicKey,
    },
}

/// What a relay answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// What the registry now holds about the box.
    Standing(Box<Standing>),
    /// The box is forgotten.
    Left,
    /// From the asked key to the present one; empty when the relay knows of none.
    Succession {
        /// Each signed by the key before; at most [`MAX_CHAIN`].
        chain: Vec<Handover>,
    },
    /// Nothing was done.
    Refused(Refusal),
}

/// Why octets are no request or answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than it may be.
    #[error("{0} octets or more, but at most {1} are allowed")]
    TooLong(usize, usize),
    /// Not one JSON document of the right shape.
    #[error("not one of the known JSON documents: {0}")]
    Malformed(String),
    /// A list in it is longer than it may be.
    #[error("a list of {0} entries, but at most {1} are allowed")]
    List(usize, usize),
}

impl Request {
    /// As octets.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("keys and names are always JSON")
    }

    /// Reads a whole request.
    pub fn decode(octets: &[u8]) -> Result<Self, RequestError> {
        let request = decode(octets, MAX_REQUEST)?;
        if let Self::Claim { mx, .. } = &request {
            bounded(mx, MAX_CLAIMED)?;
        }
        Ok(request)
    }
}

impl Answer {
    /// As octets.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("keys and names are always JSON")
    }

    /// Reads a whole answer. What it says to people holds nothing that steers a terminal.
    pub fn decode(octets: &[u8]) -> Result<Self, RequestError> {
        let answer = decode(octets, MAX_ANSWER)?;
        if let Self::Succession { chain } = &answer {
            bounded(chain, MAX_CHAIN)?;
        }
        Ok(answer)
    }
}

/// One document and nothing behind it; serde_json goes no deeper than 128 levels.
fn decode<T: DeserializeOwned>(octets: &[u8], max: usize) -> Result<T, RequestError> {
    if octets.len() > max {
        return Err(RequestError::TooLong(octets.len(), max));
    }
    // The peer may have chosen words of the error.
    let malformed = |e: serde_json::Error| spoken(&e.to_string(), MAX_DETAIL);
    serde_json::from_slice(octets).map_err(|e| RequestError::Malformed(malformed(e)))
}

fn bounded<T>(list: &[T], max: usize) -> Result<(), RequestError> {
    if list.len() > max { Err(RequestError::List(list.len(), max)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Purpose;
    use crate::identity::Identity;
    use proptest::prelude::*;

    fn handover() -> Handover {
        let (old, new) = (Identity::ephemeral(), Identity::ephemeral().public());
        Handover::sign(Purpose::BoxKey, &old, new, None)
    }

    fn requests() -> Vec<Request> {
        let key = Identity::ephemeral().public();
        let domain: DomainName = "example.org".parse().unwrap();
        let mx = vec!["mx.example.org".parse().unwrap()];
        vec![
            Request::Join { secret: Secret::random(), recovery: Some(key) },
            Request::Standing,
            Request::Claim { domain: domain.clone(), mx },
            Request::Release { domain },
            Request::Rotate { handover: handover() },
            Request::Recover { handover: handover() },
            Request::SetRecovery { recovery: key, by: Some(handover()) },
            Request::SetRecovery { recovery: key, by: None },
            Request::Leave,
            Request::Succession { from: key },
        ]
    }

    fn standing() -> Standing {
        Standing {
            name: "alice".parse().unwrap(),
            key: Identity::ephemeral().public(),
            hostname: "relay.example.net".parse().unwrap(),
            own_name: Some("alice.box.example.net".parse().unwrap()),
            addresses: vec!["2001:db8::1".parse().unwrap()],
            shared: vec!["198.51.100.1".parse().unwrap()],
            pair: None,
            name_servers: vec!["ns.relay.example.net".parse().unwrap()],
            domains_allowed: 3,
            domains: vec![DomainStanding {
                domain: "example.org".parse().unwrap(),
                mx: vec!["mx.example.org".parse().unwrap()],
                state: DomainState::Warned,
                method: ProofMethod::Txt,
                detail: "no TXT record found since Monday".into(),
                suspends_on: Some(2_000_000_000),
            }],
            recovery: Some(Identity::ephemeral().public()),
        }
    }

    fn malformed(wire: &str) -> bool {
        matches!(Request::decode(wire.as_bytes()), Err(RequestError::Malformed(_)))
    }

    #[test]
    fn every_request_survives_the_wire() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        assert_eq!(Request::Standing.encode(), br#"{"do":"standing"}"#);
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let message = "wait a minute".into();
        for answer in [
            Answer::Standing(standing().into()),
            Answer::Left,
            Answer::Succession { chain: vec![handover(), handover()] },
            Answer::Refused(Refusal { code: RefusalCode::Busy, message }),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert_eq!(Answer::Left.encode(), br#"{"answer":"left"}"#);
    }

    #[test]
    fn what_may_be_missing_may_be_missing_and_what_is_new_is_skipped() {
        let secret = String::from(Secret::random());
        let join = format!(r#"{{"do":"join","secret":"{secret}","new":[{{"deep":1}}]}}"#);
        let read = Request::decode(join.as_bytes());
        assert!(matches!(read, Ok(Request::Join { recovery: None, .. })), "{read:?}");
        let claim = Request::decode(br#"{"domain":"Example.org.","do":"claim"}"#);
        let domain = "example.org".parse().unwrap();
        assert_eq!(claim, Ok(Request::Claim { domain, mx: Vec::new() }));
        let key = Identity::ephemeral().public();
        let answer = format!(
            r#"{{"answer":"standing","name":"a","key":"{key}","hostname":"r.example",
                 "domains_allowed":1,"new":null}}"#
        );
        assert!(matches!(Answer::decode(answer.as_bytes()), Ok(Answer::Standing(_))));
    }

    #[test]
    fn what_is_no_single_known_document_is_refused() {
        let deep = "[".repeat(10_000);
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"do":"format-disk"}"#,
            r#"{"do":"standing"} x"#,
            r#"{"do":"standing"}{"do":"leave"}"#,
            r#"{"do":"standing","do":"leave"}"#,
            r#"{"do":"release"}"#,
            r#"{"do":"release","domain":"org"}"#,
            r#"{"do":"release","domain":"192.0.2.1"}"#,
            r#"{"do":"release","domain":"*.example.org"}"#,
            r#"{"do":"succession","from":"ed25519:short"}"#,
            &format!(r#"{{"do":"standing","x":{deep}"#),
            &deep,
        ] {
            assert!(malformed(bad), "{bad}");
        }
        assert!(matches!(Request::decode(b"\xff\xfe"), Err(RequestError::Malformed(_))));
    }

    #[test]
    fn an_error_repeats_no_secret_and_nothing_that_steers_a_terminal() {
        let secret = String::from(Secret::random());
        let bad = &secret[..26];
        for wire in [
            format!(r#"{{"do":"join","secret":"{bad}"}}"#),
            format!(r#"{{"do":"join","secret":["{secret}"]}}"#),
            format!(r#"{{"do":"join","secret":"{secret}","secret":"{secret}"}}"#),
            format!(r#"{{"do":"join","secret":"{secret}","recovery":"{secret}"}}"#),
        ] {
            let error = Request::decode(wire.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains(bad), "{error}");
        }
        let wire = "{\"do\":\"\\u001b[2J\\nINFO all is well\"}";
        let error = Request::decode(wire.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains(['\n', '\x1b']) && error.len() < 400, "{error}");
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let spaces = [&Request::Standing.encode()[..], &[b' '; MAX_REQUEST]].concat();
        assert_eq!(Request::decode(&spaces), Err(RequestError::TooLong(spaces.len(), MAX_REQUEST)));
        assert!(Request::decode(&spaces[..MAX_REQUEST]).is_ok());
        let mx = vec!["mx.example.org".parse().unwrap(); MAX_CLAIMED + 1];
        let claim = Request::Claim { domain: "example.org".parse().unwrap(), mx };
        assert_eq!(Request::decode(&claim.encode()), Err(RequestError::List(17, 16)));
        let chain = Answer::Succession { chain: vec![handover(); MAX_CHAIN + 1] };
        assert_eq!(Answer::decode(&chain.encode()), Err(RequestError::List(65, 64)));
    }

    #[test]
    fn the_largest_sound_request_and_chain_fit() {
        let name = |at| format!("{at:03}.{}example", "a.".repeat(121));
        let mx = (0..MAX_CLAIMED).map(|at| name(at).parse().unwrap()).collect();
        let claim = Request::Claim { domain: name(0).parse().unwrap(), mx };
        assert!(claim.encode().len() <= MAX_REQUEST);
        let chain = Answer::Succession { chain: vec![handover(); MAX_CHAIN] };
        assert!(chain.encode().len() <= MAX_ANSWER);
    }

    #[test]
    fn a_relays_words_cannot_steer_a_terminal() {
        let mut standing = standing();
        standing.domains[0].detail = "a\u{1b}[31m\nb".into();
        let Ok(Answer::Standing(read)) =
            Answer::decode(&Answer::Standing(standing.into()).encode())
        else {
            panic!("a standing stays one");
        };
        assert_eq!(read.domains[0].detail, "a[31mb");
    }

    proptest! {
        #[test]
        fn every_prefix_of_a_request_is_refused(which in 0..10_usize) {
            let wire = requests()[which].encode();
            for end in 0..wire.len() {
                prop_assert!(Request::decode(&wire[..end]).is_err());
            }
        }

        #[test]
        fn noise_never_panics(
            noise: Vec<u8>,
            json in r#"(\{|\}|\[|\]|,|:|"do"|"join"|"secret"|"standing"|"A{27}"|1e9|null){0,30}"#,
        ) {
            let _ = (Request::decode(&noise), Answer::decode(&noise));
            let _ = (Request::decode(json.as_bytes()), Answer::decode(json.as_bytes()));
        }
    }
}
