//! OpenSMTPD as the mail server at home, below the configuration file that Debian ships.

use anyhow::Result;

use super::{HomeServer, add_user, furnish, wait_until_gone, wait_until_listening};
use crate::certificate::{CERTIFICATE_FILE, KEY_FILE};
use crate::machine::Machine;
use crate::message::FROM;

const LOG: &str = "/var/log/smtpd.log";
const EMPTY: &str = "/var/lib/opensmtpd/empty";

/// OpenSMTPD of Debian 12's backports: the one of Debian 12 itself fails in every TLS handshake.
#[derive(Debug)]
pub struct OpenSmtpd;

impl HomeServer for OpenSmtpd {
    fn tree(&self) -> &'static str {
        "opensmtpd-backports"
    }

    fn snippet(&self) -> &'static str {
        include_str!("../../../docs/src/how-to/opensmtpd-sealpost.conf")
    }

    fn start(&self, machine: &Machine, snippet: &str) -> Result<()> {
        furnish(machine)?;
        add_user(machine, "opensmtpd", 1504, EMPTY)?;
        add_user(machine, "opensmtpq", 1505, EMPTY)?;
        machine.write("/etc/smtpd-sealpost.conf", snippet)?;
        // Debian's file stays as it is but for the line that the book adds, and for TLS on its
        // listener, without which nothing could be delivered there, wrongly or not.
        machine.run(&format!(
            "grep -q sealpost /etc/smtpd.conf || sed -i \
                 -e '1i include \"/etc/smtpd-sealpost.conf\"' \
                 -e 's/^listen on localhost$/listen on 127.0.0.1 tls pki sealpost/' \
                 /etc/smtpd.conf
             mkdir -p {EMPTY} /var/spool/smtpd /etc/ssl/certs /etc/ssl/private
             chmod 711 /var/spool/smtpd
             cp {CERTIFICATE_FILE} /etc/ssl/certs/mx.home.example.pem
             cp {KEY_FILE} /etc/ssl/private/mx.home.example.pem
             chmod 600 /etc/ssl/private/mx.home.example.pem
             smtpd -n
             setsid smtpd -d </dev/null >>{LOG} 2>&1 &
             echo $! > /run/smtpd.pid"
        ))?;
        wait_until_listening(machine)
    }

    fn stop(&self, machine: &Machine) -> Result<()> {
        machine.run("kill $(cat /run/smtpd.pid)")?;
        wait_until_gone(machine)
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(LOG)
    }

    fn took_sealed(&self, log: &str, client: &str) -> bool {
        // A line for each event of a session, which begins with the session's id.
        let connected = format!(" smtp connected address={client} ");
        log.lines().filter_map(|line| line.split_once(&connected)).any(|(id, _)| {
            let said = |event: &str, detail: &str| {
                let event = format!("{id} smtp {event} ");
                log.lines().any(|line| line.starts_with(&event) && line.contains(detail))
            };
            said("tls", "ciphers=TLS") && said("envelope", &format!(" from=<{FROM}>"))
        })
    }

    fn sending_on(&self) -> &'static str {
        " mta "
    }
}
