//! `sealpost-relay revoke`

use sealpost_tunnel::BoxName;
use serde_json::json;

use super::{registry, terminal};
use crate::config::Fixed;
use crate::registrar::now;

/// Shut a box out: a stolen one, or one that has to go
#[derive(clap::Args)]
pub(super) struct Revoke {
    /// The box
    name: BoxName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Revoke {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        let name = &self.name;
        let question = format!(
            "Revoke `{name}`? Its key is never accepted again, and its domains get no mail here."
        );
        terminal::confirmed(&question, self.yes)?;
        let key =
            terminal::block_on(async { Ok(registry(fixed).await?.revoke(name, now()).await?) })?;
        if self.json {
            return terminal::print_json(&json!({ "name": name, "state": "revoked", "key": key }));
        }
        terminal::print(&format!(
            "`{name}` is revoked, and its key {key} with it.\n\
             - Every relay of this registry cuts its tunnel within seconds, and does not let it in \
             again.\n\
             - Its domains get no mail here any more. For 90 days no other box may have them.\n\
             - To bring {name} back: sealpost-relay invite {name}\n  \
             The box needs a new key for that, and claims its domains again."
        ))
    }
}
