//! `sealpost-agent domain`

mod given_up;
mod made_here;
mod outcome;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use sealpost_tunnel::MxName;
use sealpost_tunnel::request::{DomainState, MAX_CLAIMED};
use serde_json::json;

use super::{ConfigFile, as_box, chosen, print_json, terminal};
use crate::config::{Config, Relay};
use crate::registration::ask::Asker;
use crate::registration::claim::{claim, release};
use crate::registration::domain::Domain as Name;
use crate::registration::mx_set::{Known, MxSet, claim_of, mx_set};
use crate::registration::records;
use outcome::{Outcome, add_lines, claim_words, list_lines, proofs};

/// Between two attempts of `domain add --wait`.
const WAIT_STEP: Duration = Duration::from_secs(30);
/// How long it waits in all.
const WAIT_MOST: Duration = Duration::from_secs(30 * 60);

/// Claim domains for this box, list them, give them up
#[derive(clap::Args)]
pub(super) struct Domain {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// At this relay alone; may be repeated [default: all relays of the file]
    #[arg(long, value_name = "NAME", global = true)]
    relay: Vec<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Claim a domain; says which DNS record proves that it is yours. May be repeated
    Add {
        /// The domain, in any script
        domain: Name,
        /// An MX name for it: the domain itself or a name beneath it; may be repeated [default:
        /// three for each relay of the file: mx, mx2, mx3 and so on beneath the domain]
        #[arg(long, value_name = "NAME")]
        mx: Vec<String>,
        /// Wait until the record is found, at most 30 minutes
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        dns: DnsChoice,
    },
    /// List the domains of this box
    List,
    /// Give a domain up: the relay takes no more mail for it
    Remove {
        /// The domain, in any script
        domain: Name,
        /// Also take its [[zone]] out of the file; its keys stay
        #[arg(long)]
        zone: bool,
    },
}

/// Who makes the zone of the domain.
#[derive(clap::Args, Clone, Copy)]
pub(super) struct DnsChoice {
    /// Let this box make the zone, and the relay serve it, also for a domain that was claimed with
    /// its DNS elsewhere
    #[arg(long, conflicts_with = "own_dns")]
    zone: bool,
    /// Keep the DNS where it is, and add no [[zone]] to the file
    #[arg(long)]
    own_dns: bool,
}

