//! Response rate limiting: how many answers of a kind one network gets over UDP, where the sender's
//! address may be forged and the network be a victim.
//!
//! Answers are counted by the client's network and their kind, not by name: with a name in the key a
//! walk through many names would have as many limits. What is over the limit is dropped, and every
//! other time answered with an empty, truncated response, so that an honest resolver in that network
//! comes back over TCP. A client with a valid cookie, or on a stream, has shown that its address is
//! its own; it is never asked about here.
//!
//! The table has a fixed size and is allocated once a thread, so that no lock is needed. A bucket is
//! the time at which it would be full again (the generic cell rate algorithm), so nothing has to be
//! swept. Keys lie in sets of one cache line, found by a hash with a secret key: nobody can aim at
//! another's bucket. A new key takes the place of the fullest bucket of its set, which is that of
//! somebody who came seldom; whoever makes the table forget something only makes the limit milder.
//!
//! Threads count apart. The kernel picks a thread by the client's address and port, so a network may
//! get up to as many times its rate as there are threads: the caller gives each its share.
//!
//! Pure: a time comes in, a decision out.

use std::hash::Hasher;
use std::num::NonZeroU32;

use siphasher::sip::SipHasher13;

use crate::prefix::Prefix;

/// Buckets in a set: one cache line.
const WAYS: usize = 4;
/// Sets of a table, which then has 65,536 buckets in 1 MiB.
const SETS: usize = 16_384;
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// The kind of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Data for the name and type.
    Answer,
    /// A delegation.
    Referral,
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// REFUSED, FORMERR and whatever else is not an answer.
    Error,
}

/// Number of classes.
pub const CLASSES: usize = 5;

/// How many responses of a class a network gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a second, in the long run.
    pub per_second: NonZeroU32,
    /// At once, after a quiet time.
    pub burst: NonZeroU32,
}

/// The limits; `None` is no limit for that class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// For [`Class::Answer`].
    pub answer: Option<Rate>,
    /// For [`Class::Referral`].
    pub referral: Option<Rate>,
    /// For [`Class::NoData`].
    pub no_data: Option<Rate>,
    /// For [`Class::NxDomain`].
    pub nx_domain: Option<Rate>,
    /// For [`Class::Error`].
    pub error: Option<Rate>,
    /// Every how manieth response over the limit is sent truncated rather than dropped; `None` drops
    /// all, which cuts an honest resolver off while its network is a victim.
    pub slip: Option<NonZeroU32>,
}

/// What to do with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Send,
    /// Send it without records and with TC set.
    Slip,
    /// Send nothing.
    Drop,
}

/// The buckets of one thread.
pub struct RateLimiter {
    sets: Box<[Set]>,
    hasher: SipHasher13,
    limits: [Option<Limit>; CLASSES],
    slip: u32,
}

/// A rate in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// In which one more response is sent.
    period: u64,
    /// How far a bucket may be from full when a response is sent.
    tolerance: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Bucket; WAYS]);

/// The bucket of the key with this part of a hash. An unused one has always been full.
#[derive(Clone, Copy, Default)]
struct Bucket {
    key: u32,
    /// Responses over the limit so far.
    over: u32,
    /// In nanoseconds of the caller's clock.
    full_at: u64,
}

impl Rate {
    /// `per_second`, and as many at once as in `seconds`; no limit if that is zero.
    pub fn new(per_second: u32, seconds: u32) -> Option<Self> {
        let burst = NonZeroU32::new(per_second.saturating_mul(seconds))?;
        NonZeroU32::new(per_second).map(|per_second| Self { per_second, burst })
    }

    fn limit(self, share: u32) -> Limit {
        let period = SECOND * u64::from(share.max(1)) / u64::from(self.per_second.get());
        let burst = (self.burst.get() / share.max(1)).max(1);
        Limit { period, tolerance: period.saturating_mul(u64::from(burst - 1)) }
    }
}

impl Default for Rates {
    /// Far above what a busy resolver's network asks of one server, and far below a flood. A network
    /// that is a victim gets at most 500 answers of 1,232 octets a second, 5 Mbit/s.
    fn default() -> Self {
        let usual = Rate::new(200, 2);
        Self {
            answer: Rate::new(500, 2),
            referral: usual,
            no_data: usual,
            nx_domain: usual,
            error: Rate::new(50, 2),
            slip: NonZeroU32::new(2),
        }
    }
}

