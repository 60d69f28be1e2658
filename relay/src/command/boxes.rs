//! `sealpost-relay boxes`

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::bail;
use clap::Subcommand;
use sealpost_tunnel::{AddressPair, BoxName, Fingerprint, PublicKey};
use serde::Serialize;
use serde_json::json;

use super::invite::MAX_DOMAINS;
use super::table::{facts, or_dash, table};
use super::time::{Day, span};
use super::{domains, registry, terminal};
use crate::admin::client::{AskError, ask};
use crate::admin::report::{ConnectedBox, ConnectedBoxes};
use crate::config::Fixed;
use crate::registry::Database;
use crate::registry::boxes::{Entry, State};

/// List boxes, show one, or change how many domains it may have
#[derive(clap::Args)]
pub(super) struct Boxes {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Show all that is known of a box
    Show {
        /// Its name; one that left has its number behind a #
        name: String,
    },
    /// Change how many domains a box may have. It keeps those that it has
    Allow {
        /// The box
        name: BoxName,
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_DOMAINS))]
        domains: u32,
    },
}

/// A box in the list.
#[derive(Serialize)]
struct Line {
    name: String,
    state: State,
    /// At this relay: `connected`, `away`, or `unknown` when it cannot be asked.
    live: &'static str,
    #[serde(flatten)]
    tunnel: Option<Tunnel>,
    joined: Day,
    last_seen: Option<Day>,
    domains_used: usize,
    domains_allowed: u32,
    addresses: Vec<IpAddr>,
    pairs: Vec<AddressPair>,
    own_name: Option<String>,
    key: PublicKey,
    fingerprint: Fingerprint,
    words: String,
    recovery: Option<PublicKey>,
}

/// What is live of a box.
#[derive(Serialize)]
struct Tunnel {
    connected_seconds: u64,
    sessions: usize,
    tunnels: usize,
    peer: IpAddr,
    software: String,
}

/// A box with its domains.
#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    line: Line,
    domains: Vec<domains::Line>,
}

impl Boxes {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        terminal::block_on(async {
            let database = registry(fixed).await?;
            match &self.what {
                None => self.list(fixed, &database).await,
                Some(What::Show { name }) => self.show(fixed, &database, name).await,
                Some(What::Allow { name, domains }) => self.allow(&database, name, *domains).await,
            }
        })
    }

    async fn list(&self, fixed: &Fixed, database: &Database) -> anyhow::Result<()> {
        let sources = Sources::read(fixed, database).await?;
        let lines: Vec<_> =
            database.boxes().await?.into_iter().map(|entry| sources.line(fixed, entry)).collect();
        if self.json {
            return terminal::print_json(&lines);
        }
        let head =
            ["NAME", "STATE", "LIVE", "SESSIONS", "SEEN", "DOMAINS", "ADDRESSES", "FINGERPRINT"];
        let none = "There are no boxes yet; invite one: sealpost-relay invite NAME";
        terminal::print(&table(head, lines.iter().map(Line::cells).collect(), none))
    }

    async fn show(&self, fixed: &Fixed, database: &Database, name: &str) -> anyhow::Result<()> {
        let mut boxes = database.boxes().await?.into_iter();
        let Some(entry) = boxes.find(|entry| entry.name == name) else {
            bail!("there is no box `{name}`; `sealpost-relay boxes` lists them");
        };
        let mut sources = Sources::read(fixed, database).await?;
        let line = sources.line(fixed, entry);
        let page = Page { domains: sources.domains.remove(name).unwrap_or_default(), line };
        if self.json {
            return terminal::print_json(&page);
        }
        terminal::print(&page.text())
    }

    async fn allow(&self, database: &Database, name: &BoxName, domains: u32) -> anyhow::Result<()> {
        database.allow(name, domains).await?;
        if self.json {
            return terminal::print_json(&json!({ "name": name, "domains_allowed": domains }));
        }
        terminal::print(&format!("`{name}` may have {domains} domains."))
    }
}

/// Where the parts of a line come from.
struct Sources {
    live: Result<HashMap<PublicKey, ConnectedBox>, AskError>,
    addresses: HashMap<String, Vec<IpAddr>>,
    pairs: HashMap<String, Vec<AddressPair>>,
    domains: HashMap<String, Vec<domains::Line>>,
}

