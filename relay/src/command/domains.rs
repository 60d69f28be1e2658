//! `sealpost-relay domains`

use clap::Subcommand;
use sealpost_tunnel::request::ProofMethod;
use sealpost_tunnel::{DomainName, MxName};
use serde::Serialize;

use super::table::{or_dash, table};
use super::time::Moment;
use super::{registry, terminal};
use crate::config::Fixed;
use crate::proof::life::State;
use crate::registry::domains::{Domain, REST};

/// List domains, whose they are and whether their proof is there; or end the rest of one
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Domains {
    #[command(subcommand)]
    what: Option<What>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Let another box claim a domain that was released, before its 90 days are over. Its owner
    /// must prove it all the same
    Free {
        /// The domain
        domain: DomainName,
    },
}

/// A domain in the list.
#[derive(Serialize)]
pub(super) struct Line {
    domain: DomainName,
    pub(super) r#box: String,
    state: &'static str,
    since: Moment,
    mx: Vec<MxName>,
    method: ProofMethod,
    last_proof: Moment,
    next_check: Option<Moment>,
    suspends_on: Option<Moment>,
    rests_until: Option<Moment>,
    detail: String,
}

impl Domains {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        if let Some(What::Free { domain }) = &self.what {
            return free(fixed, domain);
        }
        let lines: Vec<_> = terminal::block_on(async {
            let domains = registry(fixed).await?.domains().await?;
            Ok(domains.into_iter().map(Line::new).collect())
        })?;
        if self.json {
            return terminal::print_json(&lines);
        }
        let rows = lines.iter().map(Line::cells).collect();
        terminal::print(&table(HEAD, rows, "No box has a domain yet."))
    }
}

fn free(fixed: &Fixed, domain: &DomainName) -> anyhow::Result<()> {
    let ended = terminal::block_on(async { Ok(registry(fixed).await?.end_rest(domain).await?) })?;
    anyhow::ensure!(ended, "{domain} does not rest; `sealpost-relay domains` shows what does");
    terminal::print(&format!("{domain} is free: whoever proves it may claim it."))
}

const HEAD: [&str; 8] =
    ["DOMAIN", "BOX", "STATE", "SINCE", "MX", "LAST PROOF", "NEXT CHECK", "DETAIL"];

impl Line {
    pub(super) fn new(domain: Domain) -> Self {
        let released = domain.life.state == State::Released;
        Self {
            state: match domain.life.state {
                State::Proved => "proved",
                State::Warned => "warned",
                State::Suspended => "suspended",
                State::Released => "released",
            },
            since: Moment(domain.life.since),
            next_check: (!released).then_some(Moment(domain.next_check)),
            suspends_on: domain.life.suspends_on().map(Moment),
            rests_until: released.then(|| Moment(domain.life.since.saturating_add(REST))),
            last_proof: Moment(domain.proved),
            domain: domain.name,
            r#box: domain.r#box,
            mx: domain.mx,
            method: domain.method,
            detail: domain.detail,
        }
    }

    /// Whether it counts among those that its box may have.
    pub(super) fn counts(&self) -> bool {
        self.rests_until.is_none()
    }

    fn cells(&self) -> [String; 8] {
        [
            self.domain.to_string(),
            self.r#box.clone(),
            self.state.into(),
            self.since.to_string(),
            self.names(),
            self.last_proof.to_string(),
            or_dash(self.next_check),
            self.remark(),
        ]
    }

    /// One line about it, for the page of its box.
    pub(super) fn sentence(&self) -> String {
        let (domain, state, since) = (&self.domain, self.state, self.since);
        let remark = match self.remark().as_str() {
            "-" => String::new(),
            remark => format!(" ({remark})"),
        };
        match self.names().as_str() {
            "-" => format!("{domain}: {state} since {since}{remark}"),
            names => format!("{domain}: {state} since {since}, for {names}{remark}"),
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.mx.iter().map(MxName::as_str).collect();
        if names.is_empty() { "-".into() } else { names.join(", ") }
    }

    fn remark(&self) -> String {
        let date = self.suspends_on.map(|on| format!("to be suspended on {on}"));
        let rest = self.rests_until.map(|until| format!("nobody else may have it until {until}"));
        let detail = (!self.detail.is_empty()).then(|| self.detail.clone());
        let parts: Vec<_> = [date, rest, detail].into_iter().flatten().collect();
        if parts.is_empty() { "-".into() } else { parts.join("; ") }
    }
}
