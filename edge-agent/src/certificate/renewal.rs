//! When to renew, when to ask again, and how long to wait after failures. Pure: the dice, between 0
//! and 1, are thrown by the caller.

use std::time::Duration;

/// The first wait after a failed order. CAs allow few failures an hour for a name.
const FIRST_FAILURE: u64 = 10 * 60;
/// The longest.
const MOST_FAILURE: u64 = 12 * 3600;
/// Between two looks at name servers or the mail server: at first, and at most, in seconds.
const FIRST_LOOK: u64 = 2;
const MOST_LOOK: u64 = 600;
/// How often a CA is asked for the time of renewal: at most and at least (RFC 9773 section 4.3.3),
/// and after a failure.
const POLL_SHORTEST: u64 = 60;
const POLL_LONGEST: u64 = 24 * 3600;
const POLL_AFTER_FAILURE: u64 = 6 * 3600;
/// The longest that a CA can have an agent wait after an error.
const MOST_RETRY_AFTER: u64 = 7 * 24 * 3600;

/// When to renew a certificate whose CA does not tell: after two thirds of its life, and up to a
/// thirtieth of it earlier, so that not all come at once.
pub fn by_lifetime(not_before: u64, not_after: u64, dice: f64) -> u64 {
    let life = not_after.saturating_sub(not_before);
    let earlier = (life as f64 / 30.0 * dice.clamp(0.0, 1.0)) as u64;
    not_before.saturating_add(life / 3 * 2).saturating_sub(earlier)
}

/// When to renew by the window that the CA suggests (RFC 9773 section 4.2): a moment in it, kept
/// once chosen, while the window has it. An hour before the end of the certificate at the latest,
/// whatever the CA says.
pub fn by_window(window: (u64, u64), chosen: u64, not_after: u64, dice: f64) -> u64 {
    let (start, end) = (window.0.min(window.1), window.1.max(window.0));
    let at = if (start..=end).contains(&chosen) {
        chosen
    } else {
        start + ((end - start) as f64 * dice.clamp(0.0, 1.0)) as u64
    };
    at.min(not_after.saturating_sub(3600))
}

/// After how many seconds to ask the CA again; `None` when it could not be asked.
pub fn poll_again(told: Option<Duration>) -> u64 {
    told.map_or(POLL_AFTER_FAILURE, |told| told.as_secs().clamp(POLL_SHORTEST, POLL_LONGEST))
}

/// After how many seconds to order again, after so many `failures` before this one; `told` is what
/// the CA said.
pub fn order_again(failures: u32, told: Option<u64>, dice: f64) -> u64 {
    let step = doubled(FIRST_FAILURE, failures, MOST_FAILURE);
    let spread = step + (step as f64 / 4.0 * dice.clamp(0.0, 1.0)) as u64;
    spread.max(told.unwrap_or(0).min(MOST_RETRY_AFTER))
}

/// After how many seconds to ask name servers or the mail server again, after so many tries before
/// this one.
pub fn look_again(tries: u32) -> u64 {
    doubled(FIRST_LOOK, tries, MOST_LOOK)
}

fn doubled(first: u64, times: u32, most: u64) -> u64 {
    first.saturating_mul(1 << times.min(20)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_third_of_the_life_is_left() {
        assert_eq!(by_lifetime(1000, 1000 + 90 * DAY, 0.0), 1000 + 60 * DAY);
        assert_eq!(by_lifetime(1000, 1000 + 90 * DAY, 1.0), 1000 + 57 * DAY);
        assert_eq!(by_lifetime(1000, 1000, 0.5), 1000);
    }

    #[test]
    fn a_moment_in_the_window_is_kept_and_another_window_has_another() {
        let end = 100 * DAY;
        assert_eq!(by_window((10, 20), 0, end, 0.5), 15);
        assert_eq!(by_window((10, 20), 12, end, 0.5), 12);
        assert_eq!(by_window((5, 8), 12, end, 0.0), 5, "earlier, as after a mistake of the CA");
        assert_eq!(by_window((20, 10), 0, end, 1.0), 20, "a window that is upside down");
        assert_eq!(by_window((end, 2 * end), 0, end, 1.0), end - 3600);
    }

    #[test]
    fn waits_grow_and_a_ca_can_make_them_longer() {
        assert_eq!(order_again(0, None, 0.0), 600);
        assert_eq!(order_again(2, None, 1.0), 3000);
        assert_eq!(order_again(0, Some(7200), 0.0), 7200);
        assert_eq!(order_again(0, Some(u64::MAX), 0.0), MOST_RETRY_AFTER);
        assert_eq!(poll_again(Some(Duration::ZERO)), 60);
        assert_eq!(poll_again(Some(Duration::from_secs(21_600))), 21_600);
        assert_eq!(poll_again(None), POLL_AFTER_FAILURE);
        assert_eq!((look_again(0), look_again(99)), (2, 600));
    }

    proptest! {
        #[test]
        fn nothing_overflows(a: u64, b: u64, c: u64, d: u64, n: u32, dice: f64) {
            let at = by_window((a, b), c, d, dice);
            prop_assert!(at <= d.saturating_sub(3600) || at == 0);
            by_lifetime(a, b, dice);
            prop_assert!(order_again(n, Some(a), dice) <= MOST_RETRY_AFTER);
        }
    }
}
