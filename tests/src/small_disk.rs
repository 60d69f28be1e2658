//! A disk that can be full: a small tmpfs that a test fills up with ballast, and frees again.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::keeper::Keeper;
use crate::machine::Machine;

/// $1: megabytes. The mount is taken away at once, also from under a program that still has
/// files open there.
const MOUNT: &str = r#"
disk=$(mktemp -d -t sealpost-disk.XXXXXX)
mount -t tmpfs -o "size=$1m" sealpost-disk "$disk" || { rmdir "$disk"; exit 1; }
echo "$disk"
cat >/dev/null
umount --lazy "$disk"
rmdir "$disk"
"#;

/// See the module's text. Everybody may write to it. It vanishes when it is dropped, or with
/// the machine that it belongs to, and just as much when the test is killed.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _keeper: Option<Keeper>,
}

impl SmallDisk {
    /// Mounts a disk of so many megabytes on this machine; only root may.
    pub fn new(megabytes: u32) -> Result<SmallDisk> {
        ensure!(nix::unistd::geteuid().is_root(), "mounting a small disk needs the rights of root");
        let (keeper, path) = Keeper::of_script(MOUNT, &[&megabytes.to_string()])
            .with_context(|| format!("mount a disk of {megabytes} MB"))?;
        SmallDisk::at(PathBuf::from(path), Some(keeper))
    }

    /// Mounts a disk in `machine`, where its programs see it as the directory `inside`.
    pub fn in_machine(machine: &Machine, inside: &str, megabytes: u32) -> Result<SmallDisk> {
        machine.run(&format!(
            "mkdir -p {inside}\nmount -t tmpfs -o size={megabytes}m sealpost-disk {inside}"
        ))?;
        SmallDisk::at(machine.path(inside), None)
    }

    fn at(path: PathBuf, keeper: Option<Keeper>) -> Result<SmallDisk> {
        fs::set_permissions(&path, Permissions::from_mode(0o1777))?;
        Ok(SmallDisk { path, _keeper: keeper })
    }

    /// Where the test finds the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no octet free: from now on writes fail with "No space left on device", except
    /// those that overwrite what a file already has.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        loop {
            match ballast.write(&[0; 64 * 1024]) {
                Ok(0) => bail!("{} takes nothing, and does not say why", self.path.display()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill a small disk"),
            }
        }
    }

    /// Ends what [`SmallDisk::fill`] began.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("free a small disk")
            }
            _ => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}
