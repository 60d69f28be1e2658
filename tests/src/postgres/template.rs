//! The data directory of a server that has not begun: made once, then copied.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::programs::{Programs, output};
use super::{PASSWORD, ROLE};
use crate::packages::CACHE;

/// What `initdb` is told besides where. Its `trust` is for loopback and the Unix socket.
const INIT: [&str; 5] =
    ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];

/// Everybody else on the test's network has to know the password.
const ADMITTED: &str = "host all all all scram-sha-256\n";

/// Makes the data directory `data`, whose parent belongs to the programs' user.
pub(super) fn fill(programs: &Programs, data: &Path) -> Result<()> {
    // The cache is root's. For others a second is not worth a place of their own.
    if !nix::unistd::geteuid().is_root() {
        return make(programs, data);
    }
    let home = Path::new(CACHE).join("postgres-template");
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join("lock"))?;
    lock.lock().context("wait for another test's initdb")?;
    let template = home.join("data");
    let complete = home.join("complete");
    let wanted = format!("{}\n{INIT:?}\n{ADMITTED}{}", programs.identity()?, role());
    if !fs::read_to_string(&complete).is_ok_and(|made| made == wanted) {
        if complete.exists() {
            fs::remove_file(&complete)?;
        }
        if template.exists() {
            fs::remove_dir_all(&template)?;
        }
        programs.hand_over(&home)?;
        make(programs, &template)?;
        fs::write(&complete, wanted)?;
    }
    output(Command::new("cp").args(["-a", "--reflink=auto"]).args([&template, data])).map(drop)
}

fn make(programs: &Programs, data: &Path) -> Result<()> {
    output(programs.command("initdb").arg("--pgdata").arg(data).args(INIT)).context("initdb")?;
    let mut admitted = File::options().append(true).open(data.join("pg_hba.conf"))?;
    admitted.write_all(ADMITTED.as_bytes())?;
    let mut single = programs.command("postgres");
    single.arg("--single").arg("-D").arg(data).args(["-c", "password_encryption=scram-sha-256"]);
    let mut child = single
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run postgres --single")?;
    if let Some(mut statements) = child.stdin.take() {
        statements.write_all(role().as_bytes())?;
    }
    let single = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&single.stderr);
    ensure!(single.status.success(), "postgres --single: {}\n{complaint}", single.status);
    Ok(())
}

fn role() -> String {
    format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'\n")
}
