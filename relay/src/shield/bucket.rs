//! Token buckets in a table of fixed size: how many connections somebody may begin, and how fast.
//! Pure; the time is passed in.
//!
//! A bucket is one number, the time at which it would be full again (the generic cell rate
//! algorithm). One that is full by now is as good as none, so nothing has to be swept.
//!
//! Keys lie in sets of a few buckets, found by a hash with a secret key. A new key takes the place
//! of the fullest bucket of its set: of somebody who came once, not of a flooder, whose bucket is
//! the emptiest. So strangers cannot fill the table for others, and whoever makes it forget
//! something only makes the limit milder. The libraries for this keep a map that grows until it is
//! swept. No key is kept, only its hash: the table is no list of who wrote.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Deserialize;

/// Buckets that a new key can choose from.
const WAYS: usize = 8;
/// Sets of a table, which then has 1 MiB.
const SETS: usize = 8192;
const MINUTE: u64 = 60_000_000_000;

/// How many connections may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// In a minute, in the long run.
    pub per_minute: NonZeroU32,
    /// At once, after a quiet time; without it as many as in a minute.
    pub burst: Option<NonZeroU32>,
}

/// The buckets of many keys.
pub(crate) struct Buckets {
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    hasher: RandomState,
    began: Instant,
}

/// The bucket of the key with this hash. An unused one was full at the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    key: u64,
    /// In nanoseconds since the table began.
    full_at: u64,
}

impl Rate {
    /// Nanoseconds in which one more connection may begin.
    fn period(self) -> u64 {
        MINUTE / u64::from(self.per_minute.get())
    }

    /// How far a bucket may be from full when a connection begins.
    fn tolerance(self) -> u64 {
        let burst = self.burst.unwrap_or(self.per_minute).get();
        self.period().saturating_mul(u64::from(burst - 1))
    }
}

impl Buckets {
    /// A table of the usual size, all buckets full.
    pub(crate) fn new(began: Instant) -> Self {
        Self::of_sets(SETS, began)
    }

    fn of_sets(sets: usize, began: Instant) -> Self {
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            began,
        }
    }

    /// Takes a token of `key`; `false` when there is none. Who is refused has taken nothing, so a
    /// steady flood still gets its rate through.
    pub(crate) fn take(&self, key: impl Hash, rate: Rate, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let key = self.hasher.hash_one(key);
        let set = usize::try_from(key % self.sets.len() as u64).unwrap_or_default();
        let mut set = self.sets[set].lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut set, key, rate, now)
    }
}

fn take(set: &mut [Bucket; WAYS], key: u64, rate: Rate, now: u64) -> bool {
    let known = set.iter().position(|bucket| bucket.key == key);
    // A key that is not known has a full bucket.
    let full_at = known.map_or(now, |at| set[at].full_at.max(now));
    if full_at - now > rate.tolerance() {
        return false;
    }
    let fullest = || (0..WAYS).min_by_key(|&at| set[at].full_at).unwrap_or_default();
    let at = known.unwrap_or_else(fullest);
    set[at] = Bucket { key, full_at: full_at.saturating_add(rate.period()) };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn rate(per_minute: u32, burst: u32) -> Rate {
        let number = |n| NonZeroU32::new(n).unwrap();
        Rate { per_minute: number(per_minute), burst: Some(number(burst)) }
    }

    #[test]
    fn a_burst_passes_then_one_in_a_period() {
        let began = Instant::now();
        let buckets = Buckets::new(began);
        let rate = Rate { burst: None, ..rate(3, 3) };
        let at = |seconds| buckets.take("client", rate, began + Duration::from_secs(seconds));
        assert_eq!([0, 0, 1, 1, 19, 20, 20].map(at), [true, true, true, false, false, true, false]);
        assert!([200, 200, 200].map(at).iter().all(|passed| *passed));
        assert!(!at(200) && buckets.take("other", rate, began + Duration::from_secs(200)));
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        let (most, now) = (rate(u32::MAX, u32::MAX), Instant::now());
        let slow = rate(1, u32::MAX);
        let buckets = Buckets::of_sets(1, now);
        let later = now + Duration::from_secs(u64::from(u32::MAX));
        for at in [now, later, later] {
            assert!(buckets.take(1, most, at) && buckets.take(2, slow, at));
        }
    }

    /// What a table without a bound would say.
    #[derive(Default)]
    struct Unbounded(HashMap<u64, u64>);

    impl Unbounded {
        fn take(&mut self, key: u64, rate: Rate, now: u64) -> bool {
            let full_at = self.0.get(&key).map_or(now, |&full_at| full_at.max(now));
            let passes = full_at - now <= rate.tolerance();
            if passes {
                self.0.insert(key, full_at + rate.period());
            }
            passes
        }
    }

    /// Connections of few clients, then of many: who, and how long after the one before.
    fn connections(clients: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
        proptest::collection::vec((1..=clients, 0..2 * SECOND), 0..400)
    }

    proptest! {
        #[test]
        fn as_many_clients_as_a_set_has_are_counted_exactly(
            connections in connections(WAYS as u64),
            per_minute in 1..100_u32,
            burst in 1..20_u32,
        ) {
            let (mut set, mut exact) = (<[Bucket; WAYS]>::default(), Unbounded::default());
            let (rate, mut now) = (rate(per_minute, burst), 0);
            for (client, pause) in connections {
                now += pause;
                prop_assert_eq!(
                    take(&mut set, client, rate, now),
                    exact.take(client, rate, now)
                );
            }
        }

        #[test]
        fn nobody_is_refused_for_what_others_did(
            connections in connections(1000),
            per_minute in 1..100_u32,
            burst in 1..20_u32,
        ) {
            let mut set = <[Bucket; WAYS]>::default();
            let (rate, mut now) = (rate(per_minute, burst), 0);
            // When each would be full again by what it got through itself, and nothing else.
            let mut own: HashMap<u64, u64> = HashMap::new();
            for (client, pause) in connections {
                now += pause;
                let full_at = own.entry(client).or_default();
                *full_at = now.max(*full_at);
                if take(&mut set, client, rate, now) {
                    *full_at += rate.period();
                } else {
                    prop_assert!(*full_at - now > rate.tolerance());
                }
            }
        }

        #[test]
        fn a_crowd_does_not_free_a_flooder(
            crowd in proptest::collection::vec(2..u64::MAX, 100..1000),
            burst in 3..20_u32,
        ) {
            // The flooder comes ten times a second; between, strangers that come once each.
            let (mut set, rate) = (<[Bucket; WAYS]>::default(), rate(60, burst));
            let (mut now, mut passed) = (0, 0);
            for stranger in crowd {
                passed += u64::from(take(&mut set, 1, rate, now));
                prop_assert!(take(&mut set, stranger, rate, now) || set.iter().any(|b| b.key == stranger));
                now += SECOND / 10;
            }
            prop_assert!(passed <= u64::from(burst) + now / SECOND + 1, "{passed} in {now} ns");
        }
    }
}
