//! One relay, and what it holds about this box.

use sealpost_tunnel::control::{LOGS_FULL_ADDRESSES, LOGS_SESSIONS};
use sealpost_tunnel::request::{DomainStanding, DomainState, Standing};
use sealpost_tunnel::{MxName, PublicKey};
use serde::{Deserialize, Serialize};

use super::words::{date, duration, state_word};
use crate::config::OwnAddress;
use crate::registration::domain::Domain;
use crate::registration::records;
use crate::uplink::{State, Uplink};

/// The state of one relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The owner's name for it.
    pub name: String,
    /// Whether a tunnel is up.
    pub up: bool,
    /// Where to.
    pub address: Option<String>,
    /// For how many seconds.
    pub up_seconds: Option<u64>,
    /// Why it is not.
    pub reason: Option<String>,
    /// Whether the relay's log says which session was for this box. By its own word.
    pub logs_sessions: bool,
    /// Whether the relay's log has whole addresses of senders. By its own word.
    pub logs_full_addresses: bool,
    /// What the owner's file says of connections to an address there that is this box's alone.
    #[serde(default)]
    pub own_address: OwnAddress,
    /// The key that the relay proves, when it is another than in the owner's file: the relay
    /// changed its key, and the old one signed so.
    #[serde(default)]
    pub new_key: Option<String>,
    /// What the relay said last that it holds about this box.
    #[serde(default)]
    pub standing: Option<Standing>,
    /// How many seconds ago.
    #[serde(default)]
    pub standing_age_seconds: Option<u64>,
    /// Whether the relay holds a recovery key that this box knows nothing of.
    #[serde(default)]
    pub foreign_kit: bool,
}

impl RelayStatus {
    /// Of `uplink`, now; `kit` is the public half of this box's recovery kit.
    pub fn of(uplink: &Uplink, kit: Option<PublicKey>) -> Self {
        let mut status = Self {
            name: uplink.relay.name.clone(),
            up: false,
            address: None,
            up_seconds: None,
            reason: None,
            logs_sessions: false,
            logs_full_addresses: false,
            own_address: uplink.relay.own_address,
            new_key: None,
            standing: None,
            standing_age_seconds: None,
            foreign_kit: false,
        };
        if let Some((standing, at)) = uplink.standing() {
            status.foreign_kit = standing.recovery.is_some_and(|held| Some(held) != kit);
            status.standing = Some(standing);
            status.standing_age_seconds = Some(at.elapsed().as_secs());
        }
        match uplink.state() {
            State::Up { address, since, capabilities, key, .. } => {
                status.up = true;
                status.address = Some(address.to_string());
                status.up_seconds = Some(since.elapsed().as_secs());
                status.logs_sessions = capabilities & LOGS_SESSIONS != 0;
                status.logs_full_addresses = capabilities & LOGS_FULL_ADDRESSES != 0;
                status.new_key = (key != uplink.relay.key).then(|| key.to_string());
            }
            State::Down(reason) => status.reason = reason,
        }
        status
    }

