//! `sealpost-agent leave`

use std::process::ExitCode;

use anyhow::{Context, bail};
use sealpost_tunnel::request::Standing;
use serde_json::json;

use super::{ConfigFile, as_box, chosen, print_json, terminal};
use crate::config::{Config, Relay};
use crate::registration::ask::{AskFailure, Asker};
use crate::registration::config_file::ConfigFile as OnDisk;

/// Have a relay forget this box, and take it out of the configuration
#[derive(clap::Args)]
pub(super) struct Leave {
    /// The relay, as the file calls it
    relay: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Take it out of the file even if it cannot be told
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the relay knows afterwards.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing: it has forgotten this box.
    Forgotten,
    /// Nothing: it did not know this box.
    Unknown,
    /// All that it knew, as it could not be told, for this reason.
    Untold(String),
}

impl Leave {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        let relay = chosen(&config, std::slice::from_ref(&self.relay))?[0];
        let file = OnDisk::at(&self.file.config)?;
        // Before the relay forgets.
        file.try_writing()?;
        let told = terminal::block_on(async {
            let asker = Asker::new(&config.fixed.state)?;
            let told = self.tell(&asker, &config, relay).await;
            asker.close().await;
            told
        })?;
        file.remove(&self.relay).with_context(|| {
            format!(
                "the relay has forgotten this box, but it still stands in the file: take the \
                 [[relay]] named `{}` out of it yourself, or run the same command again. The cause",
                self.relay
            )
        })?;
        let lines = lines(&told, &self.relay, &file.path().display().to_string());
        if self.json {
            print_json(&json!({
                "relay": self.relay,
                "forgotten": !matches!(told, Outcome::Untold(_)),
                "config": file.path(),
                "detail": lines,
            }))?;
        } else {
            lines.iter().try_for_each(|line| terminal::print(line))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn tell(&self, asker: &Asker, config: &Config, relay: &Relay) -> anyhow::Result<Outcome> {
        let left = match as_box(asker, config, relay).await {
            Ok((line, standing)) => {
                // Nobody waits for a person on an open connection.
                drop(line);
                terminal::confirmed(&question(&self.relay, &standing), self.yes)?;
                leave(asker, config, relay).await
            }
            Err(failure) => Err(failure),
        };
        match left {
            Ok(()) => Ok(Outcome::Forgotten),
            Err(failure) if failure.key_not_taken() => Ok(Outcome::Unknown),
            Err(failure) if self.force => Ok(Outcome::Untold(failure.to_string())),
            Err(failure) => bail!(
                "{}: {failure}\nhelp: nothing was changed; with --force the relay is taken out of \
                 the file although it does not know",
                self.relay
            ),
        }
    }
}

async fn leave(asker: &Asker, config: &Config, relay: &Relay) -> Result<(), AskFailure> {
    let (line, _) = as_box(asker, config, relay).await?;
    terminal::patiently("telling the relay", line.leave()).await
}

fn question(relay: &str, standing: &Standing) -> String {
    let domains: Vec<_> = standing.domains.iter().map(|d| d.domain.as_str()).collect();
    let loss = match domains.as_slice() {
        [] => "It has no domain of this box.".into(),
        domains => format!("It will take no more mail for {}.", domains.join(", ")),
    };
    format!(
        "{relay} knows this box as `{}`. {loss} It will never take this box's present key again. \
         Leave it?",
        standing.name
    )
}

fn lines(told: &Outcome, relay: &str, file: &str) -> Vec<String> {
    let mut lines = vec![match told {
        Outcome::Forgotten => format!("left: {relay} has forgotten this box; taken out of {file}"),
        Outcome::Unknown => {
            format!("left: {relay} did not know this box any more; taken out of {file}")
        }
        Outcome::Untold(reason) => {
            format!("taken out of {file}, but {relay} was not told: {reason}")
        }
    }];
    if matches!(told, Outcome::Untold(_)) {
        lines.push(
            "It still knows this box's name, its public key and its domains, and accepts it. Ask \
             its operator to revoke the box"
                .into(),
        );
    }
    lines.push(
        "Next: systemctl reload sealpost-agent, and take the relay's MX records out of \
         your domains"
            .into(),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_was_not_told_is_said_to_know() {
        let text = lines(&Outcome::Untold("no answer".into()), "r1", "agent.toml").join("\n");
        assert!(text.contains("no answer") && text.contains("revoke the box"), "{text}");
        let text = lines(&Outcome::Forgotten, "r1", "agent.toml").join("\n");
        assert!(text.starts_with("left: r1 has forgotten") && !text.contains("revoke"), "{text}");
    }
}
