//! `sealpost-agent dns`

mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use sealpost_tunnel::request::Standing;
use sealpost_tunnel::{DomainName, Fingerprint, MxName};
use serde_json::json;

use super::{ConfigFile, as_box, chosen, print_json, terminal};
use crate::config::Config;
use crate::deliver::certificate::{Shown, shown};
use crate::registration::ask::{AskFailure, Asker};
use crate::registration::domain::Domain as Name;
use crate::registration::mx_set::{Known, MxSet, mx_set};
use zone::Zone;

/// The service for mail from other servers.
const SMTP: &str = "smtp";

/// Print the DNS records to publish, as lines of a zone file
#[derive(clap::Args)]
pub(super) struct Dns {
    /// Of this domain alone, in any script [default: all that this box has claimed]
    domain: Option<Name>,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What each relay of the file said, in its order.
type Answers<'a> = Vec<(&'a str, Result<Standing, AskFailure>)>;

/// What the mail server shows to who asks for a name, or why that is not known.
type Keys = Result<BTreeMap<MxName, Vec<Shown>>, String>;

impl Dns {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        terminal::block_on(async {
            let answers = ask(&config).await?;
            let domains = self.domains(&answers);
            let sets: Vec<_> = domains.into_iter().map(|name| set(name, &answers)).collect();
            let keys = match sets.is_empty() {
                true => Ok(BTreeMap::new()),
                false => keys(&config, &sets).await,
            };
            self.report(&sets, &answers, &keys)
        })
    }

    /// Of which domains there is something to say.
    fn domains(&self, answers: &Answers<'_>) -> BTreeSet<DomainName> {
        let wanted = self.domain.as_ref().map(|domain| &domain.name);
        let standings = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        let claims = standings.flat_map(|standing| &standing.domains);
        let names = claims.map(|claim| claim.domain.clone());
        names.filter(|name| wanted.is_none_or(|wanted| wanted == name)).collect()
    }

    fn report(
        &self,
        sets: &[(DomainName, MxSet)],
        answers: &Answers<'_>,
        keys: &Keys,
    ) -> anyhow::Result<ExitCode> {
        let fingerprints = fingerprints(answers);
        let zones: Vec<_> = sets
            .iter()
            .map(|(name, set)| Zone { name, set, fingerprints: &fingerprints, keys })
            .collect();
        let all_answered = answers.iter().all(|(_, answer)| answer.is_ok());
        if self.json {
            let errors = answers.iter().filter_map(|(relay, answer)| {
                let error = answer.as_ref().err()?.to_string();
                Some(json!({ "relay": relay, "error": error }))
            });
            let domains: Vec<_> = zones.iter().map(Zone::json).collect();
            print_json(&json!({ "domains": domains, "unreached": errors.collect::<Vec<_>>() }))?;
        } else {
            let lines = zones.iter().map(Zone::lines).collect::<Vec<_>>().join(&String::new());
            lines.iter().try_for_each(|line| terminal::print(line))?;
        }
        for (relay, answer) in answers {
            if let Err(failure) = answer {
                eprintln!("{relay}: {failure}");
            }
        }
        if sets.is_empty() && all_answered {
            let (what, claim) = match &self.domain {
                Some(domain) => (format!("{domain} is not claimed"), domain.name.as_str()),
                None => ("no domain is claimed".into(), "DOMAIN"),
            };
            eprintln!("{what}; claim it with: sealpost-agent domain add {claim}");
        }
        let done = all_answered && !sets.is_empty();
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Asks every relay of the file.
async fn ask(config: &Config) -> anyhow::Result<Answers<'_>> {
    let asker = Asker::new(&config.fixed.state)?;
    let mut answers = Vec::new();
    for relay in chosen(config, &[])? {
        let answer = as_box(&asker, config, relay).await.map(|(_line, standing)| standing);
        answers.push((relay.name.as_str(), answer));
    }
    asker.close().await;
    Ok(answers)
}

fn set(domain: DomainName, answers: &Answers<'_>) -> (DomainName, MxSet) {
    let known: Vec<_> = answers
        .iter()
        .map(|(relay, answer)| Known { relay, standing: answer.as_ref().ok() })
        .collect();
    let set = mx_set(&domain, &known);
    (domain, set)
}

/// The records that prove a domain, but for its name: in the middle of a rotation relays know
/// different keys.
fn fingerprints(answers: &Answers<'_>) -> Vec<Fingerprint> {
    let standings = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let mut all: Vec<Fingerprint> = Vec::new();
    for fingerprint in standings.map(|standing| standing.key.fingerprint()) {
        if !all.contains(&fingerprint) {
            all.push(fingerprint);
        }
    }
    all
}

/// Asks the mail server for the keys behind all names that `sets` use.
async fn keys(config: &Config, sets: &[(DomainName, MxSet)]) -> Keys {
    let service = config.services.iter().find(|service| service.name.as_str() == SMTP);
    let Some(service) = service else {
        return Err(format!("the file names no service \"{SMTP}\""));
    };
    let exchangers = sets.iter().flat_map(|(_, set)| &set.exchangers);
    let names: BTreeSet<_> = exchangers.map(|exchanger| exchanger.name.clone()).collect();
    terminal::patiently("asking the mail server for its key", shown(service, names)).await
}
