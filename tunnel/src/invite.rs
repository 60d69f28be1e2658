//! An invite: one line with which a new box finds its relay, knows its key, and may register once.
//!
//! ```text
//! sealpost://relay.example.net:4433/join?also=198.51.100.1:4433&key=ed25519:…#SECRET
//! ```
//!
//! `also` stands once for each further address. Behind `#` are 32 characters of base64url: the
//! secret of 20 octets and 4 octets of checksum (`line.rs`). Parameters with other names are
//! for newer programs and are skipped.

use std::fmt;
use std::iter;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::host_port::HostPortError;
use crate::identity::{PublicKey, PublicKeyError};
use crate::line::{self, LineError};
use crate::relay_ref::{MAX_ADDRESSES, RelayRef, RelayRefError, read_addresses};

/// The longest invite, in octets.
pub const MAX_INVITE: usize = 2048;
const PREFIX: &str = "sealpost://";
const SECRET: usize = 20;
/// In front of a secret that is hashed for the registry, so that it is no other hash of ours.
const HASH_CONTEXT: &[u8] = b"sealpost invite secret 1\0";

/// What an invite is worth: 160 random bits. The registry stores the hash alone. There is no
/// `Display`, so that it does not get into a log by accident; serde and [`FromStr`] know its text,
/// 27 characters of unpadded base64url.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; SECRET]);

/// Why a text is no [`Secret`]; the text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invite's secret has 27 characters of A-Z a-z 0-9 - _")]
pub struct SecretError;

impl Secret {
    /// A fresh one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// 64 hex digits of SHA-256 over the secret behind a context of its own. As the secret is
    /// random and long, nothing slower is needed.
    pub fn hash(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &[HASH_CONTEXT, &self.0].concat());
        hash.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SecretError)?;
        bytes.try_into().map(Self).map_err(|_| SecretError)
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;

    fn try_from(text: String) -> Result<Self, SecretError> {
        text.parse()
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        URL_SAFE_NO_PAD.encode(secret.0)
    }
}

/// The relay to join, and what entitles to it. As text it is the whole line, secret included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Which relay.
    pub relay: RelayRef,
    /// What entitles one box to join it.
    pub secret: Secret,
}

/// Why a text is no [`Invite`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It is something else.
    #[error(
        "this is not an invite, which is a line that begins with `{PREFIX}` and has `/join` in it; \
         the relay's operator makes one with `sealpost-relay invite NAME`"
    )]
    NotAnInvite,
    /// The checksum does not fit.
    #[error(
        "the invite is damaged: a part is missing or mistyped; copy the whole line again, with \
         everything behind the `#`, and put it in quotes"
    )]
    Damaged,
    /// Longer than any invite.
    #[error("an invite has at most {MAX_INVITE} characters; copy its one line and nothing else")]
    TooLong,
    /// One of the relay's addresses is none.
    #[error("the invite has an address that cannot be used; ask the operator for another: {0}")]
    Address(HostPortError),
    /// There are too many addresses.
    #[error(
        "the invite names {0} addresses, but at most {MAX_ADDRESSES} are tried; ask the operator \
         for another"
    )]
    Addresses(usize),
    /// The relay's key is none.
    #[error("the invite has no key that can be used; ask the operator for another: {0}")]
    Key(PublicKeyError),
}

impl From<LineError> for InviteError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Foreign => Self::NotAnInvite,
            LineError::TooLong => Self::TooLong,
            LineError::Damaged => Self::Damaged,
        }
    }
}

impl From<RelayRefError> for InviteError {
    fn from(error: RelayRefError) -> Self {
        match error {
            RelayRefError::Count(count) => Self::Addresses(count),
            RelayRefError::Address(error) => Self::Address(error),
            RelayRefError::Key(error) => Self::Key(error),
        }
    }
}

