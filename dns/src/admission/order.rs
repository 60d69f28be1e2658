//! Names as octet strings whose order is the canonical order (RFC 4034 section 6.1).
//!
//! A zone of hostile names (127 labels each) would make a comparison label by label cost thousands
//! of steps, times the logarithm of the zone. So each name is turned into a key once: the labels
//! from the root down, in lower case, each ended by a zero octet. The octets 0 and 1 inside labels
//! are escaped by a 1, so that the end of a label sorts before all that could go on. Then a key is
//! a prefix of exactly the keys of the names at and below it, which is how delegations are found.

use domain::base::Name;

/// Ends a label within a key.
pub(super) const END: u8 = 0;
const ESCAPE: u8 = 1;
/// Most labels of a name of 255 octets, with the root.
const MAX_LABELS: usize = 128;

/// Appends the key of `name` to `key`.
pub(super) fn append_key(name: &Name<[u8]>, key: &mut Vec<u8>) {
    let mut labels = [&[][..]; MAX_LABELS];
    let mut count = 0;
    for label in name.iter().filter(|label| !label.is_root()).take(MAX_LABELS) {
        labels[count] = label.as_slice();
        count += 1;
    }
    for label in labels[..count].iter().rev() {
        for octet in label.iter().map(u8::to_ascii_lowercase) {
            match octet {
                END | ESCAPE => key.extend([ESCAPE, octet + 1]),
                other => key.push(other),
            }
        }
        key.push(END);
    }
}

/// The key of one name.
pub(super) fn key(name: &Name<[u8]>) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len());
    append_key(name, &mut key);
    key
}

/// How many labels the names of two keys share, counted from the root, which is not counted.
pub(super) fn shared_labels(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).filter(|(octet, _)| **octet == END).count()
}

/// How many labels the name of a key has, without the root.
pub(super) fn labels(key: &[u8]) -> usize {
    key.iter().filter(|octet| **octet == END).count()
}

#[cfg(test)]
mod tests {
    use domain::base::Name;
    use domain::base::cmp::CanonicalOrd;
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Name<Vec<u8>>> {
        let octet =
            prop_oneof![0..4u8, Just(b'a'), Just(b'B'), Just(b'b'), Just(b'A'), any::<u8>()];
        let label = proptest::collection::vec(octet, 1..4);
        proptest::collection::vec(label, 0..5).prop_map(|labels| {
            let mut wire = Vec::new();
            for label in labels {
                wire.push(u8::try_from(label.len()).expect("short"));
                wire.extend(label);
            }
            wire.push(0);
            Name::from_octets(wire).expect("a name")
        })
    }

    proptest! {
        #[test]
        fn keys_have_the_canonical_order(one in name(), other in name()) {
            let keys = [key(one.for_slice()), key(other.for_slice())];
            prop_assert_eq!(keys[0].cmp(&keys[1]), one.canonical_cmp(&other));
            prop_assert_eq!(keys[0].starts_with(&keys[1]), one.ends_with(&other));
            prop_assert_eq!(labels(&keys[0]), one.label_count() - 1);
            let shared = one.iter_suffixes().find(|suffix| other.ends_with(suffix));
            prop_assert_eq!(
                shared_labels(&keys[0], &keys[1]),
                shared.map_or(0, |suffix| suffix.label_count() - 1)
            );
        }
    }
}
