//! The socket itself: nobody else can open it, not even while it is being made, and there is one
//! relay behind it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// A socket that is listened on; its file goes when this is dropped.
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the relay lives, and given back by the system however it ends.
    _lock: File,
}

impl AdminSocket {
    /// Binds `path`, in the place of what a relay left there that is dead.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let _lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => bail!(
                "{} is there and is no socket; name another file in `[admin] socket`",
                path.display()
            ),
            _ => {}
        }
        let listener = listen(path).with_context(|| {
            format!(
                "cannot make the socket {} (a path may have 107 bytes; `[admin] socket` in the \
                 configuration names another)",
                path.display()
            )
        })?;
        Ok(Self { listener: UnixListener::from_std(listener)?, path: path.into(), _lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Nobody else can have put one there meanwhile: that would have taken the lock.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a dead relay left answers nobody, but cannot be told from one whose relay is slow.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&name).with_context(|| format!("cannot make {}", name.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another relay is running with the socket {}: stop that one, or give this one a \
             `state` directory of its own",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", name.display()))
        }
    }
}

/// A new socket gets the mode that the umask leaves. So it is made in a directory that only we
/// can enter, and moved to its place when it has the right one.
fn listen(path: &Path) -> io::Result<StdUnixListener> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let closed = directory.join(format!(".admin-{:08x}", rand::random::<u32>()));
    DirBuilder::new().mode(0o700).create(&closed)?;
    let made = closed.join("s");
    let listening = (|| {
        let listener = StdUnixListener::bind(&made)?;
        fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        fs::rename(&made, path)?;
        Ok(listener)
    })();
    // Gone already after the rename.
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&closed);
    listening
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn only_its_owner_can_open_it_and_nothing_else_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["admin.sock", "admin.sock.lock"]);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert_eq!(names(dir.path()), ["admin.sock.lock"]);
    }

    #[tokio::test]
    async fn a_dead_relays_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        let first = AdminSocket::bind(&path).unwrap();
        let error = AdminSocket::bind(&path).err().unwrap().to_string();
        assert!(error.contains("another relay is running"), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "the first is not disturbed");
        drop(first);
        AdminSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.key");
        fs::write(&path, "precious").unwrap();
        let error = AdminSocket::bind(&path).err().unwrap().to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_says_how_to_name_another() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let error = AdminSocket::bind(&deep.join("admin.sock")).err().unwrap().to_string();
        assert!(error.contains("107 bytes"), "{error}");
        assert_eq!(names(&deep), ["admin.sock.lock"]);
    }
}
