//! `sealpost-relay invites`

use anyhow::bail;
use clap::Subcommand;
use sealpost_tunnel::BoxName;
use serde::Serialize;
use serde_json::json;

use super::table::{or_dash, table};
use super::time::Moment;
use super::{registry, terminal};
use crate::config::Fixed;
use crate::registrar::now;
use crate::registry::{Database, Invited};

/// List invites, or withdraw one
#[derive(clap::Args)]
pub(super) struct Invites {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Make the open invite for a name void
    Withdraw {
        /// The name in the invite
        name: BoxName,
    },
}

/// An invite in the list.
#[derive(Serialize)]
struct Line {
    name: BoxName,
    state: &'static str,
    domains: u32,
    created: Moment,
    expires: Moment,
    spent: Option<Moment>,
}

impl Invites {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        terminal::block_on(async {
            let database = registry(fixed).await?;
            match &self.what {
                None => self.list(&database).await,
                Some(What::Withdraw { name }) => self.withdraw(&database, name).await,
            }
        })
    }

    async fn list(&self, database: &Database) -> anyhow::Result<()> {
        let now = now();
        let lines = database.invites().await?.into_iter().map(|invite| Line::new(invite, now));
        let lines: Vec<_> = lines.collect();
        if self.json {
            return terminal::print_json(&lines);
        }
        let rows = lines.iter().map(|line| {
            [
                line.name.to_string(),
                line.state.into(),
                line.domains.to_string(),
                line.created.to_string(),
                line.expires.to_string(),
                or_dash(line.spent),
            ]
        });
        let head = ["NAME", "STATE", "DOMAINS", "CREATED", "EXPIRES", "SPENT"];
        let none = "There are no invites; make one: sealpost-relay invite NAME";
        terminal::print(&table(head, rows.collect(), none))
    }

    async fn withdraw(&self, database: &Database, name: &BoxName) -> anyhow::Result<()> {
        if !database.withdraw_invite(name).await? {
            bail!("there is no open invite for `{name}`; `sealpost-relay invites` lists them");
        }
        if self.json {
            return terminal::print_json(&json!({ "name": name, "withdrawn": true }));
        }
        terminal::print(&format!("The invite for `{name}` is void."))
    }
}

impl Line {
    fn new(invite: Invited, now: u64) -> Self {
        let state = match invite.spent {
            Some(_) => "spent",
            None if invite.expires <= now => "expired",
            None => "open",
        };
        Self {
            name: invite.name,
            state,
            domains: invite.domains,
            created: Moment(invite.created),
            expires: Moment(invite.expires),
            spent: invite.spent.map(Moment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_is_open_until_it_is_spent_or_expires() {
        let state = |spent, now| {
            let name = "alice".parse().unwrap();
            Line::new(Invited { name, domains: 5, created: 10, expires: 20, spent }, now).state
        };
        assert_eq!((state(None, 19), state(None, 20)), ("open", "expired"));
        assert_eq!(state(Some(12), 30), "spent");
    }
}
