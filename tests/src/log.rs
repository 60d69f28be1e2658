//! The JSON log of a Sealpost program.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::wait_for;

/// The log of the process `name` on `machine`.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    machine: &'a Machine,
    name: &'a str,
}

impl<'a> Log<'a> {
    /// See [`Process::start`] for the names.
    pub fn of(machine: &'a Machine, name: &'a str) -> Log<'a> {
        Log { machine, name }
    }

    /// All complete lines so far. What is not JSON (a panic, say) stays in the file, where the
    /// tail of a failure shows it.
    pub fn events(&self) -> Vec<Value> {
        let text = self.machine.read(&Process::log_of(self.name));
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The events with this message and these fields.
    pub fn matching(&self, message: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| {
            event["message"] == message
                && fields.iter().all(|(name, value)| event[*name] == **value)
        });
        events
    }

    /// Waits until at least `count` such events are in the log; returns the latest.
    pub fn expect_nth(
        &self,
        count: usize,
        message: &str,
        fields: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<Value> {
        let what = format!("{:?} {fields:?} ({count}) in {}'s log", message, self.name);
        wait_for(&what, deadline, || {
            let mut found = self.matching(message, fields);
            Ok((found.len() >= count).then(|| found.pop()).flatten())
        })
    }

    /// Waits for one such event.
    pub fn expect(&self, message: &str, fields: &[(&str, &str)]) -> Result<Value> {
        self.expect_nth(1, message, fields, Duration::from_secs(30))
    }

    /// Waits for the closing line of a session that ended with `outcome`.
    pub fn expect_session(&self, outcome: &str) -> Result<Value> {
        self.expect("session", &[("outcome", outcome)])
    }

    /// Waits for the closing line of a session that carried a real mail server's message.
    ///
    /// That may be a reset: a Postfix that sends closes right behind its QUIT, one that receives
    /// right behind its 221, and whichever of them leaves the other's farewell unread, its
    /// kernel answers with a reset. That is after the message, and no fault: what was delivered
    /// is proved in the mailbox, never here.
    pub fn expect_transfer(&self) -> Result<Value> {
        let what = format!("the end of a transfer in {}'s log", self.name);
        wait_for(&what, Duration::from_secs(30), || {
            let mut sessions = self.matching("session", &[]);
            sessions.retain(|session| {
                let ends = ["carried", "sender-reset", "home-reset", "relay-reset"];
                session["outcome"].as_str().is_some_and(|end| ends.contains(&end))
            });
            Ok(sessions.pop())
        })
    }
}
