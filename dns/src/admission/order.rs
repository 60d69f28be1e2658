//! Names as octet strings whose order is the canonical order (RFC 4034 section 6.1): the sort keys of
//! [`crate::name`], and what can be read from them.

use domain::base::Name;

use crate::name::{KEY_END as END, append_sort_key};

/// Appends the key of `name` to `key`.
pub(super) fn append_key(name: &Name<[u8]>, key: &mut Vec<u8>) {
    append_sort_key(name.as_slice(), key);
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
