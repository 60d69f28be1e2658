//! Files that hold secrets: made with mode 0600, refused when others may read them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The largest secret file that is read; a key file has a few hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads a secret, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
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

/// Writes a secret that must not exist yet: whole and synced under another name first, so that a
/// crash leaves either no file or the complete one.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let part = path.with_extension(format!("part-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        // A hard link fails where the name exists; a rename would replace somebody's key.
        fs::hard_link(&part, path)
    })();
    let _ = fs::remove_file(&part);
    written
}
