//! Gives a certificate to the mail server: writes its files, and runs the owner's command.
//!
//! All files are written whole under other names first, so that a full disk leaves the old ones. Two
//! files can never change in the same instant: a mail server that reads a key and a chain between
//! the two renames refuses TLS for that moment. So there is also one file with both.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::{Group, User};
use sealpost_tunnel::spoken::spoken;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::settings::Settings;

/// The folder of the files beneath the agent's state, and their names.
const FOLDER: &str = "certificates";
const CERTIFICATE: &str = "mail.pem";
const KEY: &str = "mail.key";
const COMBINED: &str = "mail.combined.pem";
/// How much of what the command says is logged, in bytes.
const MAX_OUTPUT: u64 = 2000;

/// Why the mail server has no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file cannot be written.
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    /// There is no such user or group.
    #[error("`{0}` of [acme]: there is no {0} `{1}` on this machine")]
    Unknown(&'static str, String),
}

/// The files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The private key, and then the chain.
    pub combined: PathBuf,
}

impl Files {
    /// As the owner wants them; `state` is the agent's directory.
    pub fn of(settings: &Settings, state: &Path) -> Self {
        let path = |named: &Option<PathBuf>, name| {
            named.clone().unwrap_or_else(|| state.join(FOLDER).join(name))
        };
        Self {
            certificate: path(&settings.certificate, CERTIFICATE),
            key: path(&settings.key, KEY),
            combined: path(&settings.combined, COMBINED),
        }
    }

    /// Writes them all, or none.
    pub fn write(&self, settings: &Settings, key: &str, chain: &str) -> Result<(), InstallError> {
        let owner = owner(settings)?;
        let both = format!("{}\n{chain}", key.trim_end());
        let contents =
            [(&self.combined, both.as_str()), (&self.key, key), (&self.certificate, chain)];
        let mut parts = Parts(Vec::new());
        for (path, content) in contents {
            let failed = |error| InstallError::File(path.clone(), error);
            let part = part(path).map_err(failed)?;
            parts.0.push((part.clone(), path.clone()));
            write(&part, content, settings.mode.0, owner).map_err(failed)?;
        }
        for (part, path) in &parts.0 {
            fs::rename(part, path).map_err(|error| InstallError::File(path.clone(), error))?;
        }
        for (_, path) in &parts.0 {
            let sync = || File::open(folder(path))?.sync_all();
            sync().map_err(|error| InstallError::File(path.clone(), error))?;
        }
        Ok(())
    }
}

/// Files under other names, removed where they did not get their own.
struct Parts(Vec<(PathBuf, PathBuf)>);

impl Drop for Parts {
    fn drop(&mut self) {
        for (part, _) in &self.0 {
            // Gone already after a rename.
            let _ = fs::remove_file(part);
        }
    }
}

/// User and group, where the owner named them.
pub(super) type Owner = (Option<u32>, Option<u32>);

/// User and group of the files.
pub(super) fn owner(settings: &Settings) -> Result<Owner, InstallError> {
    let user = settings.owner.as_ref().map(|name| {
        let found = User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        found.ok_or_else(|| InstallError::Unknown("owner", name.clone()))
    });
    let group = settings.group.as_ref().map(|name| {
        let found = Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        found.ok_or_else(|| InstallError::Unknown("group", name.clone()))
    });
    Ok((user.transpose()?, group.transpose()?))
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// A name beside `path` that nobody else uses, in a folder that is there.
fn part(path: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder(path))?;
    Ok(path.with_extension(format!("part-{:016x}", rand::random::<u64>())))
}

fn write(path: &Path, content: &str, mode: u32, (user, group): Owner) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    if user.is_some() || group.is_some() {
        fchown(&file, user, group)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Runs the owner's command: no shell, no input, bounded time. What it says, or why it failed.
pub async fn reload(command: &[String], limit: Duration) -> Result<String, String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(String::new()) };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| format!("{program} cannot be run: {error}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = timeout(limit, async { tokio::join!(child.wait(), start_of(out), start_of(err)) });
    let Ok((status, out, err)) = ended.await else {
        return Err(format!("{program} took longer than {} s and was ended", limit.as_secs()));
    };
    let said = spoken(format!("{out} {err}").trim(), MAX_OUTPUT as usize);
    match status {
        Ok(status) if status.success() => Ok(said),
        Ok(status) => Err(format!("{program} failed ({status}): {said}")),
        Err(error) => Err(format!("{program} cannot be waited for: {error}")),
    }
}

/// The start of what comes; the rest is read too, as the program would wait for its reader.
async fn start_of(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut start = Vec::new();
    let _ = (&mut from).take(MAX_OUTPUT).read_to_end(&mut start).await;
    let mut nowhere = tokio::io::sink();
    let _ = tokio::io::copy(&mut from, &mut nowhere).await;
    let _ = nowhere.shutdown().await;
    String::from_utf8_lossy(&start).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::settings::tests::settings;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn all_files_are_there_or_the_old_ones() {
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings("mode = \"0640\"");
        let files = Files::of(&settings, state.path());
        files.write(&settings, "KEY\n", "CHAIN\n").unwrap();
        assert_eq!(fs::read_to_string(&files.combined).unwrap(), "KEY\nCHAIN\n");
        assert_eq!(fs::metadata(&files.key).unwrap().mode() & 0o777, 0o640);

        let folder = state.path().join(FOLDER);
        settings.certificate = Some(folder.join("mail.pem/no-folder/x.pem"));
        let broken = Files::of(&settings, state.path());
        assert!(broken.write(&settings, "KEY2\n", "CHAIN2\n").is_err());
        assert_eq!(fs::read_to_string(&files.key).unwrap(), "KEY\n");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "nothing is left behind");

        settings.group = Some("no-such-group".into());
        let error = files.write(&settings, "KEY3", "CHAIN3").unwrap_err().to_string();
        assert!(error.contains("no group `no-such-group`"), "{error}");
    }

    #[tokio::test]
    async fn a_command_is_bounded_and_its_words_are_kept() {
        let run = |script: &str| {
            let command = ["/bin/sh", "-c", script].map(String::from).to_vec();
            async move { reload(&command, Duration::from_secs(5)).await }
        };
        assert_eq!(run("echo fine; echo too >&2").await.unwrap(), "fine too");
        let error = run("echo no; exit 3").await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.ends_with("no"), "{error}");
        assert!(run("yes | head -c 1000000").await.unwrap().len() <= MAX_OUTPUT as usize + 10);
        let slow = ["/bin/sleep", "600"].map(String::from);
        let error = reload(&slow, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.contains("took longer"), "{error}");
        assert!(reload(&["/no/program".into()], Duration::from_secs(1)).await.is_err());
        assert_eq!(reload(&[], Duration::ZERO).await.unwrap(), "");
    }
}
