//! PostgreSQL's programs, and the user that they run as.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{User, geteuid};

use crate::packages::unpacked;

/// Where Debian has the programs of every version, in a directory named by its number.
const VERSIONS: &str = "usr/lib/postgresql";

/// PostgreSQL refuses to run as root. The first of these that exists runs it then.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The programs of one version, the newest that there is.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    directory: PathBuf,
    /// Where the unpacked package's libraries are; the installed one's are found anyway.
    libraries: Option<PathBuf>,
    user: Option<User>,
}

impl Programs {
    /// Takes the installed package, or else unpacks one, which only root may.
    pub(super) fn find() -> Result<Programs> {
        let user = user()?;
        if let Some(directory) = newest(Path::new("/"))? {
            return Ok(Programs { directory, libraries: None, user });
        }
        let missing = "PostgreSQL is missing: install Debian's package `postgresql`, or run this \
                       test as root on Debian, and it downloads what it needs";
        ensure!(user.is_some(), missing);
        let root = unpacked("postgres").context(missing)?;
        let directory = newest(&root)?.with_context(|| {
            format!("no version in {}; delete that tree, it was unpacked too early", root.display())
        })?;
        let architecture = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        Ok(Programs { directory, libraries: Some(root.join(architecture)), user })
    }

    /// Runs `program` as the unprivileged user, with nothing of the test's environment: a
    /// `PGHOST` in it would lead elsewhere.
    pub(super) fn command(&self, program: &str) -> Command {
        let line = self.line(program);
        let mut command = Command::new(&line[0]);
        clean(command.args(&line[1..]));
        command
    }

    /// The same as words, for a program that runs it.
    pub(super) fn line(&self, program: &str) -> Vec<OsString> {
        let mut line = Vec::new();
        if let Some(user) = &self.user {
            let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
            line.extend(["setpriv".into(), uid.into(), gid.into(), "--clear-groups".into()]);
        }
        line.push("env".into());
        if let Some(libraries) = &self.libraries {
            let mut variable = OsString::from("LD_LIBRARY_PATH=");
            variable.push(libraries);
            line.push(variable);
        }
        line.push(self.directory.join(program).into());
        line
    }

    /// Gives a directory to the user that the programs run as.
    pub(super) fn hand_over(&self, directory: &Path) -> Result<()> {
        if let Some(user) = &self.user {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(directory, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Which version it is and who runs it: what a data directory must fit.
    pub(super) fn identity(&self) -> Result<String> {
        let version = output(self.command("postgres").arg("--version"))?;
        let user = self.user.as_ref().map_or("", |user| &user.name);
        Ok(format!("{}, {user}", version.trim()))
    }
}

/// Removes the test's environment from a command.
pub(super) fn clean(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "GMT")
        .current_dir("/")
}

/// What a command printed; an error with its complaint if it failed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{complaint}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Nobody in particular when the test itself is unprivileged.
fn user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in USERS {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and this machine has none of the users {USERS:?}")
}

fn newest(root: &Path) -> Result<Option<PathBuf>> {
    let Ok(versions) = fs::read_dir(root.join(VERSIONS)) else {
        return Ok(None);
    };
    let mut found: Option<(u32, PathBuf)> = None;
    for version in versions {
        let version = version?;
        let programs = version.path().join("bin");
        // A client alone has a directory as well.
        let complete = programs.join("postgres").exists() && programs.join("psql").exists();
        let number = version.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| complete) else {
            continue;
        };
        if found.as_ref().is_none_or(|(best, _)| number > *best) {
            found = Some((number, programs));
        }
    }
    Ok(found.map(|(_, programs)| programs))
}
