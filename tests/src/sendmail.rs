//! Debian's Sendmail, as a sender.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::message::Message;
use crate::postfix::submit;
use crate::process::Process;
use crate::sender::SendingServer;
use crate::wait::wait_until;

const LOG: &str = "/var/log/sendmail.log";
const PROGRAM: &str = "/usr/libexec/sendmail/sendmail";

/// What it does about TLS by itself: it takes it where it is offered.
const CONFIGURATION: &str = "
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `mail.sender.example')dnl
define(`confLOG_LEVEL', `11')dnl
define(`confPID_FILE', `/run/sendmail.queue.pid')dnl
define(`confDONT_PROBE_INTERFACES', `true')dnl
define(`ALIAS_FILE', `')dnl
define(`STATUS_FILE', `/var/spool/mqueue/statistics')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
";

/// A machine's `/dev` is that of the world outside; Sendmail can log to `/dev/log` alone.
const OWN_DEVICES: &str = "
mkdir -p /run/dev
for device in full null random tty urandom zero; do
    touch /run/dev/$device
    mount --bind /dev/$device /run/dev/$device
done
ln -s /proc/self/fd /run/dev/fd
mount --rbind /run/dev /dev
";

/// A Sendmail that sends.
#[derive(Debug)]
pub struct SendmailSender {
    _runner: Process,
}

impl SendmailSender {
    /// Configures and starts it. It tries again every `retry`.
    pub fn start(machine: &Machine, retry: Duration) -> Result<SendmailSender> {
        machine.run(OWN_DEVICES)?;
        take_log(machine)?;
        machine.write("/etc/mail/sendmail.mc", CONFIGURATION)?;
        machine.run(
            "m4 /etc/mail/sendmail.mc > /etc/mail/sendmail.cf
             mkdir -p /var/spool/mqueue
             chmod 700 /var/spool/mqueue
             grep -q ^smmsp: /etc/passwd || {
                 echo smmsp:x:1506:1506::/nonexistent:/usr/sbin/nologin >> /etc/passwd
                 echo smmsp:x:1506: >> /etc/group
             }
             echo 127.0.0.1 mail.sender.example $(uname -n) localhost > /etc/hosts",
        )?;
        let often = format!("-q{}s", retry.as_secs());
        let command =
            [PROGRAM, "-Am", "-bD", &often, "-ODaemonPortOptions=Addr=127.0.0.1,Port=2525"];
        let runner = Process::start(machine, "sendmail-runner", &command)?;
        wait_until("Sendmail to start", Duration::from_secs(10), || {
            Ok(machine.read(LOG).contains("starting daemon"))
        })
        .with_context(|| machine.read(&Process::log_of("sendmail-runner")) + &machine.read(LOG))?;
        Ok(SendmailSender { _runner: runner })
    }
}

/// Plays the machine's syslog, until the process ends.
fn take_log(machine: &Machine) -> Result<()> {
    let socket = UnixDatagram::bind(machine.path("/dev/log")).context("bind /dev/log")?;
    machine.write(LOG, "")?;
    let mut file = OpenOptions::new().append(true).open(machine.path(LOG))?;
    thread::Builder::new().name("syslog".to_owned()).spawn(move || {
        let mut line = vec![0; 8192];
        while let Ok(length) = socket.recv(&mut line) {
            line[length] = b'\n';
            if file.write_all(&line[..=length]).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

impl SendingServer for SendmailSender {
    fn send(&self, machine: &Machine, message: &Message) -> Result<()> {
        submit(machine, PROGRAM, message)
    }

    fn flush(&self, machine: &Machine) -> Result<()> {
        machine.run(&format!("{PROGRAM} -Am -q")).map(drop)
    }

    fn withdraw(&self, machine: &Machine) -> Result<()> {
        machine.run("rm -f /var/spool/mqueue/*").map(drop)
    }

    fn queued(&self, machine: &Machine) -> Result<usize> {
        Ok(machine.run("ls /var/spool/mqueue")?.lines().filter(|it| it.starts_with("qf")).count())
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(LOG)
    }

    fn deferral(&self) -> &'static str {
        "stat=Deferred"
    }

    fn bounce(&self) -> &'static str {
        "dsn=5."
    }

    fn dane_verified(&self) -> &'static str {
        "verify=TRUSTED"
    }
}
