//! How many files, and so connections, this process may have open.

use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

/// How many it may have at most; `None` if that cannot be known.
pub fn most() -> Option<u64> {
    read().map(|(_, most)| most)
}

/// Allows it as many as it may allow itself, and returns how many that are. The lower limit that
/// shells and systemd begin with is for programs that use `select`.
pub fn raise() -> Option<u64> {
    let (now, most) = read()?;
    let limit = Some(most).filter(|&most| most < u64::MAX);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    Some(if raised.is_ok() { most } else { now })
}

/// Whether something failed because this process or system has no room for more files or sockets.
pub fn exhausted(error: &io::Error) -> bool {
    const OURS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| OURS.contains(&errno))
}

/// The limit in force and the highest allowed. From the file, as the hardened unit refuses the
/// system call, and wrappers of it do not expect that.
fn read() -> Option<(u64, u64)> {
    parse(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files "))?;
    let number = |text: &str| match text {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let mut columns = line.split_whitespace().map(number);
    Some((columns.next()??, columns.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_raised_to_the_most_that_is_allowed() {
        assert!(most().is_some());
        assert_eq!(raise(), most());
        let (now, most) = read().unwrap();
        assert_eq!(now, most);
    }

    #[test]
    fn a_peer_that_is_gone_is_not_our_trouble() {
        assert!(exhausted(&io::Error::from_raw_os_error(24)));
        assert!(!exhausted(&io::ErrorKind::ConnectionAborted.into()));
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "Max processes             94893                94893                processes \n\
                     Max open files            1024                 unlimited            files     \n";
        assert_eq!(parse(table), Some((1024, u64::MAX)));
        assert_eq!(parse("Max open files"), None);
    }
}
