//! One key says that another takes its place.
//!
//! What is signed has one fixed length and begins with a context of its own for each purpose:
//!
//! ```text
//! context    32 octets: "sealpost handover 1 " and the purpose, filled up with zeros
//! from       32 octets, the key that signs
//! to         32 octets, the key that takes its place
//! scope       1 octet: 1 when the statement is for one relay alone, otherwise 0
//! relay      32 octets, that relay's key, otherwise zeros
//! ```
//!
//! So a signature made for one purpose, at one relay, says nothing for another, and none of them
//! can be what TLS has the same key sign, as that begins with 64 spaces (RFC 8446 section 4.4.3).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, PublicKey};

/// The most handovers that are followed from one key to another.
pub const MAX_CHAIN: usize = 64;
const CONTEXT: usize = 32;
const STATEMENT: usize = CONTEXT + 32 + 32 + 1 + 32;

/// What the old key is replaced as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A relay's key by its next one; for all its boxes, so without a relay.
    RelayKey,
    /// A box's key by its next one, at one relay.
    BoxKey,
    /// The recovery key lets a fresh box key take the place of the lost one, at one relay.
    Recovery,
    /// A recovery key by its next one, at one relay.
    RecoveryKey,
}

impl Purpose {
    fn context(self) -> [u8; CONTEXT] {
        let name: &[u8] = match self {
            Self::RelayKey => b"sealpost handover 1 relay-key",
            Self::BoxKey => b"sealpost handover 1 box-key",
            Self::Recovery => b"sealpost handover 1 recovery",
            Self::RecoveryKey => b"sealpost handover 1 recovery-key",
        };
        let mut context = [0; CONTEXT];
        context[..name.len()].copy_from_slice(name);
        context
    }
}

/// An Ed25519 signature; as text 86 characters of unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; 64]);

/// Why a text is no [`Signature`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature has 86 characters of A-Z a-z 0-9 - _; was it cut off?")]
pub struct SignatureError;

impl Signature {
    pub(crate) fn new(octets: [u8; 64]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SignatureError)?;
        bytes.try_into().map(Self).map_err(|_| SignatureError)
    }
}

impl TryFrom<String> for Signature {
    type Error = SignatureError;

    fn try_from(text: String) -> Result<Self, SignatureError> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

/// `from` says that `to` takes its place; worth something only when [`Handover::verify`] says so.
/// That `to` is held by whoever shows the handover is proved elsewhere: by its TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    /// The key that signs.
    pub from: PublicKey,
    /// The key that takes its place.
    pub to: PublicKey,
    /// Over purpose, both keys and the relay.
    pub signature: Signature,
}

impl Handover {
    /// Says with the key `from` that `to` takes its place, at `relay` alone where one is given.
    pub fn sign(
        purpose: Purpose,
        from: &Identity,
        to: PublicKey,
        relay: Option<PublicKey>,
    ) -> Self {
        let signature = from.sign(&statement(purpose, from.public(), to, relay));
        Self { from: from.public(), to, signature }
    }

    /// Whether `from` said so, for this purpose and this relay. A key does not follow itself.
    pub fn verify(&self, purpose: Purpose, relay: Option<PublicKey>) -> bool {
        let statement = statement(purpose, self.from, self.to, relay);
        let key = UnparsedPublicKey::new(&ED25519, self.from.as_bytes());
        self.from != self.to && key.verify(&statement, &self.signature.0).is_ok()
    }
}

fn statement(
    purpose: Purpose,
    from: PublicKey,
    to: PublicKey,
    relay: Option<PublicKey>,
) -> [u8; STATEMENT] {
    let mut statement = [0; STATEMENT];
    let none = [0; 32];
    let parts: [&[u8]; 5] = [
        &purpose.context(),
        from.as_bytes(),
        to.as_bytes(),
        &[u8::from(relay.is_some())],
        relay.as_ref().map_or(&none, |relay| relay.as_bytes()),
    ];
    let mut rest = &mut statement[..];
    for part in parts {
        let (this, behind) = rest.split_at_mut(part.len());
        this.copy_from_slice(part);
        rest = behind;
    }
    statement
}

