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
    /// All that answer have it, and one that does not answer may not.
    #[error(
        "a name server that does not answer may still serve the zone without this key: {} s more are \
         given to it",
        .0.as_secs()
    )]
    Silent(Duration),
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

/// By how much a new key is to be there before the old certificate ends, in seconds.
pub const BEFORE_END: u64 = 3600;

/// Whether the mail server may show a key at `now` although a name server does not answer.
///
/// A server that is silent here may serve an old version to others, so waiting for resolvers alone is
/// not enough. But one that is gone must not keep the mail server from a new certificate for ever. What
/// counts is for how long all the others serve the record: a server that is alive has had as long to
/// fetch the zone. `since` is when all that answered were first seen to serve it, `pass_over` how long
/// the silent one is waited for from then on, in seconds, before the wait for resolvers.
///
/// `ends` is when the certificate in use ends. Senders that go by DANE do not look at that (RFC 7672
/// section 3.1.1), and those who reach the silent server and find an old record there try again later.
/// All others who look at certificates, mail programs and senders with MTA-STS, refuse an expired one
/// for certain. So the silent server is not waited for beyond the last hour of the certificate. The wait
/// for resolvers, who know what the living servers said, is never shortened.
pub fn may_pass_over(
    since: Option<u64>,
    kept: u32,
    margin: u64,
    pass_over: u64,
    ends: Option<u64>,
    now: u64,
) -> Result<(), NotYet> {
    may_use(since, kept, margin, now)?;
    let Err(NotYet::Cached(left)) = may_use(since, kept, margin.saturating_add(pass_over), now)
    else {
        return Ok(());
    };
    let most = ends.map_or(u64::MAX, |ends| ends.saturating_sub(BEFORE_END).saturating_sub(now));
    match left.as_secs().min(most) {
        0 => Ok(()),
        left => Err(NotYet::Silent(Duration::from_secs(left))),
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

    #[test]
    fn a_silent_server_is_waited_for_for_a_day_and_not_beyond_the_end_of_the_certificate() {
        const DAY: u64 = 86_400;
        let (since, kept, margin) = (1_000_000, 3600, 300);
        let at = |ends, now| may_pass_over(Some(since), kept, margin, DAY, ends, now);
        let silent = |left| Err(NotYet::Silent(Duration::from_secs(left)));
        assert_eq!(may_pass_over(None, 0, 0, 0, None, 1 << 40), Err(NotYet::Spreading));
        // Resolvers come first, whatever happens to the certificate.
        assert_eq!(at(Some(0), since), Err(NotYet::Cached(Duration::from_secs(3900))));
        assert_eq!(at(None, since + 3900), silent(DAY));
        assert_eq!(at(None, since + 3899 + DAY), silent(1));
        assert_eq!(at(None, since + 3900 + DAY), Ok(()));
        let ends = since + 3900 + 7200;
        assert_eq!(at(Some(ends), since + 3900), silent(3600));
        assert_eq!(at(Some(ends), since + 3900 + 3600), Ok(()));
        assert_eq!(at(Some(ends + 90 * DAY), since + 3900), silent(DAY));
    }

    proptest! {
        #[test]
        fn nothing_shortens_the_wait_for_resolvers(
            since: u64, kept: u32, margin: u32, pass: u64, ends: Option<u64>, now: u64
        ) {
            if may_pass_over(Some(since), kept, margin.into(), pass, ends, now).is_ok() {
                prop_assert!(now.saturating_sub(since) >= u64::from(kept) + u64::from(margin));
            }
        }

        #[test]
        fn no_key_is_used_before_its_time(since: u64, kept: u32, margin: u32, now: u64) {
            if may_use(Some(since), kept, margin.into(), now).is_ok() {
                prop_assert!(now.saturating_sub(since) >= u64::from(kept) + u64::from(margin));
            }
        }
    }
}
