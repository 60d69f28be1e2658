//! How urgent it is that an owner comes with the recovery kit of a zone: the list of its keys, which
//! that signed, ends on a day, and nothing on the box can renew it. Pure.

const DAY: u64 = 24 * 3600;

/// How urgent it is, in days before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// 60: to be planned.
    Soon,
    /// 30: to be done.
    Pressing,
    /// 7: to be done today.
    Last,
    /// It is over, or will be within the day: no new version of the zone can be made.
    Over,
}

/// How urgent it is at `now` when the list ends at `ends`, both in seconds since 1970; `None` while
/// there is time.
pub fn urgency(ends: u64, now: u64) -> Option<Urgency> {
    match ends.saturating_sub(now).div_ceil(DAY) {
        0 | 1 => Some(Urgency::Over),
        2..=7 => Some(Urgency::Last),
        8..=30 => Some(Urgency::Pressing),
        31..=60 => Some(Urgency::Soon),
        _ => None,
    }
}

/// What an owner is told, without a full stop.
pub fn warning(domain: &str, ends: u64, now: u64) -> Option<String> {
    let urgency = urgency(ends, now)?;
    let days = ends.saturating_sub(now) / DAY;
    let when = match (urgency, days) {
        (Urgency::Over, 0) => "the list of keys ends today or has ended".into(),
        (_, 1) => "the list of keys ends in 1 day".into(),
        (_, days) => format!("the list of keys ends in {days} days"),
    };
    let then = match urgency {
        Urgency::Soon => "",
        Urgency::Pressing => "; without it the domain then fails for all who validate",
        Urgency::Last => "; without it the domain then FAILS for all who validate. Do it today",
        Urgency::Over => {
            "; no new version can be made before, and the domain FAILS for all who validate"
        }
    };
    Some(format!(
        "{when}: come with the zone's recovery kit, sealpost-agent dns sign-keys {domain} --kit \
         FILE{then}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gets_more_urgent() {
        let at = |days: u64| urgency(1_000 * DAY, (1_000 - days) * DAY);
        let said: Vec<_> = [365, 61, 60, 31, 30, 8, 7, 2, 1, 0].map(at).into();
        use Urgency::{Last, Over, Pressing, Soon};
        let wanted = [Soon, Soon, Pressing, Pressing, Last, Last, Over, Over].map(Some);
        assert_eq!(said[..2], [None, None]);
        assert_eq!(said[2..], wanted);
        assert_eq!(urgency(5, 1_000 * DAY), Some(Over));
    }

    #[test]
    fn the_words_say_when_what_and_why() {
        let ends = 1_000 * DAY;
        assert_eq!(warning("a.example", ends, ends - 61 * DAY), None);
        for (days, words) in [
            (60, "in 60 days: come with the zone's recovery kit"),
            (29, "in 29 days: "),
            (7, "Do it today"),
            (1, "in 1 day: "),
            (0, "has ended"),
        ] {
            let said = warning("a.example", ends, ends - days * DAY).unwrap();
            assert!(said.contains(words) && said.contains("sign-keys a.example --kit"), "{said}");
        }
    }
}
