//! Whether the files that a zone is made of changed, by what the file system says of them. What was
//! seen is pure.
//!
//! A change counts when it is seen twice, as somebody may be writing the file just now.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What the file system says of a file; `None` where there is none.
pub type Stamp = Option<Found>;

/// Of a file that is there. A link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    device: u64,
    inode: u64,
    octets: u64,
    /// When its content changed last, in seconds and nanoseconds.
    changed: (i64, i64),
}

/// Looks at all of them. Blocks.
pub fn look(files: &[PathBuf]) -> Vec<Stamp> {
    let found = |path: &PathBuf| {
        fs::metadata(path).ok().map(|meta| Found {
            device: meta.dev(),
            inode: meta.ino(),
            octets: meta.size(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        })
    };
    files.iter().map(found).collect()
}

/// What was seen of the files of one zone.
#[derive(Debug, Default)]
pub struct Seen {
    /// As they were when the zone was last to be made of them.
    used: Option<Vec<Stamp>>,
    last: Vec<Stamp>,
}

impl Seen {
    /// Takes in how they look now; whether the zone is to be made of them anew. The first look is what
    /// later ones are compared with.
    pub fn note(&mut self, now: Vec<Stamp>) -> bool {
        let rests = self.last == now;
        let news = match &self.used {
            None => {
                self.used = Some(now.clone());
                false
            }
            Some(used) => *used != now && rests,
        };
        if news {
            self.used = Some(now.clone());
        }
        self.last = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(octets: u64) -> Vec<Stamp> {
        vec![Some(Found { device: 1, inode: 2, octets, changed: (3, 4) }), None]
    }

    #[test]
    fn a_change_counts_once_and_when_it_rests() {
        let mut seen = Seen::default();
        assert!(!seen.note(stamp(1)) && !seen.note(stamp(1)));
        assert!(!seen.note(stamp(2)) && !seen.note(stamp(3)), "it is still being written");
        assert!(seen.note(stamp(3)) && !seen.note(stamp(3)));
        // Back to what it was before anybody took note.
        assert!(!seen.note(stamp(4)) && !seen.note(stamp(3)) && !seen.note(stamp(3)));
    }

    #[test]
    fn every_way_to_change_a_file_shows() {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![dir.path().join("own.zone")];
        let mut seen = vec![look(&files)];
        fs::write(&files[0], "a").unwrap();
        seen.push(look(&files));
        fs::write(&files[0], "ab").unwrap();
        seen.push(look(&files));
        // Another file in its place, with the same length and time.
        let other = dir.path().join("other");
        fs::write(&other, "cd").unwrap();
        let time = fs::metadata(&files[0]).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &files[0]).unwrap();
        seen.push(look(&files));
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
