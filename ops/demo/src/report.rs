//! What a run came to: one JSON object for scripts, a few lines for people.

use anstyle::{AnsiColor, Effects, Style};
use serde::Serialize;

use crate::faults::Fault;
use crate::journal::{Hop, Journal};
use crate::outcomes;
use crate::proof::{Finding, Proof};
use crate::text::{thousands, wrapped};
use crate::tls::Alert;

const GOOD: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);
const BAD: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
const HEAD: Style = Style::new().bold();

/// The result of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether the mail server at home took the message.
    pub(crate) delivered: bool,
    /// Whether the relay was shown not to have had it; absent when nothing was delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<bool>,
    /// What happened, in order.
    pub(crate) hops: Vec<Hop>,
    /// The mail server's reply to the message, as the sender got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<String>,
    /// Where the message was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<Proof>,
    /// What the fault did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Faulted>,
    /// Why the run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The result of a run with a fault.
#[derive(Debug, Serialize)]
pub(crate) struct Faulted {
    /// Which.
    pub(crate) name: Fault,
    /// Whether it was refused as it should be.
    pub(crate) observed: bool,
    /// What went over the wire between sender and relay.
    pub(crate) dialogue: Vec<String>,
    /// The relay's TLS alert.
    pub(crate) alert: Option<Alert>,
    /// What the sender's software makes of it.
    pub(crate) sender_error: Option<String>,
    /// The relay's closing line.
    pub(crate) relay_outcome: Option<String>,
    /// The agent's closing line, when it got as far.
    pub(crate) agent_outcome: Option<String>,
    /// The agent's complaint or self-test, when that explains it.
    pub(crate) agent_says: Option<String>,
    /// Why.
    pub(crate) why: String,
    /// What the sender's server does next.
    pub(crate) next: &'static str,
}

impl From<anyhow::Result<Report>> for Report {
    fn from(result: anyhow::Result<Self>) -> Self {
        result.unwrap_or_else(|error| Self::failed(&format!("{error:#}")))
    }
}

impl Report {
    /// A run that came to nothing.
    pub(crate) fn failed(error: &str) -> Self {
        Self { error: Some(error.to_owned()), ..Self::default() }
    }

    /// Whether the run did what it should.
    pub(crate) fn is_success(&self) -> bool {
        match (&self.error, &self.fault) {
            (Some(_), _) => false,
            (None, Some(fault)) => fault.observed && !self.delivered,
            (None, None) => self.delivered && self.sealed == Some(true),
        }
    }

    /// Tells people.
    pub(crate) fn tell(&self, journal: &Journal) {
        journal.say("");
        if let Some(fault) = &self.fault {
            fault.tell(journal);
        } else if self.delivered {
            let reply = self.reply.as_deref().unwrap_or("250");
            journal.say(&format!("{GOOD}Delivered.{GOOD:#} The mail server at home said: {reply}"));
        }
        if let Some(proof) = &self.proof {
            proof_lines(proof).iter().for_each(|line| journal.say(line));
        }
    }
}

fn proof_lines(proof: &Proof) -> Vec<String> {
    let words = proof.words;
    let verdict = if proof.is_sealed() {
        format!("{GOOD}Sealed.{GOOD:#}")
    } else {
        format!("{BAD}Not proven sealed.{BAD:#}")
    };
    let mut lines =
        vec![format!("{verdict} Where {words} random words of the message were found:")];
    lines.push(place("bytes sender-relay", &proof.smtp, words));
    lines.push(place("bytes relay-agent", &proof.tunnel, words));
    lines.push(match &proof.memory.unread {
        Some(why) => format!("  relay's memory      could not be read, proves nothing ({why})"),
        None => place("relay's memory", &proof.memory, words),
    });
    if let Some(memory) = proof.home_memory.as_ref().filter(|memory| memory.unread.is_none()) {
        lines.push(place("sink's memory", memory, words));
    }
    match &proof.maildir {
        Some(file) => lines.push(place("Maildir at home", file, words)),
        None => lines.push("  (the mailbox at home is your mail server's own)".to_owned()),
    }
    lines
}

/// One searched place: how much was searched, how many words were there, and what else was found
/// to show that the search works.
fn place(name: &str, finding: &Finding, words: usize) -> String {
    let bytes = thousands(finding.bytes);
    let mut line = format!("  {name:<18}  {bytes:>11} bytes  {} of {words}", finding.words);
    for (what, found) in [("found", true), ("NOT found", false)] {
        let words: Vec<_> = finding
            .controls
            .iter()
            .filter(|control| (control.hits > 0) == found)
            .map(|control| control.word.as_str())
            .collect();
        if !words.is_empty() {
            line.push_str(&format!("  ({what}: {})", words.join(", ")));
        }
    }
    if finding.missed > 0 {
        line.push_str(&format!("  ({} bytes went unrecorded)", thousands(finding.missed)));
    }
    line
}

impl Faulted {
    fn tell(&self, journal: &Journal) {
        journal.say(&format!("{HEAD}What the sender saw{HEAD:#} (C: the sender, S: the relay)"));
        self.dialogue.iter().for_each(|line| journal.say(&format!("  {line}")));
        if let Some(error) = &self.sender_error {
            journal.say(&format!("  and its software says: {error}"));
        }
        journal.say("");
        journal.say(&format!("{HEAD}Why{HEAD:#}"));
        match &self.relay_outcome {
            Some(outcome) => {
                journal.say(&format!("  relay: {outcome} ({})", outcomes::in_words(outcome)));
            }
            None => journal.say("  relay: no closing line came"),
        }
        if let Some(outcome) = &self.agent_outcome {
            journal.say(&format!("  agent: {outcome} ({})", outcomes::in_words(outcome)));
        }
        if let Some(said) = &self.agent_says {
            let said = format!("agent: {said}");
            wrapped(&said, "  ").iter().for_each(|line| journal.say(line));
        }
        wrapped(&self.why, "  ").iter().for_each(|line| journal.say(line));
        journal.say("");
        journal.say(&format!("{HEAD}What comes next{HEAD:#}"));
        wrapped(self.next, "  ").iter().for_each(|line| journal.say(line));
        journal.say("");
        journal.say(&if self.observed {
            format!("{GOOD}Not delivered, as it should be.{GOOD:#}")
        } else {
            format!("{BAD}This is not the refusal that was expected.{BAD:#}")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_object_with_the_promised_keys() {
        let hop = Hop { ms: 1, at: "relay", event: "routed".into(), text: "…".into() };
        let report =
            Report { delivered: true, sealed: Some(true), hops: vec![hop], ..Report::default() };
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["delivered"], true);
        assert_eq!(json["hops"][0]["at"], "relay");
        assert!(json.get("fault").is_none());
        assert!(report.is_success());
    }

    #[test]
    fn is_no_success_without_delivery_or_proof() {
        assert!(!Report::default().is_success());
        assert!(!Report { delivered: true, sealed: Some(false), ..Report::default() }.is_success());
        let error = Some("no".to_owned());
        assert!(
            !Report { delivered: true, sealed: Some(true), error, ..Report::default() }
                .is_success()
        );
    }
}