impl Invite {
    /// The invite to `relay` with `secret`, when its line is one that can be read again.
    pub fn new(relay: RelayRef, secret: Secret) -> Result<Self, InviteError> {
        if relay.addresses.is_empty() {
            return Err(InviteError::Addresses(0));
        }
        Self { relay, secret }.to_string().parse()
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut addresses = self.relay.addresses.iter();
        let first = addresses.next().map(|address| address.as_str()).unwrap_or_default();
        let also: String = addresses.map(|address| format!("also={address}&")).collect();
        let head = format!("{PREFIX}{first}/join?{also}key={}", self.relay.key);
        f.write_str(&line::write(&head, &self.secret.0))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let (head, secret) = line::read::<SECRET>(text, PREFIX, MAX_INVITE)?;
        let rest = head.strip_prefix(PREFIX).ok_or(InviteError::NotAnInvite)?;
        let (first, query) = rest.split_once("/join?").ok_or(InviteError::NotAnInvite)?;
        let values = |name| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(move |(this, _)| *this == name).map(|(_, value)| value)
        };
        let mut keys = values("key");
        let key: PublicKey = keys.next().unwrap_or_default().parse().map_err(InviteError::Key)?;
        if keys.next().is_some() {
            return Err(InviteError::NotAnInvite);
        }
        let addresses = read_addresses(iter::once(first).chain(values("also")))?;
        Ok(Self { relay: RelayRef { addresses, key }, secret: Secret(secret) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn relay(addresses: &[&str]) -> RelayRef {
        RelayRef {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            key: Identity::ephemeral().public(),
        }
    }

    fn sample() -> Invite {
        let relay = relay(&["relay.example.net:4433", "198.51.100.1:4433", "[2001:db8::1]:4433"]);
        Invite::new(relay, Secret::random()).unwrap()
    }

    #[test]
    fn an_invite_is_a_url_with_the_secret_in_its_fragment() {
        let invite = sample();
        let line = invite.to_string();
        assert_eq!(line.parse(), Ok(invite.clone()));
        let (url, fragment) = line.split_once('#').unwrap();
        let key = invite.relay.key;
        assert_eq!(
            url,
            format!(
                "sealpost://relay.example.net:4433/join?also=198.51.100.1:4433\
                 &also=[2001:db8::1]:4433&key={key}"
            )
        );
        assert_eq!(fragment.len(), 32);
        assert!(fragment.starts_with(&String::from(invite.secret)[..26]));
    }

    #[test]
    fn a_secret_is_known_by_its_hash_and_shown_nowhere() {
        let secret: Secret = "AAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        assert_eq!(
            secret.hash(),
            "d2c396394bbae5c2270566a74f99dc7a67109c5d4eb54c948bd719be82de344f"
        );
        let invite = sample();
        let text = String::from(invite.secret.clone());
        assert_eq!(text.parse(), Ok(invite.secret.clone()));
        assert!(!format!("{invite:?}").contains(&text));
        for bad in ["", &text[1..], &format!("{text}A"), &format!("{}B", &text[..26])] {
            assert_eq!(bad.parse::<Secret>(), Err(SecretError), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_apart() {
        let key = Identity::ephemeral().public();
        let error = |head: &str| line::write(head, &[7; SECRET]).parse::<Invite>().unwrap_err();
        assert_eq!("hello".parse::<Invite>(), Err(InviteError::NotAnInvite));
        assert_eq!(
            format!("sealpost://{}", "a".repeat(3000)).parse::<Invite>(),
            Err(InviteError::TooLong)
        );
        assert_eq!("sealpost://r:1/join?key=x#".parse::<Invite>(), Err(InviteError::Damaged));
        assert_eq!(error(&format!("sealpost://r:1/other?key={key}")), InviteError::NotAnInvite);
        assert_eq!(
            error(&format!("sealpost://r:1/join?key={key}&key={key}")),
            InviteError::NotAnInvite
        );
        assert_eq!(error("sealpost://r:1/join?"), InviteError::Key(PublicKeyError::Prefix));
        for host in ["", "r", "r:0", "user@r:1", "r:1/"] {
            let error = error(&format!("sealpost://{host}/join?key={key}"));
            assert!(matches!(error, InviteError::Address(_)), "{host}: {error}");
        }
        let many = "also=r:1&".repeat(MAX_ADDRESSES);
        assert_eq!(
            error(&format!("sealpost://r:1/join?{many}key={key}")),
            InviteError::Addresses(MAX_ADDRESSES + 1)
        );
    }

    #[test]
    fn parameters_of_newer_programs_are_skipped() {
        let key = Identity::ephemeral().public();
        let head = format!("sealpost://r:1/join?new=1&flag&key={key}&also=s:2");
        let invite: Invite = line::write(&head, &[7; SECRET]).parse().unwrap();
        assert_eq!(invite.relay.addresses.len(), 2);
    }

    #[test]
    fn an_invite_that_could_not_be_read_again_is_not_made() {
        let secret = Secret::random();
        let none = Invite::new(relay(&[]), secret.clone());
        assert_eq!(none, Err(InviteError::Addresses(0)));
        let many = Invite::new(relay(&["r:1"; MAX_ADDRESSES + 1]), secret.clone());
        assert_eq!(many, Err(InviteError::Addresses(MAX_ADDRESSES + 1)));
        let long = format!("{}:25", "a".repeat(250));
        let long = Invite::new(relay(&[long.as_str(); MAX_ADDRESSES]), secret);
        assert_eq!(long, Err(InviteError::TooLong));
    }

    #[test]
    fn every_truncation_is_refused() {
        let line = sample().to_string();
        for end in 0..line.len() {
            let error = line[..end].parse::<Invite>().unwrap_err();
            let foreign = end < PREFIX.len();
            let expected = if foreign { InviteError::NotAnInvite } else { InviteError::Damaged };
            assert_eq!(error, expected, "{end}");
        }
        for start in 1..line.len() {
            assert_eq!(line[start..].parse::<Invite>(), Err(InviteError::NotAnInvite), "{start}");
        }
    }

    proptest! {
        #[test]
        fn every_single_slip_is_refused_or_harmless(at: Index, slip: char, kind in 0..3) {
            let invite = sample();
            let mut line: Vec<char> = invite.to_string().chars().collect();
            let at = at.index(line.len());
            match kind {
                0 => line[at] = slip,
                1 => line.insert(at, slip),
                _ => _ = line.remove(at),
            }
            let read = line.into_iter().collect::<String>().parse::<Invite>();
            prop_assert!(read.is_err() || read == Ok(invite));
        }

        #[test]
        fn every_swap_of_neighbours_is_refused_or_harmless(at: Index) {
            let invite = sample();
            let mut line: Vec<char> = invite.to_string().chars().collect();
            let at = at.index(line.len() - 1);
            line.swap(at, at + 1);
            let read = line.into_iter().collect::<String>().parse::<Invite>();
            prop_assert!(read.is_err() || read == Ok(invite));
        }

        #[test]
        fn noise_never_panics(noise in "\\PC{0,200}", checked: bool) {
            let head = format!("{PREFIX}{noise}");
            let text = if checked { line::write(&head, &[7; SECRET]) } else { head };
            let _ = text.parse::<Invite>();
            let _ = noise.parse::<Secret>();
        }

        #[test]
        fn whoever_knows_the_checksum_gets_no_further_than_a_sound_invite(
            host in "[a-z0-9.:\\[\\]/?&#=@%]{0,30}",
            query in "(also=[a-z0-9.:]{0,12}&|key=[a-z0-9:_-]{0,60}&|[a-z&=]{0,9}){0,6}",
        ) {
            let key = Identity::ephemeral().public();
            let head = format!("{PREFIX}{host}/join?{query}key={key}");
            if let Ok(invite) = line::write(&head, &[7; SECRET]).parse::<Invite>() {
                prop_assert_eq!(invite.to_string().parse(), Ok(invite));
            }
        }
    }
}
