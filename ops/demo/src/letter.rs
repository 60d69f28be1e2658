//! The message, and the words in it that nobody but sender and home may see.

use anyhow::Context;
use lettre::Message;
use lettre::message::Mailbox;
use rand::Rng;

/// Letters of a marker word: 26^16 possibilities, so that a hit is never chance.
const WORD: usize = 16;

/// A message to be sent.
#[derive(Debug)]
pub(crate) struct Letter {
    /// The message in lettre's form, envelope included.
    pub(crate) message: Message,
    /// Random words: one in the subject, one in the body, and one in the envelope's sender unless
    /// that was given.
    pub(crate) markers: Vec<String>,
}

impl Letter {
    /// Writes one. The words are made here, after the relay was started, and exist in no command
    /// line, environment or file.
    pub(crate) fn write(from: Option<&str>, to: &str) -> anyhow::Result<Self> {
        let (subject, body) = (word(), word());
        let mut markers = vec![subject.clone(), body.clone()];
        let from = match from {
            Some(from) => from.to_owned(),
            None => {
                let local = word();
                let from = format!("{local}@sender.example");
                markers.push(local);
                from
            }
        };
        let mailbox = |address: &str| -> anyhow::Result<Mailbox> {
            address.parse().with_context(|| format!("{address:?} is no mail address"))
        };
        let message = Message::builder()
            .from(mailbox(&from)?)
            .to(mailbox(to)?)
            .message_id(Some(format!("<{}@sender.example>", word())))
            .subject(format!("A word for you: {subject}"))
            .body(format!(
                "Hello,\r\n\r\nthis came through a relay that could not read it.\r\n\
                 The word is {body}.\r\n"
            ))?;
        Ok(Self { message, markers })
    }
}

fn word() -> String {
    let mut random = rand::rng();
    (0..WORD).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_its_markers_in_clear() {
        let letter = Letter::write(None, "you@home.example").expect("a letter");
        let text = String::from_utf8(letter.message.formatted()).expect("text");
        assert_eq!(letter.markers.len(), 3);
        for marker in &letter.markers {
            assert!(text.contains(marker), "{marker} in {text}");
        }
        let given = Letter::write(Some("me@sender.example"), "you@home.example").expect("a letter");
        assert_eq!(given.markers.len(), 2);
        assert!(Letter::write(None, "nobody").is_err());
    }
}
