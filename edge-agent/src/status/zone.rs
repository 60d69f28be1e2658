//! One zone of the owner's file, and which relay serves which version of it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::words::{date, duration};
use crate::zone::endorsement::{Urgency, urgency, warning};

/// The state of one zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// The domain.
    pub name: String,
    /// The serial of the version that is signed and kept here.
    pub serial: Option<u32>,
    /// When it was signed, in seconds since 1970; of a zone that is passed on, when it came.
    pub signed_at: Option<u64>,
    /// When its first signature ends, in seconds since 1970.
    pub valid_until: Option<u64>,
    /// When the list of its keys ends that was signed with the zone's recovery kit, in seconds since
    /// 1970; `None` where the box renews all by itself.
    #[serde(default)]
    pub keys_until: Option<u64>,
    /// The name server that it is taken from, where it is not made here.
    #[serde(default)]
    pub primary: Option<String>,
    /// Each relay of the owner's file.
    pub relays: Vec<ZoneAtRelay>,
    /// What the parent should say, as the data of DS records.
    pub ds: Vec<String>,
    /// What is missing in it, a sentence each.
    pub notes: Vec<String>,
    /// Why the last attempt to make a new version failed.
    pub error: Option<String>,
}

/// A zone at one relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneAtRelay {
    /// The owner's name for it.
    pub relay: String,
    /// Whether the zone names its name servers.
    pub listed: bool,
    /// The serial that it was last seen to serve.
    pub serial: Option<u32>,
    /// Whether that is the one that is here.
    pub up_to_date: bool,
    /// When it last said what it holds about this box, in seconds since 1970: of this the zone is
    /// made.
    pub heard_at: Option<u64>,
    /// Why it does not serve the zone.
    pub error: Option<String>,
}

impl ZoneStatus {
    /// Whether all relays that the zone names serve the version that is here.
    pub fn served(&self) -> bool {
        let mut listed = self.relays.iter().filter(|relay| relay.listed).peekable();
        listed.peek().is_some() && listed.all(|relay| relay.up_to_date)
    }

    /// What is wrong, in a sentence.
    pub(super) fn failing(&self) -> Option<String> {
        let urgent = self.keys_until.and_then(|ends| urgency(ends, now()));
        let urgent = urgent.filter(|urgency| *urgency >= Urgency::Pressing);
        match self.error.is_some() {
            true => Some(self.line()),
            false => urgent.and_then(|_| self.keys_line()),
        }
    }

    /// That its owner has to come with the recovery kit.
    fn keys_line(&self) -> Option<String> {
        let name = &self.name;
        let warning = warning(name, self.keys_until?, now())?;
        Some(format!("zone    {name:<12} KEYS      {warning}"))
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let name = &self.name;
        let mut lines = vec![self.line()];
        lines.extend(self.keys_line());
        lines
            .extend(self.relays.iter().map(|relay| format!("zone    {name:<12} {}", relay.text())));
        lines.extend(self.notes.iter().map(|note| format!("zone    {name:<12} LACKS     {note}")));
        lines
    }

    fn line(&self) -> String {
        let name = &self.name;
        let state = match (&self.error, self.serial) {
            (Some(_), _) => "FAILED",
            (None, None) => "MAKING",
            (None, Some(_)) if self.served() => "served",
            (None, Some(_)) => "signed",
        };
        let mut line = format!("zone    {name:<12} {state:<9}");
        if let Some(serial) = self.serial {
            line.push_str(&format!(" serial {serial}"));
        }
        if let Some(at) = self.signed_at {
            let age = now().saturating_sub(at);
            let what = if self.primary.is_some() { "taken over" } else { "signed" };
            line.push_str(&format!(", {what} {} ago", duration(age)));
        }
        if let Some(until) = self.valid_until {
            line.push_str(&format!(", valid until {}", date(until)));
        }
        if let Some(primary) = &self.primary {
            line.push_str(&format!(", from {primary}"));
        }
        if let Some(error) = &self.error {
            let stays = if self.serial.is_some() { "; the last version stays" } else { "" };
            line.push_str(&format!(": {error}{stays}"));
        }
        line
    }
}

impl ZoneAtRelay {
    fn text(&self) -> String {
        let relay = &self.relay;
        let mut text = match (self.serial, self.up_to_date) {
            (Some(serial), true) => format!("at {relay}: serves serial {serial}"),
            (Some(serial), false) => {
                format!("at {relay}: BEHIND, was last seen with serial {serial}")
            }
            (None, _) => format!("at {relay}: NOT SERVED"),
        };
        if !self.listed {
            text.push_str(", not listed as a name server");
        }
        if let Some(error) = &self.error {
            text.push_str(&format!("; {error}"));
        }
        match self.heard_at {
            None => text.push_str("; it has not said yet what it holds"),
            Some(at) if now().saturating_sub(at) > STALE => {
                let age = duration(now().saturating_sub(at));
                text.push_str(&format!("; what the zone says of it is {age} old"));
            }
            Some(_) => {}
        }
        text
    }
}

/// From when on it is told how old a relay's word is, in seconds: it says it again at each tunnel
/// and at each change alone.
const STALE: u64 = 24 * 3600;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(up_to_date: bool) -> ZoneAtRelay {
        let heard_at = Some(now() - 2 * 24 * 3600 - 5);
        ZoneAtRelay {
            relay: "r1".into(),
            listed: true,
            serial: Some(7),
            up_to_date,
            heard_at,
            error: None,
        }
    }

    #[test]
    fn a_zone_says_who_serves_it_and_what_is_wrong() {
        let mut zone = ZoneStatus {
            name: "a.example".into(),
            serial: Some(7),
            signed_at: Some(now() - 3_700),
            valid_until: Some(1_790_000_000),
            relays: vec![relay(true)],
            ..ZoneStatus::default()
        };
        let lines = zone.lines();
        assert!(
            lines[0].starts_with(
                "zone    a.example    served    serial 7, signed 1 h 1 min ago, valid until 2026"
            ),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("at r1: serves serial 7; what the zone says of it is 2 d"),
            "{lines:?}"
        );
        assert!(zone.failing().is_none());
        zone.relays.push(relay(false));
        assert!(!zone.served() && zone.lines()[2].contains("BEHIND"));
        zone.keys_until = Some(now() + 50 * 24 * 3600);
        assert!(
            zone.lines()[1].contains("KEYS      the list of keys ends in 49 days")
                || zone.lines()[1].contains("50 days")
        );
        assert!(zone.failing().is_none(), "there is time");
        zone.keys_until = Some(now() + 20 * 24 * 3600);
        assert!(zone.failing().unwrap().contains("dns sign-keys a.example --kit FILE"));
        zone.error = Some("own.zone:3: wrong".into());
        assert!(zone.failing().unwrap().ends_with("own.zone:3: wrong; the last version stays"));
    }
}
