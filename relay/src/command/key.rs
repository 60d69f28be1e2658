//! `sealpost-relay key` and `sealpost-relay key rotate`

use clap::Subcommand;
use serde_json::json;

use super::terminal;
use crate::config::Fixed;
use crate::relay_key::RelayKey;

/// Print the relay's public key, which boxes pin, its fingerprint and that in words; or rotate
/// it. Makes the key if there is none
#[derive(clap::Args)]
pub(super) struct Key {
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Put a new key in the place of the present one, which signs that the new one follows it
    Rotate {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Key {
    pub(super) fn run(&self, fixed: &Fixed) -> anyhow::Result<()> {
        match self.what {
            None => self.show(fixed),
            Some(What::Rotate { yes }) => self.rotate(fixed, yes),
        }
    }

    fn show(&self, fixed: &Fixed) -> anyhow::Result<()> {
        let key = RelayKey::load_or_create(&fixed.state)?.identity.public();
        let fingerprint = key.fingerprint();
        let words = fingerprint.words();
        if self.json {
            let object = json!({ "key": key, "fingerprint": fingerprint, "words": words });
            return terminal::print_json(&object);
        }
        // The key stands alone on the first line, for scripts.
        terminal::print(&format!("{key}\n{fingerprint}\n{words}"))
    }

    fn rotate(&self, fixed: &Fixed, yes: bool) -> anyhow::Result<()> {
        let before = RelayKey::load_or_create(&fixed.state)?.identity.public();
        terminal::confirmed(&format!("Replace the relay's key, {before}?"), yes)?;
        let key = RelayKey::rotate(&fixed.state)?.identity.public();
        let fingerprint = key.fingerprint();
        let words = fingerprint.words();
        if self.json {
            return terminal::print_json(&json!({
                "key": key, "fingerprint": fingerprint, "words": words, "before": before,
            }));
        }
        terminal::print(&format!(
            "{key}\n{fingerprint}\n{words}\n\n\
             The relay has a new key. Next:\n\
             - have a relay that is running use it: systemctl reload sealpost-relay\n\
             - keep a copy of relay.key and relay.handovers from {state}, both as they are now\n\n\
             Boxes follow by themselves when they connect next, also after weeks. Invites that were \
             sent already still work, as soon as the relay was reloaded.",
            state = fixed.state.display(),
        ))
    }
}
