//! How long to wait before the next dial. Pure: the dice are thrown by the caller.

use std::time::Duration;

/// The first wait at its longest: a restarted relay is met again at once, by its boxes not all
/// in the same instant.
const FIRST: Duration = Duration::from_millis(300);
/// The longest wait.
const MOST: Duration = Duration::from_secs(30);
/// A tunnel that held this long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(10);

/// The waits between attempts, doubling.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: between half of and the whole of the step, by `dice` between 0 and 1.
    pub(super) fn next(&mut self, dice: f64) -> Duration {
        let step = FIRST.saturating_mul(1 << self.attempts.min(16)).min(MOST);
        self.attempts = self.attempts.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
    }

    /// A tunnel was up for `lasted`.
    pub(super) fn was_up(&mut self, lasted: Duration) {
        if lasted >= GOOD {
            self.attempts = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.0), FIRST);
        assert_eq!(backoff.next(1.0), FIRST * 4);
        for _ in 0..100 {
            assert!(backoff.next(1.0) <= MOST);
        }
        assert_eq!(backoff.next(0.0), MOST / 2);
    }

    #[test]
    fn only_a_tunnel_that_held_begins_anew() {
        let mut backoff = Backoff::default();
        (0..5).for_each(|_| _ = backoff.next(1.0));
        backoff.was_up(GOOD / 2);
        assert!(backoff.next(1.0) > FIRST);
        backoff.was_up(GOOD);
        assert_eq!(backoff.next(1.0), FIRST);
    }
}