impl RateLimiter {
    /// A table for one of `threads` that share `rates` between them, all buckets full.
    pub fn new(rates: &Rates, threads: u32) -> Self {
        let [key0, key1] = rand::random::<[u64; 2]>();
        Self::of_sets(SETS, SipHasher13::new_with_keys(key0, key1), rates, threads)
    }

    fn of_sets(sets: usize, hasher: SipHasher13, rates: &Rates, threads: u32) -> Self {
        let classes = [rates.answer, rates.referral, rates.no_data, rates.nx_domain, rates.error];
        Self {
            sets: vec![Set::default(); sets].into_boxed_slice(),
            hasher,
            limits: classes.map(|rate| rate.map(|rate| rate.limit(threads))),
            slip: rates.slip.map_or(0, NonZeroU32::get),
        }
    }

    /// What to do with a response of `class` to a client in `prefix`, at `now` in milliseconds of any
    /// clock that never goes back.
    pub fn decide(&mut self, now: u64, prefix: Prefix, class: Class) -> Decision {
        let Some(limit) = self.limits[class as usize] else {
            return Decision::Send;
        };
        let mut hasher = self.hasher;
        hasher.write_u64(prefix.number());
        hasher.write_u8(class as u8);
        let hash = hasher.finish();
        // The remainder and the upper half say different things: the number of sets is a power of two.
        let set = usize::try_from(hash % self.sets.len() as u64).unwrap_or_default();
        let key = u32::try_from(hash >> 32).unwrap_or_default();
        self.sets[set].decide(key, limit, self.slip, now.saturating_mul(MILLISECOND))
    }
}

