//! Where a name server's programs are: installed, or unpacked from Debian's packages when not.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::unpacked;

/// Daemons lie here, and the PATH of a user who is not root often lacks it.
const DAEMONS: &str = "/usr/sbin";

/// A program of another package.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// Where its libraries are when they are not installed.
    libraries: Option<PathBuf>,
}

impl Program {
    /// The program of that name: an installed one; else the one in `tree`, a line of
    /// `tests/debian-packages-unpacked`, which only root can have unpacked.
    pub fn find(name: &str, tree: Option<&str>) -> Result<Program> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path)
            .chain([PathBuf::from(DAEMONS)])
            .map(|directory| directory.join(name))
            .find(|path| path.is_file());
        if let Some(path) = installed {
            return Ok(Program { path, libraries: None });
        }
        let Some(tree) = tree else { bail!("{name} is not installed") };
        if !nix::unistd::geteuid().is_root() {
            bail!("{name} is not installed, and only root can unpack its package");
        }
        let root = unpacked(tree).with_context(|| format!("{name} is not installed"))?;
        let path = ["usr/sbin", "usr/bin"]
            .map(|directory| root.join(directory).join(name))
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("the packages of {tree} have no {name}"))?;
        Ok(Program { path, libraries: libraries(&root)? })
    }

    /// A command that runs it.
    pub fn command(&self) -> Command {
        self.with_libraries(Command::new(&self.path))
    }

    /// A command that runs it through another program, such as `taskset` with its arguments.
    pub fn command_under<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.path);
        self.with_libraries(command)
    }

    fn with_libraries(&self, mut command: Command) -> Command {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

/// The directory of a tree's libraries, which Debian names after the architecture.
fn libraries(root: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = root.join("usr/lib").read_dir() else { return Ok(None) };
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("-linux-gnu") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Says past the test runner's capture that something was not tried, and why: nobody shall believe
/// that it was.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}
