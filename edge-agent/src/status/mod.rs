//! What the owner is told: one clear line for each relay and each service.

mod relay;
mod words;
mod zone;

use serde::{Deserialize, Serialize};

use crate::certificate::Report;
use crate::config::Proxy;
use crate::deliver::self_test::Verdict;
use crate::deliver::services::Service;

pub use relay::RelayStatus;
pub use words::{date, state_word};
pub use zone::{ZoneAtRelay, ZoneStatus};

/// The state of an agent, as `status --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running program.
    pub version: String,
    /// The public key of this box.
    pub key: String,
    /// Each relay of the owner's file.
    pub relays: Vec<RelayStatus>,
    /// Each service of the owner's file.
    pub services: Vec<ServiceStatus>,
    /// The certificate, if this box obtains one.
    #[serde(default)]
    pub certificate: Option<Report>,
    /// Each zone of the owner's file.
    #[serde(default)]
    pub zones: Vec<ZoneStatus>,
}

/// The state of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where the mail server listens.
    pub address: String,
    /// How it learns the sender's address.
    pub proxy: Proxy,
    /// `testing`, `passed`, `failed` or `unproven`.
    pub self_test: String,
    /// What the self-test saw.
    pub detail: String,
}

impl ServiceStatus {
    /// Of `service`, now.
    pub fn of(service: &Service) -> Self {
        let verdict = service.verdict();
        Self {
            name: service.config.name.to_string(),
            address: service.config.address.as_str().into(),
            proxy: service.config.proxy,
            self_test: verdict.as_ref().map_or("testing", Verdict::label).into(),
            detail: verdict.as_ref().map_or("", Verdict::detail).into(),
        }
    }

    /// Whether mail is delivered.
    pub fn ready(&self) -> bool {
        self.self_test == "passed"
    }

    fn line(&self) -> String {
        let state = match self.self_test.as_str() {
            "passed" => "ready",
            "failed" => "WITHHELD",
            "testing" => "testing",
            _ => "WAITING",
        };
        let how = match self.proxy {
            Proxy::V1 => "with PROXY v1",
            Proxy::V2 => "with PROXY v2",
            Proxy::None => "without PROXY: every sender looks like this box",
        };
        let (name, address, detail) = (&self.name, &self.address, &self.detail);
        format!("service {name:<12} {state:<9} at {address} {how}; {detail}")
            .trim_end_matches("; ")
            .to_owned()
    }
}

impl Status {
    /// What keeps mail from arriving, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.relays.iter().any(|relay| relay.up) {
            missing.push("no tunnel is up".into());
        }
        if self.services.is_empty() {
            missing.push("no [[service]] is configured".into());
        }
        missing.extend(self.services.iter().filter(|s| !s.ready()).map(ServiceStatus::line));
        for relay in &self.relays {
            missing.extend(relay.suspended());
        }
        missing
    }

    /// What is wrong and keeps no mail from arriving yet, a sentence each: the last version of a zone
    /// stays in service.
    pub fn failing(&self) -> Vec<String> {
        let certificate = self.certificate.as_ref().and_then(|report| report.error.clone());
        let certificate = certificate.map(|error| format!("certificate: {error}"));
        self.zones.iter().filter_map(ZoneStatus::failing).chain(certificate).collect()
    }

    /// The lines for people, at `now`, in seconds since 1970.
    pub fn lines(&self, now: u64) -> Vec<String> {
        let key = format!("box     {}", self.key);
        let relays = self.relays.iter().flat_map(RelayStatus::lines);
        std::iter::once(key)
            .chain(relays)
            .chain(self.services.iter().map(ServiceStatus::line))
            .chain(self.certificate.iter().flat_map(|report| report.lines(now)))
            .chain(self.zones.iter().flat_map(ZoneStatus::lines))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OwnAddress;

    #[test]
    fn each_thing_has_one_line_that_says_what_is_wrong() {
        let relay = |up: bool| RelayStatus {
            name: "r1".into(),
            up,
            address: up.then(|| "192.0.2.1:4433".into()),
            up_seconds: up.then_some(3_700),
            reason: (!up).then(|| "no answer".into()),
            logs_sessions: false,
            logs_full_addresses: false,
            own_address: OwnAddress::Sealed,
            new_key: None,
            standing: None,
            standing_age_seconds: None,
            foreign_kit: false,
        };
        let service = |self_test: &str, detail: &str| ServiceStatus {
            name: "smtp".into(),
            address: "127.0.0.1:25".into(),
            proxy: Proxy::V2,
            self_test: self_test.into(),
            detail: detail.into(),
        };
        let status = |up, service| Status {
            version: "0".into(),
            key: "ed25519:x".into(),
            relays: vec![relay(up)],
            services: vec![service],
            certificate: None,
            zones: vec![],
        };
        let good = status(true, service("passed", "refuses foreign recipients"));
        assert_eq!(good.missing(), Vec::<String>::new());
        let lines = good.lines(0);
        assert_eq!(lines[1], "relay   r1           up        to 192.0.2.1:4433 for 1 h 1 min");
        assert_eq!(
            lines[2],
            "service smtp         ready     at 127.0.0.1:25 with PROXY v2; refuses foreign recipients"
        );
        let mut named = relay(true);
        named.logs_sessions = true;
        assert!(named.line().ends_with("; its log tells which networks write to this box"));
        let bad = status(false, service("failed", "an open relay"));
        assert_eq!(bad.missing().len(), 2);
        assert!(bad.lines(0)[2].contains("WITHHELD"));
        assert!(!status(true, service("testing", "")).lines(0)[2].ends_with(' '));
    }
}
