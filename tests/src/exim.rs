//! Debian's Exim, as a sender.

use anyhow::Result;

use crate::home;
use crate::machine::Machine;
use crate::message::Message;
use crate::postfix::submit;
use crate::sender::{SendingServer, Tls};

pub(crate) const LOG: &str = "/var/log/exim4/mainlog";

/// When scenarios say when to try again.
const RETRIES: &str = "* * F,2d,1m";

/// An Exim that sends. It runs for each message and each queue run; no daemon is needed.
#[derive(Debug)]
pub struct EximSender;

impl EximSender {
    /// Configures it.
    pub fn start(machine: &Machine, tls: Tls) -> Result<EximSender> {
        EximSender::start_with(machine, tls, RETRIES)
    }

    /// The same with other rules for when to try again, as they stand in its file.
    pub fn start_with(machine: &Machine, tls: Tls, retries: &str) -> Result<EximSender> {
        // What Exim does by itself, DANE where there is a TLSA record, is both other cases.
        let avoid = match tls {
            Tls::Never => "hosts_avoid_tls = *",
            Tls::Dane | Tls::Opportunistic => "",
        };
        machine.write(
            "/etc/exim4/exim4.conf",
            &format!(
                "primary_hostname = mail.sender.example\n\
                 dns_dnssec_ok = 1\n\
                 log_file_path = /var/log/exim4/%slog\n\
                 log_selector = +tls_certificate_verified +tls_sni +outgoing_port\n\
                 keep_environment =\n\
                 message_size_limit = 100M\n\
                 begin routers\n\
                 mx:\n  driver = dnslookup\n  domains = *\n  transport = remote\n  \
                 dnssec_request_domains = *\n\
                 begin transports\n\
                 remote:\n  driver = smtp\n  dnssec_request_domains = *\n  {avoid}\n\
                 begin retry\n{retries}\n"
            ),
        )?;
        add_user(machine)?;
        machine.run("exim4 -bV >/dev/null")?;
        Ok(EximSender)
    }
}

impl SendingServer for EximSender {
    fn send(&self, machine: &Machine, message: &Message) -> Result<()> {
        submit(machine, "exim4", message)
    }

    fn flush(&self, machine: &Machine) -> Result<()> {
        machine.run("exim4 -qff").map(drop)
    }

    fn withdraw(&self, machine: &Machine) -> Result<()> {
        machine
            .run("for id in $(exim4 -bpr | awk '$4 ~ /</ {print $3}'); do exim4 -Mrm $id; done")
            .map(drop)
    }

    fn queued(&self, machine: &Machine) -> Result<usize> {
        Ok(machine.run("exim4 -bpc")?.trim().parse()?)
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(LOG)
    }

    fn deferral(&self) -> &'static str {
        " == "
    }

    fn bounce(&self) -> &'static str {
        " ** "
    }

    fn dane_verified(&self) -> &'static str {
        "CV=dane"
    }
}

/// What the package's installation script would have done: Exim's user and its directories.
pub(crate) fn add_user(machine: &Machine) -> Result<()> {
    home::add_user(machine, "Debian-exim", 1503, "/var/spool/exim4")?;
    machine
        .run(
            "mkdir -p /var/spool/exim4 /var/log/exim4
             chown Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4",
        )
        .map(drop)
}
