//! When a secondary asks its primary again, and when it gives a zone up: the SOA record's refresh,
//! retry and expire (RFC 1034 section 4.3.5, RFC 1912 section 2.2) within bounds, and EDNS EXPIRE
//! (RFC 7314). Pure: times in, times out. All in seconds; points in time are Unix seconds.

use domain::base::Ttl;
use domain::rdata::Soa;

use crate::record::Name;

/// Within which a zone's own timers are followed. A zone comes from strangers: without bounds a
/// refresh of 0 would keep us busy, and one of 100 years would leave changes unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Shortest and longest refresh.
    pub refresh: (u32, u32),
    /// Shortest and longest retry.
    pub retry: (u32, u32),
    /// Shortest and longest expire.
    pub expire: (u32, u32),
    /// The first retry of a zone that never came; each further one after twice the time.
    pub first: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        const DAY: u32 = 86_400;
        Self { refresh: (60, DAY), retry: (15, DAY), expire: (3_600, 70 * DAY), first: 5 }
    }
}

/// Until when a zone may be served; what has to survive a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// When the primary last confirmed it.
    pub refreshed: u64,
    /// When it expires.
    pub expires: u64,
}

/// A zone's timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timers {
    bounds: Bounds,
    /// Refresh, retry and expire of the version at hand, within bounds.
    soa: Option<(u32, u32, u32)>,
    standing: Standing,
    failures: u32,
}

impl Timers {
    /// Of a zone that is not here yet.
    pub fn fresh(bounds: Bounds) -> Self {
        Self { bounds, soa: None, standing: Standing::default(), failures: 0 }
    }

    /// Of a zone that was kept over a restart.
    pub fn restored(bounds: Bounds, soa: &Soa<Name>, standing: Standing) -> Self {
        Self { soa: Some(bounds.of(soa)), standing, ..Self::fresh(bounds) }
    }

    /// The zone came. `option` is what the server said in EDNS EXPIRE; never more than the zone's
    /// own expire is granted.
    pub fn transferred(&mut self, soa: &Soa<Name>, option: Option<u32>, now: u64) -> Standing {
        let (_, _, expire) = *self.soa.insert(self.bounds.of(soa));
        let left = option.map_or(expire, |option| option.min(expire));
        self.failures = 0;
        self.standing = Standing { refreshed: now, expires: now.saturating_add(left.into()) };
        self.standing
    }

    /// The primary has the version that is here, which has this SOA record. With EDNS EXPIRE the
    /// later of both ends counts, as a secondary that asks another secondary must not start the time
    /// anew (RFC 7314 section 4).
    pub fn confirmed(&mut self, soa: &Soa<Name>, option: Option<u32>, now: u64) -> Standing {
        let (_, _, expire) = *self.soa.insert(self.bounds.of(soa));
        let left = option.map_or(expire, |option| option.min(expire));
        let end = now.saturating_add(left.into());
        self.failures = 0;
        let expires = if option.is_some() { end.max(self.standing.expires) } else { end };
        self.standing = Standing { refreshed: now, expires };
        self.standing
    }

    /// No primary answered, or none with a zone that may be served.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether the zone may not be served any more. One that never came may not either.
    pub fn expired(&self, now: u64) -> bool {
        now >= self.standing.expires
    }

    /// When it expires, if it is here; may be past.
    pub fn expires(&self) -> Option<u64> {
        self.soa.map(|_| self.standing.expires)
    }

    /// When the primary is to be asked next. `jitter`, from 0 to 1, takes up to a tenth off, so that
    /// zones that came together are not asked for together.
    pub fn next(&self, now: u64, jitter: f64) -> u64 {
        let wait = match (self.soa, self.failures) {
            (Some((refresh, _, _)), 0) => {
                let due = self.standing.refreshed.saturating_add(refresh.into());
                u32::try_from(due.saturating_sub(now)).unwrap_or(refresh).min(refresh)
            }
            (Some((refresh, retry, _)), failures) => doubled(retry, failures, refresh.max(retry)),
            (None, 0) => 0,
            (None, failures) => doubled(self.bounds.first, failures, 3_600),
        };
        let shorter = f64::from(wait) * jitter.clamp(0.0, 1.0) / 10.0;
        now.saturating_add(u64::from(wait) - shorter as u64)
    }
}

impl Bounds {
    fn of(&self, soa: &Soa<Name>) -> (u32, u32, u32) {
        let within = |ttl: Ttl, (least, most): (u32, u32)| ttl.as_secs().max(least).min(most);
        let refresh = within(soa.refresh(), self.refresh);
        let retry = within(soa.retry(), self.retry);
        // A zone that expires before it was asked for twice would come and go.
        let least = refresh.saturating_add(retry);
        (refresh, retry, within(soa.expire(), self.expire).max(least))
    }
}

