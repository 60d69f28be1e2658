//! The client's side of the dialogue before TLS, as a pure state machine: the relay has had it
//! with the sender, and the agent repeats it with the mail server at home.
//!
//! The whole greeting is read before EHLO, as a server that speaks in several lines may take an
//! early client for a spambot; STARTTLS must be offered and accepted; and nothing may stand
//! between the server's 220 and TLS (CVE-2011-0411, seen from the client).

/// Most octets of a reply with all of its lines.
pub const MAX_REPLY: usize = 16 * 1024;

/// Where the dialogue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    StartTls,
}

/// One dialogue up to TLS.
#[derive(Debug)]
pub struct Replay {
    state: State,
    ehlo: Box<str>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The reply is incomplete: read more.
    More,
    /// Empty the buffer and send this command.
    Send(String),
    /// TLS begins with the next byte of either side.
    Tls,
}

/// Why the dialogue cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The server refused; its code and text.
    #[error("the mail server answered {0}")]
    Refused(String),
    /// The server does not offer STARTTLS.
    #[error("the mail server does not offer STARTTLS; give it a certificate and switch TLS on")]
    NoStarttls,
    /// The server sent something behind its reply.
    #[error("the mail server sent more than its reply, which is an attack or a wrong protocol")]
    Injection,
    /// The server does not speak SMTP.
    #[error("what answers there does not speak SMTP")]
    Malformed,
}

impl Replay {
    /// A dialogue in which `ehlo` is said, which must be free of spaces and controls.
    pub fn new(ehlo: &str) -> Self {
        Self { state: State::Greeting, ehlo: ehlo.into() }
    }

    /// Decides about the reply in `buffer`, all that has come since the last command.
    pub fn step(&mut self, buffer: &[u8]) -> Result<Step, ReplayError> {
        let Some(reply) = Reply::parse(buffer)? else {
            return Ok(Step::More);
        };
        if reply.length < buffer.len() {
            return Err(ReplayError::Injection);
        }
        match (self.state, reply.code) {
            (State::Greeting, 220) => {
                self.state = State::Ehlo;
                Ok(Step::Send(format!("EHLO {}\r\n", self.ehlo)))
            }
            (State::Ehlo, 250) if reply.offers("STARTTLS") => {
                self.state = State::StartTls;
                Ok(Step::Send("STARTTLS\r\n".into()))
            }
            (State::Ehlo, 250) => Err(ReplayError::NoStarttls),
            (State::StartTls, 220) => Ok(Step::Tls),
            _ => Err(ReplayError::Refused(reply.shown())),
        }
    }
}

/// A whole reply (RFC 5321 section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The code, 200 to 599.
    pub code: u16,
    /// The text of each line.
    pub lines: Vec<&'a [u8]>,
    /// Octets that the reply took.
    pub length: usize,
}

impl<'a> Reply<'a> {
    /// Reads the reply at the beginning of `buffer`; `None` while it is incomplete.
    pub fn parse(buffer: &'a [u8]) -> Result<Option<Self>, ReplayError> {
        let mut reply = Self { code: 0, lines: Vec::new(), length: 0 };
        loop {
            let rest = &buffer[reply.length..];
            check_start(rest, reply.code)?;
            let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else {
                return if buffer.len() < MAX_REPLY {
                    Ok(None)
                } else {
                    Err(ReplayError::Malformed)
                };
            };
            if reply.length + end + 2 > MAX_REPLY {
                return Err(ReplayError::Malformed);
            }
            let line = &rest[..end];
            let code = line.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
            reply.code = code.and_then(|c| c.parse().ok()).ok_or(ReplayError::Malformed)?;
            reply.lines.push(line.get(4..).unwrap_or_default());
            reply.length += end + 2;
            if line.get(3) != Some(&b'-') {
                return Ok(Some(reply));
            }
        }
    }

    fn offers(&self, keyword: &str) -> bool {
        let word = |line: &[u8]| line.split(|&b| b == b' ').next().unwrap_or_default().to_vec();
        self.lines.iter().skip(1).any(|line| word(line).eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Code and last line, fit for a log.
    pub fn shown(&self) -> String {
        let text = self.lines.last().copied().unwrap_or_default();
        let text: String = text
            .iter()
            .take(200)
            .map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '?' })
            .collect();
        format!("{} {text}", self.code).trim_end().to_owned()
    }
}

