//! How commands talk to whoever types them.

use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::{Context, bail};
use serde::Serialize;

/// Whoever was to read the output has gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(super) struct NobodyReads;

/// Runs `work` to its end.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Boxed, as what a command does is larger than a stack frame should be.
    runtime.block_on(Box::pin(work))
}

/// Prints `text` and the end of its line on standard output.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(NobodyReads.into()),
        written => written.context("cannot write the output"),
    }
}

/// Prints `value` for programs.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Says something beside the output.
pub(super) fn note(text: &str) {
    // Whoever closed standard error does not want to hear it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether to go on: asked on a terminal unless `yes`. A script has decided already.
pub(super) fn confirmed(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("stopped; nothing was changed"),
    }
}
