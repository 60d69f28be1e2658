//! Which keys of mail servers a zone names in its TLSA records. Pure.
//!
//! All that the mail server shows, showed lately, or may be given next: a record too many harms
//! nobody, one that is missing stops mail.

use serde::{Deserialize, Serialize};

use super::hex;
use crate::zone::certificate_roll::MARGIN;
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
    let mut keys: Vec<_> = known.iter().chain(planned).map(|it| it.key).collect();
    keys.sort();
    keys.dedup();
    keys
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
}
