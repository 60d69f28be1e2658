//! Debian's OpenSMTPD, as a sender.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::message::Message;
use crate::postfix::submit;
use crate::process::Process;
use crate::sender::SendingServer;
use crate::wait::wait_until;

/// An OpenSMTPD that sends. Its times between attempts cannot be configured.
#[derive(Debug)]
pub struct OpenSmtpdSender {
    _server: Process,
}

impl OpenSmtpdSender {
    /// Configures and starts it, with what it does about TLS by itself: it takes it where it is
    /// offered.
    pub fn start(machine: &Machine) -> Result<OpenSmtpdSender> {
        machine.write(
            "/etc/smtpd.conf",
            "action out relay helo mail.sender.example\nmatch from any for any action out\n",
        )?;
        machine.run(
            "for user in opensmtpd:1504 opensmtpq:1505; do
                 name=${user%:*} id=${user#*:}
                 grep -q ^$name: /etc/passwd ||
                     echo $name:x:$id:$id::/var/lib/opensmtpd/empty:/usr/sbin/nologin >> /etc/passwd
                 grep -q ^$name: /etc/group || echo $name:x:$id: >> /etc/group
             done
             mkdir -p /var/lib/opensmtpd/empty /var/spool
             chmod 755 /var/spool
             chgrp opensmtpq /usr/sbin/smtpctl
             chmod 2555 /usr/sbin/smtpctl
             echo mail.sender.example > /etc/mailname",
        )?;
        let server = Process::start(machine, "smtpd", &["smtpd", "-d"])?;
        wait_until("OpenSMTPD to take orders", Duration::from_secs(10), || {
            Ok(machine.attempt("smtpctl show status")?.code == Some(0))
        })
        .with_context(|| machine.read(&Process::log_of("smtpd")))?;
        Ok(OpenSmtpdSender { _server: server })
    }
}

impl SendingServer for OpenSmtpdSender {
    fn send(&self, machine: &Machine, message: &Message) -> Result<()> {
        submit(machine, "sendmail", message)
    }

    fn flush(&self, machine: &Machine) -> Result<()> {
        // It says no when there is nothing to try.
        machine.attempt("smtpctl schedule all").map(drop)
    }

    fn withdraw(&self, machine: &Machine) -> Result<()> {
        machine.attempt("smtpctl remove all").map(drop)
    }

    fn queued(&self, machine: &Machine) -> Result<usize> {
        Ok(machine.run("smtpctl show queue")?.lines().count())
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(&Process::log_of("smtpd"))
    }

    fn deferral(&self) -> &'static str {
        "result=\"TempFail\""
    }

    fn bounce(&self) -> &'static str {
        "result=\"PermFail\""
    }

    fn dane_verified(&self) -> &'static str {
        "cert-check result=\"verified\""
    }
}
