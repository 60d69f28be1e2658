//! When the mail server may show another key. Pure.
//!
//! A TLSA record that does not fit the key stops mail from every sender that checks it, and the
//! owner's own software would have done it. So a key is used only when nobody can still know a set
//! of records without it (RFC 7671 section 8.1).

use std::time::Duration;

/// Added to every wait: name servers that answer from the old zone for a moment longer, and clocks
/// that differ.
pub const MARGIN: Duration = Duration::from_secs(300);

/// Why a key must not be used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Not all name servers have it.
    #[error(
        "not every name server serves the key's TLSA record yet: wait, or look at the one that does not"
    )]
    Spreading,
    /// Somebody may still know the records without it.
    #[error("resolvers may know the TLSA records without this key for {} s more: wait", .0.as_secs())]
    Cached(Duration),
}

/// Whether the mail server may show a key at `now`, in seconds since 1970.
///
/// `since` is when every name server of the zone was first seen to serve its record, `None` while one
/// of them does not. `kept` is how long answers without it can be kept, in seconds: the longest of the
/// TTL that its record set had before, the one that it has, and the SOA's minimum if there was no
/// record. `margin` is added, in seconds.
pub fn may_use(since: Option<u64>, kept: u32, margin: u64, now: u64) -> Result<(), NotYet> {
    let since = since.ok_or(NotYet::Spreading)?;
    let wait = u64::from(kept).saturating_add(margin);
    // A clock that was set back since then begins the wait again rather than to shorten it.
    let waited = now.saturating_sub(since);
    match wait.checked_sub(waited) {
        None | Some(0) => Ok(()),
        Some(left) => Err(NotYet::Cached(Duration::from_secs(left))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_waits_until_every_answer_without_it_is_forgotten() {
        let since = 10_000;
        assert_eq!(may_use(None, 3600, 300, 1 << 40), Err(NotYet::Spreading));
        let left = |now| may_use(Some(since), 3600, 300, now);
        assert_eq!(left(since), Err(NotYet::Cached(Duration::from_secs(3900))));
        assert_eq!(left(since + 3899), Err(NotYet::Cached(Duration::from_secs(1))));
        assert_eq!(left(since + 3900), Ok(()));
        assert_eq!(left(0), Err(NotYet::Cached(Duration::from_secs(3900))), "the clock went back");
    }

    proptest! {
        #[test]
        fn no_key_is_used_before_its_time(since: u64, kept: u32, margin: u32, now: u64) {
            if may_use(Some(since), kept, margin.into(), now).is_ok() {
                prop_assert!(now.saturating_sub(since) >= u64::from(kept) + u64::from(margin));
            }
        }
    }
}
