//! A captured connection as a dialogue that people can read. Pure.
//!
//! The lines are read off the wire, not retold by the sender's software: they are exactly what any
//! sending server would have seen.

use crate::tap::{Chunk, Direction, Piece};
use crate::tls::{self, Alert, Wanted};

/// The most bytes of one line that are shown.
const SHOWN: usize = 200;

/// A dialogue and the alert in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialogue {
    /// `C: …` for the client (the sender), `S: …` for the server (the relay).
    pub(crate) lines: Vec<String>,
    /// The alert that the relay sent, if it did.
    pub(crate) alert: Option<Alert>,
    /// Whether the server answered the ClientHello with anything but an alert.
    pub(crate) handshake_answered: bool,
}

/// Tells what happened on one connection.
pub(crate) fn read(chunks: &[Chunk]) -> Dialogue {
    let mut dialogue = Dialogue::default();
    let mut client = Side::default();
    let mut server = Side::default();
    for chunk in chunks {
        let (who, side) = match chunk.direction {
            Direction::ToRelay => ("C", &mut client),
            Direction::FromRelay => ("S", &mut server),
        };
        match &chunk.piece {
            Piece::Bytes(bytes) => {
                side.pending.extend_from_slice(bytes);
                while let Some(unit) = side.next_unit() {
                    side.tell(who, &unit, &mut dialogue);
                }
            }
            Piece::Fin => side.close(who, "closes the connection (FIN)", &mut dialogue),
            Piece::Reset => side.close(who, "tears the connection down (RST)", &mut dialogue),
        }
    }
    client.close_silently("C", &mut dialogue);
    server.close_silently("S", &mut dialogue);
    dialogue
}

/// One direction of the connection.
#[derive(Debug, Default)]
struct Side {
    pending: Vec<u8>,
    hello: Vec<u8>,
    hello_told: bool,
    sealed: usize,
}

impl Side {
    /// The next whole line or TLS record.
    fn next_unit(&mut self) -> Option<Vec<u8>> {
        let first = *self.pending.first()?;
        let length = if tls::begins_record(first) {
            tls::record_length(&self.pending)?
        } else {
            memchr::memchr(b'\n', &self.pending)? + 1
        };
        Some(self.pending.drain(..length).collect())
    }

    fn tell(&mut self, who: &str, unit: &[u8], dialogue: &mut Dialogue) {
        if !unit.first().is_some_and(|first| tls::begins_record(*first)) {
            let text = String::from_utf8_lossy(unit);
            let shown = text.trim_end().chars().take(SHOWN);
            let clean: String = shown.map(|c| if c.is_control() { '?' } else { c }).collect();
            dialogue.lines.push(format!("{who}: {clean}"));
        } else if let Some(alert) = tls::alert(unit) {
            let fatal = if alert.fatal { "fatal alert" } else { "alert" };
            dialogue.lines.push(format!("{who}: [TLS] {fatal} {} {}", alert.code, alert.name));
            if who == "S" {
                dialogue.alert = Some(alert);
            }
        } else if who == "C" && !self.hello_told && tls::is_handshake(unit) {
            self.hello.extend_from_slice(unit);
            let said = match tls::wanted(&self.hello) {
                Wanted::Name(name) => format!("for {name}"),
                Wanted::Nobody => "without a server name (SNI)".to_owned(),
                Wanted::Unreadable => return,
            };
            self.hello_told = true;
            let bytes = self.hello.len();
            dialogue.lines.push(format!("C: [TLS] ClientHello {said}, {bytes} bytes"));
        } else {
            dialogue.handshake_answered |= who == "S";
            self.sealed += unit.len();
        }
    }

    fn close(&mut self, who: &str, how: &str, dialogue: &mut Dialogue) {
        self.close_silently(who, dialogue);
        dialogue.lines.push(format!("{who}: [TCP] {how}"));
    }

    /// Tells of what is left over: sealed records as a sum, and bytes that make no whole unit.
    fn close_silently(&mut self, who: &str, dialogue: &mut Dialogue) {
        let sealed = std::mem::take(&mut self.sealed);
        if sealed > 0 {
            dialogue.lines.push(format!("{who}: [TLS] {sealed} bytes more"));
        }
        let pending = std::mem::take(&mut self.pending).len();
        if pending > 0 {
            dialogue.lines.push(format!("{who}: ({pending} bytes of something unfinished)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::hello;

    fn chunk(direction: Direction, bytes: &[u8]) -> Chunk {
        Chunk { connection: 0, direction, piece: Piece::Bytes(bytes.to_vec()) }
    }

    #[test]
    fn tells_a_refusal() {
        use Direction::{FromRelay, ToRelay};
        let hello = hello("stranger.example");
        let (begin, rest) = hello.split_at(100);
        let chunks = [
            chunk(FromRelay, b"220 relay.exam"),
            chunk(FromRelay, b"ple.net\r\n"),
            chunk(ToRelay, b"EHLO sender.example\r\n"),
            chunk(FromRelay, b"250-relay.example.net\r\n250 STARTTLS\r\n"),
            chunk(ToRelay, b"STARTTLS\r\n"),
            chunk(FromRelay, b"220 Go ahead\r\n"),
            chunk(ToRelay, begin),
            chunk(ToRelay, rest),
            chunk(FromRelay, &[21, 3, 3, 0, 2, 2, 112]),
            Chunk { connection: 0, direction: FromRelay, piece: Piece::Fin },
        ];
        let dialogue = read(&chunks);
        assert_eq!(
            dialogue.lines,
            [
                "S: 220 relay.example.net",
                "C: EHLO sender.example",
                "S: 250-relay.example.net",
                "S: 250 STARTTLS",
                "C: STARTTLS",
                "S: 220 Go ahead",
                &format!("C: [TLS] ClientHello for stranger.example, {} bytes", hello.len()),
                "S: [TLS] fatal alert 112 unrecognized_name",
                "S: [TCP] closes the connection (FIN)",
            ]
        );
        assert_eq!(dialogue.alert.map(|alert| alert.code), Some(112));
        assert!(!dialogue.handshake_answered);
    }

    #[test]
    fn sums_up_what_is_sealed_and_what_is_cut() {
        let chunks = [
            chunk(Direction::FromRelay, &[22, 3, 3, 0, 1, 9, 23, 3, 3, 0, 1, 9]),
            chunk(Direction::ToRelay, b"half a li"),
        ];
        let dialogue = read(&chunks);
        assert!(dialogue.handshake_answered);
        assert_eq!(
            dialogue.lines,
            ["C: (9 bytes of something unfinished)", "S: [TLS] 12 bytes more"]
        );
    }
}
