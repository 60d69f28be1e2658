//! The world of the attempts: a relay, name servers, alice, who has names, and mallory, who
//! wants them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chroot;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use sealpost_relay::proof::life::{Life, State};
use sealpost_relay::proof::record;
use sealpost_relay::registrar::now;
use sealpost_relay::registry::{Database, SECONDS_PER_DAY};
use sealpost_tests::certificate::Certificate;
use sealpost_tests::dns::Names;
use sealpost_tests::network::{Network, RELAY_SHARED_V4};
use sealpost_tests::packages::unpacked;
use sealpost_tests::postgres::Postgres;
use sealpost_tests::process::Process;
use sealpost_tests::scene::{allowed, with_log_tails};
use sealpost_tests::sealpost::{self, Kept, RelayFile};
use sealpost_tests::tls_client::TlsClient;
use sealpost_tests::wait::wait_until;
use sealpost_tests::{programs, smtp};
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::{Handover, Identity, Invite, PublicKey, Request};
use tokio::runtime::Builder;

use crate::line::{Background, Line};
use crate::played_box::PlayedBox;

/// Each box has a weaker name under this.
pub(crate) const BOX_DOMAIN: &str = "box.example.net";
/// What the relay calls itself.
pub(crate) const RELAY: &str = RelayFile::FIRST.hostname;
/// When everything is due; the latest time that the registry can note.
const END_OF_TIME: u64 = i64::MAX.unsigned_abs();
/// The TLS alert `unrecognized_name`.
const NOBODY: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// See the module's text. Fields are dropped in order: processes before their machines.
pub(crate) struct World {
    /// She plays by the rules, at home.
    pub(crate) alice: PlayedBox,
    /// He has a box at the same relay, and a zone of his own.
    pub(crate) mallory: PlayedBox,
    /// Names that lead to alice, and to nobody else, as long as the test lasts.
    pub(crate) hers: Vec<String>,
    /// Her recovery key, once it is registered.
    pub(crate) kit: Identity,
    /// The relay's key.
    pub(crate) relay_key: PublicKey,
    records: Vec<String>,
    registry: Option<String>,
    certificate: Certificate,
    _relay: Process,
    zone: Names,
    _postgres: Option<Postgres>,
    pub(crate) network: Network,
    _background: Background,
}

/// Sets the world up, with a registry of either kind, and lets `play` happen in it.
pub(crate) fn world(kept: Kept, play: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let network = Network::start(&programs::directory()?, &unpacked("dns")?, &[], &[])?;
    let mut world = World::set(network, kept)?;
    let played = play(&mut world);
    with_log_tails(&world.network, || played)
}

impl World {
    fn set(network: Network, kept: Kept) -> Result<World> {
        let zone = Names::start(&network, "")?;
        let postgres = match kept {
            Kept::Sqlite => None,
            Kept::Postgres => Some(Postgres::start_in(&network.relay, &["127.0.0.1"])?),
        };
        let registry =
            postgres.as_ref().map(|server| server.create_database("registry")).transpose()?;
        let more = format!("box_domain = \"{BOX_DOMAIN}\"\n");
        let file = RelayFile { registry: registry.as_deref(), more: &more, ..RelayFile::FIRST };
        sealpost::configure_relay(&network.relay, file)?;
        let relay = with_log_tails(&network, || sealpost::start_relay(&network.relay))?;
        let key = sealpost::relay_says(&network.relay, "key")?;
        let relay_key: PublicKey = key["key"].as_str().context("the relay's key")?.parse()?;
        let background = Background::start()?;
        let line = |machine| Line::from(machine, &background.handle, relay_key);
        let mut world = World {
            alice: PlayedBox::stranger(&line(&network.home)?),
            mallory: PlayedBox::stranger(&line(&network.sender)?),
            hers: vec![format!("alice.{BOX_DOMAIN}")],
            kit: Identity::ephemeral(),
            relay_key,
            records: Vec::new(),
            registry,
            certificate: Certificate::for_name("mx.home.example")?,
            _relay: relay,
            zone,
            _postgres: postgres,
            network,
            _background: background,
        };
        world.join(&world.alice, "alice")?;
        world.join(&world.mallory, "mallory")?;
        world.alice.connect()?;
        world.mallory.connect()?;
        world.alice_has(&["home.example"])?;
        let mallory = world.mallory.key();
        world.publish(&[proof("mallory.example", mallory)])?;
        world.mallory.claim("mallory.example", &[])?.granted()?;
        Ok(world)
    }

    /// An invite as the operator makes it; what it is worth.
    pub(crate) fn invite(&self, name: &str) -> Result<Secret> {
        let url = sealpost::invite(&self.network.relay, &format!("{name} --domains 100"))?;
        let invite: Invite = url.parse()?;
        ensure!(invite.relay.key == self.relay_key, "the invite is for another relay");
        Ok(invite.secret)
    }

    /// A box joins by the rules.
    pub(crate) fn join(&self, played: &PlayedBox, name: &str) -> Result<()> {
        let secret = self.invite(name)?;
        let standing = played.ask(&Request::Join { secret, recovery: None })?.granted()?;
        ensure!(standing.key == played.key() && standing.name.as_str() == name, "{standing:?}");
        Ok(())
    }

    /// One more box, somebody's at mallory's place, that joined by the rules.
    pub(crate) fn newcomer(&self, name: &str) -> Result<PlayedBox> {
        let newcomer = self.stranger();
        self.join(&newcomer, name)?;
        Ok(newcomer)
    }

