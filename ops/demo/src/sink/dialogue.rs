//! What the sink answers to each SMTP command (RFC 5321, RFC 3207). Pure: lines in, replies out.

use super::envelope::{Envelope, path};

/// The largest message, told to senders (RFC 1870).
pub(crate) const MESSAGE_LIMIT: usize = 32 << 20;

/// Recipients of one message; RFC 5321 section 4.5.3.1.8 asks for at least 100.
const RECIPIENTS: usize = 100;

/// Commands that were no use before the sink hangs up.
const MISTAKES: usize = 20;

/// What is to be done after a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this and read on.
    Reply(String),
    /// Send this, then TLS begins.
    StartTls(String),
    /// Send this, then the message follows.
    Data(String),
    /// Send this and close.
    Close(String),
}

/// One SMTP conversation.
#[derive(Debug)]
pub(crate) struct Dialogue {
    name: String,
    domain: String,
    offers_tls: bool,
    encrypted: bool,
    hello: Option<String>,
    envelope: Option<Envelope>,
    mistakes: usize,
}

impl Dialogue {
    /// A new conversation of the host `name` that takes mail for `domain`.
    pub(crate) fn new(name: &str, domain: &str, offers_tls: bool) -> Self {
        Self {
            name: name.to_owned(),
            domain: domain.to_owned(),
            offers_tls,
            encrypted: false,
            hello: None,
            envelope: None,
            mistakes: 0,
        }
    }

    /// The first line.
    pub(crate) fn banner(&self) -> String {
        format!("220 {} ESMTP Sealpost demo sink", self.name)
    }

    /// TLS is up: everything said before is forgotten (RFC 3207 section 4.2).
    pub(crate) fn secured(&mut self) {
        self.encrypted = true;
        self.hello = None;
        self.envelope = None;
    }

    /// The name that the sender gave itself.
    pub(crate) fn hello(&self) -> &str {
        self.hello.as_deref().unwrap_or("unknown")
    }

    /// Whether TLS is up.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Hands the envelope out when its message is complete; a new one may begin.
    pub(crate) fn take_envelope(&mut self) -> Envelope {
        self.envelope.take().unwrap_or_default()
    }

    /// Answers one command line (without its CRLF).
    pub(crate) fn command(&mut self, line: &[u8]) -> Answer {
        let Ok(line) = std::str::from_utf8(line) else {
            return self.mistake("500 5.5.2 Commands are ASCII");
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "HELO" if rest.is_empty() => self.mistake("501 5.5.4 Say your name"),
            "EHLO" => self.greet(rest, true),
            "HELO" => self.greet(rest, false),
            "STARTTLS" => self.start_tls(rest),
            "MAIL" => self.mail(rest),
            "RCPT" => self.recipient(rest),
            "DATA" => self.data(),
            "RSET" => {
                self.envelope = None;
                reply("250 2.0.0 Forgotten")
            }
            "NOOP" => reply("250 2.0.0 Here"),
            "QUIT" => Answer::Close(format!("221 2.0.0 {} closes", self.name)),
            _ => self.mistake("500 5.5.1 Unknown command"),
        }
    }

    fn greet(&mut self, name: &str, extended: bool) -> Answer {
        self.hello = Some(name.chars().filter(char::is_ascii_graphic).take(255).collect());
        self.envelope = None;
        if !extended {
            return Answer::Reply(format!("250 {}", self.name));
        }
        let tls = if self.offers_tls && !self.encrypted { "\r\n250-STARTTLS" } else { "" };
        Answer::Reply(format!(
            "250-{}\r\n250-SIZE {MESSAGE_LIMIT}\r\n250-8BITMIME\r\n250-PIPELINING{tls}\r\n\
             250 ENHANCEDSTATUSCODES",
            self.name
        ))
    }

    fn start_tls(&mut self, rest: &str) -> Answer {
        if !self.offers_tls || self.encrypted {
            self.mistake("503 5.5.1 STARTTLS was not offered")
        } else if !rest.is_empty() {
            self.mistake("501 5.5.4 STARTTLS takes no parameter")
        } else {
            Answer::StartTls("220 2.0.0 Go ahead".to_owned())
        }
    }

    fn mail(&mut self, rest: &str) -> Answer {
        if self.offers_tls && !self.encrypted {
            return self.mistake("530 5.7.0 Must issue a STARTTLS command first");
        }
        if self.hello.is_none() {
            return self.mistake("503 5.5.1 EHLO first");
        }
        if self.envelope.is_some() {
            return self.mistake("503 5.5.1 One message at a time");
        }
        let Some((sender, _parameters)) = path(rest, "FROM:") else {
            return self.mistake("501 5.5.4 Syntax: MAIL FROM:<address>");
        };
        self.envelope = Some(Envelope { sender: sender.to_owned(), recipients: Vec::new() });
        reply("250 2.1.0 Sender taken")
    }