impl Set {
    fn decide(&mut self, key: u32, limit: Limit, slip: u32, now: u64) -> Decision {
        let known = self.0.iter().position(|bucket| bucket.key == key);
        // A key that is not known has a full bucket.
        let full_at = known.map_or(now, |at| self.0[at].full_at.max(now));
        if let Some(at) = known
            && full_at - now > limit.tolerance
        {
            let over = &mut self.0[at].over;
            *over = over.wrapping_add(1);
            return match over.checked_rem(slip) {
                Some(0) => Decision::Slip,
                _ => Decision::Drop,
            };
        }
        let fullest = || (0..WAYS).min_by_key(|&at| self.0[at].full_at).unwrap_or_default();
        let at = known.unwrap_or_else(fullest);
        let over = known.map_or(0, |at| self.0[at].over);
        self.0[at] = Bucket { key, over, full_at: full_at.saturating_add(limit.period) };
        Decision::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    use Decision::{Drop, Send, Slip};

    fn rates(per_second: u32, burst: u32) -> Rates {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rate = Some(Rate { per_second: number(per_second), burst: number(burst) });
        Rates { answer: rate, nx_domain: rate, error: rate, ..Rates::default() }
    }

    fn limiter(sets: usize, rates: &Rates, threads: u32) -> RateLimiter {
        RateLimiter::of_sets(sets, SipHasher13::new_with_keys(1, 2), rates, threads)
    }

    fn net(text: &str) -> Prefix {
        Prefix::of(text.parse().unwrap())
    }

    fn numbered(number: u32) -> Prefix {
        Prefix::of(std::net::Ipv4Addr::from_bits(number << 8).into())
    }

    #[test]
    fn a_bucket_has_a_quarter_of_a_cache_line() {
        assert_eq!((size_of::<Set>(), align_of::<Set>()), (64, 64));
    }

    #[test]
    fn a_burst_passes_then_every_other_slips_until_a_token_is_back() {
        let mut limiter = limiter(16, &rates(10, 3), 1);
        let mut at = |ms| limiter.decide(ms, net("192.0.2.1"), Class::Answer);
        assert_eq!([0; 7].map(&mut at), [Send, Send, Send, Drop, Slip, Drop, Slip]);
        assert_eq!([99, 100, 100].map(&mut at), [Drop, Send, Slip]);
        assert_eq!([60_000; 4].map(&mut at), [Send, Send, Send, Drop]);
    }

    #[test]
    fn networks_and_classes_count_apart_and_neighbours_together() {
        let mut limiter = limiter(SETS, &rates(1, 1), 1);
        let mut ask = |client, class| limiter.decide(5, net(client), class);
        assert_eq!(ask("192.0.2.1", Class::Answer), Send);
        assert_eq!(ask("192.0.2.2", Class::Answer), Drop);
        assert_eq!(ask("192.0.2.2", Class::NxDomain), Send);
        assert_eq!(ask("192.0.3.1", Class::Answer), Send);
        assert_eq!(ask("2001:db8::1", Class::Error), Send);
        assert_eq!(ask("2001:db8:0:f::1", Class::Error), Drop);
    }

    #[test]
    fn no_rate_is_no_limit_and_no_slip_drops_all() {
        let none = Rates { answer: None, slip: None, ..rates(1, 1) };
        let mut limiter = limiter(1, &none, 1);
        for _ in 0..100 {
            assert_eq!(limiter.decide(0, net("192.0.2.1"), Class::Answer), Send);
        }
        let mut over = || limiter.decide(0, net("192.0.2.1"), Class::Error);
        assert_eq!([over(), over(), over(), over()], [Send, Drop, Drop, Drop]);
        assert_eq!(Rate::new(0, 2), None);
    }

    #[test]
    fn threads_share_a_rate() {
        let mut limiter = limiter(16, &rates(100, 40), 4);
        let mut sent = 0;
        for ms in 0..10_000 {
            sent += u32::from(limiter.decide(ms, net("192.0.2.1"), Class::Answer) == Send);
        }
        assert!((250..=262).contains(&sent), "{sent}");
    }

    #[test]
    fn extremes_do_not_overflow() {
        for (per_second, burst) in [(u32::MAX, u32::MAX), (1, u32::MAX), (u32::MAX, 1), (1, 1)] {
            for threads in [0, 1, u32::MAX] {
                let mut limiter = limiter(1, &rates(per_second, burst), threads);
                for now in [0, 1, u64::MAX, u64::MAX] {
                    limiter.decide(now, net("::1"), Class::Error);
                }
            }
        }
    }

    #[test]
    fn a_flood_from_everywhere_does_not_make_the_table_forget_a_flooder() {
        let mut limiter = limiter(1, &rates(10, 5), 1);
        let mut sent = 0;
        for round in 0..1000 {
            sent += u32::from(limiter.decide(0, net("2001:db8::"), Class::Answer) == Send);
            limiter.decide(0, numbered(round), Class::Answer);
        }
        // It is among the four with the emptiest buckets, from its second response on.
        assert!(sent <= 10, "{sent}");
    }

    proptest! {
        /// With room for all keys the table says what one without a bound would say.
        #[test]
        fn it_counts_as_an_unbounded_table_does(
            asked in proptest::collection::vec((0u32..4, 0u64..300), 0..300),
            per_second in 1u32..50,
            burst in 1u32..10,
        ) {
            let mut limiter = limiter(SETS, &rates(per_second, burst), 1);
            let limit = rates(per_second, burst).answer.unwrap().limit(1);
            let mut full: HashMap<u32, u64> = HashMap::new();
            let mut now = 1;
            for (who, pause) in asked {
                now += pause;
                let nanos = now * MILLISECOND;
                let full_at = full.entry(who).or_default();
                let base = (*full_at).max(nanos);
                let sends = base - nanos <= limit.tolerance;
                if sends {
                    *full_at = base + limit.period;
                }
                let decided = limiter.decide(now, numbered(who), Class::Answer);
                prop_assert_eq!(decided == Send, sends);
            }
        }

        /// Whatever else goes on, a network gets at least its rate.
        #[test]
        fn who_stays_below_the_rate_is_never_limited(
            others in proptest::collection::vec(0u32..1000, 0..500),
        ) {
            let mut limiter = limiter(2, &rates(10, 2), 1);
            for (round, other) in (0u64..).zip(others) {
                let now = round * 100;
                prop_assert_eq!(limiter.decide(now, net("2001:db8::"), Class::Answer), Send);
                limiter.decide(now, numbered(other), Class::Answer);
            }
        }
    }
}
