//! The recovery kit of a zone: the key that the parent zone knows, as a text that an owner takes off
//! the box. Pure.
//!
//! The part that counts is a key in BIND's format, so what reads such keys reads a kit. Zone and key
//! tag beside it tell one kit from another, and a line that was mistyped from paper from one that was
//! not.

use sealpost_tunnel::DomainName;

use super::zone_key::{KeyError, Role, ZoneKey};

const ZONE: &str = "Zone";
const TAG: &str = "Key-tag";

/// A kit.
#[derive(Debug)]
pub struct KeyKit {
    /// Of which zone.
    pub domain: DomainName,
    /// The key.
    pub key: ZoneKey,
}

/// Why a text is no kit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KitError {
    /// It has no key.
    #[error(
        "this is no recovery kit of a zone: it has the lines `Zone`, `Key-tag`, `Private-key-format`, \
         `Algorithm` and `PrivateKey`. The kit of the box is another one"
    )]
    NoKit,
    /// Its parts do not fit.
    #[error(
        "the kit's key does not have the tag that it says ({said}), but {found}: compare it with the \
         other copies, a letter may be wrong"
    )]
    Mistyped {
        /// What the kit says.
        said: u16,
        /// What its key has.
        found: u16,
    },
}

impl KeyKit {
    /// The kit as a text. It is the secret itself.
    pub fn to_text(&self) -> Result<String, KeyError> {
        let Self { domain, key } = self;
        Ok(format!(
            "Recovery kit of the zone {domain}\n\
             \n\
             The key that the parent zone knows, and nobody else has. Whoever has it can have the\n\
             domain say anything. Without it the domain fails for all who validate when the list of\n\
             its keys, which this key signed, ends. Keep two copies, at two places, on no box.\n\
             \n\
             {ZONE}: {domain}\n\
             {TAG}: {}\n\
             {}",
            key.public().tag(),
            key.to_text()?
        ))
    }

    /// Reads a kit, with whatever words are around it.
    pub fn from_text(text: &str) -> Result<Self, KitError> {
        let field = |wanted: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = fields.filter(|(name, _)| name.trim() == wanted);
            values.next().map(|(_, value)| value.trim())
        };
        let domain = field(ZONE).and_then(|text| text.parse().ok()).ok_or(KitError::NoKit)?;
        let said: u16 = field(TAG).and_then(|text| text.parse().ok()).ok_or(KitError::NoKit)?;
        let key = ZoneKey::from_text(text, Role::Entry).ok_or(KitError::NoKit)?;
        let found = key.public().tag();
        if found != said {
            Err(KitError::Mistyped { said, found })
        } else {
            Ok(Self { domain, key })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kit() -> KeyKit {
        let key = ZoneKey::generate(Role::Entry).unwrap();
        KeyKit { domain: "a.example".parse().unwrap(), key }
    }

    #[test]
    fn a_kit_comes_back_from_its_text_and_from_a_mail_around_it() {
        let kit = kit();
        let text = kit.to_text().unwrap();
        for text in [text.clone(), format!("Dear me: \r\n{}\nbye", text.replace('\n', "\r\n  "))] {
            let again = KeyKit::from_text(&text).unwrap();
            assert_eq!((again.domain, again.key.public()), (kit.domain.clone(), kit.key.public()));
        }
        assert!(!format!("{kit:?}").contains("PrivateKey"));
    }

    #[test]
    fn what_was_mistyped_is_noticed() {
        let (kit, other) = (kit(), self::kit());
        let text = kit.to_text().unwrap();
        let tag = |kit: &KeyKit| format!("Key-tag: {}", kit.key.public().tag());
        let wrong = text.replace(&tag(&kit), &tag(&other));
        assert!(matches!(KeyKit::from_text(&wrong), Err(KitError::Mistyped { .. })));
        for cut in ["Zone: ", "Key-tag: ", "PrivateKey: ", "Algorithm: "] {
            let wrong = text.replace(cut, "");
            assert_eq!(KeyKit::from_text(&wrong).unwrap_err(), KitError::NoKit, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(Zone|Key-tag|PrivateKey|[a-z:=\\n ]){0,40}") {
            let _ = KeyKit::from_text(&text);
        }
    }
}
