//! Debian's Postfix, as a sender and as the mail server at home.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::certificate::{CERTIFICATE_FILE, KEY_FILE};
use crate::home::{HomeServer, add_user, furnish, wait_until_gone};
use crate::machine::Machine;
use crate::message::{FROM, Message};
use crate::sender::{SendingServer, Tls};

pub use crate::home::{BARE_PORT, PROXY_PORT};

const LOG: &str = "/var/log/mail.log";

/// What both roles have in common. The log goes to a file since there is no syslog here.
const COMMON: &str = "
compatibility_level = 3.6
maillog_file = /var/log/mail.log
inet_interfaces = loopback-only
inet_protocols = all
smtputf8_enable = no
alias_maps =
alias_database =
message_size_limit = 100000000
mailbox_size_limit = 0
";

const SERVICES: &str = "
pickup    unix  n - n 60   1 pickup
cleanup   unix  n - n -    0 cleanup
qmgr      unix  n - n 300  1 qmgr
tlsmgr    unix  - - n 1000 1 tlsmgr
rewrite   unix  - - n -    - trivial-rewrite
bounce    unix  - - n -    0 bounce
defer     unix  - - n -    0 bounce
trace     unix  - - n -    0 bounce
verify    unix  - - n -    1 verify
flush     unix  n - n 1000 0 flush
proxymap  unix  - - n -    - proxymap
smtp      unix  - - n -    - smtp
relay     unix  - - n -    - smtp
showq     unix  n - n -    - showq
error     unix  - - n -    - error
retry     unix  - - n -    - error
discard   unix  - - n -    - discard
local     unix  - n n -    - local
virtual   unix  - n n -    - virtual
anvil     unix  - - n -    1 anvil
scache    unix  - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
";

/// A Postfix that sends.
#[derive(Debug)]
pub struct PostfixSender;

impl PostfixSender {
    /// Configures and starts it.
    pub fn start(machine: &Machine, tls: Tls) -> Result<PostfixSender> {
        PostfixSender::start_with(machine, tls, "")
    }

    /// The same with settings that replace others, such as the times between attempts.
    pub fn start_with(machine: &Machine, tls: Tls, more: &str) -> Result<PostfixSender> {
        let level = match tls {
            Tls::Dane => "dane",
            Tls::Opportunistic => "may",
            Tls::Never => "none",
        };
        // The times between attempts stay as they are: scenarios say when to try again.
        let settings = format!(
            "myhostname = mail.sender.example\nmydestination =\n\
             smtp_tls_security_level = {level}\nsmtp_dns_support_level = dnssec\n\
             smtp_tls_loglevel = 1\n{more}\n"
        );
        start(machine, &settings, "")?;
        Ok(PostfixSender)
    }
}

impl SendingServer for PostfixSender {
    fn send(&self, machine: &Machine, message: &Message) -> Result<()> {
        submit(machine, "sendmail", message)
    }

    fn flush(&self, machine: &Machine) -> Result<()> {
        machine.run("postqueue -f").map(drop)
    }

    fn withdraw(&self, machine: &Machine) -> Result<()> {
        machine.run("postsuper -d ALL 2>/dev/null").map(drop)
    }

    fn queued(&self, machine: &Machine) -> Result<usize> {
        Ok(machine.run("postqueue -j")?.lines().count())
    }

    fn log(&self, machine: &Machine) -> String {
        log(machine)
    }

    fn deferral(&self) -> &'static str {
        "status=deferred"
    }

    fn bounce(&self) -> &'static str {
        "status=bounced"
    }

    fn dane_verified(&self) -> &'static str {
        "Verified TLS connection established to mx.home.example"
    }
}

/// A Postfix at home. At [`BARE_PORT`] it trusts everything that connects from 127.0.0.1, as Debian
/// configures it.
#[derive(Debug)]
pub struct PostfixAtHome {
    /// Whether postscreen stands in front, at both ports.
    pub postscreen: bool,
    /// Lines for `main.cf` that replace others, also where the snippet has them, so that a scenario
    /// can take away what the snippet gives.
    pub settings: String,
}

