//! What has really arrived: the recipient's Maildir.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::machine::Machine;
use crate::message::Message;
use crate::wait::wait_until;

/// The Maildir to which the home mail server delivers.
pub const MAILDIR: &str = "/home/anna/Maildir";

/// Waits until `message` is in the mailbox, then demands that it is there once and unchanged.
/// Only header lines of the mail servers on its way may stand before its first byte.
pub fn expect_delivered(home: &Machine, message: &Message, deadline: Duration) -> Result<()> {
    expect_delivered_while(home, message, deadline, || Ok(()))
}

/// The same, with something to do between two looks, such as nudging the sender's queue.
pub fn expect_delivered_while(
    home: &Machine,
    message: &Message,
    deadline: Duration,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    wait_until("the message in the mailbox", deadline, || {
        meanwhile()?;
        Ok(!copies(home, message)?.is_empty())
    })?;
    expect_one_copy(home, message)
}

/// Demands that the message is in the mailbox exactly once, byte for byte.
pub fn expect_one_copy(home: &Machine, message: &Message) -> Result<()> {
    let copies = copies(home, message)?;
    ensure!(copies.len() == 1, "{} copies arrived", copies.len());
    for copy in copies {
        let Some(start) = copy.len().checked_sub(message.bytes().len()) else {
            bail!("truncated: {} of {} bytes arrived", copy.len(), message.bytes().len());
        };
        let (added, arrived) = copy.split_at(start);
        ensure!(
            arrived == message.bytes(),
            "the message was altered on its way; first difference at byte {:?}",
            arrived.iter().zip(message.bytes()).position(|(arrived, sent)| arrived != sent)
        );
        ensure!(
            added.ends_with(b"\n") && !String::from_utf8_lossy(added).contains("\n\n"),
            "more than headers was added"
        );
    }
    Ok(())
}

/// Demands that nothing has arrived at all, not even a part.
pub fn expect_empty(home: &Machine) -> Result<()> {
    let messages = messages(home)?;
    ensure!(messages.is_empty(), "{} messages arrived", messages.len());
    Ok(())
}

fn copies(home: &Machine, message: &Message) -> Result<Vec<Vec<u8>>> {
    let id = message.id().as_bytes();
    let mut messages = messages(home)?;
    messages.retain(|bytes| bytes.windows(id.len()).take(8192).any(|window| window == id));
    Ok(messages)
}

fn messages(home: &Machine) -> Result<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    let Ok(entries) = fs::read_dir(home.path(MAILDIR).join("new")) else {
        return Ok(messages);
    };
    for entry in entries {
        messages.push(fs::read(entry?.path())?);
    }
    Ok(messages)
}
