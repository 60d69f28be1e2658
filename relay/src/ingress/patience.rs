//! How long a connection may take to its whole ClientHello while the places run out. Pure.

use std::time::Duration;

/// What is left of it when every place is taken. A sender needs three round trips; this is room
/// for them over two satellites and on a slow machine.
pub(super) const LEAST: Duration = Duration::from_secs(5);

/// The time of a connection from accept to its whole ClientHello, when `taken` of `places` are
/// taken: `full` while it is at most half of them, from then on less with every further one, and
/// [`LEAST`] at the end. Only a newcomer asks, so that nobody is hurried whose place nobody wants.
pub(super) fn patience(taken: usize, places: usize, full: Duration) -> Duration {
    let least = LEAST.min(full);
    let half = places / 2;
    let (over, range) = (taken.saturating_sub(half), places - half);
    if over >= range {
        return least;
    }
    let share = over as f64 / range as f64;
    full - (full - least).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_whole_up_to_the_half_and_then_shrinks_to_the_least() {
        let full = Duration::from_secs(70);
        let at = |taken| patience(taken, 10_000, full).as_secs_f64();
        assert_eq!([at(0), at(5_000)], [70.0, 70.0]);
        assert!((at(7_500) - 37.5).abs() < 1e-6, "{}", at(7_500));
        assert_eq!([at(10_000), at(20_000)], [5.0, 5.0]);
    }

    #[test]
    fn an_operator_may_have_less_than_the_least() {
        let full = Duration::from_secs(2);
        assert_eq!(patience(0, 10, full), full);
        assert_eq!(patience(10, 10, full), full);
    }

    proptest! {
        #[test]
        fn it_never_grows_with_what_is_taken(
            places in 1usize..200_000,
            taken in 0usize..250_000,
            full in 1u64..600_000,
        ) {
            let full = Duration::from_millis(full);
            let now = patience(taken, places, full);
            prop_assert!(now <= full && now >= LEAST.min(full));
            prop_assert!(patience(taken + 1, places, full) <= now);
        }
    }
}