/// Whether `presented` is the relay key `pin` itself, or follows from it through `chain`: each
/// link signed by the key that the one before it named, no key twice, at most [`MAX_CHAIN`] links.
/// Links behind `presented`, to a key that is announced but not in use, do not matter.
pub fn follows(pin: PublicKey, chain: &[Handover], presented: PublicKey) -> bool {
    if chain.len() > MAX_CHAIN {
        return false;
    }
    let mut seen = vec![pin];
    for link in chain {
        let current = seen[seen.len() - 1];
        if current == presented {
            return true;
        }
        if link.from != current || seen.contains(&link.to) || !link.verify(Purpose::RelayKey, None)
        {
            return false;
        }
        seen.push(link.to);
    }
    seen[seen.len() - 1] == presented
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const PURPOSES: [Purpose; 4] =
        [Purpose::RelayKey, Purpose::BoxKey, Purpose::Recovery, Purpose::RecoveryKey];

    fn key() -> PublicKey {
        Identity::ephemeral().public()
    }

    /// Keys, each handed over to the next.
    fn line(length: usize) -> (Vec<Identity>, Vec<Handover>) {
        let keys: Vec<_> = (0..=length).map(|_| Identity::ephemeral()).collect();
        let link =
            |pair: &[Identity]| Handover::sign(Purpose::RelayKey, &pair[0], pair[1].public(), None);
        let chain = keys.windows(2).map(link).collect();
        (keys, chain)
    }

    #[test]
    fn a_handover_holds_for_its_purpose_and_its_relay_alone() {
        let (old, new, relay) = (Identity::ephemeral(), key(), key());
        for purpose in PURPOSES {
            for at in [None, Some(relay)] {
                let handover = Handover::sign(purpose, &old, new, at);
                for other in PURPOSES {
                    for elsewhere in [None, Some(relay), Some(key())] {
                        let same = (purpose, at) == (other, elsewhere);
                        assert_eq!(
                            handover.verify(other, elsewhere),
                            same,
                            "{purpose:?} {other:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_relay_key_of_zeros_is_another_than_none() {
        let zeros: PublicKey = format!("ed25519:{}", "A".repeat(43)).parse().unwrap();
        let handover = Handover::sign(Purpose::BoxKey, &Identity::ephemeral(), key(), None);
        assert!(handover.verify(Purpose::BoxKey, None));
        assert!(!handover.verify(Purpose::BoxKey, Some(zeros)));
    }

    #[test]
    fn a_handover_cannot_be_turned_to_other_keys() {
        let (old, new) = (Identity::ephemeral(), key());
        let handover = Handover::sign(Purpose::BoxKey, &old, new, None);
        let holds = |handover: Handover| handover.verify(Purpose::BoxKey, None);
        assert!(holds(handover));
        assert!(!holds(Handover { to: key(), ..handover }));
        assert!(!holds(Handover { from: key(), ..handover }));
        assert!(!holds(Handover { from: new, to: old.public(), ..handover }));
        assert!(!holds(Handover::sign(Purpose::BoxKey, &old, old.public(), None)));
    }

    #[test]
    fn statements_of_all_purposes_have_one_length_and_contexts_of_their_own() {
        let contexts: Vec<_> = PURPOSES.iter().map(|purpose| purpose.context()).collect();
        for (index, context) in contexts.iter().enumerate() {
            assert!(context.starts_with(b"sealpost handover 1 "));
            assert!(!contexts[..index].contains(context));
        }
    }

    #[test]
    fn a_handover_survives_json() {
        let handover = Handover::sign(Purpose::BoxKey, &Identity::ephemeral(), key(), None);
        let wire = serde_json::to_string(&handover).unwrap();
        assert_eq!(serde_json::from_str::<Handover>(&wire).unwrap(), handover);
        let text = handover.signature.to_string();
        assert_eq!(text.len(), 86);
        for bad in ["", &text[1..], &format!("{text}A")] {
            assert_eq!(bad.parse::<Signature>(), Err(SignatureError), "{bad}");
        }
    }

    #[test]
    fn a_pin_follows_its_chain_to_every_key_of_it_and_to_no_other() {
        let (keys, chain) = line(3);
        let pin = keys[0].public();
        for key in &keys {
            assert!(follows(pin, &chain, key.public()));
        }
        assert!(follows(pin, &[], pin));
        assert!(!follows(pin, &chain, key()));
        assert!(!follows(pin, &[], keys[1].public()));
        assert!(!follows(pin, &chain[..2], keys[3].public()));
        // The wrong way round, from the middle, out of order, with a link left out.
        assert!(!follows(keys[3].public(), &chain, pin));
        assert!(follows(keys[1].public(), &chain[1..], keys[3].public()));
        assert!(!follows(keys[1].public(), &chain, keys[3].public()));
        assert!(!follows(pin, &[chain[1], chain[0], chain[2]], keys[3].public()));
        assert!(!follows(pin, &[chain[0], chain[2]], keys[3].public()));
    }

    #[test]
    fn one_wrong_signature_breaks_a_chain() {
        let (keys, chain) = line(3);
        for broken in 0..3 {
            let mut chain = chain.clone();
            chain[broken].signature.0[0] ^= 1;
            assert!(!follows(keys[0].public(), &chain, keys[3].public()), "{broken}");
        }
        // A box's own handover is none of the relay's.
        let foreign = Handover::sign(Purpose::BoxKey, &keys[0], keys[1].public(), None);
        assert!(!follows(keys[0].public(), &[foreign], keys[1].public()));
    }

    #[test]
    fn a_chain_that_comes_back_to_a_key_is_refused() {
        let (keys, mut chain) = line(2);
        let link = |from: &Identity, to: &Identity| {
            Handover::sign(Purpose::RelayKey, from, to.public(), None)
        };
        let last = Identity::ephemeral();
        chain.push(link(&keys[2], &keys[0]));
        chain.push(link(&keys[0], &last));
        assert!(!follows(keys[0].public(), &chain, last.public()));
        let itself = link(&keys[0], &keys[0]);
        assert!(!follows(keys[0].public(), &[itself, link(&keys[0], &last)], last.public()));
    }

    #[test]
    fn a_chain_is_followed_up_to_its_longest() {
        let (keys, chain) = line(MAX_CHAIN + 1);
        let (first, last) = (keys[0].public(), keys[MAX_CHAIN + 1].public());
        assert!(follows(keys[1].public(), &chain[1..], last));
        assert!(!follows(first, &chain, last));
        assert!(!follows(first, &chain, first), "too long is too long");
    }

    proptest! {
        #[test]
        fn no_bit_of_a_signature_can_be_changed(at: Index, bit in 0..8) {
            let old = Identity::ephemeral();
            let relay = Some(key());
            let mut handover = Handover::sign(Purpose::Recovery, &old, key(), relay);
            prop_assert!(handover.verify(Purpose::Recovery, relay));
            handover.signature.0[at.index(64)] ^= 1_u8 << bit;
            prop_assert!(!handover.verify(Purpose::Recovery, relay));
        }

        #[test]
        fn noise_never_panics(noise in "[A-Za-z0-9_-]{85,87}|\\PC{0,90}") {
            if let Ok(signature) = noise.parse::<Signature>() {
                prop_assert_eq!(signature.to_string(), noise);
                let handover = Handover { from: key(), to: key(), signature };
                prop_assert!(!handover.verify(Purpose::RelayKey, None));
            }
        }
    }
}