impl Sources {
    async fn read(fixed: &Fixed, database: &Database) -> anyhow::Result<Self> {
        let live = ask::<ConnectedBoxes>(&fixed.socket, "/boxes").await;
        let live = live
            .map(|live| live.boxes.into_iter().map(|one| (one.key, one)).collect())
            .inspect_err(|error| terminal::note(&format!("who is connected is unknown: {error}")));
        let mut addresses = HashMap::<String, Vec<IpAddr>>::new();
        for one in database.assigned().await? {
            addresses.entry(one.r#box).or_default().push(one.address);
        }
        let mut domains = HashMap::<String, Vec<domains::Line>>::new();
        for one in database.domains().await? {
            domains.entry(one.r#box.clone()).or_default().push(domains::Line::new(one));
        }
        let mut pairs = HashMap::<String, Vec<AddressPair>>::new();
        for (name, pair) in database.given_pairs().await? {
            pairs.entry(name).or_default().push(pair);
        }
        Ok(Self { live, addresses, pairs, domains })
    }

    fn line(&self, fixed: &Fixed, entry: Entry) -> Line {
        let tunnel = self.live.as_ref().ok().and_then(|live| live.get(&entry.key));
        let own = fixed.own_prefix.and_then(|prefix| prefix.address(entry.id));
        let own = own.filter(|_| entry.state != State::Left).map(IpAddr::V6);
        let given = self.addresses.get(&entry.name).into_iter().flatten();
        let domains = self.domains.get(&entry.name).into_iter().flatten();
        let active = entry.state == State::Active;
        let under = fixed.box_domain.as_ref().filter(|_| active);
        let fingerprint = entry.key.fingerprint();
        Line {
            live: match (&self.live, tunnel) {
                (Err(_), _) => "unknown",
                (Ok(_), None) => "away",
                (Ok(_), Some(_)) => "connected",
            },
            tunnel: tunnel.map(Tunnel::new),
            state: entry.state,
            joined: Day(entry.created_day),
            last_seen: entry.seen_day.map(Day),
            domains_used: domains.filter(|domain| domain.counts()).count(),
            domains_allowed: entry.domains_allowed,
            addresses: own.into_iter().chain(given.copied()).collect(),
            pairs: self.pairs.get(&entry.name).cloned().unwrap_or_default(),
            own_name: under.map(|under| format!("{}.{under}", entry.name)),
            words: fingerprint.words(),
            fingerprint,
            key: entry.key,
            recovery: entry.recovery,
            name: entry.name,
        }
    }
}

impl Tunnel {
    fn new(connected: &ConnectedBox) -> Self {
        Self {
            connected_seconds: connected.since_seconds,
            sessions: connected.sessions,
            tunnels: connected.tunnels,
            peer: connected.address,
            software: connected.software.clone(),
        }
    }
}

impl Line {
    fn cells(&self) -> [String; 8] {
        [
            self.name.clone(),
            self.state().into(),
            match (&self.tunnel, self.state) {
                (Some(tunnel), _) => format!("for {}", span(tunnel.connected_seconds)),
                (None, State::Active) => self.live.into(),
                (None, _) => "-".into(),
            },
            or_dash(self.tunnel.as_ref().map(|tunnel| tunnel.sessions)),
            or_dash(self.last_seen),
            format!("{}/{}", self.domains_used, self.domains_allowed),
            self.addresses(),
            self.fingerprint.to_string(),
        ]
    }

    fn state(&self) -> &'static str {
        match self.state {
            State::Active => "active",
            State::Revoked => "revoked",
            State::Left => "left",
        }
    }

    fn pairs(&self) -> String {
        let pairs: Vec<_> = self.pairs.iter().map(AddressPair::to_string).collect();
        if pairs.is_empty() { "-".into() } else { pairs.join(", ") }
    }

    fn addresses(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(IpAddr::to_string).collect();
        if addresses.is_empty() { "-".into() } else { addresses.join(", ") }
    }
}

impl Page {
    fn text(&self) -> String {
        let Self { line, domains } = self;
        let live = match &line.tunnel {
            Some(tunnel) => format!(
                "connected for {} from {}, {}, {} open sessions",
                span(tunnel.connected_seconds),
                tunnel.peer,
                tunnel.software,
                tunnel.sessions
            ),
            None => line.live.into(),
        };
        let mut known = vec![
            ("name", line.name.clone()),
            ("state", line.state().into()),
            ("joined", line.joined.to_string()),
            ("live", live),
            ("last seen", or_dash(line.last_seen)),
            ("key", line.key.to_string()),
            ("fingerprint", line.fingerprint.to_string()),
            ("words", line.words.clone()),
            ("recovery", line.recovery.map_or("no kit".into(), |key| format!("a kit, {key}"))),
            ("addresses", line.addresses()),
            ("address pairs", line.pairs()),
            ("own name", or_dash(line.own_name.as_ref())),
            ("domains", format!("{} of {}", line.domains_used, line.domains_allowed)),
        ];
        known.extend(domains.iter().map(|domain| ("", domain.sentence())));
        facts(&known)
    }
}
