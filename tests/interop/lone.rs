//! Senders that name nobody, each alone with a pair: one message after the other, with the times
//! between attempts that the senders have by themselves.

use std::time::Duration;

use anyhow::Result;

use crate::conditions::Condition;
use crate::kinds::{Kind, Sender};
use crate::lab::Lab;
use crate::matrix::{self, Cell, Fate};
use crate::names::Route;

/// How long each message is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a message by a pair may take.
const SOON: Duration = Duration::from_secs(2);

/// What became of the messages of one sender.
#[derive(Debug)]
pub(crate) struct Row {
    kind: Kind,
    pub(crate) title: &'static str,
    /// In their order.
    pub(crate) messages: Vec<Fate>,
}

impl Row {
    /// Whether each message came by the second address at once: of the senders that go on to it by
    /// themselves.
    pub(crate) fn is_in_time(&self) -> bool {
        let soon = |fate: &Fate| fate.arrived.is_some_and(|time| time < SOON);
        self.kind == Kind::OpenSmtpd
            || self.messages.iter().all(|fate| soon(fate) && fate.deferrals == 0)
    }
}

/// Those that name nobody, and take any certificate.
pub(crate) const KINDS: [Kind; 4] = [Kind::PostfixMay, Kind::Exim, Kind::Sendmail, Kind::OpenSmtpd];

/// Sends three messages from each.
pub(crate) fn run(lab: &mut Lab) -> Result<Vec<Row>> {
    let kinds = lab.senders.iter().map(|sender| sender.kind);
    let mut rows: Vec<Row> =
        kinds.map(|kind| Row { kind, title: kind.title(), messages: Vec::new() }).collect();
    for number in 1..=3 {
        let new = |sender: &Sender| {
            Cell::called(&format!("row{number}"), sender.kind, Route::Pair, Condition::Fine)
        };
        let mut cells: Vec<Cell> = lab.senders.iter().map(new).collect();
        for (cell, sender) in cells.iter_mut().zip(&lab.senders) {
            cell.send(sender)?;
        }
        matrix::watch(lab, &mut cells, PATIENCE, |cell| cell.fate.arrived.is_some())?;
        for ((row, cell), sender) in rows.iter_mut().zip(&cells).zip(&lab.senders) {
            let connects = lab.wire.connects(&sender.addresses, cell.sent);
            let since =
                |at: std::time::SystemTime| at.duration_since(cell.sent).unwrap_or_default();
            eprintln!("{}, message {number}: {:?}", row.title, cell.fate);
            for connect in &connects {
                eprintln!("    {:.3} s: {}", since(connect.at).as_secs_f64(), connect.to);
            }
            for line in sender.log().lines().filter(|line| cell.is_in(line)) {
                eprintln!("    {line}");
            }
            row.messages.push(cell.fate);
        }
    }
    Ok(rows)
}