/// `first`, then twice that, and so on, at most `most`.
fn doubled(first: u32, failures: u32, most: u32) -> u32 {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture;
    use crate::transfer::query::soa_of;

    const NOW: u64 = 1_790_000_000;
    const EXPIRE: u64 = 1_814_400;

    fn soa() -> Soa<Name> {
        soa_of(&fixture::soa(1)).unwrap().clone()
    }

    fn odd(refresh: u32, retry: u32, expire: u32) -> Soa<Name> {
        let soa = soa();
        let ttl = Ttl::from_secs;
        let (mname, rname) = (soa.mname().clone(), soa.rname().clone());
        Soa::new(mname, rname, soa.serial(), ttl(refresh), ttl(retry), ttl(expire), ttl(1))
    }

    #[test]
    fn a_zone_follows_its_own_timers() {
        let mut timers = Timers::fresh(Bounds::default());
        assert!(timers.expired(NOW));
        assert_eq!(timers.next(NOW, 0.5), NOW, "at once");
        let standing = timers.transferred(&soa(), None, NOW);
        assert_eq!(standing, Standing { refreshed: NOW, expires: NOW + EXPIRE });
        assert_eq!(timers.next(NOW, 0.0), NOW + 14_400);
        assert_eq!(timers.next(NOW + 14_000, 0.0), NOW + 14_400);
        assert_eq!(timers.next(NOW, 1.0), NOW + 14_400 - 1_440);
        timers.failed();
        assert_eq!(timers.next(NOW, 0.0), NOW + 3_600);
        for _ in 0..40 {
            timers.failed();
        }
        assert_eq!(timers.next(NOW, 0.0), NOW + 14_400, "never rarer than refresh");
        assert!(!timers.expired(NOW + EXPIRE - 1) && timers.expired(NOW + EXPIRE));
        timers.confirmed(&soa(), None, NOW + 5);
        assert!(!timers.expired(NOW + EXPIRE));
    }

    #[test]
    fn expire_of_the_server_is_honoured_and_never_grants_more_than_the_zone() {
        let mut timers = Timers::fresh(Bounds::default());
        assert_eq!(timers.transferred(&soa(), Some(100), NOW).expires, NOW + 100);
        assert_eq!(
            timers.confirmed(&soa(), Some(50), NOW + 10).expires,
            NOW + 100,
            "the later one"
        );
        assert_eq!(timers.confirmed(&soa(), Some(200), NOW + 10).expires, NOW + 210);
        assert_eq!(timers.transferred(&soa(), Some(u32::MAX), NOW).expires, NOW + EXPIRE);
        assert_eq!(timers.confirmed(&soa(), Some(u32::MAX), NOW).expires, NOW + EXPIRE);
    }

    #[test]
    fn hostile_timers_are_bounded() {
        let bounds = Bounds::default();
        let mut timers = Timers::fresh(bounds);
        timers.transferred(&odd(0, 0, 0), None, NOW);
        assert_eq!(timers.next(NOW, 0.0), NOW + 60);
        assert_eq!(timers.standing.expires, NOW + 3_600);
        timers.transferred(&odd(u32::MAX, u32::MAX, u32::MAX), None, NOW);
        assert_eq!(timers.next(NOW, 0.0), NOW + 86_400);
        assert_eq!(timers.standing.expires, NOW + 70 * 86_400);
        timers.failed();
        assert_eq!(timers.next(NOW, 0.0), NOW + 86_400);
    }

    #[test]
    fn a_zone_that_never_came_is_asked_for_ever_more_rarely() {
        let mut timers = Timers::fresh(Bounds::default());
        let mut waits = Vec::new();
        for _ in 0..12 {
            timers.failed();
            waits.push(timers.next(NOW, 0.0) - NOW);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    }

    #[test]
    fn a_restored_zone_goes_on_where_it_was() {
        let standing = Standing { refreshed: NOW - 10_000, expires: NOW + 77 };
        let timers = Timers::restored(Bounds::default(), &soa(), standing);
        assert_eq!(timers.next(NOW, 0.0), NOW + 4_400);
        assert!(timers.expired(NOW + 77) && !timers.expired(NOW));
        // A clock that was set back leads to one refresh period at most.
        assert_eq!(timers.next(NOW - 1_000_000, 0.0), NOW - 1_000_000 + 14_400);
    }
}
