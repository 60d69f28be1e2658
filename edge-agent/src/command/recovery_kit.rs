//! `sealpost-agent recovery-kit`
//!
//! The kit's secret is never stored, so it must be in the owner's hands before the first relay
//! hears of its key: otherwise a crash in between would leave a relay with a recovery key that
//! nobody has. So all relays are asked first, the kit is printed, and registered then. A kit that
//! some relay did not take can be registered again (`--again`), and the old kit stays good there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sealpost_daemon::qr::qr;
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::identity::Seed;
use sealpost_tunnel::relay_ref::MAX_ADDRESSES;
use sealpost_tunnel::request::Standing;
use sealpost_tunnel::{Handover, Identity, Kit, RelayRef, Request};
use serde::Serialize;
use serde_json::json;

use super::{ConfigFile, as_box, chosen, terminal};
use crate::config::{Config, Relay};
use crate::registration::ask::{AskFailure, Asker, Line};
use crate::registration::keys;
use crate::registration::recovery::{Step, step};

/// Make a recovery kit: a line with which a bare box can take this box's place
#[derive(clap::Args)]
pub(super) struct RecoveryKit {
    #[command(flatten)]
    file: ConfigFile,
    /// Print a QR code too
    #[arg(long)]
    qr: bool,
    /// The kit that is registered now, in a file or - for standard input: the new one takes its
    /// place
    #[arg(long, value_name = "OLD_KIT")]
    replace: Option<PathBuf>,
    /// Print a kit that exists once more, with all relays of the file, and register it where it is
    /// not: after joining a relay, or when a relay could not be reached
    #[arg(long, value_name = "KIT")]
    again: Option<PathBuf>,
    /// For this relay alone; may be repeated [default: all relays of the file]
    #[arg(long, value_name = "NAME")]
    relay: Vec<String>,
    /// Print two JSON objects, a line each: the kit, then at which relays it is registered
    #[arg(long)]
    json: bool,
}

/// A relay that was asked, and what has to be done there.
struct Asked<'a> {
    relay: &'a Relay,
    line: Line,
    standing: Standing,
    step: Step,
}

#[derive(Debug, Serialize)]
struct Outcome {
    relay: String,
    registered: bool,
    message: String,
}

impl RecoveryKit {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        let relays = chosen(&config, &self.relay)?;
        if self.replace.as_deref().is_some_and(|path| self.again.as_deref() == Some(path)) {
            bail!("--replace and --again name the same kit; they are for two different ones");
        }
        let old = self.replace.as_deref().map(read_kit).transpose()?;
        let again = self.again.as_deref().map(read_kit).transpose()?;
        let done = terminal::block_on(async {
            let asker = Asker::new(&config.fixed.state)?;
            let done = self.make(&asker, &config, &relays, old.as_ref(), again.as_ref()).await;
            asker.close().await;
            done
        })?;
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn make(
        &self,
        asker: &Asker,
        config: &Config,
        relays: &[&Relay],
        old: Option<&Kit>,
        again: Option<&Kit>,
    ) -> anyhow::Result<bool> {
        let seed = again.map_or_else(Seed::random, |kit| kit.seed.clone());
        let key = Identity::from_seed(&seed);
        let old = old.map(|kit| Identity::from_seed(&kit.seed));
        let mut asked = Vec::new();
        for relay in relays {
            let (line, standing) = as_box(asker, config, relay).await.map_err(|failure| {
                anyhow::anyhow!(
                    "{}: {failure}\nhelp: nothing was changed. To make the kit without this relay, \
                     name the others with --relay",
                    relay.name
                )
            })?;
            let step = step(standing.recovery, key.public(), old.as_ref().map(Identity::public));
            refuse(&relay.name, step)?;
            asked.push(Asked { relay, line, standing, step });
        }
        let name = asked.first().map_or("box".into(), |asked| asked.standing.name.to_string());
        let kit = Kit::new(name, kit_relays(asker, &asked, again), seed)?;
        self.print_kit(&kit, &asked)?;
        let mut outcomes = Vec::new();
        for asked in &asked {
            let registered = register(asked, &key, old.as_ref());
            let what = format!("registering at {}", asked.relay.name);
            outcomes.push(Outcome::of(asked, terminal::patiently(&what, registered).await));
        }
        if outcomes.iter().any(|outcome| outcome.registered) {
            keys::keep_recovery(&config.fixed.state, key.public()).context(
                "the kit is registered, but relays that are joined later will not be told of it",
            )?;
        }
        self.report(&outcomes, old.is_some())
    }

