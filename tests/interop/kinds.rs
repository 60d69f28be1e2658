//! The mail servers that send, each on a machine of its own.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sealpost_tests::certificate::Authority;
use sealpost_tests::dns::resolve_at;
use sealpost_tests::exim::EximSender;
use sealpost_tests::haraka::{self, HarakaSender};
use sealpost_tests::machine::Machine;
use sealpost_tests::network::Network;
use sealpost_tests::opensmtpd::OpenSmtpdSender;
use sealpost_tests::packages::unpacked;
use sealpost_tests::postfix::PostfixSender;
use sealpost_tests::process::Process;
use sealpost_tests::sender::{SendingServer, Tls};
use sealpost_tests::sendmail::SendmailSender;

/// How long a sender of the lab waits before it tries again. For 10 s OpenSMTPD keeps a connection on
/// which it was refused, and would only try again on that.
const RETRY: Duration = Duration::from_secs(15);

/// Where the senders that trust an authority keep its certificate.
const AUTHORITY: &str = "/etc/ssl/lab/authority.pem";

/// When senders try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// After [`RETRY`].
    Hurried,
    /// As they come.
    Own,
}

/// Exim's rules for when to try again as Debian ships them.
const EXIM_RETRIES: &str = "* * F,2h,15m; G,16h,1h,1.5; F,4d,6h";

/// How often Debian's Sendmail goes through its queue.
const SENDMAIL_RETRY: Duration = Duration::from_secs(600);

/// A mail server and how it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    PostfixMay,
    PostfixDane,
    PostfixVerify,
    Exim,
    EximTlsa,
    Sendmail,
    OpenSmtpd,
    Haraka,
}

impl Kind {
    pub(crate) const ALL: [Kind; 8] = [
        Kind::PostfixMay,
        Kind::PostfixDane,
        Kind::PostfixVerify,
        Kind::Exim,
        Kind::EximTlsa,
        Kind::Sendmail,
        Kind::OpenSmtpd,
        Kind::Haraka,
    ];

    /// As tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::PostfixMay => "Postfix, `may`",
            Kind::PostfixDane => "Postfix, `dane`",
            Kind::PostfixVerify => "Postfix, `verify`",
            Kind::Exim => "Exim",
            Kind::EximTlsa => "Exim, TLSA",
            Kind::Sendmail => "Sendmail",
            Kind::OpenSmtpd => "OpenSMTPD",
            Kind::Haraka => "Haraka",
        }
    }

    /// As words of messages call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::PostfixMay => "postfix-may",
            Kind::PostfixDane => "postfix-dane",
            Kind::PostfixVerify => "postfix-verify",
            Kind::Exim => "exim",
            Kind::EximTlsa => "exim-tlsa",
            Kind::Sendmail => "sendmail",
            Kind::OpenSmtpd => "opensmtpd",
            Kind::Haraka => "haraka",
        }
    }

    /// Whether it puts the name of the mail exchanger into its ClientHello (SNI).
    pub(crate) fn sends_name(self) -> bool {
        matches!(self, Kind::PostfixDane | Kind::EximTlsa | Kind::Haraka)
    }

    /// Whether the names that it is given have TLSA records. Exim looks for them without being told.
    pub(crate) fn finds_tlsa(self) -> bool {
        self != Kind::Exim
    }

    /// Whether it insists on a certificate that it can verify.
    pub(crate) fn insists(self) -> bool {
        self == Kind::PostfixVerify
    }

    fn layers(self) -> Result<Vec<PathBuf>> {
        let mut layers = match self {
            Kind::PostfixMay | Kind::PostfixDane | Kind::PostfixVerify => {
                vec![unpacked("postfix")?]
            }
            Kind::Exim | Kind::EximTlsa => vec![unpacked("exim")?],
            Kind::Sendmail => vec![unpacked("sendmail")?],
            Kind::OpenSmtpd => vec![unpacked("opensmtpd")?],
            Kind::Haraka => haraka::layers()?,
        };
        layers.push(unpacked("dns")?);
        Ok(layers)
    }
}

