//! `sealpost-agent recover`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::request::{RefusalCode, Standing};
use sealpost_tunnel::{Handover, HostPort, Identity, Kit, PublicKey, RelayRef, Request};
use serde::Serialize;
use serde_json::json;

use super::key::proofs;
use super::recovery_kit::read_kit;
use super::{ConfigFile, print_json, terminal};
use crate::registration::ask::{AskFailure, Asker};
use crate::registration::edit::Entry;
use crate::registration::keys;
use crate::registration::pins::Pins;
use crate::registration::place::Place;

/// Take the place of a lost or stolen box, with its recovery kit
#[derive(clap::Args)]
pub(super) struct Recover {
    /// The file with the kit's line, or - to read it from standard input
    kit: PathBuf,
    #[command(flatten)]
    file: ConfigFile,
    /// For a new file: the directory for this box's keys [default: /var/lib/sealpost-agent, or
    /// beside a file elsewhere]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// For a new file: where the mail server listens [default: 127.0.0.1:2525]
    #[arg(long, value_name = "HOST:PORT")]
    service: Option<HostPort>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of it at one relay.
#[derive(Debug, Serialize)]
struct Outcome {
    relay: String,
    done: bool,
    message: String,
    #[serde(skip)]
    standing: Option<Standing>,
    #[serde(skip)]
    entry: Option<Entry>,
}

impl Recover {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let kit = read_kit(&self.kit)?;
        let place = Place::find(&self.file.config, self.state.as_deref(), self.service.as_ref())?;
        refuse_other_relays(&place, &kit)?;
        place.file.try_writing()?;
        let addresses = kit.relays.iter().filter_map(|relay| relay.addresses.first());
        let addresses: Vec<_> = addresses.map(HostPort::as_str).collect();
        eprintln!("recovery kit of {} for {}", kit.name, addresses.join(", "));
        let question = "This box takes the place of the one that the kit was made for, whose key is \
             revoked. Go on?";
        terminal::confirmed(question, self.yes)?;
        let identity = keys::fresh(&place.state)?;
        let recovery = Identity::from_seed(&kit.seed);
        let outcomes = terminal::block_on(async {
            let asker = Asker::new(&place.state)?;
            let mut outcomes = Vec::new();
            let mut entries = Vec::new();
            for relay in &kit.relays {
                let recovered = recover(&asker, relay, &identity, &recovery);
                let what = format!("asking {}", relay.addresses[0]);
                let recovered = terminal::patiently(&what, recovered).await;
                let outcome = Outcome::of(&asker, &place, relay, &entries, recovered);
                entries.extend(outcome.entry.clone());
                outcomes.push(outcome);
            }
            asker.close().await;
            Ok(outcomes)
        })?;
        let some = outcomes.iter().any(|outcome| outcome.done);
        if some {
            let entries: Vec<_> = outcomes.iter().filter_map(|o| o.entry.clone()).collect();
            keys::keep_recovery(&place.state, recovery.public())
                .map_err(anyhow::Error::from)
                .and_then(|()| Ok(place.write(&entries)?))
                .context(
                    "relays have taken this box's new key, but not all could be written down; run \
                     the same command again when the cause is gone. The cause",
                )?;
        }
        self.report(&outcomes, &place, identity.public(), some)?;
        let done = outcomes.iter().all(|outcome| outcome.done);
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn report(
        &self,
        outcomes: &[Outcome],
        place: &Place,
        key: PublicKey,
        some: bool,
    ) -> anyhow::Result<()> {
        let proofs = proofs(outcomes.iter().filter_map(|outcome| outcome.standing.as_ref()));
        if self.json {
            return print_json(&json!({
                "done": outcomes.iter().all(|outcome| outcome.done),
                "key": key,
                "fingerprint": key.fingerprint(),
                "words": key.fingerprint().words(),
                "config": place.file.path(),
                "state": place.state,
                "relays": outcomes,
                "publish": proofs,
            }));
        }
        terminal::print(&terminal::key_lines("new key", key))?;
        let file = place.file.path().display().to_string();
        report_lines(outcomes, &file, &proofs, some)
            .iter()
            .try_for_each(|line| terminal::print(line))
    }
}

impl Outcome {
    fn of(
        asker: &Asker,
        place: &Place,
        relay: &RelayRef,
        taken: &[Entry],
        recovered: Result<(PublicKey, Standing), AskFailure>,
    ) -> Self {
        let now = asker.pins().trusted(relay.key);
        let listed = place.relay(asker.pins(), relay.key, now);
        // A relay that could not be asked goes into the file too: it may only be away.
        let entry = listed.is_none().then(|| place.entry(relay, now, taken));
        let name = listed.map(|relay| relay.name.clone());
        let name = name.or(entry.as_ref().map(|entry| entry.name.clone())).unwrap_or_default();
        let (done, message, standing) = match recovered {
            Ok((_, standing)) => {
                let message =
                    format!("knows this box as `{}`; the old key is revoked", standing.name);
                (true, message, Some(standing))
            }
            Err(failure) => (false, failure.to_string(), None),
        };
        Self { relay: name, done, message, standing, entry }
    }
}

/// A file that is somebody's already is not overwritten.
fn refuse_other_relays(place: &Place, kit: &Kit) -> anyhow::Result<()> {
    let pins = Pins::new(&place.state);
    let in_kit = |key: PublicKey| {
        kit.relays.iter().any(|relay| {
            let now = pins.trusted(relay.key);
            [key, pins.trusted(key)].iter().any(|key| *key == relay.key || *key == now)
        })
    };
    let others: Vec<_> = place
        .relays()
        .iter()
        .filter(|relay| !in_kit(relay.key))
        .map(|relay| relay.name.as_str())
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    bail!(
        "{} names relays that the kit does not: {}. Recovering is for a bare box: move the file \
         away, or name another with --config",
        place.file.path().display(),
        others.join(", ")
    )
}

/// Has `relay` take the key of `identity` in place of the lost one, unless it has done so already.
async fn recover(
    asker: &Asker,
    relay: &RelayRef,
    identity: &Identity,
    recovery: &Identity,
) -> Result<(PublicKey, Standing), AskFailure> {
    let line = asker.connect(relay, identity).await?;
    let standing = match line.standing(&Request::Standing).await {
        Err(failure) if failure.code() == Some(RefusalCode::UnknownBox) => {
            let relay = Some(line.relay);
            let handover = Handover::sign(Purpose::Recovery, recovery, identity.public(), relay);
            line.standing(&Request::Recover { handover }).await?
        }
        known => known?,
    };
    Ok((line.relay, standing))
}

fn report_lines(outcomes: &[Outcome], file: &str, proofs: &[String], some: bool) -> Vec<String> {
    let mut lines: Vec<String> =
        outcomes.iter().map(|o| format!("{}: {}", o.relay, o.message)).collect();
    lines.push(String::new());
    if !some {
        lines.push(format!(
            "NOT DONE: {file} was not written. Run the command again when the cause is gone"
        ));
        return lines;
    }
    let left: Vec<_> = outcomes.iter().filter(|o| !o.done).map(|o| o.relay.as_str()).collect();
    if !left.is_empty() {
        lines.push(format!(
            "NOT DONE at {}: run the same command again when the cause is gone. Until then the old \
             key is good there",
            left.join(", ")
        ));
    }
    if !proofs.is_empty() {
        lines.push(
            "Publish these today, in place of the old ones: the proof names the key. Mail comes \
             meanwhile"
                .into(),
        );
        lines.extend(proofs.iter().map(|record| format!("  {record}")));
    }
    lines.push(format!(
        "Next: check {file}, above all the address of the mail server; then systemctl enable --now \
         sealpost-agent. The kit stays good: keep it off this box"
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(relay: &str, done: bool) -> Outcome {
        let message = if done { "knows this box as `alice`" } else { "no answer" };
        Outcome { relay: relay.into(), done, message: message.into(), standing: None, entry: None }
    }

    #[test]
    fn what_is_left_is_named_with_its_danger() {
        let half = [outcome("r1", true), outcome("r2", false)];
        let text = report_lines(&half, "agent.toml", &["PROOF".into()], true).join("\n");
        assert!(
            text.contains("NOT DONE at r2") && text.contains("old key is good there"),
            "{text}"
        );
        assert!(text.contains("  PROOF\n") && text.contains("enable --now"), "{text}");
        let text = report_lines(&half[1..], "agent.toml", &[], false).join("\n");
        assert!(text.contains("agent.toml was not written"), "{text}");
    }

    #[test]
    fn a_file_with_other_relays_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let relay = |host: &str| RelayRef {
            addresses: vec![format!("{host}:1").parse().unwrap()],
            key: Identity::ephemeral().public(),
        };
        let (ours, other) = (relay("ours"), relay("other"));
        let kit = Kit::new("alice".into(), vec![ours.clone()], Identity::generate().1).unwrap();
        let bare = Place::find(&path, None, None).unwrap();
        assert!(refuse_other_relays(&bare, &kit).is_ok());
        bare.write(&[bare.entry(&ours, ours.key, &[])]).unwrap();
        let place = Place::find(&path, None, None).unwrap();
        assert!(refuse_other_relays(&place, &kit).is_ok());
        place.write(&[place.entry(&other, other.key, &[])]).unwrap();
        let place = Place::find(&path, None, None).unwrap();
        let error = refuse_other_relays(&place, &kit).unwrap_err().to_string();
        assert!(error.contains("the kit does not: other. "), "{error}");
    }
}
