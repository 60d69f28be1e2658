//! One child process: its start, its log, its end.

use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::journal::Journal;
use crate::logline::LogLine;
use crate::narrate;
use crate::roles::Role;

/// The log lines that are kept for those who wait for one; later ones are only told.
const KEPT: usize = 2_000;

/// Lines of the log in an error message.
const SHOWN: usize = 6;

/// How long a child may take to leave by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    role: Role,
    process: tokio::process::Child,
    log: watch::Receiver<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<LogLine>,
    ended: bool,
}

impl Child {
    /// Starts this executable again under `role`; its log lines become hops in the journal.
    pub(crate) fn start<S: AsRef<OsStr>>(
        role: Role,
        arguments: &[S],
        journal: &Arc<Journal>,
    ) -> anyhow::Result<Self> {
        let mut process = command(role, arguments)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal goes to a whole process group. The children get their own, so
            // that the demo ends them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the {}", role.as_str()))?;
        let stderr = process.stderr.take().context("a child without stderr")?;
        let (writer, log) = watch::channel(Log::default());
        tokio::spawn(follow(role, stderr, writer, Arc::clone(journal)));
        Ok(Self { role, process, log })
    }

    /// Its process id while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for a log line, of the past too. `what` completes "waited for …".
    pub(crate) async fn line(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> anyhow::Result<LogLine> {
        let who = self.role.as_str();
        let mut log = self.log.clone();
        let found = timeout(limit, async {
            let log = log.wait_for(|log| log.ended || log.lines.iter().any(&wanted)).await?;
            anyhow::Ok(log.lines.iter().find(|line| wanted(line)).cloned())
        });
        match found.await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => bail!("the {who} ended early; its last words:\n{}", self.last_words()),
            Err(_) => bail!(
                "waited {} s for {what} of the {who}, in vain; its last words:\n{}",
                limit.as_secs(),
                self.last_words()
            ),
        }
    }

    /// The address of a listener, from the line that tells it.
    pub(crate) async fn listening(
        &self,
        service: &str,
        limit: Duration,
    ) -> anyhow::Result<std::net::SocketAddr> {
        let what = format!("the {service} listener");
        let line = self.line(&what, limit, |line| line.is("listening", "service", service)).await?;
        line.or_dash("address")
            .parse()
            .with_context(|| format!("no address in {}", line.in_words()))
    }

    /// Asks it to leave, waits a little, then kills it.
    pub(crate) async fn stop(mut self) {
        #[cfg(unix)]
        if let Some(pid) =
            self.process.id().and_then(|id| rustix::process::Pid::from_raw(id as i32))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if timeout(GRACE, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }

    fn last_words(&self) -> String {
        let log = self.log.borrow();
        let lines = log.lines.iter().rev().take(SHOWN).rev();
        lines.map(|line| format!("    {}", line.in_words())).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a subcommand of a role to its end and returns the first line of its stdout.
pub(crate) async fn ask<S: AsRef<OsStr>>(role: Role, arguments: &[S]) -> anyhow::Result<String> {
    let output = command(role, arguments)?.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => bail!(
            "the {} ended with {}:\n{}",
            role.as_str(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ),
    }
}

fn command<S: AsRef<OsStr>>(role: Role, arguments: &[S]) -> anyhow::Result<Command> {
    let executable = std::env::current_exe().context("finding the demo's own executable")?;
    let mut command = Command::new(executable);
    command.arg(role.as_str()).args(arguments);
    Ok(command)
}

/// Reads the log to its end: first told, then kept, so that what waits for a line prints after it.
async fn follow(role: Role, stderr: ChildStderr, log: watch::Sender<Log>, journal: Arc<Journal>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = LogLine::parse(&line);
        if let Some(text) = narrate::hop(role, &line) {
            journal.hop(role.as_str(), line.message(), text);
        }
        log.send_modify(|log| {
            if log.lines.len() < KEPT {
                log.lines.push(line);
            }
        });
    }
    log.send_modify(|log| log.ended = true);
}
