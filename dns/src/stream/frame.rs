//! Messages on a stream: each has two octets before it that say its length (RFC 1035 section 4.2.2).
//! Pure.

/// Octets of a length.
const LENGTH: usize = 2;
/// Octets of a DNS header: nothing shorter is a message.
const HEADER: usize = 12;
/// Octets of the longest message, with its length.
pub(super) const LONGEST: usize = LENGTH + u16::MAX as usize;

/// What is at the beginning of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// A message, and the octets that it takes with its length.
    Message(&'a [u8], usize),
    /// Not all of a message.
    Incomplete,
    /// Something too short to be one; where the next begins cannot be trusted then.
    Malformed,
}

/// The first message of `read`.
pub(super) fn first(read: &[u8]) -> First<'_> {
    let Some((length, rest)) = read.split_first_chunk::<LENGTH>() else {
        return First::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < HEADER {
        return First::Malformed;
    }
    rest.get(..length).map_or(First::Incomplete, |message| First::Message(message, LENGTH + length))
}

/// Appends `message` with its length; `false`, and nothing appended, if it is too long for a stream.
#[must_use]
pub(super) fn push(out: &mut Vec<u8>, message: &[u8]) -> bool {
    let Ok(length) = u16::try_from(message.len()) else {
        return false;
    };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_shorter_than_a_header_is_no_message() {
        assert_eq!(first(&[0, 0]), First::Malformed);
        assert_eq!(first(&[0, 11, 1]), First::Malformed);
        assert_eq!(first(&[0, 12, 1]), First::Incomplete);
        assert_eq!(first(&[0]), First::Incomplete);
        assert!(!push(&mut Vec::new(), &[0; 65_536]));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 12..600), 0..6),
            cut in 0usize..20,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                prop_assert!(push(&mut stream, message));
            }
            let end = stream.len().saturating_sub(cut);
            let (mut at, mut seen) = (0, 0);
            while let First::Message(message, used) = first(&stream[at..end]) {
                prop_assert_eq!(message, &messages[seen][..]);
                seen += 1;
                at += used;
            }
            prop_assert_eq!(first(&stream[at..end]), First::Incomplete);
            prop_assert_eq!(seen == messages.len(), cut == 0 || messages.is_empty());
        }

        #[test]
        fn anything_may_come(read in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let First::Message(message, used) = first(&read) {
                prop_assert!(used <= read.len() && message.len() + 2 == used);
            }
        }
    }
}
