//! `sealpost-relay invite`

use std::path::Path;
use std::time::Duration;

use sealpost_daemon::config::Source;
use sealpost_daemon::qr;
use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::{BoxName, PublicKey, RelayRef};
use serde_json::json;

use super::time::{Moment, span};
use super::{registry, terminal};
use crate::admin::client::ask;
use crate::admin::report::Status;
use crate::config::{Config, Fixed};
use crate::registrar::now;
use crate::registry::boxes::State;
use crate::registry::{Database, Invited};
use crate::relay_key::RelayKey;

const SHORTEST: Duration = Duration::from_secs(5 * 60);
const LONGEST: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Most domains of one box.
pub(super) const MAX_DOMAINS: i64 = 10_000;

/// Make an invite: a line with which one box can join, once
#[derive(clap::Args)]
pub(super) struct Invite {
    /// What the box will be called: 1 to 32 of a-z, 0-9 and hyphen. The name of a revoked box
    /// brings that one back
    name: BoxName,
    /// How many domains it may claim
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=MAX_DOMAINS))]
    domains: u32,
    /// How long the invite can be used, 5 minutes to 90 days: 30min, 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = lifetime)]
    expires: Duration,
    /// For a box that is registered already, to find this relay too: another one of the same
    /// registry, or under a new name. It brings nobody else in
    #[arg(long, conflicts_with_all = ["domains", "expires"])]
    known: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print a QR code too
    #[arg(long)]
    qr: bool,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write for example 30min, 12h or 7d"))?;
    if lifetime < SHORTEST {
        return Err("an invite needs at least 5min, so that it can be sent and typed in".into());
    }
    if lifetime > LONGEST {
        return Err("an invite can be used for at most 90d; make a new one then".into());
    }
    Ok(lifetime)
}

impl Invite {
    pub(super) fn run(&self, config: &Config, path: &Path) -> anyhow::Result<()> {
        let relay = self.relay(config, path)?;
        let now = now();
        let (secret, before) = terminal::block_on(async {
            let database = registry(&config.fixed).await?;
            warn_of_old_key(&config.fixed, relay.key).await;
            let before = Before::look(&database, &self.name, now).await?;
            if self.known {
                anyhow::ensure!(
                    before.active,
                    "no box named `{0}` is active here; invite it: sealpost-relay invite {0}",
                    self.name
                );
                // The box shows by its key that it is known; this secret opens nothing.
                return Ok((Secret::random(), before));
            }
            Ok((database.invite(&self.name, self.domains, self.expires, now).await?, before))
        })?;
        let expires = Moment(now.saturating_add(self.expires.as_secs()));
        let url = sealpost_tunnel::Invite::new(relay.clone(), secret)?.to_string();
        if self.json {
            self.print_json(&url, &relay, expires, &before)
        } else {
            self.print(&url, &relay, expires, &before)
        }
    }

    /// How boxes find the relay. Checked before anything is made.
    fn relay(&self, config: &Config, path: &Path) -> anyhow::Result<RelayRef> {
        let bad = |message: &str| {
            let source = Source::from_text(&path.display().to_string(), "");
            let help = "name the addresses at which boxes reach this relay: \
                        `announce = [\"relay.example.net:4433\"]` in [tunnel]";
            source.error(None, message, Some(help))
        };
        let addresses = config.fixed.announce.clone();
        if addresses.is_empty() {
            let message = "an invite would lead nowhere: [tunnel] listen has the port 0, which is \
                           another one at each start";
            return Err(bad(message).into());
        }
        let key = RelayKey::load_or_create(&config.fixed.state)?.identity.public();
        let relay = RelayRef { addresses, key };
        sealpost_tunnel::Invite::new(relay.clone(), Secret::random())
            .map_err(|error| bad(&format!("no invite can be made: {error}")))?;
        Ok(relay)
    }