    /// A box that nobody knows, at mallory's place.
    pub(crate) fn stranger(&self) -> PlayedBox {
        PlayedBox::stranger(&self.mallory.line)
    }

    /// Mallory with somebody else's key.
    pub(crate) fn thief(&self, of: &Identity) -> PlayedBox {
        PlayedBox::with_key(&self.mallory.line, of.clone())
    }

    /// A handover for this relay.
    pub(crate) fn handover(&self, purpose: Purpose, from: &Identity, to: PublicKey) -> Handover {
        Handover::sign(purpose, from, to, Some(self.relay_key))
    }

    /// Adds lines to the world's zone.
    pub(crate) fn publish(&mut self, records: &[String]) -> Result<()> {
        self.records.extend_from_slice(records);
        self.zone.replace(&self.network, &self.records.concat())
    }

    /// Takes lines away again.
    pub(crate) fn withdraw(&mut self, record: &str) -> Result<()> {
        ensure!(self.records.iter().any(|there| there == record), "not there: {record}");
        self.records.retain(|there| there != record);
        self.zone.replace(&self.network, &self.records.concat())
    }

    /// Domains of alice's, proved and claimed with the relay's default name.
    pub(crate) fn alice_has(&mut self, domains: &[&str]) -> Result<()> {
        let key = self.alice.key();
        let proofs: Vec<String> = domains.iter().map(|domain| proof(domain, key)).collect();
        self.publish(&proofs)?;
        for domain in domains {
            self.alice.claim(domain, &[])?.granted()?;
            self.hers.push(format!("mx.{domain}"));
        }
        Ok(())
    }

    /// Mallory publishes his own records where he got hold of the zones.
    pub(crate) fn mallory_proves(&mut self, domains: &[&str]) -> Result<()> {
        let key = self.mallory.key();
        let proofs: Vec<String> = domains.iter().map(|domain| proof(domain, key)).collect();
        self.publish(&proofs)
    }

    /// Alice goes on with the key of `next`, which the relay knows already: her old tunnel is cut,
    /// she dials, and publishes records for the new key beside the old ones.
    pub(crate) fn alice_becomes(&mut self, next: PlayedBox) -> Result<()> {
        let before = std::mem::replace(&mut self.alice, next);
        before.expect_cut()?;
        self.alice.connect()?;
        let (old, new) = (before.key().fingerprint(), self.alice.key().fingerprint());
        let renewed = |line: &String| line.replace(&old.to_string(), &new.to_string());
        let old = old.to_string();
        let renewed: Vec<String> =
            self.records.iter().filter(|line| line.contains(&old)).map(renewed).collect();
        self.publish(&renewed)
    }

    /// Who answers to a sender that asks for `name` on the address that all boxes share.
    pub(crate) fn reached(&self, name: &str) -> Result<Option<PublicKey>> {
        let mut stream = smtp::connect(&self.network.sender, RELAY_SHARED_V4, 25)?;
        smtp::up_to_tls(&mut stream)?;
        stream.write_all(TlsClient::new(name, &self.certificate)?.hello())?;
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut answer)?;
        if answer == NOBODY {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&answer);
        match text.trim_end().parse() {
            Ok(key) => Ok(Some(key)),
            Err(_) => bail!("asking for {name} brought {answer:?}"),
        }
    }

    /// Demands that a name leads to nobody, a moment from now at the latest.
    pub(crate) fn expect_nobody(&self, name: &str) -> Result<()> {
        wait_until(&format!("{name} to lead to nobody"), Duration::from_secs(5), || {
            let reached = self.reached(name)?;
            ensure!(reached != Some(self.mallory.key()), "{name} leads to mallory");
            Ok(reached.is_none())
        })
    }

    /// The judgement on every attempt, made from outside: what is sent to alice's names arrives at
    /// alice, and mallory hears nothing of it.
    pub(crate) fn judge(&self) -> Result<()> {
        let (hers, his) = (self.alice.streams(), self.mallory.streams());
        for name in &self.hers {
            let reached = self.reached(name)?;
            ensure!(reached == Some(self.alice.key()), "{name} leads to {reached:?}");
        }
        ensure!(self.alice.streams()[hers.len()..] == self.hers, "alice heard something else");
        ensure!(self.mallory.streams() == his, "mallory heard something");
        Ok(())
    }

    /// Writes into the registry that a domain got where it only gets after weeks without proof:
    /// into `state`, `days` ago.
    pub(crate) fn age(&self, domain: &str, state: State, days: u64) -> Result<()> {
        let root = self.network.relay.path("/");
        self.network.relay.enter(|| {
            // This thread alone sees the relay's files where the relay sees them: SQLite looks
            // behind links.
            unshare(CloneFlags::CLONE_FS)?;
            chroot(&root)?;
            let state_directory = Path::new("/var/lib/sealpost-relay");
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let database = Database::open(self.registry.as_deref(), state_directory).await?;
                let due = database.due(END_OF_TIME, 1000).await?;
                let due = due.into_iter().find(|due| due.name.as_str() == domain);
                let due = due.context("no such domain")?;
                let (now, ago) = (now(), days * SECONDS_PER_DAY);
                let life = Life { state, since: now - ago, checked: now - ago, failures: 0 };
                Ok(database.checked(&due, life, "", now, END_OF_TIME).await?)
            })
        })
    }
}

/// The line of a zone that proves `domain` for the box with `key`.
pub(crate) fn proof(domain: &str, key: PublicKey) -> String {
    format!("_sealpost.{domain}. IN TXT \"{}\"\n", record::text(key.fingerprint()))
}
