//! A Maildir: one file a message, written to `tmp`, made durable, then moved to `new`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A place for messages.
#[derive(Debug)]
pub(crate) struct Maildir {
    root: PathBuf,
    host: String,
    counter: AtomicU64,
}

impl Maildir {
    /// Makes the three directories.
    pub(crate) fn create(root: &Path, host: &str) -> io::Result<Self> {
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(root.join(part))?;
        }
        Ok(Self { root: root.to_owned(), host: host.to_owned(), counter: AtomicU64::new(0) })
    }

    /// Stores a message and returns its path. When this returns, the message survives a power cut,
    /// which is what a `250` to the final dot promises (RFC 5321 section 6.1).
    pub(crate) fn store(&self, message: &[u8]) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!(
            "{}.M{}P{}Q{}.{}",
            now.as_secs(),
            now.subsec_micros(),
            std::process::id(),
            self.counter.fetch_add(1, Ordering::Relaxed),
            self.host
        );
        let written = self.root.join("tmp").join(&name);
        let stored = self.root.join("new").join(&name);
        let mut file = File::create_new(&written)?;
        file.write_all(message)?;
        file.sync_all()?;
        fs::rename(&written, &stored)?;
        File::open(self.root.join("new"))?.sync_all()?;
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_under_new_and_leaves_nothing_in_tmp() {
        let directory = tempfile::tempdir().expect("a directory");
        let maildir = Maildir::create(directory.path(), "mx.home.example").expect("a Maildir");
        let first = maildir.store(b"one\r\n").expect("stored");
        let second = maildir.store(b"two\r\n").expect("stored");
        assert_ne!(first, second);
        assert!(first.starts_with(directory.path().join("new")));
        assert_eq!(fs::read(second).expect("a file"), b"two\r\n");
        assert_eq!(fs::read_dir(directory.path().join("tmp")).expect("tmp").count(), 0);
    }
}
