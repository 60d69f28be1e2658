//! `sealpost-agent join`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use sealpost_tunnel::request::{RefusalCode, Standing};
use sealpost_tunnel::{HostPort, Identity, Invite, PublicKey, Request};
use serde_json::json;

use super::{ConfigFile, print_json, terminal};
use crate::registration::ask::{AskFailure, Asker, Line};
use crate::registration::edit::{self, Entry};
use crate::registration::keys::{self, key_path};
use crate::registration::place::Place;

/// Register this box at a relay with an invite, and add the relay to the configuration
#[derive(clap::Args)]
pub(super) struct Join {
    /// The invite, as the relay's operator sent it: in quotes, as it has a # and a &. Or - to read
    /// it from standard input
    #[arg(value_name = "URL")]
    invite: String,
    #[command(flatten)]
    file: ConfigFile,
    /// What to call the relay in the file [default: after its host name]
    #[arg(long)]
    name: Option<String>,
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

/// A relay never takes a key again that left it or was revoked there.
const NEW_KEY_HELP: &str = "help: this key belonged to a box that left this relay or was revoked \
    there, and no such key comes back. Make another, then join again: sealpost-agent key rotate";

/// What came of it.
struct Joined {
    standing: Standing,
    entry: Entry,
    relay: PublicKey,
    /// That is another than the invite's.
    followed: bool,
    /// The relay knew this box before.
    knew: bool,
    /// The file had the relay before.
    listed: bool,
}

impl Join {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let text = terminal::argument_or_input(&self.invite)?;
        let invite: Invite = terminal::lines_from(&text, "sealpost://").parse()?;
        let place = Place::find(&self.file.config, self.state.as_deref(), self.service.as_ref())?;
        // Before the invite is spent.
        place.file.try_writing()?;
        let identity = Identity::load_or_create(&key_path(&place.state))?;
        self.introduce(&invite, identity.public())?;
        terminal::confirmed(
            "Do the relay's words fit what its operator told you? Join it?",
            self.yes,
        )?;
        let joined = terminal::block_on(async {
            let asker = Asker::new(&place.state)?;
            let joined = self.join(&asker, &invite, &place, &identity).await;
            asker.close().await;
            joined
        })?;
        if !joined.listed {
            place.write(std::slice::from_ref(&joined.entry)).with_context(|| by_hand(&joined))?;
        }
        self.report(&joined, &place, identity.public())?;
        Ok(ExitCode::SUCCESS)
    }

    fn introduce(&self, invite: &Invite, us: PublicKey) -> anyhow::Result<()> {
        let addresses: Vec<_> = invite.relay.addresses.iter().map(HostPort::as_str).collect();
        let text = format!(
            "{}\n        at {}\n{}",
            terminal::key_lines("relay", invite.relay.key),
            addresses.join(", "),
            terminal::key_lines("box", us)
        );
        if self.json {
            eprintln!("{text}");
            return Ok(());
        }
        terminal::print(&text)
    }

    async fn join(
        &self,
        asker: &Asker,
        invite: &Invite,
        place: &Place,
        identity: &Identity,
    ) -> anyhow::Result<Joined> {
        let connecting = asker.connect(&invite.relay, identity);
        let line = terminal::patiently("connecting to the relay", connecting).await?;
        let listed = place.relay(asker.pins(), invite.relay.key, line.relay);
        let entry = match listed {
            Some(relay) => Entry {
                name: relay.name.clone(),
                addresses: relay.addresses.clone(),
                key: relay.key,
            },
            None => {
                let entry = place.entry(&invite.relay, line.relay, &[]);
                let name = self.name.clone().unwrap_or(entry.name);
                Entry { name, ..entry }
            }
        };
        if listed.is_none() && place.relays().iter().any(|relay| relay.name == entry.name) {
            bail!(
                "the file has another relay named `{}`; give this one another --name",
                entry.name
            );
        }
        let recovery = keys::recovery(&place.state)?;
        let registered = register(&line, invite, recovery).await;
        let (standing, knew) = registered.map_err(|failure| match failure.code() {
            Some(RefusalCode::KeyRevoked) => anyhow::anyhow!("{failure}\n{NEW_KEY_HELP}"),
            _ => failure.into(),
        })?;
        let followed = line.relay != invite.relay.key;
        let listed = listed.is_some();
        Ok(Joined { standing, entry, relay: line.relay, followed, knew, listed })
    }

