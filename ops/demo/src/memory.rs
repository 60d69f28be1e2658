//! Reads through another process's writable memory (Linux), to see what it holds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use crate::search::Search;

/// Bytes of one read.
const PIECE: usize = 1 << 20;

/// Feeds every writable mapping of a process to `search`. Fails when the kernel does not let us:
/// it does for a child of the same user, unless ptrace is locked down.
pub(crate) fn search(pid: u32, search: &mut Search<'_>) -> io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut buffer = vec![0; PIECE];
    for (begin, end) in maps.lines().filter_map(writable) {
        search.gap();
        let mut at = begin;
        while at < end {
            let length = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            match memory.read_at(&mut buffer[..length], at) {
                // A part that has no pages or has just been unmapped; nothing is there to be found.
                Ok(0) | Err(_) => {
                    search.gap();
                    at += length as u64;
                }
                Ok(read) => {
                    search.feed(&buffer[..read]);
                    at += read as u64;
                }
            }
        }
    }
    if search.bytes() == 0 {
        return Err(io::Error::other("not one byte of it could be read"));
    }
    Ok(())
}

/// The address range of a line of `/proc/PID/maps` when it is readable and writable (proc(5)).
fn writable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    rest.starts_with("rw").then_some(())?;
    Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_maps() {
        assert_eq!(
            writable("7f00-7f10 rw-p 00000000 00:00 0                [heap]"),
            Some((0x7f00, 0x7f10))
        );
        assert_eq!(writable("7f00-7f10 r-xp 00000000 08:01 123   /bin/demo"), None);
        assert_eq!(writable("nonsense"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn finds_what_a_process_holds() {
        let held = format!("marigold-{}", std::process::id());
        let mut found = Search::new([held.as_str()]);
        search(std::process::id(), &mut found).expect("own memory is readable");
        assert!(found.counts().all(|count| count > 0));
    }
}