/// Whether `line`, perhaps incomplete, can be the line of a reply with `code` (0: any); so that
/// something that does not speak SMTP is told at once.
fn check_start(line: &[u8], code: u16) -> Result<(), ReplayError> {
    let digits = line.iter().take(3).take_while(|&&b| b != b'\r');
    let wanted = code.to_string();
    for (at, &octet) in digits.enumerate() {
        let fits = match (code, at) {
            (0, 0) => (b'2'..=b'5').contains(&octet),
            (0, _) => octet.is_ascii_digit(),
            _ => wanted.as_bytes().get(at) == Some(&octet),
        };
        if !fits {
            return Err(ReplayError::Malformed);
        }
    }
    match line.get(3) {
        None | Some(b' ' | b'-' | b'\r') => Ok(()),
        Some(_) => Err(ReplayError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replay(replies: &[&str]) -> Result<Step, ReplayError> {
        let mut replay = Replay::new("mail.sender.example");
        let mut last = Ok(Step::More);
        for reply in replies {
            last = replay.step(reply.as_bytes());
        }
        last
    }

    const GREETING: &str = "220 home ESMTP\r\n";
    const EHLO: &str = "250-home\r\n250-PIPELINING\r\n250 starttls\r\n";

    #[test]
    fn the_dialogue_leads_to_tls() {
        assert_eq!(replay(&[GREETING]), Ok(Step::Send("EHLO mail.sender.example\r\n".into())));
        assert_eq!(replay(&[GREETING, EHLO]), Ok(Step::Send("STARTTLS\r\n".into())));
        assert_eq!(replay(&[GREETING, EHLO, "220 go\r\n"]), Ok(Step::Tls));
    }

    #[test]
    fn a_greeting_in_several_lines_is_awaited_whole() {
        assert_eq!(replay(&["220-home\r\n"]), Ok(Step::More));
        assert!(matches!(replay(&["220-home\r\n220 home\r\n"]), Ok(Step::Send(_))));
    }

    #[test]
    fn a_server_without_starttls_gets_no_mail() {
        for ehlo in ["250 home\r\n", "250-STARTTLS\r\n250 X\r\n", "250-h\r\n250 STARTTLSX\r\n"] {
            assert_eq!(replay(&[GREETING, ehlo]), Err(ReplayError::NoStarttls));
        }
    }

    #[test]
    fn nothing_may_stand_behind_a_reply() {
        for replies in [
            &["220 home\r\n500 x\r\n"][..],
            &[GREETING, "250-h\r\n250 STARTTLS\r\n2"],
            &[GREETING, EHLO, "220 go\r\n250 injected\r\n"],
        ] {
            assert_eq!(replay(replies), Err(ReplayError::Injection));
        }
    }

    #[test]
    fn refusals_are_told_with_the_servers_words() {
        let refused = |text: &str| Err(ReplayError::Refused(text.into()));
        assert_eq!(replay(&["421 full\r\n"]), refused("421 full"));
        assert_eq!(replay(&["554\r\n"]), refused("554"));
        assert_eq!(replay(&[GREETING, "502 no\x07\r\n"]), refused("502 no?"));
        assert_eq!(replay(&[GREETING, EHLO, "454 no\r\n"]), refused("454 no"));
    }

    #[test]
    fn what_speaks_no_smtp_is_told_early() {
        for noise in ["HTTP/1.1 400", "\x15\x03\x01", "220x", "220-a\r\n250 b\r\n", "999 "] {
            assert_eq!(replay(&[noise]), Err(ReplayError::Malformed), "{noise:?}");
        }
        let endless = format!("220-{}", "a".repeat(MAX_REPLY));
        assert_eq!(replay(&[&endless]), Err(ReplayError::Malformed));
        let many = "220-a\r\n".repeat(MAX_REPLY / 7 + 1);
        assert_eq!(replay(&[&many]), Err(ReplayError::Malformed));
    }

    proptest! {
        #[test]
        fn a_reply_reads_the_same_in_any_pieces(
            code in 200u16..600, lines in proptest::collection::vec("[ -~]{0,40}", 1..5),
        ) {
            let last = lines.len() - 1;
            let wire: String = lines.iter().enumerate().map(|(at, text)| {
                format!("{code}{}{text}\r\n", if at == last { ' ' } else { '-' })
            }).collect();
            for end in 0..wire.len() {
                prop_assert_eq!(Reply::parse(&wire.as_bytes()[..end]), Ok(None));
            }
            let reply = Reply::parse(wire.as_bytes()).unwrap().unwrap();
            prop_assert_eq!((reply.code, reply.lines.len(), reply.length), (code, lines.len(), wire.len()));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Replay::new("x").step(&noise);
        }
    }
}
