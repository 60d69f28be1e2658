//! `sealpost-agent dns`

mod check;
mod judge;
mod made_here;
mod offline;
mod own_zone;
pub(super) mod registrar;
mod rollover;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
use judge::Wanted;
use made_here::Kept;
use offline::VALIDITY;
use rollover::{Wish, rollover};
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
    /// Print what to enter at the registrar: name servers, and the DS in all forms. Asks nobody
    Ds {
        /// The domain, in any script
        #[arg(id = "entered", value_name = "DOMAIN")]
        domain: Name,
    },
    /// Print the zone as it is signed, to read or to take it elsewhere
    Zone {
        /// The domain, in any script
        #[arg(id = "printed", value_name = "DOMAIN")]
        domain: Name,
        /// Write it to this file instead
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make and sign the zone from what is known now, and show what would change
    Sign {
        /// This domain alone, in any script [default: all zones of the file]
        #[arg(id = "signed", value_name = "DOMAIN")]
        domain: Option<Name>,
        /// Publish nothing. The running agent does that by itself
        #[arg(long, required = true)]
        check: bool,
    },
    /// Change the key that the parent zone knows, step by step. May be repeated, and goes on
    Rollover {
        /// The domain, in any script
        #[arg(id = "rolled", value_name = "DOMAIN")]
        domain: Name,
        /// Show how far it is, and do nothing
        #[arg(long, conflicts_with = "abort")]
        status: bool,
        /// Give it up: at once, or by the same steps where the parent was asked already
        #[arg(long)]
        abort: bool,
        /// A resolver that shows the way in place of the public ones; may be repeated
        #[arg(long, value_name = "ADDRESS")]
        resolver: Vec<IpAddr>,
    },
    /// Take the key that the parent zone knows off this box, into a recovery kit of the zone. May be
    /// repeated, and goes on
    Offline {
        /// The domain, in any script
        #[arg(id = "kept_off", value_name = "DOMAIN")]
        domain: Name,
        /// The kit: a file to write, best on a stick
        #[arg(long, value_name = "FILE")]
        kit: PathBuf,
        /// How long the list of keys is good that it signs, 4 to 400 days [default: 365d]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        validity: Option<Duration>,
        /// Take the key back onto the box, from the kit in the file or - for standard input
        #[arg(long, conflicts_with = "validity")]
        back: bool,
    },
    /// Have the zone's recovery kit sign the list of keys anew
    SignKeys {
        /// The domain, in any script
        #[arg(id = "renewed", value_name = "DOMAIN")]
        domain: Name,
        /// The kit, in a file or - for standard input
        #[arg(long, value_name = "FILE")]
        kit: PathBuf,
        /// How long the list is good, 4 to 400 days [default: 365d]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        validity: Option<Duration>,
        /// Change the key that signs the records, too
        #[arg(long)]
        new_zone_key: bool,
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
            None => self.look(&config, self.domain.as_ref(), &[], false),
            Some(What::Check { domain, resolver }) => {
                self.look(&config, domain.as_ref(), resolver, true)
            }
            Some(What::Ds { domain }) => own_zone::ds(&Kept::one(&config, domain)?, self.json),
            Some(What::Zone { domain, output }) => {
                own_zone::zone(&Kept::one(&config, domain)?, output.as_deref(), self.json)
            }
            Some(What::Sign { domain, check: _ }) => {
                own_zone::sign(&Kept::all(&config, domain.as_ref())?, self.json)
            }
            Some(What::Rollover { domain, status, abort, resolver }) => {
                let wish = match (status, abort) {
                    (true, _) => Wish::Status,
                    (_, true) => Wish::Abort,
                    _ => Wish::Go,
                };
                let kept = Kept::one(&config, domain)?;
                terminal::block_on(rollover(&kept, wish, resolver, self.json))
            }
            Some(What::Offline { domain, kit, back: true, .. }) => {
                offline::back(&Kept::one(&config, domain)?, kit, self.json)
            }
            Some(What::Offline { domain, kit, validity, .. }) => {
                let (kept, validity) = (Kept::one(&config, domain)?, validity.unwrap_or(VALIDITY));
                terminal::block_on(offline::offline(&kept, kit, validity, self.json))
            }
            Some(What::SignKeys { domain, kit, validity, new_zone_key }) => {
                let (kept, validity) = (Kept::one(&config, domain)?, validity.unwrap_or(VALIDITY));
                offline::sign_keys(&kept, kit, validity, *new_zone_key, self.json)
            }
        }
    }

    /// Zones that are made here are right by themselves, so of them there is nothing to print but
    /// how they are. Of other domains the records are printed, or checked.
    fn look(
        &self,
        config: &Config,
        domain: Option<&Name>,
        resolvers: &[IpAddr],
        check_all: bool,
    ) -> anyhow::Result<ExitCode> {
        let kept = Kept::all(config, domain)?;
        let mut unmade = Vec::new();
        let mut wanted = Vec::new();
        for kept in &kept {
            match kept.wanted() {
                Ok(it) => wanted.push((kept.domain().clone(), it)),
                Err(error) => unmade.push(format!("{error:#}")),
            }
        }
        let made_here: BTreeSet<_> = kept.iter().map(|kept| kept.domain().clone()).collect();
        let all_here = domain.is_some() && !made_here.is_empty();
        terminal::block_on(async {
            // Who asks for one zone that is made here needs no relay.
            let told = match all_here {
                true => None,
                false => Some(Told::of(config, domain, made_here).await?),
            };
            if let (Some(told), true) = (&told, check_all) {
                wanted.extend(told.wanted()?);
            }
            let checked = match wanted.is_empty() {
                true => Vec::new(),
                false => check(wanted, resolvers).await,
            };
            let printed = told.as_ref().filter(|_| !check_all);
            self.report(printed, told.as_ref(), &checked)?;
            unmade.iter().for_each(|error| eprintln!("{error}"));
            let complete = told.as_ref().is_none_or(|told| told.complain(!kept.is_empty()));
            let done = complete && unmade.is_empty() && checked.iter().all(Checked::all_well);
            Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }

    fn report(
        &self,
        printed: Option<&Told<'_>>,
        told: Option<&Told<'_>>,
        checked: &[Checked],
    ) -> anyhow::Result<()> {
        let fingerprints = told.map(|told| fingerprints(&told.answers)).unwrap_or_default();
        let zones = printed.map(|told| told.zones(&fingerprints)).unwrap_or_default();
        if self.json {
            let unreached = told.map(Told::unreached).unwrap_or_default();
            return print_json(&json!({
                "domains": zones.iter().map(Zone::json).collect::<Vec<_>>(),
                "checked": checked.iter().map(Checked::json).collect::<Vec<_>>(),
                "unreached": unreached,
            }));
        }
        let blocks = zones.iter().map(Zone::lines).chain(checked.iter().map(Checked::lines));
        let lines = blocks.collect::<Vec<_>>().join(&String::new());
        lines.iter().try_for_each(|line| terminal::print(line))
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
    async fn of(
        config: &'a Config,
        wanted: Option<&'a Name>,
        made_here: BTreeSet<DomainName>,
    ) -> anyhow::Result<Self> {
        let answers = ask(config).await?;
        let domains = domains(&answers, wanted).into_iter();
        let elsewhere = domains.filter(|domain| !made_here.contains(domain));
        let sets: Vec<_> = elsewhere.map(|name| set(name, &answers)).collect();
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

    /// What is to be found in the DNS.
    fn wanted(&self) -> anyhow::Result<Vec<(DomainName, Wanted)>> {
        let fingerprints = fingerprints(&self.answers);
        self.zones(&fingerprints).iter().map(Zone::wanted).collect()
    }

    /// The relays that did not answer, for programs.
    fn unreached(&self) -> Vec<Value> {
        let errors = self.answers.iter().filter_map(|(relay, answer)| {
            let error = answer.as_ref().err()?.to_string();
            Some(json!({ "relay": relay, "error": error }))
        });
        errors.collect()
    }

    /// Says on standard error what is missing; whether nothing is. `others` are domains that the
    /// relays were not asked about.
    fn complain(&self, others: bool) -> bool {
        for (relay, answer) in &self.answers {
            if let Err(failure) = answer {
                eprintln!("{relay}: {failure}");
            }
        }
        let all_answered = self.answers.iter().all(|(_, answer)| answer.is_ok());
        let none = self.sets.is_empty() && !others;
        if none && all_answered {
            let (what, claim) = match self.wanted {
                Some(domain) => (format!("{domain} is not claimed"), domain.name.as_str()),
                None => ("no domain is claimed".into(), "DOMAIN"),
            };
            eprintln!("{what}; claim it with: sealpost-agent domain add {claim}");
        }
        all_answered && !none
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
