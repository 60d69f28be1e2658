//! The messages of the control stream, the first stream that an agent opens.
//!
//! ```text
//! type     1 octet
//! length   2 octets, of what follows; at most 1024
//! payload
//! ```
//!
//! Versions N and N-1 talk to each other because of three rules: a message of an unknown type is
//! skipped, octets behind the known fields of a message are skipped, and nothing is used that
//! the peer did not announce in its [`Hello`]. No message configures, updates or executes
//! anything at the peer, and none may be added that does.

/// The oldest version of the protocol that this program speaks.
pub const MIN_VERSION: u8 = 1;
/// The newest version of the protocol that this program speaks.
pub const MAX_VERSION: u8 = 1;
/// Capability of a relay whose log names, for each session, the box that it was for.
pub const LOGS_SESSIONS: u64 = 1 << 0;
/// Capability of a relay whose log has whole addresses of senders.
pub const LOGS_FULL_ADDRESSES: u64 = 1 << 1;
/// Capability of an agent that understands [`Message::News`].
pub const HEARS_NEWS: u64 = 1 << 2;
/// Capability of an agent, by the choice of the box's owner: what comes to an address that is this
/// box's alone is to be carried from its first byte, also where it never becomes TLS.
pub const TRANSPARENT: u64 = 1 << 3;
/// Capability of an agent, by the choice of the box's owner: the relay's shield is to stand before
/// this box.
pub const SHIELDED: u64 = 1 << 4;
/// Capability of an agent that answers DNS streams: it has the zones of the owner's domains.
pub const OFFERS_ZONES: u64 = 1 << 5;
/// Capability of a relay that serves the zones of its boxes, and hears of new ones on DNS streams.
pub const SERVES_ZONES: u64 = 1 << 6;
/// The longest payload of a message, in octets.
pub const MAX_PAYLOAD: usize = 1024;
/// Type and length.
const FIXED: usize = 3;
const MAX_SOFTWARE: usize = 64;

const HELLO: u8 = 1;
const LEAVING: u8 = 2;
const PROBE: u8 = 3;
const NEWS: u8 = 4;

/// What each end says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the end speaks.
    pub min_version: u8,
    /// Newest version that the end speaks.
    pub max_version: u8,
    /// What the end can do or does beyond the version: [`LOGS_SESSIONS`],
    /// [`LOGS_FULL_ADDRESSES`], [`HEARS_NEWS`], [`TRANSPARENT`], [`SHIELDED`], [`OFFERS_ZONES`],
    /// [`SERVES_ZONES`]; unknown bits mean nothing.
    pub capabilities: u64,
    /// Program and version, printable ASCII, for logs alone; nothing is decided by it.
    pub software: String,
}

impl Hello {
    /// What this program says; `software` is its name and version.
    pub fn ours(software: &str) -> Self {
        Self {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            capabilities: 0,
            software: printable(software.as_bytes()),
        }
    }

    /// The newest version that both ends speak.
    pub fn common_version(&self, theirs: &Hello) -> Option<u8> {
        let version = self.max_version.min(theirs.max_version);
        (version >= self.min_version.max(theirs.min_version)).then_some(version)
    }
}

/// A message of the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message of either end.
    Hello(Hello),
    /// The end will go: streams that are open are finished, no new ones are wanted.
    Leaving,
    /// Says nothing; whoever is there acknowledges the packet that carries it.
    Probe,
    /// From a relay: what its registry holds about the box has changed. Information alone; a box
    /// that wants to know more asks.
    News,
    /// Of a type that this program does not know; to be skipped.
    Unknown(u8),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Longer than any message may be.
    #[error("control message of {0} octets, but at most {MAX_PAYLOAD} are allowed")]
    TooLong(usize),
    /// A known message lacks fields.
    #[error("control message of type {0} is too short")]
    Short(u8),
}

