//! When the mail server may show another key, and when an old one may leave the zone. Pure.
//!
//! A TLSA record that does not fit the key stops mail from every sender that checks it, and the
//! owner's own software would have done it. So a key is used only when nobody can still know a set
//! of records without it, and a record goes only when nobody is shown its key any more (RFC 7671
//! section 8.1).

use std::time::Duration;

use super::plan::KeyDigest;

/// Added to every wait: name servers that answer from the old zone for a moment longer, and clocks
/// that differ.
pub const MARGIN: Duration = Duration::from_secs(300);

/// A key in the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The key.
    pub key: KeyDigest,
    /// Since when every name server of the zone was seen to serve its record, in seconds since
    /// 1970. `None` while one of them does not.
    pub since: Option<u64>,
    /// How long answers without it can be kept, in seconds: the longest of the TTL that its record
    /// set had before, the one it has, and the SOA's minimum if there was no record.
    pub kept: u32,
}

/// Why a key must not be used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// It is in no zone.
    #[error("the key has no TLSA record: publish the zone with it first")]
    Unpublished,
    /// Not all name servers have it.
    #[error(
        "not every name server serves the key's TLSA record yet: wait, or look at the one that does not"
    )]
    Spreading,
    /// Somebody may still know the records without it.
    #[error("resolvers may know the TLSA records without this key for {} s more: wait", .0.as_secs())]
    Cached(Duration),
}

/// Whether the mail server may show the key `next` at `now`, in seconds since 1970.
pub fn may_use(next: &KeyDigest, published: &[Published], now: u64) -> Result<(), NotYet> {
    may_use_after(next, published, MARGIN.as_secs(), now)
}

/// As [`may_use`], with a margin of the owner's choice, in seconds.
pub fn may_use_after(
    next: &KeyDigest,
    published: &[Published],
    margin: u64,
    now: u64,
) -> Result<(), NotYet> {
    let found = published.iter().find(|it| it.key == *next).ok_or(NotYet::Unpublished)?;
    let since = found.since.ok_or(NotYet::Spreading)?;
    let wait = u64::from(found.kept).saturating_add(margin);
    // A clock that was set back since then begins the wait again rather than to shorten it.
    let waited = now.saturating_sub(since);
    match wait.checked_sub(waited) {
        None | Some(0) => Ok(()),
        Some(left) => Err(NotYet::Cached(Duration::from_secs(left))),
    }
}

/// The keys that the zone has to publish: what the mail server was seen to show, what its files
/// say it shows, and the next. What is shown stands there even if nobody planned it, as its record
/// is then missing already.
pub fn to_publish(
    shown: &[KeyDigest],
    current: Option<KeyDigest>,
    next: Option<KeyDigest>,
) -> Vec<KeyDigest> {
    let mut keys: Vec<_> = shown.iter().copied().chain(current).chain(next).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Whether the record of `old` may go: the mail server was seen to show other keys only, for as long
/// as a connection that began with the old one and a sender's session cache can matter.
pub fn may_drop(old: &KeyDigest, shown: &[KeyDigest], not_shown_since: u64, now: u64) -> bool {
    let seen = !shown.is_empty() && !shown.contains(old);
    seen && now.checked_sub(not_shown_since).is_some_and(|gone| gone >= MARGIN.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: KeyDigest = [1; 32];
    const NEW: KeyDigest = [2; 32];

    fn published(since: Option<u64>) -> [Published; 2] {
        [
            Published { key: OLD, since: Some(0), kept: 3600 },
            Published { key: NEW, since, kept: 3600 },
        ]
    }

    #[test]
    fn a_key_waits_until_every_answer_without_it_is_forgotten() {
        let since = 10_000;
        assert_eq!(may_use(&NEW, &published(None), 1 << 40), Err(NotYet::Spreading));
        assert_eq!(may_use(&[3; 32], &published(None), 1 << 40), Err(NotYet::Unpublished));
        let left = |now| may_use(&NEW, &published(Some(since)), now);
        assert_eq!(left(since), Err(NotYet::Cached(Duration::from_secs(3900))));
        assert_eq!(left(since + 3899), Err(NotYet::Cached(Duration::from_secs(1))));
        assert_eq!(left(since + 3900), Ok(()));
        assert_eq!(left(0), Err(NotYet::Cached(Duration::from_secs(3900))), "the clock went back");
    }

    #[test]
    fn what_is_shown_is_published_whatever_was_planned() {
        assert_eq!(to_publish(&[NEW], Some(OLD), Some(NEW)), [OLD, NEW]);
        assert_eq!(to_publish(&[], None, None), [[0; 32]; 0]);
    }

    #[test]
    fn a_record_stays_while_its_key_may_be_shown() {
        assert!(!may_drop(&OLD, &[], 0, 1000), "nothing was seen");
        assert!(!may_drop(&OLD, &[OLD, NEW], 0, 1000));
        assert!(!may_drop(&OLD, &[NEW], 900, 1000));
        assert!(may_drop(&OLD, &[NEW], 0, 1000));
    }

    proptest! {
        #[test]
        fn no_key_is_used_before_its_time(since: u64, kept: u32, now: u64) {
            let published = [Published { key: NEW, since: Some(since), kept }];
            if may_use(&NEW, &published, now).is_ok() {
                prop_assert!(now - since >= u64::from(kept) + MARGIN.as_secs());
            }
        }
    }
}
