//! How long a claim lives without proof: verdicts and times in, the claim's state out. Pure.
//!
//! Mail that stays away is worse for the owner than a proof that is late, so nothing ends at once,
//! and what could not be found out changes nothing. Time counts only as far as somebody looked:
//! between two checks at most [`LONGEST_GAP`] passes, so neither a relay that was off for months
//! nor a clock that jumps can end a claim.

use super::verdict::Verdict;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// How long a proof may be absent before the names leave the routes.
pub const WARNING: u64 = 14 * DAY;
/// How long a claim stays suspended before its names are free (and rest).
pub const SUSPENSION: u64 = 30 * DAY;
/// How often in a row the proof must be found absent before a claim goes down a step.
pub const FAILURES: u32 = 7;
/// The most time that counts between two checks.
pub const LONGEST_GAP: u64 = 3 * DAY;
/// Checks that are closer together count as one, so that asking often ends nothing sooner.
pub const SHORTEST_GAP: u64 = 12 * HOUR;

/// What a claim gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Everything: the proof was there.
    Proved,
    /// Everything still, but the proof is absent and its owner must do something.
    Warned,
    /// The names are kept for the owner, but get no mail.
    Suspended,
    /// Nothing any more. Only a new claim leads out of here.
    Released,
}

/// One claim's state, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// What the claim gives.
    pub state: State,
    /// When this state began, in seconds of the relay's clock. Moved forward by what does not
    /// count as time, so `checked - since` is how long the state has lasted.
    pub since: u64,
    /// When the proof was last found present or absent.
    pub checked: u64,
    /// How often in a row it was absent, in this state.
    pub failures: u32,
}

impl Life {
    /// A claim whose proof was just found.
    pub fn proved(now: u64) -> Self {
        Self { state: State::Proved, since: now, checked: now, failures: 0 }
    }

    /// What becomes of the claim by a verdict at the time `now`.
    #[must_use]
    pub fn after(self, verdict: &Verdict, now: u64) -> Self {
        match (self.state, verdict) {
            (State::Released, _) | (_, Verdict::Unclear(_)) => self,
            (_, Verdict::Found) => Self::proved(now),
            (State::Proved, Verdict::Absent(_)) => {
                Self { state: State::Warned, since: now, checked: now, failures: 1 }
            }
            (State::Warned | State::Suspended, Verdict::Absent(_)) => self.absent_again(now),
        }
    }

    fn absent_again(self, now: u64) -> Self {
        let lasted = self.checked.saturating_sub(self.since);
        if now < self.checked {
            // The clock was set back: what has passed stays, and counting goes on from here.
            return Self { since: now.saturating_sub(lasted), checked: now, ..self };
        }
        let gap = now - self.checked;
        if gap < SHORTEST_GAP {
            return self;
        }
        let lasted = lasted.saturating_add(gap.min(LONGEST_GAP));
        let failures = self.failures.saturating_add(1);
        let (next, limit) = match self.state {
            State::Warned => (State::Suspended, WARNING),
            _ => (State::Released, SUSPENSION),
        };
        if lasted >= limit && failures >= FAILURES {
            return Self { state: next, since: now, checked: now, failures: 0 };
        }
        Self { since: now.saturating_sub(lasted), checked: now, failures, ..self }
    }

