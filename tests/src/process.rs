//! A program that runs in a machine until it is told to end.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine::Machine;
use crate::wait::{wait_for, wait_until};

/// A started program. It ends with its machine at the latest.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `program` with its output added to `/var/log/NAME.log` in the machine.
    pub fn start(machine: &Machine, name: &str, program: &[&str]) -> Result<Process> {
        let log = Process::log_of(name);
        let pid_file = pid_file_of(name);
        let script = format!(
            "echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec \"$@\" >> {log} 2>&1"
        );
        let _ = std::fs::remove_file(machine.path(&pid_file));
        let child = machine
            .command("sh")
            .args(["-ec", &script, name])
            .args(program)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        wait_until(&format!("{name} to start"), Duration::from_secs(5), || {
            Ok(!machine.read(&pid_file).is_empty())
        })?;
        Ok(Process { name: name.to_owned(), child })
    }

    /// Where the output of the process `name` goes.
    pub fn log_of(name: &str) -> String {
        format!("/var/log/{name}.log")
    }

    /// Sends a signal such as `HUP` to exactly this process, by its number in the machine.
    pub fn signal(&mut self, machine: &Machine, signal: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has already ended: {status}", self.name);
        }
        machine.run(&format!("kill -{signal} $(cat {})", pid_file_of(&self.name)))?;
        Ok(())
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = format!("{} to end", self.name);
        wait_for(&name, deadline, || Ok(self.child.try_wait()?))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only the wrapper that waits for the program; the program belongs to the machine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_file_of(name: &str) -> String {
    format!("/run/{name}.pid")
}
