//! What a sender and the relay say before TLS, as a pure state machine: bytes in, replies out.
//!
//! It says 2xx to EHLO, HELO, NOOP, RSET, QUIT and STARTTLS, and 4xx to all else. A 5xx would
//! make senders bounce a message that the next attempt could deliver, and 454 to STARTTLS makes
//! several of them go on in plaintext, so neither is ever said.

use std::borrow::Cow;

use sealpost_tunnel::EhloName;

use super::outcome::Outcome;

/// Longest command line in octets with its CRLF (RFC 5321 section 4.5.3.1.4).
pub const MAX_LINE: usize = 512;
/// Commands before STARTTLS; a sender needs two or three.
pub const MAX_COMMANDS: u32 = 20;

const OK: &str = "250 2.0.0 Ok\r\n";
const READY_FOR_TLS: &str = "220 2.0.0 Ready to start TLS\r\n";
const TLS_FIRST: &str = "451 4.7.0 This server takes mail only after STARTTLS\r\n";
const NOT_UNDERSTOOD: &str = "451 4.5.1 Command not understood\r\n";
const NO_ARGUMENT_MEANT: &str = "451 4.5.4 STARTTLS takes no argument\r\n";
const BYE: &str = "221 2.0.0 Bye\r\n";
const LINE_TOO_LONG: &str = "421 4.5.2 Line too long\r\n";
const BAD_LINE_END: &str = "421 4.5.2 Lines end with CR LF\r\n";
const NUL_IN_LINE: &str = "421 4.5.2 NUL is not allowed\r\n";
const TOO_MANY: &str = "421 4.7.0 Too many commands\r\n";
const INJECTION: &str = "421 4.7.0 Nothing may follow STARTTLS before the reply\r\n";
const TRY_ELSEWHERE: &str = "421 4.3.2 Please use the next mail exchanger\r\n";

/// The state of one dialogue.
#[derive(Debug)]
pub struct Preamble {
    hostname: Box<str>,
    ehlo: EhloName,
    commands: u32,
    mail_refused: bool,
    turn_away: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The buffer holds no whole line: read more.
    More,
    /// Drop `consumed` bytes from the buffer, send the reply, go on.
    Reply {
        /// Bytes of the command.
        consumed: usize,
        /// What to send.
        reply: Cow<'static, str>,
    },
    /// Send the reply; the buffer is empty, and what comes next is TLS.
    StartTls {
        /// What to send.
        reply: &'static str,
    },
    /// Send the reply and close.
    Close {
        /// What to send.
        reply: &'static str,
        /// Why.
        outcome: Outcome,
    },
}

impl Preamble {
    /// A dialogue in which the relay calls itself `hostname`. `turn_away` sends the client on to
    /// the next mail exchanger when it greets (a client without SNI that just failed here).
    pub fn new(hostname: &str, turn_away: bool) -> Self {
        Self {
            hostname: hostname.into(),
            ehlo: EhloName::default(),
            commands: 0,
            mail_refused: false,
            turn_away,
        }
    }

    /// The greeting, to be sent first (RFC 5321 section 4.3.1).
    pub fn greeting(&self) -> String {
        format!("220 {} ESMTP\r\n", self.hostname)
    }

    /// What the sender called itself; empty when it did not.
    pub fn into_ehlo(self) -> EhloName {
        self.ehlo
    }

    /// Whether the sender wanted to send mail without TLS.
    pub fn refused_mail(&self) -> bool {
        self.mail_refused
    }

    /// How the dialogue ends when the sender just goes.
    pub fn on_disconnect(&self) -> Outcome {
        if self.mail_refused { Outcome::PlaintextRefused } else { Outcome::Disconnected }
    }

    /// Decides about the first line in `buffer`.
    pub fn step(&mut self, buffer: &[u8]) -> Step {
        let close = |reply, outcome| Step::Close { reply, outcome };
        let line = match first_line(buffer) {
            Ok(Some(line)) => line,
            Ok(None) => return Step::More,
            Err((reply, outcome)) => return close(reply, outcome),
        };
        self.commands += 1;
        if self.commands > MAX_COMMANDS {
            return close(TOO_MANY, Outcome::TooManyCommands);
        }
        let consumed = line.len() + 2;
        let reply = |reply: &'static str| Step::Reply { consumed, reply: reply.into() };
        let (verb, argument) = split_verb(line);
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" | b"HELO" if self.turn_away => close(TRY_ELSEWHERE, Outcome::RetryElsewhere),
            b"EHLO" => {
                self.ehlo = EhloName::cleaned(argument);
                Step::Reply { consumed, reply: self.ehlo_reply().into() }
            }
            b"HELO" => {
                self.ehlo = EhloName::cleaned(argument);
                Step::Reply { consumed, reply: format!("250 {}\r\n", self.hostname).into() }
            }
            b"NOOP" | b"RSET" => reply(OK),
            b"QUIT" => {
                let refused = self.mail_refused;
                close(BYE, if refused { Outcome::PlaintextRefused } else { Outcome::Quit })
            }
            b"STARTTLS" if !argument.is_empty() => reply(NO_ARGUMENT_MEANT),
            // What follows in the buffer was sent before TLS: a man in the middle wants it to be
            // taken as if it had come through TLS (CVE-2011-0411).
            b"STARTTLS" if buffer.len() > consumed => close(INJECTION, Outcome::StarttlsInjection),
            b"STARTTLS" => Step::StartTls { reply: READY_FOR_TLS },
            b"MAIL" | b"RCPT" | b"DATA" | b"BDAT" | b"AUTH" | b"VRFY" | b"EXPN" | b"ETRN" => {
                self.mail_refused = true;
                reply(TLS_FIRST)
            }
            _ => reply(NOT_UNDERSTOOD),
        }
    }

    /// No PIPELINING: its senders would put commands behind STARTTLS.
    fn ehlo_reply(&self) -> String {
        format!("250-{}\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n", self.hostname)
    }
}