impl Domain {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        let relays = chosen(&config, &self.relay)?;
        terminal::block_on(async {
            let asker = Asker::new(&config.fixed.state)?;
            let file = &self.file.config;
            let desk = Desk { asker, config: &config, file, relays, json: self.json };
            let done = match &self.what {
                What::Add { domain, mx, wait, dns } => desk.add(domain, mx, *wait, *dns).await,
                What::List => desk.list().await,
                What::Remove { domain, zone } => desk.remove(domain, *zone).await,
            };
            desk.asker.close().await;
            Ok(if done? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}

struct Desk<'a> {
    asker: Asker,
    config: &'a Config,
    file: &'a Path,
    relays: Vec<&'a Relay>,
    json: bool,
}

impl Desk<'_> {
    async fn add(
        &self,
        domain: &Name,
        mx: &[String],
        wait: bool,
        dns: DnsChoice,
    ) -> anyhow::Result<bool> {
        let mx = mx.iter().map(|name| domain.mx(name)).collect::<Result<Vec<_>, _>>()?;
        if mx.len() > MAX_CLAIMED {
            anyhow::bail!("{} MX names are too many: a claim has at most {MAX_CLAIMED}", mx.len());
        }
        let began = Instant::now();
        let mut waited = false;
        let mut outcomes = Vec::new();
        for relay in &self.relays {
            outcomes.push(self.claim(relay, domain, &mx).await);
        }
        let zone = made_here::set_up(self.config, self.file, domain, &outcomes, &mx, dns)?;
        // Before any wait, as it is waited for what is to be done now.
        if let (Some(zone), false) = (&zone, self.json) {
            zone.lines().iter().try_for_each(|line| terminal::print(line))?;
        } else if wait && outcomes.iter().any(|outcome| outcome.worth_waiting) {
            eprintln!("waiting for this record:\n  {}", proofs(&outcomes).join("\n  "));
        }
        while wait
            && outcomes.iter().any(|outcome| outcome.worth_waiting)
            && began.elapsed() + WAIT_STEP < WAIT_MOST
        {
            progress(began.elapsed(), &outcomes);
            tokio::time::sleep(WAIT_STEP).await;
            waited = true;
            for (outcome, relay) in outcomes.iter_mut().zip(&self.relays) {
                if outcome.worth_waiting {
                    *outcome = self.claim(relay, domain, &mx).await;
                }
            }
        }
        if waited && std::io::stderr().is_terminal() {
            eprintln!();
        }
        let done = outcomes.iter().all(|outcome| outcome.done);
        let set = self.set(domain, &outcomes);
        if self.json {
            print_json(&json!({
                "domain": domain.name,
                "written": domain.written,
                "relays": outcomes,
                "records": records::mail(&domain.name, &set),
                "registrar": zone.as_ref().map(made_here::SetUp::json),
            }))?;
            return Ok(done);
        }
        if zone.is_some() {
            let told = outcomes.iter().map(|it| format!("{}: {}", it.relay, it.message));
            told.into_iter().try_for_each(|line| terminal::print(&line))?;
            return Ok(done);
        }
        add_lines(domain, &outcomes, &set).iter().try_for_each(|line| terminal::print(line))?;
        Ok(done)
    }

    /// The exchangers by what the relays just said; others keep their place.
    fn set(&self, domain: &Name, outcomes: &[Outcome]) -> MxSet {
        let standing = |relay: &str| {
            let outcome = outcomes.iter().find(|outcome| outcome.relay == relay);
            outcome.and_then(|outcome| outcome.standing.as_ref())
        };
        let relays = self.config.relays.iter().map(|relay| relay.name.as_str());
        let known = relays.map(|relay| Known { relay, standing: standing(relay) });
        mx_set(&domain.name, &known.collect::<Vec<_>>())
    }

    async fn claim(&self, relay: &Relay, domain: &Name, mx: &[MxName]) -> Outcome {
        let what = format!("{} looks for the record", relay.name);
        let (line, before) = match as_box(&self.asker, self.config, relay).await {
            Ok(answer) => answer,
            Err(failure) => return Outcome::failed(relay, &failure),
        };
        let relays = self.config.relays.len();
        let claiming = claim(&line, &before, &domain.name, mx, relays);
        let mut outcome = match terminal::patiently(&what, claiming).await {
            Ok((standing, claimed)) => Outcome {
                relay: relay.name.clone(),
                done: claimed.state == DomainState::Proved,
                code: None,
                message: claim_words(&claimed),
                proof: None,
                worth_waiting: claimed.state != DomainState::Proved,
                claim: Some(claimed),
                standing: Some(standing),
                name_servers: Vec::new(),
                held: false,
            },
            Err(failure) => Outcome::failed(relay, &failure),
        };
        outcome.name_servers = before.name_servers.clone();
        outcome.held = claim_of(&before, &domain.name).is_some();
        // In the middle of a rotation relays know different keys.
        outcome.proof = Some(records::proof(domain.name.as_str(), before.key.fingerprint()));
        outcome
    }

    async fn remove(&self, domain: &Name, zone: bool) -> anyhow::Result<bool> {
        if zone && self.relays.len() < self.config.relays.len() {
            anyhow::bail!(
                "--zone is for all relays: the others would lose the zone. Leave --relay out"
            );
        }
        let mut outcomes = Vec::new();
        for relay in &self.relays {
            let asked = async {
                let (line, before) = as_box(&self.asker, self.config, relay).await?;
                let releasing = release(&line, &before, &domain.name);
                terminal::patiently(&format!("telling {}", relay.name), releasing).await
            };
            outcomes.push(match asked.await {
                Ok(had) => Outcome::removed(relay, had),
                Err(failure) => Outcome::failed(relay, &failure),
            });
        }
        let done = outcomes.iter().all(|outcome| outcome.done);
        // A relay that could not be told goes on to serve the zone, so it stays too.
        let everywhere = done && self.relays.len() == self.config.relays.len();
        let left = given_up::zone(self.config, self.file, domain, zone && everywhere);
        if self.json {
            let zone = left.as_ref().map(|left| left.as_ref().map(|left| left.json()).ok());
            print_json(&json!({ "domain": domain.name, "relays": outcomes, "zone": zone }))?;
            return left.transpose().map(|_| done);
        }
        for outcome in &outcomes {
            terminal::print(&format!("{}: {}", outcome.relay, outcome.message))?;
        }
        match left.transpose()? {
            Some(left) => left.lines(everywhere).iter().try_for_each(|it| terminal::print(it))?,
            None if done => terminal::print(&format!(
                "Next: take the MX records and _sealpost.{} out of the DNS",
                domain.name
            ))?,
            None => {}
        }
        Ok(done)
    }

    async fn list(&self) -> anyhow::Result<bool> {
        let mut answers = Vec::new();
        for relay in &self.relays {
            let asked = as_box(&self.asker, self.config, relay).await;
            answers.push((*relay, asked.map(|(_line, standing)| standing)));
        }
        let done = answers.iter().all(|(_, answer)| answer.is_ok());
        if self.json {
            let relays: Vec<_> = answers
                .iter()
                .map(|(relay, answer)| {
                    json!({
                        "relay": relay.name,
                        "standing": answer.as_ref().ok(),
                        "error": answer.as_ref().err().map(ToString::to_string),
                    })
                })
                .collect();
            print_json(&json!({ "relays": relays }))?;
            return Ok(done);
        }
        let standings: Vec<_> =
            answers.iter().filter_map(|(r, a)| Some((r.name.as_str(), a.as_ref().ok()?))).collect();
        // Where nobody answered there is nothing to list.
        if !standings.is_empty() {
            list_lines(&standings).iter().try_for_each(|line| terminal::print(line))?;
        }
        for (relay, answer) in &answers {
            if let Err(failure) = answer {
                eprintln!("{}: {failure}", relay.name);
            }
        }
        Ok(done)
    }
}

fn progress(waited: Duration, outcomes: &[Outcome]) {
    let waiting: Vec<_> =
        outcomes.iter().filter(|o| o.worth_waiting).map(|o| o.relay.as_str()).collect();
    let line = format!(
        "{} of {} min: not found yet by {}; next look in {} s",
        waited.as_secs() / 60,
        WAIT_MOST.as_secs() / 60,
        waiting.join(", "),
        WAIT_STEP.as_secs()
    );
    if std::io::stderr().is_terminal() {
        // In place of the line before.
        eprint!("\r\x1b[K{line}");
    } else {
        eprintln!("{line}");
    }
}