    /// The earliest time at which a warned claim can be suspended.
    pub fn suspends_on(self) -> Option<u64> {
        let missing = FAILURES.saturating_sub(self.failures).max(1);
        let by_failures = self.checked.saturating_add(u64::from(missing) * SHORTEST_GAP);
        let by_time = self.since.saturating_add(WARNING);
        (self.state == State::Warned).then(|| by_time.max(by_failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn absent() -> Verdict {
        Verdict::Absent(String::new())
    }

    fn unclear() -> Verdict {
        Verdict::Unclear(String::new())
    }

    /// The states after each day's verdict, from a proof on day 0.
    fn days(verdict: &Verdict, days: u64) -> Vec<State> {
        let mut life = Life::proved(0);
        (1..=days)
            .map(|day| {
                life = life.after(verdict, day * DAY);
                life.state
            })
            .collect()
    }

    #[test]
    fn a_lost_proof_is_warned_of_then_suspends_then_releases() {
        let states = days(&absent(), 60);
        let lasted = |state| states.iter().filter(|s| **s == state).count();
        assert_eq!((lasted(State::Warned), lasted(State::Suspended)), (14, 30));
        assert_eq!(states.last(), Some(&State::Released));
        assert!(states.is_sorted());
    }

    #[test]
    fn what_is_unclear_never_ends_anything() {
        assert!(days(&unclear(), 5000).iter().all(|state| *state == State::Proved));
        let warned = Life::proved(0).after(&absent(), DAY);
        assert_eq!(warned.after(&unclear(), 500 * DAY), warned);
    }

    #[test]
    fn the_announced_day_is_the_day() {
        let mut life = Life::proved(0).after(&absent(), DAY);
        let announced = life.suspends_on();
        assert_eq!(announced, Some(15 * DAY));
        for day in 2..=14 {
            life = life.after(&absent(), day * DAY);
            assert_eq!((life.state, life.suspends_on()), (State::Warned, announced));
        }
        life = life.after(&absent(), 15 * DAY);
        assert_eq!((life.state, life.suspends_on()), (State::Suspended, None));
    }

    #[test]
    fn a_clock_that_jumps_by_decades_ends_nothing_at_once() {
        let decades = 30 * 365 * DAY;
        for failures in 0..13 {
            let mut life = Life::proved(0);
            for day in 1..=failures {
                life = life.after(&absent(), day * DAY);
            }
            let jumped = life.after(&absent(), failures * DAY + decades);
            let expected = if failures >= 12 { State::Suspended } else { State::Warned };
            assert_eq!(jumped.state, expected, "after {failures} failures");
            // And back again: as if nothing had been.
            let back = jumped.after(&absent(), (failures + 1) * DAY);
            assert_eq!(back.after(&Verdict::Found, (failures + 2) * DAY).state, State::Proved);
        }
    }

    #[test]
    fn asking_often_ends_nothing_sooner() {
        let mut life = Life::proved(0);
        for minute in 0..13 * 24 * 60 {
            life = life.after(&absent(), DAY + minute * 60);
        }
        assert_eq!(life.state, State::Warned);
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            8 => Just(absent()),
            1 => Just(unclear()),
            1 => Just(Verdict::Found),
        ]
    }

    /// Steps between two checks: mostly a day, sometimes anything.
    fn step() -> impl Strategy<Value = i64> {
        let day = i64::try_from(DAY).unwrap();
        prop_oneof![6 => Just(day), 2 => 0..3 * day, 1 => -40 * 365 * day..40 * 365 * day]
    }

    proptest! {
        #[test]
        fn nothing_is_suspended_or_released_without_enough_failures_and_time(
            start in 0u64..4_000_000_000,
            checks in prop::collection::vec((verdict(), step()), 0..200),
        ) {
            let mut now = start;
            let mut life = Life::proved(now);
            // What an observer outside counts: absences since the last proof or change of state,
            // and the time that passed while the clock went on by no more than the longest gap.
            let (mut absences, mut watched) = (0u32, 0u64);
            for (verdict, step) in checks {
                let before = life;
                let then = now;
                now = now.saturating_add_signed(step);
                life = life.after(&verdict, now);
                watched += now.saturating_sub(then);
                match verdict {
                    Verdict::Unclear(_) => prop_assert_eq!(life, before),
                    Verdict::Found if before.state == State::Released => {
                        prop_assert_eq!(life, before);
                    }
                    Verdict::Found => prop_assert_eq!(life, Life::proved(now)),
                    Verdict::Absent(_) => {
                        absences += 1;
                        prop_assert!(life.state >= before.state);
                        prop_assert!(life.state as u8 <= before.state as u8 + 1, "one step at a time");
                    }
                }
                if life.state > State::Warned && life.state != before.state {
                    prop_assert!(absences >= FAILURES);
                    let limit = if life.state == State::Suspended { WARNING } else { SUSPENSION };
                    prop_assert!(watched >= limit);
                }
                if life.state != before.state || verdict == Verdict::Found {
                    // The absence that began a warning counts; the one that ended it does not
                    // count for the next state.
                    absences = u32::from(life.state == State::Warned);
                    watched = 0;
                }
                prop_assert!(life.checked >= life.since);
                prop_assert_eq!(life.suspends_on().is_some(), life.state == State::Warned);
            }
        }

        #[test]
        fn without_jumps_a_suspension_takes_fourteen_days(hours in prop::collection::vec(1u64..72, 0..400)) {
            let mut now = 0;
            let mut life = Life::proved(0);
            let mut first = None;
            for step in hours {
                now += step * HOUR;
                life = life.after(&absent(), now);
                let first = *first.get_or_insert(now);
                if life.state >= State::Suspended {
                    prop_assert!(now - first >= WARNING);
                    break;
                }
            }
        }
    }
}