/// The first line without its CRLF, `None` while it is incomplete. The verdict about a bad line
/// does not depend on how much of it has come: its first bad octet decides.
fn first_line(buffer: &[u8]) -> Result<Option<&[u8]>, (&'static str, Outcome)> {
    for (at, &octet) in buffer.iter().enumerate().take(MAX_LINE) {
        let after_cr = at > 0 && buffer[at - 1] == b'\r';
        match octet {
            b'\n' if after_cr => return Ok(Some(&buffer[..at - 1])),
            b'\n' => return Err((BAD_LINE_END, Outcome::BareLf)),
            _ if after_cr => return Err((BAD_LINE_END, Outcome::BareCr)),
            0 => return Err((NUL_IN_LINE, Outcome::Nul)),
            _ => {}
        }
    }
    if buffer.len() >= MAX_LINE { Err((LINE_TOO_LONG, Outcome::LineTooLong)) } else { Ok(None) }
}

fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    (&line[..end], line[end..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Plays `input` in the given pieces; all replies, and how it ended.
    fn play(pieces: &[&[u8]]) -> (String, Option<Outcome>) {
        let mut preamble = Preamble::new("relay.example", false);
        let (mut replies, mut buffer) = (String::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match preamble.step(&buffer) {
                    Step::More => break,
                    Step::Reply { consumed, reply } => {
                        buffer.drain(..consumed);
                        replies.push_str(&reply);
                    }
                    Step::StartTls { reply } => return (replies + reply, None),
                    Step::Close { reply, outcome } => return (replies + reply, Some(outcome)),
                }
            }
        }
        (replies, None)
    }

    #[test]
    fn ehlo_offers_starttls_and_no_pipelining() {
        let (replies, _) = play(&[b"EHLO a.example\r\n"]);
        assert_eq!(replies, "250-relay.example\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n");
    }

    #[test]
    fn refuses_mail_before_starttls_so_that_it_is_kept() {
        for command in ["MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "BDAT 1 LAST", "AUTH PLAIN"] {
            let (replies, _) = play(&[format!("{command}\r\n").as_bytes()]);
            assert!(replies.starts_with("451 4.7.0 "), "{command}: {replies}");
        }
        let (_, outcome) = play(&[b"MAIL FROM:<a@b>\r\nQUIT\r\n"]);
        assert_eq!(outcome, Some(Outcome::PlaintextRefused));
    }

    #[test]
    fn nothing_may_follow_starttls() {
        let (replies, outcome) = play(&[b"EHLO a\r\nSTARTTLS\r\nRSET\r\n"]);
        assert!(replies.ends_with(INJECTION));
        assert_eq!(outcome, Some(Outcome::StarttlsInjection));
        let (_, outcome) = play(&[b"STARTTLS\r\n\x16"]);
        assert_eq!(outcome, Some(Outcome::StarttlsInjection));
        assert!(play(&[b"starttls\r\n"]).0.starts_with("220 "));
    }

    #[test]
    fn bad_lines_have_names() {
        let long = [b'a'; MAX_LINE];
        for (line, outcome) in [
            (&b"EHLO a\n"[..], Outcome::BareLf),
            (b"EHLO a\rb\r\n", Outcome::BareCr),
            (b"EHLO \0\r\n", Outcome::Nul),
            (&long, Outcome::LineTooLong),
        ] {
            let (replies, ended) = play(&[line]);
            assert_eq!(ended, Some(outcome));
            assert!(replies.starts_with("421 4.5.2 "));
        }
        let longest = [&b"NOOP "[..], &[b'a'; MAX_LINE - 7], b"\r\n"].concat();
        assert_eq!(longest.len(), MAX_LINE);
        assert_eq!(play(&[&longest]).0, OK);
    }

    #[test]
    fn a_chatterer_is_sent_away() {
        let (_, outcome) = play(&[b"NOOP\r\n".repeat(21).as_slice()]);
        assert_eq!(outcome, Some(Outcome::TooManyCommands));
    }

    #[test]
    fn a_client_that_just_failed_without_sni_is_sent_to_the_next_exchanger() {
        let mut preamble = Preamble::new("relay.example", true);
        let Step::Close { reply, outcome } = preamble.step(b"EHLO a\r\n") else { panic!() };
        assert!(reply.starts_with("421 "));
        assert_eq!(outcome, Outcome::RetryElsewhere);
    }

    fn command() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"EHLO a.example\r\n".to_vec()),
            Just(b"MAIL FROM:<>\r\n".to_vec()),
            Just(b"QUIT\r\n".to_vec()),
            Just(b"NOOP\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..600),
            "[A-Z]{0,10}( [ -~]{0,20})?\r\n".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn replies_are_never_5xx_nor_454_and_do_not_depend_on_segments(
            commands in proptest::collection::vec(command(), 0..8),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let input = commands.concat();
            // STARTTLS alone depends on what has come behind it, and has tests of its own.
            prop_assume!(!input.to_ascii_uppercase().windows(8).any(|w| w == b"STARTTLS"));
            let whole = play(&[&input]);
            for line in whole.0.lines() {
                prop_assert!(line.starts_with(['2', '4']) && !line.starts_with("454"), "{}", line);
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            at.extend([0, input.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &input[w[0]..w[1]]).collect();
            prop_assert_eq!(play(&pieces), whole);
        }
    }
}
