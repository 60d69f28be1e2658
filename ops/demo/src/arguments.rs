//! The command line.

use clap::{Parser, ValueEnum};
use lettre::Address;

use crate::faults::Fault;
use crate::stage::DOMAIN;

/// Watch one message travel from a sending mail server through a Sealpost relay and an agent into
/// a mail server at home.
///
/// Everything runs on this machine, on loopback and free ports, without root, and is thrown away
/// at the end. The exit code is 0 only when the message was delivered (with --fault: when the
/// fault was refused as it should be).
#[derive(Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
pub(crate) struct Arguments {
    /// Leave everything running until Ctrl-C, and print a swaks line to try.
    #[arg(long, conflicts_with_all = ["once", "json", "fault"])]
    pub(crate) keep: bool,

    /// Send one message and leave. This is the default; scripts may say it.
    #[arg(long)]
    pub(crate) once: bool,

    /// Print exactly one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    /// Deliver to a real mail server instead of the built-in one. It sees the demo's sender at
    /// 127.0.0.1, which it may trust more than a stranger.
    #[arg(long, value_name = "HOST:PORT", requires = "to")]
    pub(crate) mta: Option<String>,

    /// An address that the real mail server takes mail for.
    #[arg(long, value_name = "ADDRESS", requires = "mta")]
    pub(crate) to: Option<Address>,

    /// The envelope sender, should the real mail server look its domain up.
    #[arg(long, value_name = "ADDRESS", requires = "mta")]
    pub(crate) from: Option<Address>,

    /// The PROXY header that the real mail server expects.
    #[arg(long, value_name = "VERSION", requires = "mta", default_value = "v2")]
    pub(crate) proxy: Proxy,

    /// Break one thing and see what a sender sees, and why.
    #[arg(long, value_name = "FAULT", conflicts_with = "mta")]
    pub(crate) fault: Option<Fault>,
}

impl Arguments {
    /// Whom the message is for.
    pub(crate) fn recipient(&self) -> String {
        let given = self.to.as_ref().map(Address::to_string);
        given.unwrap_or_else(|| format!("you@{DOMAIN}"))
    }
}

/// How the agent tells the mail server who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// PROXY protocol version 1, text.
    V1,
    /// PROXY protocol version 2, binary.
    V2,
    /// No header: only for a mail server that trusts nobody on this address.
    None,
}

impl Proxy {
    /// The word in the agent's file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("demo").chain(line.split_whitespace()))
    }

    #[test]
    fn is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        assert!(parse("").is_ok());
        assert!(parse("--once --json").is_ok());
        assert!(parse("--keep --json").is_err());
        assert!(parse("--mta localhost:25").is_err());
        assert!(parse("--mta localhost:25 --to you@home.example --proxy v1").is_ok());
        assert!(parse("--to you@home.example").is_err());
        assert!(parse("--mta localhost:25 --to you").is_err());
        assert!(parse("--proxy v1").is_err());
        for fault in
            ["no-sni", "unknown-name", "box-offline", "bad-pin", "mta-down", "mta-no-starttls"]
        {
            assert!(parse(&format!("--fault {fault} --json")).is_ok(), "{fault}");
        }
        assert!(parse("--fault none-such").is_err());
    }
}
