//! Files that hold secrets: made with mode 0600, refused when others may read them.
//!
//! A command that root types makes files for a service that runs as somebody else. A new file
//! therefore gets the owner of its directory when root makes it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The largest secret file that is read; a key file has a few hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads a secret, or `None` when there is no such file.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "its mode is {:04o}, so other users can read it; run: chmod 600 {}",
            meta.mode() & 0o7777,
            path.display()
        )));
    }
    if meta.len() > MAX_BYTES {
        return Err(io::Error::other("it is far too large to be a key"));
    }
    fs::read(path).map(Some)
}

/// Writes a secret that must not exist yet, otherwise the error is of kind `AlreadyExists`: whole
/// and synced under another name first, so that a crash leaves either no file or the complete one.
/// Makes the directory (mode 0700) when there is none.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    make_directory(directory(path))?;
    write_beside(path, content, None, |part| {
        // A hard link fails where the name exists; a rename would replace somebody's key.
        fs::hard_link(part, path)
    })
}

/// Writes `content` in the place of what was at `path`, if anything: whole and synced under
/// another name first, so that a crash leaves either the old file or the new one. A file that was
/// there passes on its mode, and from root also its owner; a symbolic link is replaced itself.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let old = match fs::symlink_metadata(path) {
        Ok(old) => Some(old).filter(fs::Metadata::is_file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    write_beside(path, content, old.as_ref(), |part| fs::rename(part, path))
}

fn write_beside(
    path: &Path,
    content: &[u8],
    old: Option<&fs::Metadata>,
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let part = beside(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = (|| {
        file.write_all(content)?;
        give(&file, &part, old)?;
        file.sync_all()?;
        put(&part)
    })();
    // Gone already after a rename.
    let _ = fs::remove_file(&part);
    written?;
    sync_directory_of(path)
}

/// Has it reach the disk that a file came to be called `path`, or is not any more: a name is in its
/// directory, not in the file.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Gives a new file the owner and mode of `old`, or the owner of its directory. Only root can give
/// a file away, and only what root makes belongs to root; so nobody needs to be asked who we are.
/// By the open file rather than its name, as whoever owns the directory may exchange names in it.
fn give(file: &File, part: &Path, old: Option<&fs::Metadata>) -> io::Result<()> {
    let made = file.metadata()?;
    if made.uid() == 0 {
        let (uid, gid) = match old {
            Some(old) => (old.uid(), old.gid()),
            None => match fs::metadata(directory(part))? {
                dir if dir.uid() == 0 => (0, made.gid()),
                dir => (dir.uid(), dir.gid()),
            },
        };
        if (uid, gid) != (made.uid(), made.gid()) {
            fchown(file, Some(uid), Some(gid))?;
        }
    }
    match old {
        Some(old) => file.set_permissions(Permissions::from_mode(old.mode() & 0o777)),
        None => Ok(()),
    }
}

/// Makes a directory (mode 0700) and those above it, where there is none. What root makes belongs to
/// whom the directory above belongs to, as files do.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let above = self::directory(directory);
    make_directory(above)?;
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    let opened = File::open(directory)?;
    let (made, named) = (opened.metadata()?, fs::symlink_metadata(directory)?);
    let above = fs::metadata(above)?;
    // Whoever owns the directory above may have put a link in the place of the new one.
    let ours = (made.dev(), made.ino()) == (named.dev(), named.ino());
    if ours && made.uid() == 0 && above.uid() != 0 {
        fchown(&opened, Some(above.uid()), Some(above.gid()))?;
    }
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name in the same directory that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("part-{:016x}", rand::random::<u64>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_made_once_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        assert_eq!(read(&path).unwrap(), None);
        create(&path, b"first").unwrap();
        let error = create(&path, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"first"[..]));
        assert_eq!((mode(&path), names(dir.path())), (0o600, vec!["a.key".to_string()]));
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_new_one_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        replace(&path, b"first").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"first".to_vec(), 0o600));
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"second".to_vec(), 0o640));
        assert_eq!(names(dir.path()), ["a.key"]);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_points_to_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("a.key"));
        fs::write(&target, b"somebody's").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"ours").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"somebody's");
        assert_eq!((fs::read(&link).unwrap(), mode(&link)), (b"ours".to_vec(), 0o600));
    }

    #[test]
    fn what_root_makes_for_a_service_belongs_to_the_service() {
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            return; // Only root can give a file away.
        }
        std::os::unix::fs::chown(dir.path(), Some(12345), Some(12346)).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
        let path = dir.path().join("a.key");
        create(&path, b"first").unwrap();
        assert_eq!(owner(&path), (12345, 12346));
        replace(&path, b"second").unwrap();
        assert_eq!(owner(&path), (12345, 12346));
        std::os::unix::fs::chown(&path, Some(0), Some(12346)).unwrap();
        replace(&path, b"third").unwrap();
        assert_eq!(owner(&path), (0, 12346), "a file that root keeps for itself stays root's");
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        create(&path, b"old").unwrap();
        let failed = write_beside(&path, b"new", None, |_| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.key"]);
    }
}
