//! The faults that can be shown: what is broken, what must come of it, and why. Pure.

use clap::ValueEnum;
use serde::Serialize;

use crate::configs::PARK_SECONDS;
use crate::tls::Alert;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The sender names no server in its ClientHello, on an address that several boxes share.
    NoSni,
    /// The sender names a server that no box has.
    UnknownName,
    /// The agent is not running.
    BoxOffline,
    /// The agent's file has another relay's key.
    BadPin,
    /// Nothing listens at the mail server's address.
    MtaDown,
    /// The mail server at home offers no STARTTLS.
    MtaNoStarttls,
}

/// RFC 6066 section 3: the alert for a name that is not served.
const UNRECOGNIZED_NAME: u8 = 112;

/// RFC 8446 section 6.2: the alert for trouble that is not the peer's fault.
const INTERNAL_ERROR: u8 = 80;

impl Fault {
    /// What is broken, in one sentence.
    pub(crate) fn setting(self) -> String {
        match self {
            Self::NoSni => "The sender puts no server name (SNI) into its ClientHello.".into(),
            Self::UnknownName => {
                "The sender asks for stranger.example, which no box of this relay has.".into()
            }
            Self::BoxOffline => format!(
                "The agent is not running. The relay waits for it up to {PARK_SECONDS} s \
                 (20 s by default; shortened here)."
            ),
            Self::BadPin => format!(
                "The agent's file pins another relay's key, so it does not talk to this one. The \
                 relay waits for it up to {PARK_SECONDS} s (20 s by default; shortened here)."
            ),
            Self::MtaDown => {
                "Nothing listens at the mail server's address at home. (The agent gives it 10 s.)"
                    .into()
            }
            Self::MtaNoStarttls => {
                "The mail server at home offers no STARTTLS. (The agent gives it 10 s.)".into()
            }
        }
    }

    /// The relay's outcomes that are right.
    pub(crate) fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::NoSni => &["sni-absent"],
            Self::UnknownName => &["sni-unknown"],
            Self::BoxOffline | Self::BadPin => &["box-offline"],
            Self::MtaDown => &["home-unreachable", "service-withheld"],
            Self::MtaNoStarttls => &["home-no-starttls", "service-withheld"],
        }
    }

    /// The alert that the sender must see.
    pub(crate) fn alert(self) -> u8 {
        match self {
            Self::NoSni | Self::UnknownName => UNRECOGNIZED_NAME,
            _ => INTERNAL_ERROR,
        }
    }

    /// Whether what came is what must come.
    pub(crate) fn is_observed(self, outcome: Option<&str>, alert: Option<&Alert>) -> bool {
        outcome.is_some_and(|outcome| self.outcomes().contains(&outcome))
            && alert.is_some_and(|alert| alert.fatal && alert.code == self.alert())
    }

    /// Why it ends like this and not otherwise.
    pub(crate) fn why(self, outcome: Option<&str>) -> String {
        let reason = match self {
            Self::NoSni => {
                "The name in the ClientHello is all that a relay can route by on a shared address, \
                 because everything behind it is sealed. A guess could hand the mail to a stranger's \
                 box, which would bounce it. So the relay refuses. A box with an address of its own \
                 needs no name."
            }
            Self::UnknownName => {
                "The relay has no default route: a name that it does not know goes nowhere."
            }
            Self::BoxOffline => {
                "The relay stores nothing, so without the box there is nowhere to put the message. \
                 It waits for the box a while, since a tunnel that broke is back in seconds."
            }
            Self::BadPin => {
                "To the relay this is a box that never came. The agent refused in the QUIC \
                 handshake: whoever holds the relay's address but not its key gets nothing."
            }
            Self::MtaDown if outcome == Some("service-withheld") => {
                "The agent delivers nothing to a mail server that it has not seen refuse a \
                 stranger's mail, and nobody was there to ask. It tries again by itself, and \
                 mail that comes meanwhile waits a few seconds for it."
            }
            Self::MtaDown => {
                "The agent could not reach the mail server, and says so to the relay, which passes \
                 the failure on to the sender before anything was accepted."
            }
            Self::MtaNoStarttls if outcome == Some("service-withheld") => {
                "Without STARTTLS at home the seal would end at the agent. The self-test has \
                 noticed before any mail came, and the agent delivers nothing there."
            }
            Self::MtaNoStarttls => {
                "Without STARTTLS at home the seal would end at the agent, so it passes nothing on: \
                 Sealpost never turns sealed mail into plain text."
            }
        };
        reason.to_owned()
    }

    /// What the sender's server does now (measured: Postfix, Exim, Sendmail, OpenSMTPD).
    pub(crate) fn next(self) -> &'static str {
        "Nothing was accepted, so nothing is lost and nothing bounces: the message stays in the \
         sender's queue. Postfix and Sendmail try the next MX within 0.1 s, then this one again \
         later (Postfix for 5 days). Exim and OpenSMTPD try this MX at once in plain text, hear \
         451, and keep it queued as well."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_right_refusal() {
        let alert = |code| Alert { code, name: "x", fatal: true };
        assert!(Fault::NoSni.is_observed(Some("sni-absent"), Some(&alert(112))));
        assert!(!Fault::NoSni.is_observed(Some("sni-absent"), Some(&alert(80))));
        assert!(!Fault::NoSni.is_observed(Some("box-offline"), Some(&alert(112))));
        assert!(!Fault::NoSni.is_observed(None, None));
        assert!(Fault::MtaDown.is_observed(Some("service-withheld"), Some(&alert(80))));
    }
}