/// A sender with its own machine, addresses and resolver.
pub(crate) struct Sender {
    pub(crate) kind: Kind,
    pub(crate) server: Box<dyn SendingServer + Send + Sync>,
    pub(crate) addresses: [IpAddr; 2],
    pace: Pace,
    nudged: Option<Instant>,
    _resolver: Process,
    _runner: Option<Process>,
    pub(crate) machine: Arc<Machine>,
}

impl Sender {
    /// Puts it on a link of its own, the `number`th.
    pub(crate) fn plug(network: &mut Network, kind: Kind, number: u8) -> Result<Arc<Machine>> {
        let (near, far) = (number * 4 + 65, number * 4 + 66);
        network.add_at(
            kind.word(),
            &[&format!("198.51.100.{near}/30"), &format!("2001:db8:5:{near}::1/64")],
            &[&format!("198.51.100.{far}/30"), &format!("2001:db8:5:{near}::10/64")],
            &kind.layers()?,
        )
    }

    /// Starts it there.
    pub(crate) fn start(
        network: &Network,
        kind: Kind,
        number: u8,
        machine: Arc<Machine>,
        authority: &Authority,
        pace: Pace,
    ) -> Result<Sender> {
        let resolver = resolve_at(network, &machine)?;
        machine.write(AUTHORITY, authority.pem())?;
        let retry = RETRY.as_secs();
        let often = match pace {
            Pace::Own => String::new(),
            Pace::Hurried => format!(
                "queue_run_delay = {retry}s\nminimal_backoff_time = {retry}s\n\
                 maximal_backoff_time = {retry}s\n"
            ),
        };
        let mut runner = None;
        let server: Box<dyn SendingServer + Send + Sync> = match kind {
            Kind::PostfixMay => {
                Box::new(PostfixSender::start_with(&machine, Tls::Opportunistic, &often)?)
            }
            Kind::PostfixDane => Box::new(PostfixSender::start_with(&machine, Tls::Dane, &often)?),
            Kind::PostfixVerify => {
                let more = format!(
                    "{often}smtp_tls_security_level = verify\nsmtp_tls_CAfile = {AUTHORITY}\n"
                );
                Box::new(PostfixSender::start_with(&machine, Tls::Opportunistic, &more)?)
            }
            Kind::Exim | Kind::EximTlsa => {
                let (rule, run) = match pace {
                    Pace::Own => (EXIM_RETRIES.to_owned(), "-q30m".to_owned()),
                    Pace::Hurried => (format!("* * F,2d,{retry}s"), format!("-q{retry}s")),
                };
                let server = EximSender::start_with(&machine, Tls::Dane, &rule)?;
                runner = Some(Process::start(&machine, "exim", &["exim4", "-bdf", &run])?);
                Box::new(server)
            }
            Kind::Sendmail => {
                let retry = match pace {
                    Pace::Own => SENDMAIL_RETRY,
                    Pace::Hurried => RETRY,
                };
                Box::new(SendmailSender::start(&machine, retry)?)
            }
            Kind::OpenSmtpd => Box::new(OpenSmtpdSender::start(&machine)?),
            Kind::Haraka => Box::new(HarakaSender::start(&machine, RETRY)?),
        };
        let near = number * 4 + 65;
        let addresses = [
            format!("198.51.100.{}", near + 1).parse()?,
            format!("2001:db8:5:{near}::10").parse()?,
        ];
        let (nudged, _resolver, _runner) = (None, resolver, runner);
        Ok(Sender { kind, server, addresses, pace, nudged, _resolver, _runner, machine })
    }

    /// Tells the one whose times between attempts cannot be configured to try again, much as
    /// the others do so by themselves.
    pub(crate) fn nudge(&mut self) -> Result<()> {
        let due = self.nudged.is_none_or(|at| at.elapsed() >= RETRY);
        if self.kind == Kind::OpenSmtpd && self.pace == Pace::Hurried && due {
            self.nudged = Some(Instant::now());
            self.server.flush(&self.machine)?;
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        self.server.log(&self.machine)
    }
}
