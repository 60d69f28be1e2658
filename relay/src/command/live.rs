//! `sealpost-relay sessions` and `sealpost-relay status`: what only the running relay knows.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::table::{facts, or_dash, table};
use super::time::span;
use super::{registry, terminal};
use crate::admin::client::{AskError, ask};
use crate::admin::registry_location;
use crate::admin::report::{self, OpenSessions};
use crate::config::Fixed;
use crate::registrar::now;
use crate::registry::follow::Follower;
use crate::registry::{Registry, Snapshot};

/// List the connections from senders that are open now
#[derive(clap::Args)]
pub(super) struct Sessions {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Show how the running relay is; exits with 1 when it does not run or has trouble
#[derive(clap::Args)]
pub(super) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Sessions {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        let mut open: OpenSessions =
            terminal::block_on(async { Ok(ask(&fixed.socket, "/sessions").await?) })?;
        open.sessions.sort_by(|a, b| b.seconds.cmp(&a.seconds).then(a.session.cmp(&b.session)));
        if self.json {
            return terminal::print_json(&open);
        }
        let none = "No session is open.";
        let time = |session: &report::OpenSession| span(session.seconds);
        let phase = |session: &report::OpenSession| session.phase.label().to_owned();
        let text = if open.named {
            let rows = open.sessions.iter().map(|s| {
                let (id, client) = (s.session.clone(), s.client.to_string());
                let local = or_dash(s.local);
                let (to, sni) = (or_dash(s.r#box.as_ref()), or_dash(s.sni.as_ref()));
                [id, client, time(s), phase(s), to, sni, local]
            });
            let head = ["SESSION", "CLIENT", "OPEN FOR", "PHASE", "BOX", "SNI", "LOCAL"];
            table(head, rows.collect(), none)
        } else {
            let rows = open
                .sessions
                .iter()
                .map(|s| [s.session.clone(), s.client.to_string(), time(s), phase(s)]);
            table(["SESSION", "CLIENT", "OPEN FOR", "PHASE"], rows.collect(), none)
        };
        if open.open > open.sessions.len() {
            terminal::note(&format!("{} of {} are listed", open.sessions.len(), open.open));
        }
        terminal::print(&text)
    }
}

/// What the registry tells when the relay does not.
#[derive(Serialize)]
struct Alone {
    kind: &'static str,
    location: String,
    revision: u64,
    boxes: usize,
    open_invites: usize,
}

impl Status {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<ExitCode> {
        let asked = terminal::block_on(async {
            Ok(match ask::<report::Status>(&fixed.socket, "/status").await {
                Ok(status) => Ok(status),
                Err(error) => Err((error, Alone::read(fixed).await)),
            })
        })?;
        match asked {
            Ok(status) => self.running(status),
            Err((error, alone)) => self.alone(fixed, &error, alone),
        }
    }

    fn running(&self, status: report::Status) -> anyhow::Result<ExitCode> {
        let exit = if status.trouble.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        if self.json {
            let mut object = serde_json::to_value(&status)?;
            object["running"] = true.into();
            terminal::print_json(&object)?;
        } else {
            terminal::print(&text(&status))?;
        }
        Ok(exit)
    }

    fn alone(
        &self,
        fixed: &Fixed,
        error: &AskError,
        alone: anyhow::Result<Alone>,
    ) -> anyhow::Result<ExitCode> {
        let mut trouble = vec![error.to_string()];
        let alone = alone.map_err(|error| trouble.push(format!("{error:#}"))).ok();
        if self.json {
            // Whoever may not ask does not know.
            let running = matches!(error, AskError::NotRunning(_)).then_some(false);
            terminal::print_json(&json!({
                "running": running,
                "registry": alone,
                "trouble": trouble,
            }))?;
            return Ok(ExitCode::FAILURE);
        }
        let (kind, location) = registry_location(fixed);
        let mut known: Vec<_> = vec![("registry", format!("{kind}, {location}"))];
        if let Some(alone) = alone {
            known.push(("revision", alone.revision.to_string()));
            known.push(("boxes", alone.boxes.to_string()));
            known.push(("invites", format!("{} open", alone.open_invites)));
        }
        known.extend(trouble.into_iter().map(|trouble| ("TROUBLE", trouble)));
        terminal::print(&facts(&known))?;
        Ok(ExitCode::FAILURE)
    }
}

impl Alone {
    async fn read(fixed: &Fixed) -> anyhow::Result<Self> {
        let database = Arc::new(registry(fixed).await?);
        let known = Arc::new(Registry::new(Snapshot::default()));
        Follower::start(database.clone(), known.clone()).await?;
        let now = now();
        let invites = database.invites().await?;
        let open = invites.iter().filter(|one| one.spent.is_none() && one.expires > now).count();
        let (kind, location) = registry_location(fixed);
        let known = known.snapshot();
        let (revision, boxes) = (known.revision(), known.len());
        Ok(Self { kind, location, revision, boxes, open_invites: open })
    }
}

fn text(status: &report::Status) -> String {
    let at = |service: &str| {
        let found = status.listening.iter().filter(|one| one.service == service);
        found.map(|one| one.address.to_string()).collect::<Vec<_>>().join(", ")
    };
    let registry = &status.registry;
    let mut known = vec![
        ("relay", format!("{}, sealpost-relay {}", status.hostname, status.version)),
        ("up for", span(status.uptime_seconds)),
        ("key", format!("{}\n{}", status.key, status.key.fingerprint().words())),
        ("senders", at("smtp")),
        ("boxes", at("tunnel")),
        ("metrics", at("admin")),
        ("connected", format!("{} of {} boxes", status.boxes_connected, registry.boxes)),
        ("sessions", format!("{} open", status.sessions_open)),
        ("registry", format!("{}, {}", registry.kind, registry.location)),
        ("revision", registry.revision.to_string()),
    ];
    if !at("dns").is_empty() {
        known.insert(5, ("dns", at("dns")));
    }
    if let Some(away) = &registry.away {
        known.push(("away for", span(away.seconds_ago)));
    }
    if let Some(refused) = &status.reload_refused {
        known.push(("reload", format!("refused {} ago", span(refused.seconds_ago))));
    }
    known.extend(status.trouble.iter().map(|trouble| ("TROUBLE", trouble.clone())));
    facts(&known)
}
