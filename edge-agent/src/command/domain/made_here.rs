//! The zone of a domain that is claimed: this box makes it, unless its owner keeps the DNS elsewhere.
//!
//! Adding it changes nothing in the world yet. That is up to the registrar, and so the last thing that
//! is said here is what to enter there, and what to look after before.

use std::path::{Path, PathBuf};

use sealpost_dns::record::Name as DnsName;
use sealpost_tunnel::MxName;
use sealpost_tunnel::request::ProofMethod;
use serde_json::Value;

use super::DnsChoice;
use super::outcome::Outcome;
use crate::command::dns::registrar::Entry;
use crate::config::Config;
use crate::config::zone::{KeyLayout, apex};
use crate::publish::facts::wire;
use crate::publish::store::Store;
use crate::registration::config_file::ConfigFile;
use crate::registration::domain::Domain as Name;
use crate::zone::zone_key::PublicKey;

/// A zone that this box makes.
pub(super) struct SetUp {
    domain: Name,
    apex: DnsName,
    /// Whether it was added to the file just now.
    added: bool,
    file: PathBuf,
    name_servers: Vec<DnsName>,
    keys: Vec<PublicKey>,
}

/// What is to be done about the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Its DNS is elsewhere.
    Elsewhere,
    /// The file has it.
    There,
    /// It is to be added.
    Add,
}

/// A domain that is new here gets a zone where a relay would serve it. One that was claimed before, or
/// is proved by a record, has its DNS elsewhere, and works: only its owner can say that this is to change.
fn decide(in_file: bool, served: bool, held: bool, choice: DnsChoice) -> Decision {
    match (in_file, choice) {
        (_, DnsChoice { own_dns: true, .. }) => Decision::Elsewhere,
        (true, _) => Decision::There,
        (false, DnsChoice { zone: true, .. }) => Decision::Add,
        (false, _) if served && !held => Decision::Add,
        _ => Decision::Elsewhere,
    }
}

/// Adds a zone to the file and makes its key, where that is wanted; `None` where the DNS is elsewhere.
/// `mx` are the names of its exchangers that the owner typed.
pub(super) fn set_up(
    config: &Config,
    file: &Path,
    domain: &Name,
    outcomes: &[Outcome],
    mx: &[MxName],
    choice: DnsChoice,
) -> anyhow::Result<Option<SetUp>> {
    let zone = config.zones.iter().find(|zone| zone.name == domain.name);
    let served = outcomes.iter().any(|outcome| !outcome.name_servers.is_empty());
    // The record was there already: whoever published it has a DNS to do so.
    let by_record = |it: &Outcome| {
        it.done && it.claim.as_ref().is_some_and(|claim| claim.method == ProofMethod::Txt)
    };
    let held = outcomes.iter().any(|outcome| outcome.held || by_record(outcome));
    let decision = decide(zone.is_some(), served, held, choice);
    if zone.is_some_and(|zone| zone.primary.is_some()) || decision == Decision::Elsewhere {
        return Ok(None);
    }
    let store = Store::new(&config.fixed.state, &domain.name);
    let layout = zone.map_or(KeyLayout::Combined, |zone| zone.keys);
    // The key first: a zone in the file has one.
    let keys = store.keys(layout)?;
    let file = ConfigFile::at(file)?;
    let added = decision == Decision::Add && file.add_zone(&domain.name, mx)?;
    let mut name_servers: Vec<DnsName> = Vec::new();
    for name in outcomes.iter().flat_map(|outcome| &outcome.name_servers) {
        // A name within the domain would lead nowhere.
        let usable = Some(name).filter(|name| !domain.name.covers(name));
        let Some(name) = usable.and_then(wire) else { continue };
        if !name_servers.contains(&name) {
            name_servers.push(name);
        }
    }
    let announced = keys.here.iter().filter(|using| using.announced);
    Ok(Some(SetUp {
        domain: domain.clone(),
        apex: apex(&domain.name),
        added,
        file: file.path().into(),
        name_servers,
        keys: announced.map(|using| using.key.public().clone()).collect(),
    }))
}

impl SetUp {
    fn entry(&self) -> Entry<'_> {
        Entry { apex: &self.apex, name_servers: &self.name_servers, keys: &self.keys }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        self.entry().json()
    }

    /// For people: what is left for them to do.
    pub(super) fn lines(&self) -> Vec<String> {
        let (name, file) = (&self.domain.name, self.file.display());
        let mut lines = vec![self.domain.to_string()];
        if self.added {
            lines.extend([
                format!(
                    "This box makes the zone from now on, and the relay serves it: all records for \
                     mail are in it, and are kept right. Added to {file}."
                ),
                "(To keep the DNS where it is: take the [[zone]] out there, and add --own-dns.)".into(),
                String::new(),
                "1. Have the agent read its file:  systemctl reload sealpost-agent".into(),
                "2. Is the domain in use already, for a web site for example? Put its records into a \
                 zone file, and name that in the [[zone]] (include). Only what is in the zone is \
                 there after step 3."
                    .into(),
                format!("   See what is in it:  sealpost-agent dns sign --check {name}"),
                "3. Tell the registrar:".into(),
            ]);
        } else {
            lines.push("This box makes the zone. The registrar has to know:".into());
        }
        lines.extend(self.entry().lines().into_iter().map(|line| indented(&line)));
        lines.extend([
            String::new(),
            format!("Then see whether all is right:  sealpost-agent dns check {name}"),
            format!(
                "And claim it once more, when the registrar has the DS (or with --wait):  \
                 sealpost-agent domain add {name}"
            ),
            String::new(),
        ]);
        lines
    }
}

fn indented(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!("   {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::ZoneKey;
    use crate::zone::zone_key::Role;

    #[test]
    fn a_domain_that_works_with_its_dns_elsewhere_stays_so() {
        let choice = |zone, own_dns| DnsChoice { zone, own_dns };
        let none = choice(false, false);
        assert_eq!(decide(false, true, false, none), Decision::Add);
        assert_eq!(decide(false, true, true, none), Decision::Elsewhere);
        assert_eq!(decide(false, false, false, none), Decision::Elsewhere);
        assert_eq!(decide(false, false, true, choice(true, false)), Decision::Add);
        assert_eq!(decide(false, true, false, choice(false, true)), Decision::Elsewhere);
        assert_eq!(decide(true, false, true, none), Decision::There);
    }

    #[test]
    fn what_is_left_to_do_is_said_in_order() {
        let mut set_up = SetUp {
            domain: "a.example".parse().unwrap(),
            apex: "a.example.".parse().unwrap(),
            added: true,
            file: "/etc/sealpost/agent.toml".into(),
            name_servers: vec!["ns1.r.example.".parse().unwrap()],
            keys: vec![ZoneKey::generate(Role::Entry).unwrap().public().clone()],
        };
        let text = set_up.lines().join("\n");
        let places =
            ["systemctl reload", "web site", "ns1.r.example", " IN DS ", "dns check", "--wait"];
        let found: Vec<_> = places.iter().map(|words| text.find(words).unwrap()).collect();
        assert!(found.is_sorted(), "{text}");
        set_up.added = false;
        assert!(!set_up.lines().join("\n").contains("reload"));
    }
}
