//! What has arrived in a mailbox, and when.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use sealpost_tests::machine::Machine;

/// A Maildir that is read once a message.
#[derive(Debug)]
pub(crate) struct Mailbox {
    path: PathBuf,
    read: HashMap<OsString, Arrival>,
}

/// One message in it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) text: String,
    pub(crate) at: SystemTime,
}

impl Arrival {
    /// Whether the mail server that received it says that it came through TLS.
    pub(crate) fn came_sealed(&self) -> bool {
        let head = self.text.split("\n\n").next().unwrap_or_default();
        // The topmost one is of the last hop.
        let hop = head.split("\nReceived: ").nth(1).unwrap_or_default();
        hop.contains("using TLSv1.") && hop.contains("with ESMTPS")
    }
}

impl Mailbox {
    /// That of `user` on `machine`.
    pub(crate) fn of(machine: &Machine, user: &str) -> Mailbox {
        let path = machine.path(&format!("/home/{user}/Maildir/new"));
        Mailbox { path, read: HashMap::new() }
    }

    /// Reads what is new.
    pub(crate) fn look(&mut self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            if let Entry::Vacant(new) = self.read.entry(entry.file_name()) {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                let at = entry.metadata()?.modified()?;
                new.insert(Arrival { text, at });
            }
        }
        Ok(())
    }

    /// All that contain this text.
    pub(crate) fn with(&self, text: &str) -> Vec<&Arrival> {
        self.read.values().filter(|arrival| arrival.text.contains(text)).collect()
    }
}
