//! Waiting for something to become true: the only way in which scenarios let time pass.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at. Short enough that waiting adds nothing to a run one
/// would notice, long enough to leave both cores to the programs under test.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` finds something and returns it; fails when `deadline` has passed.
/// `what` completes the sentence "waited 10s for …".
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().with_context(|| format!("while waiting for {what}"))? {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain for {what}");
        }
        sleep(POLL);
    }
}

/// Waits until `look` says yes; fails when `deadline` has passed.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, deadline, || Ok(look()?.then_some(())))
}