impl Message {
    /// The message as octets.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::Hello(hello) => {
                let mut payload = vec![hello.min_version, hello.max_version];
                payload.extend_from_slice(&hello.capabilities.to_be_bytes());
                let software = printable(hello.software.as_bytes());
                payload.push(u8::try_from(software.len()).expect("at most MAX_SOFTWARE"));
                payload.extend_from_slice(software.as_bytes());
                (HELLO, payload)
            }
            Self::Leaving => (LEAVING, Vec::new()),
            Self::Probe => (PROBE, Vec::new()),
            Self::News => (NEWS, Vec::new()),
            Self::Unknown(kind) => (*kind, Vec::new()),
        };
        let length = u16::try_from(payload.len()).expect("at most MAX_PAYLOAD").to_be_bytes();
        [&[kind], &length[..], &payload].concat()
    }

    /// Reads a message from the beginning of `buffer`: the message and the octets it took, or
    /// `None` while more octets are needed.
    pub fn decode(buffer: &[u8]) -> Result<Option<(Self, usize)>, ControlError> {
        let [kind, high, low, ..] = *buffer else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PAYLOAD {
            return Err(ControlError::TooLong(length));
        }
        let end = FIXED + length;
        let Some(payload) = buffer.get(FIXED..end) else {
            return Ok(None);
        };
        let message = match kind {
            HELLO => Self::Hello(decode_hello(payload).ok_or(ControlError::Short(HELLO))?),
            LEAVING => Self::Leaving,
            PROBE => Self::Probe,
            NEWS => Self::News,
            other => Self::Unknown(other),
        };
        Ok(Some((message, end)))
    }
}

fn decode_hello(payload: &[u8]) -> Option<Hello> {
    let (&[min_version, max_version], rest) = payload.split_first_chunk()?;
    let (capabilities, rest) = rest.split_first_chunk()?;
    let (&length, rest) = rest.split_first()?;
    let software = printable(rest.get(..usize::from(length))?);
    Some(Hello {
        min_version,
        max_version,
        capabilities: u64::from_be_bytes(*capabilities),
        software,
    })
}

/// What of `text` may stand in a log line.
fn printable(text: &[u8]) -> String {
    let keep = |b: &&u8| b.is_ascii_graphic() || **b == b' ';
    text.iter().filter(keep).take(MAX_SOFTWARE).map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(min_version: u8, max_version: u8) -> Hello {
        Hello { min_version, max_version, capabilities: 5, software: "sealpost-agent 9".into() }
    }

    #[test]
    fn neighbours_in_version_agree_on_the_older_one() {
        assert_eq!(hello(1, 2).common_version(&hello(1, 1)), Some(1));
        assert_eq!(hello(2, 3).common_version(&hello(1, 2)), Some(2));
        assert_eq!(hello(3, 4).common_version(&hello(1, 2)), None);
    }

    #[test]
    fn a_newer_hello_with_more_fields_is_understood() {
        let mut wire = Message::Hello(hello(1, 2)).encode();
        wire.extend_from_slice(b"new field");
        let length = u16::try_from(wire.len() - FIXED).unwrap();
        wire[1..3].copy_from_slice(&length.to_be_bytes());
        assert_eq!(Message::decode(&wire), Ok(Some((Message::Hello(hello(1, 2)), wire.len()))));
    }

    #[test]
    fn an_unknown_message_is_skipped_whole() {
        let wire = [&[200, 0, 3, 1, 2, 3][..], &Message::Leaving.encode()].concat();
        assert_eq!(Message::decode(&wire), Ok(Some((Message::Unknown(200), 6))));
        assert_eq!(Message::decode(&wire[6..]), Ok(Some((Message::Leaving, 3))));
    }

    #[test]
    fn messages_without_a_payload_have_the_numbers_of_the_protocol() {
        for (kind, message) in [(2, Message::Leaving), (3, Message::Probe), (4, Message::News)] {
            assert_eq!(message.encode(), [kind, 0, 0]);
            let with_more = [kind, 0, 2, 1, 1];
            assert_eq!(Message::decode(&with_more), Ok(Some((message, 5))));
        }
    }

    #[test]
    fn oversized_and_short_messages_are_refused() {
        assert_eq!(Message::decode(&[200, 255, 255]), Err(ControlError::TooLong(65535)));
        assert_eq!(Message::decode(&[HELLO, 0, 1, 1]), Err(ControlError::Short(HELLO)));
    }

    proptest! {
        #[test]
        fn every_prefix_asks_for_more(software in "[ -~]{0,64}", capabilities: u64) {
            let hello = Hello { min_version: 1, max_version: 3, capabilities, software };
            let wire = Message::Hello(hello.clone()).encode();
            for end in 0..wire.len() {
                prop_assert_eq!(Message::decode(&wire[..end]), Ok(None));
            }
            prop_assert_eq!(Message::decode(&wire), Ok(Some((Message::Hello(hello), wire.len()))));
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = Message::decode(&noise);
        }
    }
}
