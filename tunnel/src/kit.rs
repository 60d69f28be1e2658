//! The recovery kit: one line on paper with which a bare box takes the place of a lost one.
//!
//! ```text
//! sealpost-kit:NAME?relay=HOST:PORT,HOST:PORT,ed25519:…&relay=…#SEED
//! ```
//!
//! Behind `#` are 48 characters of base64url: the seed of the recovery key and 4 octets of
//! checksum (`line.rs`). Parameters with other names are for newer programs and are skipped.

use std::fmt;
use std::str::FromStr;

use crate::identity::Seed;
use crate::line::{self, LineError};
use crate::relay_ref::{RelayRef, RelayRefError};

/// The longest recovery kit, in octets.
pub const MAX_KIT: usize = 8 * 1024;
/// The most relays in a recovery kit.
pub const MAX_RELAYS: usize = 16;
const PREFIX: &str = "sealpost-kit:";
const MAX_KIT_NAME: usize = 64;

/// What it takes to recover a box. As text it is the whole line, seed included.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kit {
    /// What the owner calls the box: 1 to 64 letters, digits, `-`, `.` and `_`.
    pub name: String,
    /// The relays that know the recovery key: 1 to [`MAX_RELAYS`].
    pub relays: Vec<RelayRef>,
    /// What the recovery key is made from.
    pub seed: Seed,
}

/// Why a text is no [`Kit`], or why one cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KitError {
    /// It is something else.
    #[error(
        "this is not a recovery kit, which is a line that begins with `{PREFIX}`; \
         `sealpost-agent recovery-kit` prints it"
    )]
    NotAKit,
    /// The checksum does not fit.
    #[error(
        "the recovery kit is damaged: a part is missing or mistyped; type or scan the whole line \
         again, with everything behind the `#`, and put it in quotes"
    )]
    Damaged,
    /// Longer than any kit.
    #[error(
        "a recovery kit has at most {MAX_KIT} characters; take its one line and nothing else, or \
         make one for fewer relays or addresses"
    )]
    TooLong,
    /// The box's name cannot stand in a kit.
    #[error("the name of a box in a kit is 1 to {MAX_KIT_NAME} of A-Z a-z 0-9 - . _")]
    Name,
    /// There are no relays, or too many.
    #[error("a recovery kit is for 1 to {MAX_RELAYS} relays, not {0}")]
    Relays(usize),
    /// One of the relays is none.
    #[error("the recovery kit has a relay that cannot be used: {0}")]
    Relay(#[from] RelayRefError),
}

impl From<LineError> for KitError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Foreign => Self::NotAKit,
            LineError::TooLong => Self::TooLong,
            LineError::Damaged => Self::Damaged,
        }
    }
}

impl Kit {
    /// The kit for a box, when its line is one that can be read again: nobody should learn on the
    /// day of need that it cannot.
    pub fn new(name: String, relays: Vec<RelayRef>, seed: Seed) -> Result<Self, KitError> {
        check(&name, relays.len())?;
        Self { name, relays, seed }.to_string().parse()
    }
}

fn check(name: &str, relays: usize) -> Result<(), KitError> {
    let octet = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !(1..=MAX_KIT_NAME).contains(&name.len()) || !name.bytes().all(octet) {
        return Err(KitError::Name);
    }
    if !(1..=MAX_RELAYS).contains(&relays) {
        return Err(KitError::Relays(relays));
    }
    Ok(())
}

impl fmt::Display for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relays: Vec<_> = self.relays.iter().map(|relay| format!("relay={relay}")).collect();
        let head = format!("{PREFIX}{}?{}", self.name, relays.join("&"));
        f.write_str(&line::write(&head, self.seed.as_bytes()))
    }
}

impl FromStr for Kit {
    type Err = KitError;

