//! A key in few characters, or in words that two people can compare by voice.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::identity::PublicKey;

/// Words that stand for a fingerprint, of [`BITS_PER_WORD`] each. Six hold 66 bits: to find a
/// second key with the same words takes 2^66 attempts.
const WORDS: usize = 6;
/// The list has 2,048 words.
const BITS_PER_WORD: usize = 11;

/// SHA-256 of a key's `SubjectPublicKeyInfo`; as text 43 characters of unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// Why a text is no [`Fingerprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 43 characters of A-Z a-z 0-9 - _; was it cut off?")]
pub struct FingerprintError;

impl PublicKey {
    /// The key's fingerprint.
    pub fn fingerprint(self) -> Fingerprint {
        let hash = digest::digest(&digest::SHA256, &self.to_spki());
        Fingerprint(hash.as_ref().try_into().expect("SHA-256 has 32 octets"))
    }
}

impl Fingerprint {
    /// The first 66 bits as six words of BIP-39's English list, joined by hyphens: for people to
    /// compare, never for a program to decide by.
    pub fn words(&self) -> String {
        let list = bip39::Language::English.word_list();
        let bit = |at: usize| usize::from(self.0[at / 8] >> (7 - at % 8) & 1);
        let word = |number: usize| {
            let bits = number * BITS_PER_WORD..(number + 1) * BITS_PER_WORD;
            list[bits.fold(0, |index, at| index << 1 | bit(at))]
        };
        (0..WORDS).map(word).collect::<Vec<_>>().join("-")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    /// The public key of RFC 8032 section 7.1, test 1.
    const KEY: &str = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn a_known_key_has_its_known_fingerprint() {
        let fingerprint = KEY.parse::<PublicKey>().unwrap().fingerprint();
        assert_eq!(fingerprint.to_string(), "BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k");
        assert_eq!(fingerprint.words(), "alone-cable-glue-reform-option-raccoon");
    }

    #[test]
    fn words_are_those_of_the_first_bits() {
        assert_eq!(Fingerprint([0; 32]).words(), "abandon-abandon-abandon-abandon-abandon-abandon");
        assert_eq!(Fingerprint([0xff; 32]).words(), "zoo-zoo-zoo-zoo-zoo-zoo");
        let mut second = [0; 32];
        second[1] = 0b0001_1111;
        second[2] = 0b1111_1100;
        assert_eq!(Fingerprint(second).words(), "abandon-zoo-abandon-abandon-abandon-abandon");
    }

    #[test]
    fn a_fingerprint_survives_text_and_another_spelling_is_refused() {
        let fingerprint = Identity::ephemeral().public().fingerprint();
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 43);
        assert_eq!(text.parse(), Ok(fingerprint));
        for bad in [&text[..42], &format!("{text}="), &format!("{text}A"), "", "ä"] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError), "{bad}");
        }
        // The last character has two bits to spare, which must be 0.
        assert!(format!("{}B", "A".repeat(42)).parse::<Fingerprint>().is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics_and_has_one_spelling(noise in "[A-Za-z0-9_-]{42,44}|\\PC{0,60}") {
            if let Ok(fingerprint) = noise.parse::<Fingerprint>() {
                prop_assert_eq!(fingerprint.to_string(), noise);
            }
        }
    }
}
