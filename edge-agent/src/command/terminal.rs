//! How commands talk to whoever types them.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use sealpost_tunnel::PublicKey;
use tokio::time::sleep;

/// After this long a command says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most that is read of an invite or a kit; one that is longer is refused as too long.
const MAX_SECRET_TEXT: u64 = 64 * 1024;

/// Runs `work` to its end.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Boxed, as what a command does is larger than a stack frame should be.
    runtime.block_on(Box::pin(work))
}

/// Does `work`, and says on standard error that it is under way when that takes a while.
pub(super) async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = Box::pin(work);
    tokio::select! {
        done = &mut work => return done,
        () = sleep(PATIENCE) => eprintln!("{what} …"),
    }
    work.await
}

/// Prints a line on standard output; an error when nobody can read it.
pub(super) fn print(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write the output")
}

/// Whether to go on: asked on a terminal unless `yes`. A script has decided already.
pub(super) fn confirmed(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("stopped; nothing was changed"),
    }
}

/// Of `text` the lines that begin with `prefix`, up to an empty one; all of it when none does. So a
/// file may hold the words around an invite or a kit too.
pub(super) fn lines_from<'a>(text: &'a str, prefix: &str) -> &'a str {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with(prefix) {
            let found = &text[at..];
            return found.split_once("\n\n").map_or(found, |(found, _)| found);
        }
        at += line.len();
    }
    text
}

/// `argument` itself, or what standard input says when it is `-`.
pub(super) fn argument_or_input(argument: &str) -> anyhow::Result<String> {
    if argument == "-" { read_input() } else { Ok(argument.into()) }
}

/// The text of the file `path`, or of standard input when that is `-`.
pub(super) fn file_or_input(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read_input();
    }
    let unreadable = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(unreadable)?;
    read_text(file).with_context(unreadable)
}

/// A line that is typed or pasted; or the whole of a pipe.
fn read_input() -> anyhow::Result<String> {
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        std::io::stdin().read_line(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    read_text(std::io::stdin().lock()).context("cannot read standard input")
}

fn read_text(from: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_SECRET_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A key in the three forms in which people compare it.
pub(super) fn key_lines(what: &str, key: PublicKey) -> String {
    let fingerprint = key.fingerprint();
    format!("{what:<8}{key}\n        {fingerprint}\n        {}", fingerprint.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_is_found_among_the_words_around_it() {
        for (text, found) in [
            ("Kit of alice:\n\nkit:a\n  b#c\n\nr1: registered\n", "kit:a\n  b#c"),
            ("kit:a#b", "kit:a#b"),
            ("  kit:a#b\n", "  kit:a#b\n"),
            ("x\nno kit: here", "x\nno kit: here"),
            ("", ""),
        ] {
            assert_eq!(lines_from(text, "kit:"), found);
        }
    }
}
