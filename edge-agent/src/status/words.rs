//! Small words of a status. Pure.

use std::time::{Duration, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use sealpost_tunnel::request::DomainState;

/// The state of a claim in one word; in capitals where something is to be done.
pub fn state_word(state: DomainState) -> &'static str {
    match state {
        DomainState::Proved => "proved",
        DomainState::Warned => "WARNED",
        DomainState::Suspended => "SUSPENDED",
    }
}

/// The day of `seconds` since 1970, as a relay tells it.
pub fn date(seconds: u64) -> String {
    // Of no use behind the year 9999, and the printer takes no more.
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    format_rfc3339_seconds(at).to_string().chars().take_while(|&c| c != 'T').collect()
}

/// Rough, in at most two units.
pub(super) fn duration(seconds: u64) -> String {
    let d = Duration::from_secs(seconds).as_secs();
    match (d / 86_400, d / 3_600 % 24, d / 60 % 60, d % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relays_clock_may_say_anything() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(u64::MAX), "9999-12-31");
    }
}
