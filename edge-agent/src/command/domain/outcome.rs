//! What came of a request at each relay, and how it is told. Pure.

use std::collections::BTreeSet;

use sealpost_tunnel::request::{DomainStanding, DomainState, RefusalCode, Standing};
use sealpost_tunnel::{MxName, PublicKey};
use serde::Serialize;

use crate::command::table;
use crate::config::Relay;
use crate::registration::ask::AskFailure;
use crate::registration::claim::worth_waiting;
use crate::registration::domain::Domain as Name;
use crate::registration::mx_set::MxSet;
use crate::registration::records;
use crate::status::{date, state_word};

/// What came of a request at one relay.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) relay: String,
    pub(super) done: bool,
    /// For programs: the relay's reason to refuse.
    pub(super) code: Option<&'static str>,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<DomainStanding>,
    /// The record that proves the domain to this relay.
    pub(super) proof: Option<String>,
    /// What the relay holds since.
    #[serde(skip)]
    pub(super) standing: Option<Standing>,
    #[serde(skip)]
    pub(super) worth_waiting: bool,
    /// The names of the relay's name servers.
    #[serde(skip)]
    pub(super) name_servers: Vec<MxName>,
    /// Whether it held a claim of the domain before.
    #[serde(skip)]
    pub(super) held: bool,
}

impl Outcome {
    pub(super) fn failed(relay: &Relay, failure: &AskFailure) -> Self {
        Self {
            relay: relay.name.clone(),
            done: false,
            code: failure.code().map(|code| code.label()),
            message: failure.to_string(),
            claim: None,
            proof: None,
            standing: None,
            worth_waiting: worth_waiting(failure),
            name_servers: Vec::new(),
            held: false,
        }
    }

    pub(super) fn removed(relay: &Relay, had: bool) -> Self {
        let message = match had {
            true => "given up; no other box may have it here for 90 days, this one may at any time",
            false => "was not claimed there",
        };
        Self {
            relay: relay.name.clone(),
            done: true,
            code: None,
            message: message.into(),
            claim: None,
            proof: None,
            standing: None,
            worth_waiting: false,
            name_servers: Vec::new(),
            held: false,
        }
    }

    fn not_proved(&self) -> bool {
        self.code == Some(RefusalCode::NotProved.label())
    }
}

pub(super) fn claim_words(claim: &DomainStanding) -> String {
    let mx: Vec<_> = claim.mx.iter().map(MxName::as_str).collect();
    let detail =
        if claim.detail.is_empty() { String::new() } else { format!("; {}", claim.detail) };
    format!("{}, MX names: {}{detail}", state_word(claim.state), mx.join(", "))
}

pub(super) fn add_lines(domain: &Name, outcomes: &[Outcome], set: &MxSet) -> Vec<String> {
    let mut lines = vec![domain.to_string()];
    lines.extend(outcomes.iter().map(|o| format!("{}: {}", o.relay, o.message)));
    if !set.exchangers.is_empty() {
        lines.extend([String::new(), "Publish these, so that mail comes:".into()]);
        let records = records::mail(&domain.name, set);
        lines.extend(records.iter().map(|record| format!("  {record}")));
        let gaps = set.gaps.iter().map(|gap| records::gap(&domain.name, gap));
        lines.extend(gaps.map(|gap| format!("  ; {gap}")));
        let dns = format!("sealpost-agent dns {}", domain.name);
        lines.push(format!("What each is for, and the records for DANE: {dns}"));
    }
    let proofs = proofs(outcomes);
    if !proofs.is_empty() {
        lines.extend([
            String::new(),
            "Publish this, and run the command again when it can be looked up (or with --wait):"
                .into(),
        ]);
        lines.extend(proofs.iter().map(|record| format!("  {record}")));
    }
    lines
}

/// The records that relays look for in vain.
pub(super) fn proofs(outcomes: &[Outcome]) -> Vec<&str> {
    let missing = outcomes.iter().filter(|o| o.not_proved() || (o.claim.is_some() && !o.done));
    let records: BTreeSet<_> = missing.filter_map(|outcome| outcome.proof.as_deref()).collect();
    records.into_iter().collect()
}

