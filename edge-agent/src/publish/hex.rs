//! A digest as hexadecimal digits, as TLSA records and state files show it. Pure.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use crate::zone::plan::KeyDigest;

/// As text.
pub fn text(digest: &KeyDigest) -> String {
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Out of text.
pub fn parse(text: &str) -> Option<KeyDigest> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (place, octet) in digest.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(digest)
}

/// For serde.
pub fn serialize<S: Serializer>(digest: &KeyDigest, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text(digest))
}

/// For serde.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyDigest, D::Error> {
    let found = String::deserialize(from)?;
    parse(&found).ok_or_else(|| D::Error::custom("not the 64 digits of a digest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let digest: KeyDigest = std::array::from_fn(|place| place as u8 * 8);
        assert_eq!(parse(&text(&digest)), Some(digest));
        for bad in ["", "00", &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(parse(bad), None);
        }
    }
}
