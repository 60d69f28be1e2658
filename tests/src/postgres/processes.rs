//! The processes of a server, in a PID namespace of their own.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::programs::clean;
use crate::keeper::Keeper;

/// $1: the log; the rest: the server. It is the first process of its namespace, which ends with
/// it: when the server ends, or when the test lets go. Lines that it reads are signals.
const RUN: &str = r#"
log=$1
shift
exec 3<&0
trap 'exit 0' TERM
"$@" </dev/null >>"$log" 2>&1 3<&- &
server=$!
( while read -r signal; do kill -s "$signal" "$server"; done <&3; kill -s TERM $$ ) >/dev/null 2>&1 &
wait "$server"
"#;

/// Dropping it ends all of them in one step, done by the kernel.
#[derive(Debug)]
pub(super) struct Processes {
    keeper: Keeper,
}

impl Processes {
    /// Runs the server `line`, in another network if one is named.
    pub(super) fn start(
        network: Option<&Path>,
        log: &Path,
        line: &[OsString],
    ) -> Result<Processes> {
        let mut command = match network {
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("unshare");
                command
            }
            None => Command::new("unshare"),
        };
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-current-user"]);
        }
        command
            .args(["--pid", "--ipc", "--fork", "--kill-child", "sh", "-c", RUN, "postgres"])
            .arg(log)
            .args(line)
            .stdout(Stdio::null());
        Ok(Processes { keeper: Keeper::start(clean(&mut command))? })
    }

    pub(super) fn is_running(&mut self) -> Result<bool> {
        self.keeper.is_running()
    }

    /// Returns when nothing is left of them.
    pub(super) fn kill(self) -> Result<()> {
        self.keeper.end()
    }

    /// Signals the server's first process, the one that commands the others.
    pub(super) fn signal_first(&mut self, signal: &str) -> Result<()> {
        self.keeper.tell(signal)
    }

    pub(super) fn freeze(&self) -> Result<()> {
        let mut frozen = Vec::new();
        loop {
            // The first round stops the one that makes new processes.
            let running = self.servers()?;
            if running == frozen {
                return Ok(());
            }
            signal("STOP", &running)?;
            frozen = running;
        }
    }

    pub(super) fn thaw(&self) -> Result<()> {
        signal("CONT", &self.servers()?)
    }

    /// All that are in the namespace, numbered as the test sees them.
    pub(super) fn all(&self) -> Result<Vec<u32>> {
        let namespace = format!("/proc/{}/ns/pid_for_children", self.keeper.pid());
        let Ok(namespace) = fs::read_link(namespace) else {
            return Ok(Vec::new()); // it has ended
        };
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|its| its == namespace) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Without the shell that watches over them.
    fn servers(&self) -> Result<Vec<u32>> {
        let mut servers = self.all()?;
        servers.retain(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "postgres\n")
        });
        Ok(servers)
    }
}

/// Signals processes; that some have ended meanwhile is no error.
fn signal(signal: &str, pids: &[u32]) -> Result<()> {
    let script = r#"for pid; do kill -s "$0" "$pid" 2>/dev/null || true; done"#;
    let status = Command::new("sh")
        .args(["-c", script, signal])
        .args(pids.iter().map(u32::to_string))
        .status()?;
    ensure!(status.success(), "kill: {status}");
    Ok(())
}