impl HomeServer for PostfixAtHome {
    fn tree(&self) -> &'static str {
        "postfix"
    }

    fn snippet(&self) -> &'static str {
        match self.postscreen {
            false => include_str!("../../docs/src/how-to/postfix-master.cf"),
            true => include_str!("../../docs/src/how-to/postfix-postscreen-master.cf"),
        }
    }

    fn start(&self, machine: &Machine, snippet: &str) -> Result<()> {
        furnish(machine)?;
        let settings = format!(
            "myhostname = mx.home.example\nmydestination = home.example\n\
             mynetworks = 127.0.0.0/8 [::1]/128\nhome_mailbox = Maildir/\n\
             smtpd_peername_lookup = no\nsmtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\n\
             smtpd_tls_key_file = {KEY_FILE}\nsmtpd_tls_cert_file = {CERTIFICATE_FILE}\n\
             smtpd_timeout = 60s\n{}\n",
            self.settings
        );
        let bare = match self.postscreen {
            false => format!("{BARE_PORT} inet n - n - - smtpd"),
            true => format!(
                "{BARE_PORT} inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n\
                 dnsblog unix - - n - 0 dnsblog\ntlsproxy unix - - n - 0 tlsproxy"
            ),
        };
        let snippet = with_settings(snippet, &self.settings);
        start(machine, &settings, &format!("{bare}\n{snippet}"))
    }

    fn stop(&self, machine: &Machine) -> Result<()> {
        stop(machine)
    }

    fn log(&self, machine: &Machine) -> String {
        log(machine)
    }

    fn took_sealed(&self, log: &str, client: &str) -> bool {
        [
            format!("TLS connection established from unknown[{client}]"),
            format!(": client=unknown[{client}]"),
        ]
        .iter()
        .all(|part| log.contains(part))
    }

    fn sending_on(&self) -> &'static str {
        "postfix/smtp["
    }
}

/// Lines of `master.cf` in which options have the values of `settings`, those that are there.
fn with_settings(lines: &str, settings: &str) -> String {
    let value_of = |wanted: &str| {
        let pairs = settings.lines().filter_map(|line| line.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.trim(), value.trim()));
        // The last one counts, as in `main.cf`.
        pairs.rev().find(|(name, _)| *name == wanted)
    };
    let mut changed = String::new();
    for line in lines.lines() {
        let option = line.trim().strip_prefix("-o ").and_then(|option| option.split_once('='));
        match option.and_then(|(name, _)| value_of(name)) {
            Some((name, "")) => changed += &format!("    -o {name}=\n"),
            Some((name, value)) => changed += &format!("    -o {{{name} = {value}}}\n"),
            None => changed += &format!("{line}\n"),
        }
    }
    changed
}

/// Starts the home mail server of most scenarios: Postfix as the book says.
pub fn start_at_home(machine: &Machine) -> Result<()> {
    start_at_home_with(machine, "")
}

/// The same with settings that replace others, such as `mynetworks =`.
pub fn start_at_home_with(machine: &Machine, settings: &str) -> Result<()> {
    let server = PostfixAtHome { postscreen: false, settings: settings.into() };
    server.start(machine, server.snippet())
}

/// Stops the Postfix at home on `machine`, and returns when its ports are free: its processes share
/// the listening sockets, and a few of them outlive `postfix stop` by a moment.
pub fn stop(machine: &Machine) -> Result<()> {
    machine.run("postfix stop 2>/dev/null")?;
    wait_until_gone(machine)
}

/// The log of the Postfix on `machine`.
pub fn log(machine: &Machine) -> String {
    machine.read(LOG)
}

/// How much of a message is on the disk of the Postfix on `machine` while it is still coming
/// in: evidence that a transfer is in its middle.
pub fn bytes_coming_in(machine: &Machine) -> u64 {
    let Ok(entries) = fs::read_dir(machine.path("/var/spool/postfix/incoming")) else {
        return 0;
    };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// Starts a mail server with these settings; `ports` are lines of its `master.cf`.
pub fn start(machine: &Machine, settings: &str, ports: &str) -> Result<()> {
    machine.write("/etc/postfix/main.cf", &last_of_each(&format!("{COMMON}{settings}")))?;
    machine.write("/etc/postfix/master.cf", &format!("{SERVICES}{ports}"))?;
    // What the packages' installation scripts would have done.
    add_user(machine, "postfix", 1501, "/var/spool/postfix")?;
    add_user(machine, "postdrop", 1502, "/nonexistent")?;
    machine.run(
        "mkdir -p /var/lib/postfix && chown postfix:postfix /var/lib/postfix
         postfix start >/var/log/postfix-start.log 2>&1 || {
             cat /var/log/postfix-start.log /var/log/mail.log >&2
             exit 1
         }",
    )?;
    Ok(())
}

/// Hands a message to the `sendmail` command that every Unix mail server has.
pub(crate) fn submit(machine: &Machine, sendmail: &str, message: &Message) -> Result<()> {
    let mut child = machine
        .command(sendmail)
        .args(["-i", "-f", FROM, message.to()])
        .stdin(Stdio::piped())
        .spawn()
        .context("run sendmail")?;
    child.stdin.take().context("sendmail's input")?.write_all(message.bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{sendmail}: {status}");
    Ok(())
}

/// The settings without those that a later one replaces, about which Postfix would complain in each
/// of its processes.
fn last_of_each(settings: &str) -> String {
    let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
    let lines: Vec<&str> = settings.lines().collect();
    let lasts = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| lines[at + 1..].iter().all(|later| key(later) != key(line)));
    lasts.map(|(_, line)| format!("{line}\n")).collect()
}