    /// In the owner's hands before any relay hears of it.
    fn print_kit(&self, kit: &Kit, asked: &[Asked<'_>]) -> anyhow::Result<()> {
        let line = kit.to_string();
        let names: Vec<_> = asked.iter().map(|asked| asked.relay.name.as_str()).collect();
        if self.json {
            let kit = json!({ "kit": line, "name": kit.name, "relays": names });
            return terminal::print(&kit.to_string());
        }
        terminal::print(&format!(
            "Recovery kit of {} for {}:\n\n{line}\n",
            kit.name,
            names.join(", ")
        ))?;
        if self.qr {
            let code = qr(&line).context("the kit is too long for a QR code; leave --qr out")?;
            terminal::print(&format!("{code}\n"))?;
        }
        Ok(())
    }

    fn report(&self, outcomes: &[Outcome], replaces: bool) -> anyhow::Result<bool> {
        let done = outcomes.iter().all(|outcome| outcome.registered);
        if self.json {
            terminal::print(&json!({ "done": done, "relays": outcomes }).to_string())?;
            return Ok(done);
        }
        report_lines(outcomes, replaces).iter().try_for_each(|line| terminal::print(line))?;
        Ok(done)
    }
}

impl Outcome {
    fn of(asked: &Asked<'_>, registered: Result<(), AskFailure>) -> Self {
        let relay = asked.relay.name.clone();
        match registered {
            Ok(()) => {
                let message = match asked.step {
                    Step::Done => "was registered already",
                    Step::Replace => "registered in place of the old kit",
                    _ => "registered",
                };
                Self { relay, registered: true, message: message.into() }
            }
            Err(failure) => Self { relay, registered: false, message: failure.to_string() },
        }
    }
}

/// The kit in a file or, for `-`, on standard input.
pub(super) fn read_kit(path: &Path) -> anyhow::Result<Kit> {
    let text = terminal::file_or_input(path)?;
    let kit = terminal::lines_from(&text, "sealpost-kit:");
    kit.parse().with_context(|| path.display().to_string())
}

fn refuse(relay: &str, step: Step) -> anyhow::Result<()> {
    match step {
        Step::Done | Step::Set | Step::Replace => Ok(()),
        Step::OldKitNeeded => bail!(
            "{relay} has the key of another recovery kit, and that kit alone can name a new one: \
             give it with --replace FILE (or - to type it). If it is lost, ask the relay's operator. \
             Nothing was changed"
        ),
        Step::OtherKit => bail!(
            "{relay} has the key of another recovery kit than the one given with --replace. \
             Nothing was changed"
        ),
    }
}

/// The relays in the kit: those that were asked, and what an earlier print of the same kit has
/// beside them.
fn kit_relays(asker: &Asker, asked: &[Asked<'_>], again: Option<&Kit>) -> Vec<RelayRef> {
    let mut relays: Vec<RelayRef> = asked
        .iter()
        .map(|asked| {
            let mut addresses = asked.relay.addresses.clone();
            addresses.truncate(MAX_ADDRESSES);
            RelayRef { addresses, key: asked.line.relay }
        })
        .collect();
    for earlier in again.iter().flat_map(|kit| &kit.relays) {
        let now = asker.pins().trusted(earlier.key);
        let same = |relay: &Asked<'_>| {
            [earlier.key, now].contains(&relay.line.relay) || relay.relay.key == earlier.key
        };
        if !asked.iter().any(same) {
            relays.push(earlier.clone());
        }
    }
    relays
}

async fn register(
    asked: &Asked<'_>,
    key: &Identity,
    old: Option<&Identity>,
) -> Result<(), AskFailure> {
    let by = match (asked.step, old) {
        (Step::Done, _) => return Ok(()),
        (Step::Replace, Some(old)) => {
            let relay = Some(asked.line.relay);
            Some(Handover::sign(Purpose::RecoveryKey, old, key.public(), relay))
        }
        _ => None,
    };
    let request = Request::SetRecovery { recovery: key.public(), by };
    let standing = asked.line.standing(&request).await?;
    if standing.recovery == Some(key.public()) {
        Ok(())
    } else {
        Err(AskFailure::Answer("the relay agreed, and does not have the kit's key".into()))
    }
}

fn report_lines(outcomes: &[Outcome], replaces: bool) -> Vec<String> {
    let mut lines: Vec<String> =
        outcomes.iter().map(|o| format!("{}: {}", o.relay, o.message)).collect();
    lines.push(String::new());
    let left: Vec<_> =
        outcomes.iter().filter(|o| !o.registered).map(|o| o.relay.as_str()).collect();
    if left.is_empty() {
        lines.push(
            "Keep the line above on paper or in a safe, not on this box: whoever has it can take \
             this box's place"
                .into(),
        );
        if replaces {
            lines.push("The old kit is worth nothing any more".into());
        }
        return lines;
    }
    let old = if replaces { " --replace OLD_KIT" } else { "" };
    lines.push(format!(
        "NOT DONE: the kit above is not good at {}. Keep it, {}and run when the cause is gone: \
         sealpost-agent recovery-kit --again KIT{old}",
        left.join(", "),
        if replaces { "keep the old one too, which still is, " } else { "" }
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(relay: &str, registered: bool) -> Outcome {
        Outcome { relay: relay.into(), registered, message: "…".into() }
    }

    #[test]
    fn a_kit_that_one_relay_did_not_take_is_kept_with_the_old_one() {
        let half = [outcome("r1", true), outcome("r2", false)];
        let text = report_lines(&half, true).join("\n");
        assert!(text.contains("not good at r2") && text.contains("keep the old one too"), "{text}");
        assert!(text.contains("--again KIT --replace OLD_KIT"), "{text}");
        assert!(!report_lines(&half, false).join("\n").contains("--replace"));
        let text = report_lines(&half[..1], true).join("\n");
        assert!(text.contains("not on this box") && text.contains("worth nothing"), "{text}");
    }

    #[test]
    fn a_relay_with_another_kit_stops_everything() {
        assert!(refuse("r1", Step::OldKitNeeded).unwrap_err().to_string().contains("--replace"));
        assert!(refuse("r1", Step::OtherKit).is_err());
        assert!(refuse("r1", Step::Set).is_ok());
    }
}
