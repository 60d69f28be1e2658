//! `sealpost-agent dns`

mod check;
mod judge;
mod registrar;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Subcommand;
use sealpost_tunnel::request::Standing;
use sealpost_tunnel::{DomainName, Fingerprint, MxName};
use serde_json::{Value, json};

use super::{ConfigFile, as_box, chosen, print_json, terminal};
use crate::config::Config;
use crate::deliver::certificate::{Shown, shown};
use crate::registration::ask::{AskFailure, Asker};
use crate::registration::domain::Domain as Name;
use crate::registration::mx_set::{Known, MxSet, mx_set};
use check::{Checked, check};
use zone::Zone;

/// The service for mail from other servers.
const SMTP: &str = "smtp";

/// Print the DNS records to publish, as lines of a zone file; or see how they are in the world
#[derive(clap::Args)]
pub(super) struct Dns {
    /// Of this domain alone, in any script [default: all that this box has claimed]
    domain: Option<Name>,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Ask the parent zone, the name servers and public resolvers whether all is as it should be;
    /// exits with 0 only then
    Check {
        /// This domain alone, in any script [default: all that this box has claimed]
        #[arg(id = "checked", value_name = "DOMAIN")]
        domain: Option<Name>,
        /// A resolver to ask in place of the public ones (9.9.9.9, 1.1.1.1, 8.8.8.8); may be
        /// repeated
        #[arg(long, value_name = "ADDRESS")]
        resolver: Vec<IpAddr>,
    },
}

/// What each relay of the file said, in its order.
type Answers<'a> = Vec<(&'a str, Result<Standing, AskFailure>)>;

/// What the mail server shows to who asks for a name, or why that is not known.
type Keys = Result<BTreeMap<MxName, Vec<Shown>>, String>;

impl Dns {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        if let (Some(domain), Some(_)) = (&self.domain, &self.what) {
            anyhow::bail!("name {domain} at the end: sealpost-agent dns check {}", domain.name);
        }
        match &self.what {
            None => terminal::block_on(async {
                let told = Told::of(&config, self.domain.as_ref()).await?;
                told.report(self.json)
            }),
            Some(What::Check { domain, resolver }) => terminal::block_on(async {
                let told = Told::of(&config, domain.as_ref()).await?;
                told.check(resolver, self.json).await
            }),
        }
    }
}

/// What relays and the mail server told about domains whose DNS is elsewhere.
struct Told<'a> {
    wanted: Option<&'a Name>,
    answers: Answers<'a>,
    sets: Vec<(DomainName, MxSet)>,
    keys: Keys,
}

impl<'a> Told<'a> {
    async fn of(config: &'a Config, wanted: Option<&'a Name>) -> anyhow::Result<Self> {
        let answers = ask(config).await?;
        let domains = domains(&answers, wanted);
        let sets: Vec<_> = domains.into_iter().map(|name| set(name, &answers)).collect();
        let keys = match sets.is_empty() {
            true => Ok(BTreeMap::new()),
            false => keys(config, &sets).await,
        };
        Ok(Self { wanted, answers, sets, keys })
    }

    fn zones<'b>(&'b self, fingerprints: &'b [Fingerprint]) -> Vec<Zone<'b>> {
        let zone = |(name, set)| Zone { name, set, fingerprints, keys: &self.keys };
        self.sets.iter().map(|(name, set)| zone((name, set))).collect()
    }

    fn report(&self, as_json: bool) -> anyhow::Result<ExitCode> {
        let fingerprints = fingerprints(&self.answers);
        let zones = self.zones(&fingerprints);
        if as_json {
            let domains: Vec<_> = zones.iter().map(Zone::json).collect();
            print_json(&json!({ "domains": domains, "unreached": self.unreached() }))?;
        } else {
            let lines = zones.iter().map(Zone::lines).collect::<Vec<_>>().join(&String::new());
            lines.iter().try_for_each(|line| terminal::print(line))?;
        }
        let done = self.complain();
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn check(&self, resolvers: &[IpAddr], as_json: bool) -> anyhow::Result<ExitCode> {
        let fingerprints = fingerprints(&self.answers);
        let wanted =
            self.zones(&fingerprints).iter().map(Zone::wanted).collect::<Result<_, _>>()?;
        let checked = check(wanted, resolvers).await;
        if as_json {
            let domains: Vec<_> = checked.iter().map(Checked::json).collect();
            print_json(&json!({ "checked": domains, "unreached": self.unreached() }))?;
        } else {
            let lines = checked.iter().map(Checked::lines).collect::<Vec<_>>().join(&String::new());
            lines.iter().try_for_each(|line| terminal::print(line))?;
        }
        let done = self.complain() && checked.iter().all(Checked::all_well);
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The relays that did not answer, for programs.
    fn unreached(&self) -> Vec<Value> {
        let errors = self.answers.iter().filter_map(|(relay, answer)| {
            let error = answer.as_ref().err()?.to_string();
            Some(json!({ "relay": relay, "error": error }))
        });
        errors.collect()
    }

    /// Says on standard error what is missing; whether nothing is.
    fn complain(&self) -> bool {
        for (relay, answer) in &self.answers {
            if let Err(failure) = answer {
                eprintln!("{relay}: {failure}");
            }
        }
        let all_answered = self.answers.iter().all(|(_, answer)| answer.is_ok());
        if self.sets.is_empty() && all_answered {
            let (what, claim) = match self.wanted {
                Some(domain) => (format!("{domain} is not claimed"), domain.name.as_str()),
                None => ("no domain is claimed".into(), "DOMAIN"),
            };
            eprintln!("{what}; claim it with: sealpost-agent domain add {claim}");
        }
        all_answered && !self.sets.is_empty()
    }
}

/// Of which domains there is something to say.
fn domains(answers: &Answers<'_>, wanted: Option<&Name>) -> BTreeSet<DomainName> {
    let standings = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let claims = standings.flat_map(|standing| &standing.domains);
    let names = claims.map(|claim| claim.domain.clone());
    names.filter(|name| wanted.is_none_or(|wanted| wanted.name == *name)).collect()
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

/// A domain as a name of DNS.
fn apex(domain: &DomainName) -> sealpost_dns::record::Name {
    format!("{domain}.").parse().expect("a domain name was checked")
}
