//! Moments, days and spans of time as people and programs read them. Pure.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::registry::SECONDS_PER_DAY;

/// The last second of the year 9999, behind which RFC 3339 has no form.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970; as text in RFC 3339, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

/// Days since 1970; as text the date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Day(pub(super) u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_secs(self.0.min(LAST));
        humantime::format_rfc3339_seconds(time).fmt(f)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = Moment(self.0.saturating_mul(SECONDS_PER_DAY)).to_string();
        f.write_str(moment.split('T').next().unwrap_or_default())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A span in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let units = [("d", SECONDS_PER_DAY), ("h", 60 * 60), ("min", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, size)| seconds >= *size) else {
        return "0 s".into();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, size) in units.iter().skip(first).take(2) {
        if rest / size > 0 {
            parts.push(format!("{} {unit}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_days_are_written_in_utc() {
        assert_eq!(Moment(1_777_777_777).to_string(), "2026-05-03T03:09:37Z");
        assert_eq!(Day(1_777_777_777 / SECONDS_PER_DAY).to_string(), "2026-05-03");
        assert_eq!(Moment(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Day(u64::MAX).to_string(), "9999-12-31");
        assert_eq!(serde_json::to_string(&Moment(0)).unwrap(), "\"1970-01-01T00:00:00Z\"");
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_605, "1 h"),
            (3_665, "1 h 1 min"),
            (7 * 86_400, "7 d"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
