//! One at a time changes what is on disk of a zone's keys: the running agent, or a command that its
//! owner types beside it.
//!
//! The lock is on the zone's directory itself, so there is no file that root would make and the agent
//! could not open. It ends with whoever holds it, also when that is killed. It is advisory: it keeps
//! our own programs apart, nobody else.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sealpost_tunnel::private_file;

/// How long it is waited for. What is done under it takes milliseconds: nothing is asked over the
/// network meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Held until dropped. Whoever has it must not take it again: that would wait for itself.
#[derive(Debug)]
pub(super) struct Lock {
    _directory: File,
}

/// Takes the lock of `directory`, which is made where there is none. Blocks the thread.
pub(super) fn lock(directory: &Path) -> io::Result<Lock> {
    private_file::make_directory(directory)?;
    let opened = File::open(directory)?;
    let began = Instant::now();
    loop {
        match opened.try_lock() {
            Ok(()) => return Ok(Lock { _directory: opened }),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(
                    "another program is changing the keys there; try again when it has ended",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn nobody_else_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("zones/a.example");
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let held = lock(&directory).unwrap();
                        let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(count, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
