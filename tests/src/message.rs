//! Messages whose every byte is known, so that what arrives can be compared with what was sent.

use std::time::{SystemTime, UNIX_EPOCH};

/// The envelope sender of every message.
pub const FROM: &str = "bob@sender.example";
/// The recipient of every message that names no other.
pub const TO: &str = "anna@home.example";

/// A message as it is handed to the sending mail server.
#[derive(Debug, Clone)]
pub struct Message {
    id: String,
    to: String,
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a few lines.
    pub fn small(subject: &str) -> Message {
        Message::of_size(subject, 0)
    }

    /// A message of at least `size` bytes. The content does not repeat, so a lost, doubled or
    /// moved piece shows; some lines are such that a careless copy alters them.
    pub fn of_size(subject: &str, size: usize) -> Message {
        let (id, mut bytes) = head(TO, subject);
        bytes.extend_from_slice(
            b".\n..\n.leading dot\nFrom the start of a line\n\ttrailing blank \n",
        );
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while bytes.len() < size {
            for _ in 0..72 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // '!' to '~' without the dot at a line's start mattering: it may come.
                bytes.push(b'!' + (state >> 33) as u8 % 94);
            }
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(b"the last line\n");
        Message { id, to: TO.to_owned(), bytes }
    }

    /// A message to `to` that says `line` so often that some copy of it is whole in one packet,
    /// wherever packets begin and end.
    pub fn repeating(to: &str, line: &str) -> Message {
        let (id, mut bytes) = head(to, "one line many times");
        bytes.extend(format!("{line}\n").repeat(60).bytes());
        Message { id, to: to.to_owned(), bytes }
    }

    /// Its recipient.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The Message-ID with its angle brackets.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything from its first header to its last line.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A Message-ID, and the lines up to the empty one: all the headers that a mail server would add were
/// they missing.
fn head(to: &str, subject: &str) -> (String, Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let id = format!("<{now}.{}@sender.example>", std::process::id());
    let head = format!(
        "Message-ID: {id}\nDate: Thu, 01 Jan 2026 12:00:00 +0000\nFrom: {FROM}\nTo: {to}\n\
         Subject: {subject}\n\n"
    );
    (id, head.into_bytes())
}
