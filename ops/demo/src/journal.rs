//! The story of a run: each hop with its time, told at once and kept for the report.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// The most hops that are kept; `--keep` may run for days.
const KEPT: usize = 10_000;

/// One thing that happened somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Hop {
    /// Milliseconds since the demo began.
    pub(crate) ms: u64,
    /// Where: `sender`, `relay`, `agent`, `sink`.
    pub(crate) at: &'static str,
    /// What, in one word or two, for scripts.
    pub(crate) event: String,
    /// What, for people.
    pub(crate) text: String,
}

/// Collects hops.
#[derive(Debug)]
pub(crate) struct Journal {
    began: Instant,
    silent: AtomicBool,
    hops: Mutex<Vec<Hop>>,
}

impl Journal {
    /// A new story, told on stdout unless `silent`.
    pub(crate) fn new(silent: bool) -> Self {
        Self {
            began: Instant::now(),
            silent: AtomicBool::new(silent),
            hops: Mutex::new(Vec::new()),
        }
    }

    /// Tells one hop.
    pub(crate) fn hop(&self, at: &'static str, event: &str, text: String) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let style = style(at);
        let mut hops = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
        if hops.is_empty() {
            self.say("     ms  where   what");
        }
        self.say(&format!("{ms:>7}  {style}{at:<7}{style:#} {text}"));
        if hops.len() < KEPT {
            hops.push(Hop { ms, at, event: event.to_owned(), text });
        }
    }

    /// A line for people only. Colours reach terminals alone.
    pub(crate) fn say(&self, line: &str) {
        if !self.silent.load(Ordering::Relaxed) {
            // A reader that has gone away (`| head`) is no reason to leave processes behind.
            let _ = writeln!(anstream::stdout(), "{line}");
        }
    }

    /// Ends the telling: what happens while the stage is cleared is no part of the story.
    pub(crate) fn hush(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// The story so far.
    pub(crate) fn hops(&self) -> Vec<Hop> {
        self.hops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Each place has its colour.
fn style(at: &str) -> Style {
    let colour = match at {
        "sender" => AnsiColor::Yellow,
        "relay" => AnsiColor::Blue,
        "agent" => AnsiColor::Green,
        _ => AnsiColor::Magenta,
    };
    colour.on_default()
}
