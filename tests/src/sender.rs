//! What scenarios ask of a sending mail server, whichever it is.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::Machine;
use crate::message::Message;
use crate::wait::wait_for;

/// How a sending mail server treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Verifies against TLSA and then also sends a name (SNI).
    Dane,
    /// Takes TLS where it is offered, and sends no name.
    Opportunistic,
    /// Has none.
    Never,
}

/// A real mail server that sends.
pub trait SendingServer {
    /// Puts a message in its queue and lets it try at once.
    fn send(&self, machine: &Machine, message: &Message) -> Result<()>;
    /// Makes it try everything that waits in its queue.
    fn flush(&self, machine: &Machine) -> Result<()>;
    /// Takes everything out of its queue.
    fn withdraw(&self, machine: &Machine) -> Result<()>;
    /// How many messages wait in its queue.
    fn queued(&self, machine: &Machine) -> Result<usize>;
    /// Its log so far.
    fn log(&self, machine: &Machine) -> String;
    /// How its log says that a message was put off.
    fn deferral(&self) -> &'static str;
    /// How its log says that a message came back to its author.
    fn bounce(&self) -> &'static str;
    /// How its log says that the certificate was the one in the TLSA record.
    fn dane_verified(&self) -> &'static str;
}

/// Waits until the sender's log has a line with all `parts` and returns it.
pub fn expect_log(
    server: &dyn SendingServer,
    machine: &Machine,
    parts: &[&str],
    deadline: Duration,
) -> Result<String> {
    wait_for(&format!("{parts:?} in the sender's log"), deadline, || {
        Ok(server
            .log(machine)
            .lines()
            .find(|line| parts.iter().all(|part| line.contains(part)))
            .map(str::to_owned))
    })
}

/// Demands that the sender has put a message off, still has it, and has bounced none.
/// Returns the log line that gives its reason.
pub fn expect_deferred(server: &dyn SendingServer, machine: &Machine) -> Result<String> {
    let reason = expect_log(server, machine, &[server.deferral()], Duration::from_secs(40))?;
    let bounce = server.bounce();
    ensure!(!server.log(machine).contains(bounce), "the message bounced");
    ensure!(server.queued(machine)? == 1, "the message left the queue");
    Ok(reason)
}

/// Waits until nothing is left that could be sent once more.
pub fn expect_empty_queue(server: &dyn SendingServer, machine: &Machine) -> Result<()> {
    crate::wait::wait_until("an empty queue", Duration::from_secs(20), || {
        Ok(server.queued(machine)? == 0)
    })
}