    fn recipient(&mut self, rest: &str) -> Answer {
        let Some((address, _parameters)) = path(rest, "TO:") else {
            return self.mistake("501 5.5.4 Syntax: RCPT TO:<address>");
        };
        let ours = address.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.eq_ignore_ascii_case(&self.domain)
        });
        let Some(envelope) = &mut self.envelope else {
            return self.mistake("503 5.5.1 MAIL first");
        };
        if !ours {
            // The answer that the agent's open-relay self-test wants to hear.
            return self.mistake("550 5.7.1 Relay access denied");
        }
        if envelope.recipients.len() >= RECIPIENTS {
            return reply("452 4.5.3 Too many recipients");
        }
        envelope.recipients.push(address.to_owned());
        reply("250 2.1.5 Recipient taken")
    }

    fn data(&mut self) -> Answer {
        match &self.envelope {
            Some(envelope) if !envelope.recipients.is_empty() => {
                Answer::Data("354 End with a dot on a line of its own".to_owned())
            }
            Some(_) => self.mistake("554 5.5.1 No valid recipients"),
            None => self.mistake("503 5.5.1 MAIL first"),
        }
    }

    fn mistake(&mut self, text: &str) -> Answer {
        self.mistakes += 1;
        if self.mistakes > MISTAKES {
            return Answer::Close(format!("421 4.7.0 {} hangs up: too many mistakes", self.name));
        }
        reply(text)
    }
}

fn reply(text: &str) -> Answer {
    Answer::Reply(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(dialogue: &mut Dialogue, line: &str) -> String {
        match dialogue.command(line.as_bytes()) {
            Answer::Reply(text) => text,
            Answer::StartTls(text) => format!("tls {text}"),
            Answer::Data(text) => format!("data {text}"),
            Answer::Close(text) => format!("close {text}"),
        }
    }

    fn fresh(offers_tls: bool) -> Dialogue {
        Dialogue::new("mx.home.example", "home.example", offers_tls)
    }

    fn secured() -> Dialogue {
        let mut dialogue = fresh(true);
        assert!(say(&mut dialogue, "EHLO sender.example").contains("250-STARTTLS"));
        assert!(say(&mut dialogue, "STARTTLS").starts_with("tls 220"));
        dialogue.secured();
        assert!(!say(&mut dialogue, "ehlo sender.example").contains("STARTTLS"));
        dialogue
    }

    #[test]
    fn takes_a_message_under_tls() {
        let mut dialogue = secured();
        assert!(say(&mut dialogue, "MAIL FROM:<a@sender.example> SIZE=100").starts_with("250"));
        assert!(say(&mut dialogue, "rcpt to: <you@HOME.example>").starts_with("250"));
        assert!(say(&mut dialogue, "DATA").starts_with("data 354"));
        let envelope = dialogue.take_envelope();
        assert_eq!(envelope.sender, "a@sender.example");
        assert_eq!(envelope.recipients, ["you@HOME.example"]);
        assert!(say(&mut dialogue, "DATA").starts_with("503"));
        assert!(say(&mut dialogue, "MAIL FROM:<>").starts_with("250"));
        assert!(say(&mut dialogue, "QUIT").starts_with("close 221"));
    }

    #[test]
    fn is_no_open_relay() {
        let mut dialogue = secured();
        say(&mut dialogue, "MAIL FROM:<>");
        for foreign in
            ["open-relay-test@example.com", "home.example", "@home.example", "a@xhome.example"]
        {
            assert!(
                say(&mut dialogue, &format!("RCPT TO:<{foreign}>")).starts_with("550"),
                "{foreign}"
            );
        }
        assert!(say(&mut dialogue, "DATA").starts_with("554"));
    }

    #[test]
    fn takes_no_mail_in_plain_text_when_it_offers_tls() {
        let mut dialogue = fresh(true);
        say(&mut dialogue, "EHLO sender.example");
        assert!(say(&mut dialogue, "MAIL FROM:<>").starts_with("530"));
        assert!(say(&mut dialogue, "RCPT TO:<you@home.example>").starts_with("503"));
    }

    #[test]
    fn offers_no_tls_when_told_so() {
        let mut dialogue = fresh(false);
        assert!(!say(&mut dialogue, "EHLO sender.example").contains("STARTTLS"));
        assert!(say(&mut dialogue, "STARTTLS").starts_with("503"));
        assert!(say(&mut dialogue, "MAIL FROM:<>").starts_with("250"));
    }

    #[test]
    fn forgets_on_rset_and_keeps_the_order() {
        let mut dialogue = fresh(false);
        assert!(say(&mut dialogue, "MAIL FROM:<>").starts_with("503"));
        assert!(say(&mut dialogue, "EHLO").starts_with("501"));
        say(&mut dialogue, "HELO sender.example");
        say(&mut dialogue, "MAIL FROM:<>");
        assert!(say(&mut dialogue, "MAIL FROM:<>").starts_with("503"));
        assert!(say(&mut dialogue, "RSET").starts_with("250"));
        assert!(say(&mut dialogue, "RCPT TO:<you@home.example>").starts_with("503"));
        assert!(say(&mut dialogue, "MAIL FROM:nobody").starts_with("501"));
        assert!(say(&mut dialogue, "NOOP").starts_with("250"));
    }

    #[test]
    fn hangs_up_on_nonsense() {
        let mut dialogue = fresh(true);
        for _ in 0..MISTAKES {
            assert!(say(&mut dialogue, "WHAT").starts_with("500"));
        }
        assert!(say(&mut dialogue, "WHAT").starts_with("close 421"));
    }
}
