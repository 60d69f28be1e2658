//! `sealpost-agent key` and `sealpost-agent key rotate`

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::request::{RefusalCode, Standing};
use sealpost_tunnel::{Handover, Identity, Request};
use serde::Serialize;
use serde_json::json;

use super::{ConfigFile, print_json, terminal};
use crate::config::{Config, Relay};
use crate::registration::ask::{AskFailure, Asker};
use crate::registration::keys::{self, Which, key_path};
use crate::registration::records;

/// Print this box's public key, its fingerprint and that in words; or rotate it
#[derive(clap::Args)]
pub(super) struct Key {
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
    /// Make a new key, have every relay take it in place of the old one, then use it. May be
    /// repeated until all relays have
    Rotate,
}

/// What came of a rotation at one relay.
#[derive(Debug, Serialize)]
struct Turn {
    relay: String,
    done: bool,
    message: String,
    #[serde(skip)]
    standing: Option<Standing>,
}

impl Key {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        match self.what {
            None => self.show(&config),
            Some(What::Rotate) => self.rotate(&config),
        }
    }

    fn show(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let key = Identity::load_or_create(&key_path(&config.fixed.state))?.public();
        let fingerprint = key.fingerprint();
        if self.json {
            let words = fingerprint.words();
            print_json(&json!({ "key": key, "fingerprint": fingerprint, "words": words }))?;
        } else {
            // The key stands alone on the first line, for scripts.
            terminal::print(&format!("{key}\n{fingerprint}\n{}", fingerprint.words()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn rotate(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let state = &config.fixed.state;
        let old = keys::read(state, Which::Present)?
            .context("this box has no key yet, so there is none to rotate")?;
        let next = keys::next(state)?;
        let turns = terminal::block_on(async {
            let asker = Asker::new(state)?;
            let mut turns = Vec::new();
            for relay in &config.relays {
                let turned = turn(&asker, relay, &old, &next);
                turns.push(Turn::of(relay, terminal::patiently(&relay.name, turned).await));
            }
            asker.close().await;
            Ok(turns)
        })?;
        let done = turns.iter().all(|turn| turn.done);
        if done {
            keys::promote(state).with_context(|| {
                format!(
                    "all relays know the new key, but {} could not take its place; run the same \
                     command again when the cause is gone. The cause",
                    keys::next_key_path(state).display()
                )
            })?;
        }
        self.report(&turns, &next, done)?;
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn report(&self, turns: &[Turn], next: &Identity, done: bool) -> anyhow::Result<()> {
        let key = next.public();
        let proofs = proofs(turns.iter().filter_map(|turn| turn.standing.as_ref()));
        if self.json {
            return print_json(&json!({
                "done": done,
                "key": key,
                "fingerprint": key.fingerprint(),
                "words": key.fingerprint().words(),
                "relays": turns,
                "publish": proofs,
            }));
        }
        rotated_lines(turns, &terminal::key_lines("new key", key), &proofs, done)
            .iter()
            .try_for_each(|line| terminal::print(line))
    }
}

impl Turn {
    fn of(relay: &Relay, turned: Result<Standing, AskFailure>) -> Self {
        let name = relay.name.clone();
        match turned {
            Ok(standing) => {
                let message = "knows the new key, and takes the old one no more".into();
                Self { relay: name, done: true, message, standing: Some(standing) }
            }
            // Asked with the old key's signature: there is nothing to hand over.
            Err(failure)
                if matches!(
                    failure.code(),
                    Some(RefusalCode::UnknownBox | RefusalCode::KeyRevoked)
                ) =>
            {
                let message = "does not know this box any more; with the new key it can be joined \
                               again: ask its operator for an invite"
                    .into();
                Self { relay: name, done: true, message, standing: None }
            }
            Err(failure) => {
                Self { relay: name, done: false, message: failure.to_string(), standing: None }
            }
        }
    }
}

/// Has `relay` take `next` in place of `old`, unless it has done so already. The connection proves
/// the new key, and the old one signs.
async fn turn(
    asker: &Asker,
    relay: &Relay,
    old: &Identity,
    next: &Identity,
) -> Result<Standing, AskFailure> {
    let line = asker.connect(&relay.reference(), next).await?;
    match line.standing(&Request::Standing).await {
        Err(failure) if failure.code() == Some(RefusalCode::UnknownBox) => {}
        known => return known,
    }
    let handover = Handover::sign(Purpose::BoxKey, old, next.public(), Some(line.relay));
    line.standing(&Request::Rotate { handover }).await
}

/// The records for all domains of `standings`, each once.
pub(super) fn proofs<'a>(standings: impl Iterator<Item = &'a Standing>) -> Vec<String> {
    let mut proofs = Vec::new();
    for standing in standings {
        for claim in &standing.domains {
            let proof = records::proof(claim.domain.as_str(), standing.key.fingerprint());
            if !proofs.contains(&proof) {
                proofs.push(proof);
            }
        }
    }
    proofs
}

fn rotated_lines(turns: &[Turn], key: &str, proofs: &[String], done: bool) -> Vec<String> {
    let mut lines = vec![key.to_owned()];
    lines.extend(turns.iter().map(|turn| format!("{}: {}", turn.relay, turn.message)));
    lines.push(String::new());
    if done {
        lines.push("done: the new key is in use; a running agent takes it up by itself".into());
    } else {
        let left: Vec<_> =
            turns.iter().filter(|turn| !turn.done).map(|turn| turn.relay.as_str()).collect();
        lines.push(format!(
            "NOT DONE: the old key is kept for {}. Run the command again when the cause is gone; \
             until then a running agent proves to each relay the key that it knows. A relay that is \
             gone for good: sealpost-agent leave NAME --force, then again",
            left.join(", ")
        ));
    }
    if !proofs.is_empty() {
        lines.push(
            "Publish these today: the proof names the key. The old records can go when the relays \
             have found the new ones"
                .into(),
        );
        lines.extend(proofs.iter().map(|record| format!("  {record}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OwnAddress;
    use crate::registration::records::tests::standing;

    #[test]
    fn a_rotation_that_is_not_finished_names_what_is_left() {
        let relay = |name: &str| Relay {
            name: name.into(),
            addresses: vec![],
            key: Identity::ephemeral().public(),
            private_senders: false,
            own_address: OwnAddress::Sealed,
            shield: false,
            offers_zones: false,
        };
        let key = Identity::ephemeral().public();
        let turns = [
            Turn::of(&relay("r1"), Ok(standing(key))),
            Turn::of(&relay("r2"), Err(AskFailure::NoKey)),
        ];
        let text = rotated_lines(&turns, "KEY", &["PROOF".into()], false).join("\n");
        assert!(text.contains("NOT DONE: the old key is kept for r2. Run"), "{text}");
        assert!(text.contains("r1: knows the new key") && text.ends_with("  PROOF"), "{text}");
        let text = rotated_lines(&turns[..1], "KEY", &[], true).join("\n");
        assert!(text.contains("done: the new key is in use") && !text.contains("Publish"));
    }
}