pub(super) fn list_lines(standings: &[(&str, &Standing)]) -> Vec<String> {
    let mut rows = Vec::new();
    for &(relay, standing) in standings {
        if let Some(own) = &standing.own_name {
            let (own, relay) = (own.to_string(), relay.to_owned());
            rows.push([own.clone(), "given".into(), own, relay, "a name of the relay's".into()]);
        }
        rows.extend(standing.domains.iter().map(|claim| row(relay, standing.key, claim)));
    }
    if rows.is_empty() {
        return vec![
            "no domain is claimed; claim one with: sealpost-agent domain add DOMAIN".into(),
        ];
    }
    table::lines(["DOMAIN", "STATE", "MX NAMES", "RELAY", "DETAIL"], &rows)
}

fn row(relay: &str, key: PublicKey, claim: &DomainStanding) -> [String; 5] {
    let mx: Vec<_> = claim.mx.iter().map(MxName::as_str).collect();
    let mut detail = claim.detail.clone();
    if claim.state != DomainState::Proved {
        let proof = records::proof(claim.domain.as_str(), key.fingerprint());
        detail = format!("{detail}; publish: {proof}").trim_start_matches("; ").into();
    }
    if let Some(on) = claim.suspends_on {
        detail = format!("mail stops on {}; {detail}", date(on));
    }
    let domain = Name::from(claim.domain.clone()).to_string();
    [domain, state_word(claim.state).into(), mx.join(" "), relay.into(), detail]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OwnAddress;
    use crate::registration::records::tests::standing;
    use sealpost_tunnel::Identity;
    use sealpost_tunnel::request::{ProofMethod, Refusal};

    fn relay() -> Relay {
        let key = Identity::ephemeral().public();
        Relay {
            name: "r1".into(),
            addresses: vec![],
            key,
            private_senders: false,
            own_address: OwnAddress::Sealed,
            shield: false,
            offers_zones: false,
        }
    }

    fn claimed(state: DomainState) -> DomainStanding {
        DomainStanding {
            domain: "xn--bcher-kva.example".parse().unwrap(),
            mx: vec!["mx.xn--bcher-kva.example".parse().unwrap()],
            state,
            method: ProofMethod::Txt,
            detail: "no TXT record".into(),
            suspends_on: (state == DomainState::Warned).then_some(1_800_000_000),
        }
    }

    #[test]
    fn an_unproved_claim_says_what_to_publish_and_that_it_can_be_repeated() {
        let refusal =
            Refusal { code: RefusalCode::NotProved, message: "no record was found".into() };
        let failed = |refusal| Outcome {
            proof: Some("THE RECORD".into()),
            ..Outcome::failed(&relay(), &AskFailure::Refused(refusal))
        };
        let outcome = failed(refusal);
        assert!(outcome.worth_waiting && !outcome.done);
        let domain: Name = "example.org".parse().unwrap();
        let lines = add_lines(&domain, &[outcome], &MxSet::default());
        assert_eq!(lines[1], "r1: no record was found");
        assert!(lines.join("\n").contains("again") && lines.last().unwrap() == "  THE RECORD");

        let refusal = Refusal { code: RefusalCode::NotAvailable, message: "no".into() };
        let outcome = failed(refusal);
        assert!(!outcome.worth_waiting, "waiting would not help");
        assert!(
            !add_lines(&domain, &[outcome], &MxSet::default()).join("\n").contains("THE RECORD")
        );
    }

    #[test]
    fn the_list_shows_both_forms_of_a_name_and_what_to_do() {
        let mut standing = standing(Identity::ephemeral().public());
        standing.own_name = Some("alice.box.relay.example.net".parse().unwrap());
        standing.domains = vec![claimed(DomainState::Warned)];
        let text = list_lines(&[("r1", &standing)]).join("\n");
        assert!(text.contains("bücher.example (xn--bcher-kva.example)  WARNED  "), "{text}");
        assert!(text.contains("mail stops on 2027-01-15; no TXT record; publish: _sealpost."));
        assert!(text.contains("alice.box.relay.example.net"));
        assert!(list_lines(&[])[0].contains("domain add"));
    }
}
