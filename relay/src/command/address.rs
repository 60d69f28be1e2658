//! `sealpost-relay address`

use std::net::IpAddr;

use anyhow::bail;
use clap::Subcommand;
use sealpost_tunnel::BoxName;
use serde_json::json;

use super::table::table;
use super::{registry, terminal};
use crate::config::Fixed;
use crate::registry::Database;

/// Give addresses of this relay to one box alone, take them back, list them
#[derive(clap::Args)]
pub(super) struct Address {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Give an address to a box: whatever arrives there is for it, also from senders that name
    /// nobody. The address must be one of this machine
    Add {
        /// The box
        name: BoxName,
        /// The address
        address: IpAddr,
    },
    /// Take an address from the box that has it; it is shared then
    Remove {
        /// The address
        address: IpAddr,
    },
    /// List addresses that were given to boxes; those out of own_prefix stand in `boxes`
    List,
}

impl Address {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        if let What::Add { address, .. } = &self.what {
            check(fixed, *address)?;
        }
        terminal::block_on(async {
            let database = registry(fixed).await?;
            match &self.what {
                What::Add { name, address } => self.add(&database, name, *address).await,
                What::Remove { address } => self.remove(&database, *address).await,
                What::List => self.list(&database).await,
            }
        })
    }

    async fn add(
        &self,
        database: &Database,
        name: &BoxName,
        address: IpAddr,
    ) -> anyhow::Result<()> {
        database.assign(name, address).await?;
        if self.json {
            return terminal::print_json(&json!({ "address": address, "box": name }));
        }
        terminal::print(&format!(
            "{address} is for `{name}` alone, from within a second on. It must be an address of \
             this machine, and stand behind an MX name of that box."
        ))
    }

    async fn remove(&self, database: &Database, address: IpAddr) -> anyhow::Result<()> {
        if !database.unassign(address).await? {
            bail!("no box has {address}; `sealpost-relay address list` shows those that do");
        }
        if self.json {
            return terminal::print_json(&json!({ "address": address, "box": null }));
        }
        terminal::print(&format!("{address} is shared again, from within a second on."))
    }

    async fn list(&self, database: &Database) -> anyhow::Result<()> {
        let assigned = database.assigned().await?;
        if self.json {
            return terminal::print_json(&assigned);
        }
        let rows = assigned.iter().map(|one| [one.address.to_string(), one.r#box.clone()]);
        let none = "No address was given to a box; all are shared.";
        terminal::print(&table(["ADDRESS", "BOX"], rows.collect(), none))
    }
}

/// An address that could never lead anywhere is refused.
fn check(fixed: &Fixed, address: IpAddr) -> anyhow::Result<()> {
    if address.is_unspecified() || address.is_multicast() {
        bail!("{address} is no address that a sender can connect to");
    }
    if fixed.pairs.contain(address.to_canonical()) {
        bail!(
            "{address} stands in [pairs]: boxes share it, and its place among the addresses tells \
             them apart"
        );
    }
    if let Some(prefix) = fixed.own_prefix
        && prefix.id(address.to_canonical()).is_some()
    {
        bail!(
            "{address} is in own_prefix, {prefix}, where each box has the address that follows \
             from its number; `sealpost-relay boxes` shows it"
        );
    }
    Ok(())
}
