//! A process that outlives the test by a moment and cleans up behind it.
//!
//! It waits on a pipe whose other end the test holds. The kernel closes that end whether the
//! test lets go of it, panics or is killed, so what a keeper keeps never stays behind.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::wait::wait_until;

/// What a keeper may need for its cleaning when both cores are busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module's text. Dropping it returns when the keeper has finished.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Keeper {
    /// Starts `command`, which is expected to end soon after its standard input has ended.
    pub(crate) fn start(command: &mut Command) -> Result<Keeper> {
        // A group of its own: an interrupt from the keyboard is for the test, not for what
        // cleans up after it.
        let mut child = command
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {}", command.get_program().display()))?;
        let lifeline = child.stdin.take();
        Ok(Keeper { child, lifeline })
    }

    /// Runs a shell script that prints one line when it has made something, waits with `cat`,
    /// and takes it away again. Returns the line too.
    pub(crate) fn of_script(script: &str, arguments: &[&str]) -> Result<(Keeper, String)> {
        let mut command = Command::new("sh");
        command.args(["-ec", script, "keeper"]).args(arguments).stdout(Stdio::piped());
        let mut keeper = Keeper::start(&mut command)?;
        let mut line = String::new();
        if let Some(stdout) = keeper.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.is_empty() {
            let status = keeper.child.wait()?;
            bail!("{status} (what it wrote stands above)");
        }
        Ok((keeper, line.trim_end().to_owned()))
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line for it to read.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let lifeline = self.lifeline.as_mut().context("it has been let go of")?;
        writeln!(lifeline, "{line}").context("it has ended")
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Lets go of it and waits until it has finished.
    pub(crate) fn end(mut self) -> Result<()> {
        self.let_go();
        ensure!(!self.is_running()?, "process {} does not end", self.pid());
        Ok(())
    }

    fn let_go(&mut self) {
        drop(self.lifeline.take());
        let _ = wait_until("a keeper to end", PATIENCE, || Ok(!self.is_running()?));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.let_go();
        // Nothing to do for one that has ended; one that hangs must not hang us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