    fn report(&self, joined: &Joined, place: &Place, us: PublicKey) -> anyhow::Result<()> {
        let Joined { standing, entry, relay, knew, listed, .. } = joined;
        let already = *knew && *listed;
        let file = place.file.path().display();
        let next = next_steps(standing, us, place.config.is_none());
        if self.json {
            return print_json(&json!({
                "relay": entry.name,
                "already_joined": already,
                "config": place.file.path(),
                "state": place.state,
                "relay_key": relay,
                "relay_fingerprint": relay.fingerprint(),
                "relay_words": relay.fingerprint().words(),
                "box_key": us,
                "box_fingerprint": us.fingerprint(),
                "box_words": us.fingerprint().words(),
                "standing": standing,
                "next": next,
            }));
        }
        let (name, hostname) = (&standing.name, &standing.hostname);
        let said = match (already, *listed) {
            (true, _) => format!(
                "already joined: {hostname} knows this box as `{name}`, and {file} has it as `{}`; \
                 the invite was not needed",
                entry.name
            ),
            (false, true) => format!("joined: {hostname} knows this box as `{name}` again"),
            (false, false) => format!(
                "joined: {hostname} knows this box as `{name}`; added to {file} as `{}`",
                entry.name
            ),
        };
        terminal::print(&said)?;
        if joined.followed {
            terminal::print(&format!(
                "the relay has changed its key since the invite was made, and the old key signed \
                 so; it is now\n{}",
                terminal::key_lines("relay", *relay)
            ))?;
        }
        next.iter().try_for_each(|line| terminal::print(line))
    }
}

/// Spends the invite, unless the relay knows this box already.
async fn register(
    line: &Line,
    invite: &Invite,
    recovery: Option<PublicKey>,
) -> Result<(Standing, bool), AskFailure> {
    let known = terminal::patiently(
        "asking whether the relay knows this box",
        line.standing(&Request::Standing),
    );
    match known.await {
        Err(failure) if failure.code() == Some(RefusalCode::UnknownBox) => {}
        known => return known.map(|standing| (standing, true)),
    }
    let request = Request::Join { secret: invite.secret.clone(), recovery };
    let joined = terminal::patiently("registering", line.standing(&request)).await?;
    Ok((joined, false))
}

/// What to do when the relay knows this box and the file could not be written.
fn by_hand(joined: &Joined) -> String {
    format!(
        "the relay has registered this box as `{}`, but the file was not written. Either remove \
         the cause and run the same command again, which spends no further invite, or put this \
         into the file yourself:\n\n{}\nThe cause",
        joined.standing.name,
        edit::table(&joined.entry)
    )
}

fn next_steps(standing: &Standing, us: PublicKey, new_file: bool) -> Vec<String> {
    let mut lines = vec![String::new(), "Next:".into()];
    lines.push(match new_file {
        true => "- start the agent: systemctl enable --now sealpost-agent".into(),
        false => "- let the agent read its file again: systemctl reload sealpost-agent".into(),
    });
    if let Some(own) = &standing.own_name {
        lines.push(format!("- mail for names of the relay's own arrives at once: {own}"));
    }
    lines.push("- publish this in your domain, with your domain in place of DOMAIN:".into());
    lines.push(format!("    {}", crate::registration::records::proof("DOMAIN", us.fingerprint())));
    lines.push(
        "- then claim it: sealpost-agent domain add DOMAIN --wait; it prints the MX records".into(),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::records::tests::standing;

    #[test]
    fn the_next_step_names_the_record_with_this_boxs_fingerprint() {
        let us = Identity::ephemeral().public();
        let text = next_steps(&standing(us), us, true).join("\n");
        let record =
            format!("_sealpost.DOMAIN. 3600 IN TXT \"sealpost1 box={}\"", us.fingerprint());
        assert!(text.contains(&record) && text.contains("enable --now"), "{text}");
        assert!(next_steps(&standing(us), us, false).join("\n").contains("reload"));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_an_entry_to_copy() {
        let us = Identity::ephemeral().public();
        let entry = Entry { name: "r1".into(), addresses: vec!["r:1".parse().unwrap()], key: us };
        let joined = Joined {
            standing: standing(us),
            entry,
            relay: us,
            followed: false,
            knew: false,
            listed: false,
        };
        let text = by_hand(&joined);
        assert!(text.contains("`alice`") && text.contains("[[relay]]\n"), "{text}");
        assert!(text.contains("run the same command again"), "{text}");
    }
}