    fn from_str(text: &str) -> Result<Self, KitError> {
        let (head, seed) = line::read::<32>(text, PREFIX, MAX_KIT)?;
        let rest = head.strip_prefix(PREFIX).ok_or(KitError::NotAKit)?;
        let (name, query) = rest.split_once('?').ok_or(KitError::NotAKit)?;
        let relays = query.split('&').filter_map(|pair| pair.strip_prefix("relay="));
        check(name, relays.clone().count())?;
        let relays = relays.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), relays, seed: Seed::new(seed) })
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

    fn sample() -> Kit {
        let relays =
            vec![relay(&["relay.example.net:4433", "[2001:db8::1]:4433"]), relay(&["r:1"])];
        Kit::new("alice".into(), relays, Seed::random()).unwrap()
    }

    #[test]
    fn a_kit_survives_paper_and_gives_the_same_key() {
        let (key, seed) = Identity::generate();
        let kit = Kit::new("alice".into(), vec![relay(&["r:1"])], seed).unwrap();
        let line = kit.to_string();
        let wrapped = format!("{}\n   {}\n", &line[..40], &line[40..]);
        assert_eq!(line.parse(), Ok(kit.clone()));
        let read: Kit = wrapped.parse().unwrap();
        assert_eq!(Identity::from_seed(&read.seed).public(), key.public());
        let seed = line.rsplit_once('#').unwrap().1;
        assert!(seed.len() == 48 && !format!("{kit:?}").contains(&seed[..20]));
    }

    #[test]
    fn a_kit_that_could_not_be_read_again_is_not_made() {
        let make = |name: &str, relays| Kit::new(name.into(), relays, Seed::random());
        for bad in ["", "a b", "a#b", "a?b", "ä", &"a".repeat(65)] {
            assert_eq!(make(bad, vec![relay(&["r:1"])]), Err(KitError::Name), "{bad}");
        }
        assert_eq!(make("alice", vec![]), Err(KitError::Relays(0)));
        assert_eq!(make("alice", vec![relay(&["r:1"]); 17]), Err(KitError::Relays(17)));
        assert!(make("alice", vec![relay(&["r:1"; 16]); 16]).is_ok());
        let long = format!("{}:25", "a".repeat(250));
        assert_eq!(make("alice", vec![relay(&[long.as_str(); 16]); 3]), Err(KitError::TooLong));
        let none = make("alice", vec![relay(&[])]);
        assert_eq!(none, Err(KitError::Relay(RelayRefError::Count(0))));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_apart() {
        let error = |head: &str| line::write(head, &[7; 32]).parse::<Kit>().unwrap_err();
        assert_eq!("sealpost://r:1/join?key=x#y".parse::<Kit>(), Err(KitError::NotAKit));
        assert_eq!("sealpost-kit:alice".parse::<Kit>(), Err(KitError::Damaged));
        assert_eq!(error("sealpost-kit:alice"), KitError::NotAKit);
        assert_eq!(error("sealpost-kit:?relay=x"), KitError::Name);
        assert_eq!(error("sealpost-kit:alice?new=1"), KitError::Relays(0));
        assert!(matches!(error("sealpost-kit:alice?relay=x"), KitError::Relay(_)));
        let long = format!("sealpost-kit:{}", "a".repeat(9000));
        assert_eq!(long.parse::<Kit>(), Err(KitError::TooLong));
    }

    #[test]
    fn every_truncation_is_refused() {
        let line = sample().to_string();
        for end in 0..line.len() {
            assert!(line[..end].parse::<Kit>().is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn every_single_slip_is_refused_or_harmless(at: Index, slip: char, kind in 0..3) {
            let kit = sample();
            let mut line: Vec<char> = kit.to_string().chars().collect();
            let at = at.index(line.len());
            match kind {
                0 => line[at] = slip,
                1 => line.insert(at, slip),
                _ => _ = line.remove(at),
            }
            let read = line.into_iter().collect::<String>().parse::<Kit>();
            prop_assert!(read.is_err() || read == Ok(kit));
        }

        #[test]
        fn noise_never_panics(noise in "\\PC{0,200}", checked: bool) {
            let head = format!("{PREFIX}{noise}");
            let text = if checked { line::write(&head, &[7; 32]) } else { head };
            let _ = text.parse::<Kit>();
        }
    }
}