    fn print_json(
        &self,
        url: &str,
        relay: &RelayRef,
        expires: Moment,
        before: &Before,
    ) -> anyhow::Result<()> {
        let fingerprint = relay.key.fingerprint();
        let qr = self.qr.then(|| qr::qr(url));
        terminal::print_json(&json!({
            "name": self.name,
            "url": url,
            "known": self.known,
            "domains": (!self.known).then_some(self.domains),
            "expires": (!self.known).then_some(expires),
            "relay_key": relay.key,
            "relay_fingerprint": fingerprint,
            "relay_words": fingerprint.words(),
            "replaces_open_invite": before.open,
            "brings_back_revoked_box": before.revoked,
            "qr": qr,
        }))
    }

    fn print(
        &self,
        url: &str,
        relay: &RelayRef,
        expires: Moment,
        before: &Before,
    ) -> anyhow::Result<()> {
        // Alone on the first line, for scripts.
        terminal::print(url)?;
        if self.qr {
            match qr::qr(url) {
                Some(code) => terminal::print(&format!("\n{code}"))?,
                None => terminal::note("the invite is too long for a QR code: [tunnel] announce"),
            }
        }
        let name = &self.name;
        let words = relay.key.fingerprint().words();
        if self.known {
            return terminal::print(&format!(
                "\nFor the box `{name}`, which is registered already, to find this relay:\n\n  \
                 At your mail server type: sealpost-agent join '{url}'\n  \
                 and go on only if it shows these words for the relay: {words}"
            ));
        }
        terminal::print(&format!(
            "\nFor one box, which will be called `{name}` and may have {domains}. It works once, \
             until {expires} ({span}).\n\
             The relay's words: {words}\n\n\
             Send it to {name} by a way that nobody else reads: whoever uses it first, has it. For \
             {name}:\n\n  \
             At your mail server type: sealpost-agent join '{url}'\n  \
             and go on only if it shows these words for the relay: {words}",
            domains = match self.domains {
                1 => "1 domain".into(),
                n => format!("{n} domains"),
            },
            span = span(self.expires.as_secs()),
        ))?;
        if before.open {
            terminal::print(&format!("\nThe earlier invite for `{name}` is void now."))?;
        }
        if before.revoked {
            terminal::print(&format!(
                "\n`{name}` was revoked. This invite brings it back, with a new key and its former \
                 addresses; its domains have to be claimed again."
            ))?;
        }
        Ok(())
    }
}

/// An invite pins the key in the file; a relay that runs on with the former one is not believed.
async fn warn_of_old_key(fixed: &Fixed, key: PublicKey) {
    match ask::<Status>(&fixed.socket, "/status").await {
        Ok(status) if status.key != key => terminal::note(
            "warning: the relay that is running has not read its new key yet, and nobody can join \
             until it has: systemctl reload sealpost-relay",
        ),
        _ => {}
    }
}

/// What there was of a name when an invite for it was made.
struct Before {
    open: bool,
    revoked: bool,
    active: bool,
}

impl Before {
    async fn look(database: &Database, name: &BoxName, now: u64) -> anyhow::Result<Self> {
        let open = |invite: &Invited| {
            invite.name == *name && invite.spent.is_none() && invite.expires > now
        };
        let boxes = database.boxes().await?;
        let is =
            |state| boxes.iter().any(|entry| entry.name == name.as_str() && entry.state == state);
        Ok(Self {
            open: database.invites().await?.iter().any(open),
            revoked: is(State::Revoked),
            active: is(State::Active),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_lasts_from_minutes_to_months() {
        for (text, seconds) in
            [("5min", 300), ("7d", 604_800), ("1h 30m", 5_400), ("90d", 7_776_000)]
        {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)));
        }
        for (text, word) in [
            ("4m 59s", "at least"),
            ("91d", "at most"),
            ("7", "write for example"),
            ("", "write for example"),
            ("-1d", "write for example"),
            ("99999999999999999y", "write for example"),
        ] {
            let error = lifetime(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