    /// The relay, and what it holds about this box.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.line()];
        lines.extend(self.weaker());
        if let Some(key) = &self.new_key {
            let name = &self.name;
            lines.push(format!(
                "relay   {name:<12} NEW KEY   the relay changed its key, and the old one signed so; \
                 write the new one into the file: key = \"{key}\""
            ));
        }
        if self.foreign_kit {
            let name = &self.name;
            lines.push(format!(
                "relay   {name:<12} FOREIGN KIT  whoever has a recovery kit that was not made on \
                 this box can take its place there. If it is not yours, ask the operator to revoke \
                 this box and to invite it anew, and change its key"
            ));
        }
        for (standing, claim) in self.claims() {
            lines.push(self.claim_line(standing, claim));
        }
        lines
    }

    /// What the owner gave up for senders without TLS.
    fn weaker(&self) -> Option<String> {
        if self.own_address == OwnAddress::Sealed {
            return None;
        }
        let name = &self.name;
        let own = self.standing.as_ref().map(|standing| standing.addresses.as_slice());
        let at = match own {
            Some([]) => ", but has no address of its own there".into(),
            Some(own) => {
                let own: Vec<_> = own.iter().map(ToString::to_string).collect();
                format!(" at {}", own.join(", "))
            }
            None => " at addresses of its own".into(),
        };
        Some(format!(
            "relay   {name:<12} WEAKER    this box is transparent{at}: mail of senders without TLS \
             passes the relay readable, and the relay could hide STARTTLS from others to read \
             theirs; only senders with DANE or MTA-STS notice. own_address = \"sealed\" ends it"
        ))
    }

    /// The domains for which no mail comes, a sentence each.
    pub(super) fn suspended(&self) -> impl Iterator<Item = String> {
        let suspended = self.claims().filter(|(_, claim)| claim.state == DomainState::Suspended);
        suspended.map(|(standing, claim)| self.claim_line(standing, claim))
    }

    fn claims(&self) -> impl Iterator<Item = (&Standing, &DomainStanding)> {
        let standing = self.standing.iter();
        standing.flat_map(|standing| standing.domains.iter().map(move |claim| (standing, claim)))
    }

    fn claim_line(&self, standing: &Standing, claim: &DomainStanding) -> String {
        let domain = Domain::from(claim.domain.clone()).to_string();
        let (relay, state) = (&self.name, state_word(claim.state));
        let mut line = format!("domain  {domain:<12} {state:<9} at {relay}");
        if claim.state == DomainState::Proved {
            let mx: Vec<_> = claim.mx.iter().map(MxName::as_str).collect();
            return format!("{line} for {}", mx.join(", "));
        }
        line.push_str(match claim.state {
            DomainState::Suspended => ": no mail comes for it, as its proof is missing",
            _ => ": its proof is missing",
        });
        if let Some(on) = claim.suspends_on {
            line.push_str(&format!("; mail stops on {}", date(on)));
        }
        if !claim.detail.is_empty() {
            line.push_str(&format!(" ({})", claim.detail));
        }
        let proof = records::proof(claim.domain.as_str(), standing.key.fingerprint());
        format!("{line}. Publish: {proof}")
    }

    pub(super) fn line(&self) -> String {
        let name = &self.name;
        match (&self.address, self.up_seconds) {
            (Some(address), Some(seconds)) => {
                let log = match (self.logs_sessions, self.logs_full_addresses) {
                    (false, _) => "",
                    (true, false) => "; its log tells which networks write to this box",
                    (true, true) => "; its log tells which addresses write to this box",
                };
                let known = match &self.standing {
                    Some(standing) if standing.domains.is_empty() => format!(
                        "; knows this box as `{}`, without a domain: sealpost-agent domain add",
                        standing.name
                    ),
                    Some(standing) => format!("; knows this box as `{}`", standing.name),
                    None => String::new(),
                };
                let lasts = duration(seconds);
                format!("relay   {name:<12} up        to {address} for {lasts}{log}{known}")
            }
            _ => {
                let reason = self.reason.as_deref().unwrap_or("dialling");
                format!("relay   {name:<12} DOWN      {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    #[test]
    fn domains_say_what_to_do_and_a_suspended_one_keeps_mail_away() {
        use sealpost_tunnel::request::ProofMethod;
        let key = sealpost_tunnel::Identity::ephemeral().public();
        let claim = |name: &str, state| DomainStanding {
            domain: name.parse().unwrap(),
            mx: vec![format!("mx.{name}").parse().unwrap()],
            state,
            method: ProofMethod::Txt,
            detail: String::new(),
            suspends_on: Some(1_800_000_000),
        };
        let mut standing = records::tests::standing(key);
        standing.domains = vec![
            claim("a.example", DomainState::Proved),
            claim("b.example", DomainState::Warned),
            claim("c.example", DomainState::Suspended),
        ];
        let relay = RelayStatus {
            name: "r1".into(),
            up: true,
            address: Some("192.0.2.1:4433".into()),
            up_seconds: Some(1),
            reason: None,
            logs_sessions: false,
            logs_full_addresses: false,
            own_address: OwnAddress::Sealed,
            new_key: Some("ed25519:new".into()),
            standing: Some(standing),
            standing_age_seconds: Some(3),
            foreign_kit: false,
        };
        let planted = RelayStatus { foreign_kit: true, ..relay.clone() };
        assert!(planted.lines()[2].contains("FOREIGN KIT"), "{:?}", planted.lines());
        let mut weaker = RelayStatus { own_address: OwnAddress::Transparent, ..relay.clone() };
        let line = &weaker.lines()[1];
        assert!(line.contains("WEAKER    this box is transparent, but has no address"), "{line}");
        if let Some(standing) = &mut weaker.standing {
            standing.addresses = vec!["203.0.113.7".parse().unwrap()];
        }
        let line = &weaker.lines()[1];
        assert!(line.contains("transparent at 203.0.113.7: mail of senders without TLS"), "{line}");
        let lines = relay.lines();
        assert!(lines[0].ends_with("; knows this box as `alice`"), "{lines:?}");
        assert!(lines[1].contains("NEW KEY") && lines[1].ends_with("key = \"ed25519:new\""));
        assert_eq!(lines[2], "domain  a.example    proved    at r1 for mx.a.example");
        let warned = "domain  b.example    WARNED    at r1: its proof is missing; mail stops on \
                      2027-01-15. Publish: _sealpost.b.example. 3600 IN TXT";
        assert!(lines[3].starts_with(warned), "{lines:?}");
        assert!(lines[4].contains("SUSPENDED at r1: no mail comes for it"), "{lines:?}");
        let status = Status {
            version: "0".into(),
            key: key.to_string(),
            relays: vec![relay],
            services: vec![],
            certificate: None,
            zones: vec![],
        };
        assert_eq!(status.missing().len(), 2, "no service, and one domain");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
