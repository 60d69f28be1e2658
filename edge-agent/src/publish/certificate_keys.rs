//! Which keys of mail servers a zone names in its TLSA records, and since when they are served. Pure.
//!
//! All that the mail server shows, showed lately, or may be given next: a record too many harms
//! nobody, one that is missing stops mail.

use serde::{Deserialize, Serialize};

use super::hex;
use crate::zone::certificate_roll::{self, MARGIN};
use crate::zone::content::TTL;
use crate::zone::plan::KeyDigest;

/// How long a key is named after the mail server stopped to show it, in seconds: an owner may go
/// back to it within a day. Longer than any answer is kept.
const KEPT: u64 = 24 * 3600;
/// Keys that are remembered.
const MAX_KEYS: usize = 32;

/// A key that the mail server shows or is to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The key.
    #[serde(with = "hex")]
    pub key: KeyDigest,
    /// Since when it is not, in seconds since 1970.
    #[serde(default)]
    pub gone_since: Option<u64>,
}

/// A key in the zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InZone {
    /// The key.
    #[serde(with = "hex")]
    pub key: KeyDigest,
    /// The serial of the first version with it.
    pub serial: u32,
    /// Since when all relays that serve the zone were seen to have it, in seconds since 1970.
    #[serde(default)]
    pub since: Option<u64>,
}

/// Takes note of what the mail server shows at `now`, or is to show. A mail server that could not be asked changes
/// nothing: it is not to be called with an empty list.
pub fn note(known: &mut Vec<Shown>, shown: &[KeyDigest], now: u64) {
    for key in known.iter_mut() {
        key.gone_since = match shown.contains(&key.key) {
            true => None,
            // A clock that was set back begins anew.
            false => Some(key.gone_since.map_or(now, |since| since.min(now))),
        };
    }
    for key in shown {
        if !known.iter().any(|it| it.key == *key) {
            known.push(Shown { key: *key, gone_since: None });
        }
    }
    let wait = KEPT.max(MARGIN.as_secs());
    known.retain(|it| it.gone_since.is_none_or(|since| now.saturating_sub(since) < wait));
    if known.len() > MAX_KEYS {
        // Those that were not shown for the longest time go first.
        known.sort_by_key(|it| std::cmp::Reverse(it.gone_since.unwrap_or(u64::MAX)));
        known.truncate(MAX_KEYS);
    }
}

/// The keys that the zone is to name. None at all while it is not known what the mail server shows:
/// the next key alone would turn away mail that comes for the present one.
pub fn to_publish(known: &[Shown], planned: &[Shown]) -> Vec<KeyDigest> {
    if known.is_empty() {
        return Vec::new();
    }
    let all: Vec<_> = known.iter().chain(planned).map(|it| it.key).collect();
    certificate_roll::to_publish(&all, None, None)
}

/// Takes note of a new version of the zone, with these keys.
pub fn enter(zone: &mut Vec<InZone>, keys: &[KeyDigest], serial: u32) {
    zone.retain(|it| keys.contains(&it.key));
    for key in keys {
        if !zone.iter().any(|it| it.key == *key) {
            zone.push(InZone { key: *key, serial, since: None });
        }
    }
}

/// Takes note of the oldest serial that any relay serves at `now`.
pub fn served(zone: &mut [InZone], oldest: u32, now: u64) -> bool {
    let mut news = false;
    for key in zone.iter_mut().filter(|key| key.since.is_none()) {
        if !crate::zone::serial::is_newer(key.serial, oldest) {
            key.since = Some(now);
            news = true;
        }
    }
    news
}

/// The keys in the zone, as their users are told.
pub fn published(zone: &[InZone]) -> Vec<certificate_roll::Published> {
    let one = |it: &InZone| certificate_roll::Published {
        key: it.key,
        since: it.since,
        kept: TTL.as_secs(),
    };
    zone.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: KeyDigest = [1; 32];
    const NEW: KeyDigest = [2; 32];

    #[test]
    fn a_key_stays_for_a_day_after_it_was_shown() {
        let mut known = Vec::new();
        note(&mut known, &[OLD], 1000);
        note(&mut known, &[NEW], 2000);
        assert_eq!(to_publish(&known, &[]), [OLD, NEW]);
        note(&mut known, &[NEW], 2000 + KEPT - 1);
        assert_eq!(to_publish(&known, &[]), [OLD, NEW]);
        note(&mut known, &[NEW], 2000 + KEPT);
        assert_eq!(to_publish(&known, &[]), [NEW]);
        note(&mut known, &[OLD], 2000 + KEPT);
        let next = [Shown { key: [3; 32], gone_since: None }];
        assert_eq!(to_publish(&known, &next), [OLD, NEW, [3; 32]]);
        assert_eq!(to_publish(&[], &next), [[0; 32]; 0], "never the next key alone");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_a_key_for_ever() {
        let mut known = vec![Shown { key: OLD, gone_since: Some(1 << 40) }];
        note(&mut known, &[NEW], 1000);
        note(&mut known, &[NEW], 1000 + KEPT);
        assert_eq!(to_publish(&known, &[]), [NEW]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_shown_stays() {
        let mut known = Vec::new();
        for n in 0..100 {
            note(&mut known, &[[n; 32]], 1000 + u64::from(n));
        }
        assert!(known.len() <= MAX_KEYS && known.iter().any(|it| it.key == [99; 32]));
    }

    #[test]
    fn a_key_is_served_when_the_slowest_relay_has_it() {
        let mut zone = Vec::new();
        enter(&mut zone, &[OLD], 5);
        assert!(served(&mut zone, 5, 100));
        enter(&mut zone, &[OLD, NEW], 7);
        assert!(!served(&mut zone, 6, 200));
        assert!(served(&mut zone, 8, 300));
        let since: Vec<_> = published(&zone).iter().map(|it| it.since).collect();
        assert_eq!(since, [Some(100), Some(300)]);
        enter(&mut zone, &[NEW], 9);
        assert_eq!(zone.len(), 1);
    }
}
