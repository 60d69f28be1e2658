//! Haraka, as a sender: a mail server that comes from npm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;
use crate::message::Message;
use crate::packages::{kept, unpacked};
use crate::process::Process;
use crate::sender::SendingServer;
use crate::smtp;
use crate::wait::wait_until;

const PACKAGE: &str = include_str!("../haraka/package.json");
const LOCK: &str = include_str!("../haraka/package-lock.json");
const PLUGIN: &str = include_str!("../haraka/scenario.js");

/// Where it lies in its machine.
const TREE: &str = "/usr/lib/haraka/node_modules/Haraka";
/// Where it takes what is to be sent.
const SUBMISSION: u16 = 2525;

/// The directories with Haraka and what runs it, downloaded first if this machine has not done so
/// yet: exactly the versions of `tests/haraka/package-lock.json`.
pub fn layers() -> Result<Vec<PathBuf>> {
    let mut layers = vec![kept("haraka", LOCK, |_, root| fetch(root))?];
    if !Path::new("/usr/bin/node").exists() {
        layers.push(unpacked("node")?);
    }
    Ok(layers)
}

fn fetch(root: &Path) -> Result<()> {
    let program = root.join("usr/lib/haraka");
    fs::create_dir_all(&program)?;
    fs::write(program.join("package.json"), PACKAGE)?;
    fs::write(program.join("package-lock.json"), LOCK)?;
    // What its optional packages and their installation scripts would add, no sender needs.
    let fetched = Command::new("npm")
        .args(["ci", "--omit=optional", "--omit=dev", "--ignore-scripts"])
        .args(["--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(&program)
        .status()
        .context("run npm, which brings Haraka (install Node.js with npm, or leave Haraka out)")?;
    ensure!(fetched.success(), "npm could not bring Haraka: {fetched}");
    Ok(())
}

/// A Haraka that sends.
#[derive(Debug)]
pub struct HarakaSender {
    _server: Process,
}

impl HarakaSender {
    /// Configures and starts it. It tries again after `retry`, which it wants to be 5 s at least.
    pub fn start(machine: &Machine, retry: Duration) -> Result<HarakaSender> {
        let retry = retry.as_secs();
        let smtp = format!("listen=127.0.0.1:{SUBMISSION}\nnodes=0\n");
        // The addresses of the scenarios are not the internet's, and Haraka knows it.
        let outbound = format!("temp_fail_intervals={retry}s*500\nlocal_mx_ok=true\n");
        for (file, text) in [
            ("config/smtp.ini", smtp.as_str()),
            ("config/outbound.ini", &outbound),
            ("config/me", "mail.sender.example\n"),
            ("config/log.ini", "level=info\ntimestamps=true\n"),
            ("config/plugins", "scenario\n"),
            ("plugins/scenario.js", PLUGIN),
        ] {
            machine.write(&format!("/etc/haraka/{file}"), text)?;
        }
        // Without this file of its own Haraka 3.1.1 does not start.
        machine.run(&format!("cp {TREE}/config/connection.ini /etc/haraka/config/"))?;
        machine.run("mkdir -p /etc/haraka/queue")?;
        let program = format!("{TREE}/bin/haraka");
        let server = Process::start(machine, "haraka", &["node", &program, "-c", "/etc/haraka"])?;
        wait_until("Haraka to listen", Duration::from_secs(30), || {
            Ok(smtp::connect(machine, "127.0.0.1", SUBMISSION).is_ok())
        })
        .with_context(|| machine.read(&Process::log_of("haraka")))?;
        Ok(HarakaSender { _server: server })
    }
}

impl SendingServer for HarakaSender {
    fn send(&self, machine: &Machine, message: &Message) -> Result<()> {
        let mut stream = smtp::connect(machine, "127.0.0.1", SUBMISSION)?;
        let greeting = smtp::reply(&mut stream)?;
        ensure!(greeting.starts_with("220"), "{greeting}");
        smtp::deliver(&mut stream, message)
    }

    fn flush(&self, _machine: &Machine) -> Result<()> {
        // It has no command for that; it tries again by itself.
        Ok(())
    }

    fn withdraw(&self, machine: &Machine) -> Result<()> {
        // At its next attempt it finds them gone.
        machine.run("rm -f /etc/haraka/queue/*").map(drop)
    }

    fn queued(&self, machine: &Machine) -> Result<usize> {
        Ok(machine.run("ls /etc/haraka/queue")?.lines().count())
    }

    fn log(&self, machine: &Machine) -> String {
        machine.read(&Process::log_of("haraka"))
    }

    fn deferral(&self) -> &'static str {
        "fate deferred"
    }

    fn bounce(&self) -> &'static str {
        "fate bounced"
    }

    fn dane_verified(&self) -> &'static str {
        "verified=true"
    }
}
