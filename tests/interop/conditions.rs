//! What is wrong while mail comes, and how it is put right.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use sealpost_tests::network::RELAY_OWN_V4;
use sealpost_tests::postfix;
use sealpost_tests::smtp;
use sealpost_tests::tls_client::TlsClient;

use crate::kinds::Kind;
use crate::lab::Lab;
use crate::names::{self, Route};

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Fine,
    Offline,
    Overloaded,
    HomeDown,
    NoStartTls,
    BrokenKey,
    Reconnecting,
    Unknown,
}

/// When what is wrong is put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Nothing is wrong, or it stays so.
    Never,
    /// After this time.
    After(Duration),
    /// When every sender has put its messages off once.
    OnceDeferred,
}

/// What must come of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    AtOnce,
    AfterRetry,
    Either,
    Deferred,
}

impl Condition {
    pub(crate) const ALL: [Condition; 8] = [
        Condition::Fine,
        Condition::Offline,
        Condition::Overloaded,
        Condition::HomeDown,
        Condition::NoStartTls,
        Condition::BrokenKey,
        Condition::Reconnecting,
        Condition::Unknown,
    ];

    /// As tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Condition::Fine => "ok",
            Condition::Offline => "box offline, then back",
            Condition::Overloaded => "relay overloaded",
            Condition::HomeDown => "mail server at home down",
            Condition::NoStartTls => "mail server without STARTTLS",
            Condition::BrokenKey => "broken key at home",
            Condition::Reconnecting => "agent reconnecting",
            Condition::Unknown => "unknown name",
        }
    }

    /// As words of messages call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Fine => "ok",
            Condition::Offline => "offline",
            Condition::Overloaded => "overloaded",
            Condition::HomeDown => "down",
            Condition::NoStartTls => "no-starttls",
            Condition::BrokenKey => "broken-key",
            Condition::Reconnecting => "reconnecting",
            Condition::Unknown => "unknown",
        }
    }

    pub(crate) fn expected(self, kind: Kind, route: Route) -> Expected {
        if self == Condition::Unknown || (route == Route::Shared && !kind.sends_name()) {
            // Nobody can say whom it is for.
            return Expected::Deferred;
        }
        match self {
            // It stays at the first exchanger until the relay knows that it does, and sends it on.
            Condition::Fine if kind == Kind::OpenSmtpd && route == Route::Pair => Expected::Either,
            Condition::Fine => Expected::AtOnce,
            Condition::Reconnecting => Expected::Either,
            _ => Expected::AfterRetry,
        }
    }

    pub(crate) fn repair_comes(self) -> Repair {
        match self {
            Condition::Fine | Condition::Unknown => Repair::Never,
            Condition::Reconnecting => Repair::After(Duration::from_secs(3)),
            _ => Repair::OnceDeferred,
        }
    }

    /// Breaks what is to be broken.
    pub(crate) fn begin(self, lab: &mut Lab) -> Result<()> {
        match self {
            Condition::Fine | Condition::Unknown => Ok(()),
            Condition::Offline => lab.end_agent("TERM"),
            Condition::Reconnecting => lab.end_agent("KILL"),
            Condition::Overloaded => {
                // A connection that has come through to the mail server at home keeps its place; there
                // it stops in the middle of its TLS handshake.
                let mut hog = smtp::connect(&lab.network.sender, RELAY_OWN_V4, 25)?;
                smtp::up_to_tls(&mut hog)?;
                hog.write_all(TlsClient::new(names::DOMAIN, &lab.certificate)?.hello())?;
                hog.read_exact(&mut [0])?;
                lab.hog = Some(hog);
                lab.reload_relay("[limits]\nsessions = 1\n")
            }
            Condition::HomeDown => postfix::stop(&lab.network.home),
            Condition::NoStartTls => lab.restart_home("smtpd_tls_security_level = none\n"),
            Condition::BrokenKey => {
                lab.break_key(true)?;
                lab.restart_home("")
            }
        }
    }

    /// Puts it right.
    pub(crate) fn repair(self, lab: &mut Lab) -> Result<()> {
        match self {
            Condition::Fine | Condition::Unknown => Ok(()),
            Condition::Offline | Condition::Reconnecting => lab.start_agent(),
            Condition::Overloaded => {
                lab.hog = None;
                lab.reload_relay("")
            }
            Condition::HomeDown => lab.start_home(""),
            Condition::NoStartTls => lab.restart_home(""),
            Condition::BrokenKey => {
                lab.break_key(false)?;
                lab.restart_home("")
            }
        }
    }
}
