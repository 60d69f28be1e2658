//! The world of the scenarios: a signed root, a resolver, a relay that is a name server, and boxes.

use std::os::unix::fs::chroot;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use sealpost_relay::proof::record;
use sealpost_relay::registrar;
use sealpost_relay::registry::Database;
use sealpost_tests::admin;
use sealpost_tests::dns::ANCHOR;
use sealpost_tests::machine::Machine;
use sealpost_tests::network::{NAME_SERVER, Network, RELAY_SHARED_V4, SENDER_V4};
use sealpost_tests::packages::unpacked;
use sealpost_tests::process::Process;
use sealpost_tests::programs;
use sealpost_tests::scene::{allowed, with_log_tails};
use sealpost_tests::sealpost::{self, RELAY_FILE, RelayFile};
use sealpost_tests::wait::wait_until;
use sealpost_tests::zones::{Zone, Zones};
use sealpost_tunnel::request::ProofMethod;
use sealpost_tunnel::{DomainName, Identity, Invite, PublicKey, Request};

use tokio::runtime::Builder;

use crate::line::{Background, Line};
use crate::zone_box::ZoneBox;

/// Asks on behalf of the relay.
const RESOLVER: &str = "198.51.100.51";
const ROOT: Zone<'_> = Zone { origin: ".", file: "root" };
/// The catalog of the relay's zones.
const CATALOG: &str = "catalog.relay.example.net";
/// The key of those that may have all zones.
const SECRET_FILE: &str = "/etc/fleet.key";
const SECRET: &str = "c29tZSBzZWNyZXQgb2YgMzIgb2N0ZXRzIGZvciB0ZXN0cw==";
/// Signs `/etc/zones/FILE` with KEYS, which are made when they are not there; prints the zone.
const SIGN: &str = r#"
    cd /etc/zones
    file=$1 origin=$2 keys=$3
    if [ ! -f "$keys.names" ]; then
        key=$(ldns-keygen -a ECDSAP256SHA256 -k "$origin")
        echo "$key" > "$keys.names"
        ldns-key2ds -n -2 "$key.key" > "$keys.ds"
    fi
    ldns-signzone -f "$file.signed" "$file" $(cat "$keys.names")
    cat "$file.signed"
"#;

/// Who the boxes are.
pub(crate) const NAMES: [&str; 3] = ["alice", "bob", "mallory"];

/// See the module's text. Fields are dropped in order: processes before their machines.
pub(crate) struct World<'a> {
    relay: Process,
    _names: Zones<'a>,
    pub(crate) network: &'a Network,
    pub(crate) relay_key: PublicKey,
    line: Line,
    _background: Background,
}

/// Sets the world up, with `root` in its root zone, and lets `play` happen in it. Zones that were made
/// by [`zone`] before have their keys.
pub(crate) fn world(
    root: impl FnOnce(&Machine, &[Identity; 3]) -> Result<String>,
    play: impl FnOnce(&mut World<'_>, [ZoneBox; 3]) -> Result<()>,
) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let network = Network::start(&programs::directory()?, &unpacked("dns")?, &[], &[])?;
    with_log_tails(&network, || {
        let identities = NAMES.map(|_| Identity::ephemeral());
        let mut names = Zones::on(&network.internet);
        let records = root(&network.internet, &identities)?;
        names.write(
            ROOT,
            &format!(
                ". NS ns.world.\nns.world. A {NAME_SERVER}\n\
                 relay.example.net. A {RELAY_SHARED_V4}\n{records}"
            ),
        )?;
        names.sign(ROOT, &[])?;
        names.serve(NAME_SERVER, &[ROOT])?;
        names.resolve(RESOLVER, NAME_SERVER, "")?;
        let anchor = std::fs::read_to_string(names.anchor(ROOT))?;
        network.relay.write(ANCHOR, &anchor)?;
        sealpost::configure_relay(&network.relay, RelayFile::FIRST)?;
        let file = network.relay.read(RELAY_FILE);
        let resolver = |file: String| file.replace(NAME_SERVER, RESOLVER);
        let dns = format!(
            "[dns]\nlisten = [\"{RELAY_SHARED_V4}:53\"]\nthreads = 1\n\
             transfer_to = [{{ from = \"{SENDER_V4}/32\" }}, {{ key = \"fleet\" }}]\n\
             catalog = \"{CATALOG}\"\n\
             [[dns.key]]\nname = \"fleet\"\nsecret_file = \"{SECRET_FILE}\"\n"
        );
        network.relay.write(SECRET_FILE, SECRET)?;
        network.relay.run(&format!("chmod 600 {SECRET_FILE}"))?;
        network.relay.write(RELAY_FILE, &(resolver(file) + &dns))?;
        let relay = sealpost::start_relay(&network.relay)?;
        let key = sealpost::relay_says(&network.relay, "key")?;
        let key: PublicKey = key["key"].as_str().context("the relay's key")?.parse()?;
        let background = Background::start()?;
        let line = Line::from(&network.home, &background.handle, key)?;
        let mut world = World {
            relay,
            _names: names,
            network: &network,
            relay_key: key,
            line,
            _background: background,
        };
        let boxes = identities.map(|identity| ZoneBox::new(world.line.clone(), identity));
        for (played, name) in boxes.iter().zip(NAMES) {
            let said =
                sealpost::relay_says(&network.relay, &format!("invite {name} --domains 50"))?;
            let invite: Invite = said["url"].as_str().context("the invite")?.parse()?;
            let join = Request::Join { secret: invite.secret, recovery: None };
            let standing = played.ask(&join)?.granted()?;
            let servers: Vec<_> = standing.name_servers.iter().map(|name| name.as_str()).collect();
            ensure!(servers == [RelayFile::FIRST.hostname], "{servers:?}");
        }
        play(&mut world, boxes)
    })
}

/// The zone `apex` with this serial and `records` (absolute names), signed with `keys`.
pub(crate) fn zone(
    machine: &Machine,
    apex: &str,
    keys: &str,
    serial: u32,
    records: &str,
) -> Result<String> {
    machine.write(
        &format!("/etc/zones/{apex}"),
        &format!(
            "$TTL 300\n{apex}. IN SOA relay.example.net. master.world. {serial} 14400 3600 1814400 300\n\
             {apex}. NS relay.example.net.\n{apex}. MX 10 mx.{apex}.\n{records}"
        ),
    )?;
    machine.run(&format!("set -- {apex} {apex} {keys}\n{SIGN}"))
}

/// The DS record of `apex` for `keys`, which have signed a zone of this name.
pub(crate) fn ds(machine: &Machine, keys: &str) -> String {
    machine.read(&format!("/etc/zones/{keys}.ds"))
}

/// The line of a zone that proves `domain` for the box with `key`.
pub(crate) fn proof(domain: &str, key: PublicKey) -> String {
    format!("_sealpost.{domain}. TXT \"{}\"\n", record::text(key.fingerprint()))
}

impl World<'_> {
    /// What the relay's name server says, as `drill` prints it.
    pub(crate) fn drill(&self, question: &str) -> Result<String> {
        let asked = format!("drill -D @{RELAY_SHARED_V4} {question} || true");
        self.network.sender.run(&asked)
    }

    /// Waits until the name server has this version of a zone, or answers as `wanted` says.
    pub(crate) fn expect(&self, apex: &str, wanted: &str) -> Result<()> {
        wait_until(&format!("{apex} to be {wanted}"), Duration::from_secs(20), || {
            self.is(apex, wanted)
        })
    }

    /// Waits until the catalog names these zones and no others, for who has the key.
    pub(crate) fn expect_in_catalog(&self, zones: &[&str]) -> Result<()> {
        let key = format!("fleet:{SECRET}:hmac-sha256");
        let ask = format!("drill -t -y {key} @{RELAY_SHARED_V4} {CATALOG} AXFR || true");
        wait_until(&format!("the catalog to name {zones:?}"), Duration::from_secs(20), || {
            let catalog = self.network.internet.run(&ask)?;
            let named = |zone: &&str| catalog.contains(&format!("\tPTR\t{zone}."));
            Ok(catalog.matches("\tPTR\t").count() == zones.len() && zones.iter().all(named))
        })?;
        // Not for who has the address alone, and not for those who ask.
        let bare = self.drill(&format!("-t {CATALOG} AXFR"))?;
        ensure!(!bare.contains("PTR"), "{bare}");
        ensure!(self.is(CATALOG, "REFUSED")?, "nobody is to ask for it");
        Ok(())
    }

    /// Whether it has.
    pub(crate) fn is(&self, apex: &str, wanted: &str) -> Result<bool> {
        Ok(self.drill(&format!("{apex} SOA"))?.contains(wanted))
    }

    /// Whether the relay keeps a zone on its disk.
    pub(crate) fn keeps(&self, apex: &str) -> bool {
        let path = format!("/var/lib/sealpost-relay/zones/{apex}.zone");
        self.network.relay.path(&path).exists()
    }

    /// Makes the proof of all domains due at once.
    pub(crate) fn look_again(&self) -> Result<()> {
        self.in_registry(async |database| {
            for due in database.due(i64::MAX.unsigned_abs(), 1000).await? {
                let now = registrar::now();
                database.checked(&due, due.life, "", now, now).await?;
            }
            Ok(())
        })
    }

    /// Has the domain pass from one box to another, while the relay is down.
    pub(crate) fn passes_unseen(
        &mut self,
        domain: &str,
        from: PublicKey,
        to: PublicKey,
    ) -> Result<()> {
        self.stop()?;
        let domain: DomainName = domain.parse()?;
        self.in_registry(async |database| {
            let now = registrar::now();
            database.release(from, &domain, now).await?;
            database.end_rest(&domain).await?;
            let next = now + 24 * 3600;
            let mx = [format!("mx.{domain}").parse()?];
            Ok(database.claim(to, &domain, &mx, ProofMethod::Txt, now, next).await?)
        })?;
        self.relay = sealpost::start_relay(&self.network.relay)?;
        Ok(())
    }

    fn in_registry(&self, does: impl AsyncFnOnce(&Database) -> Result<()> + Send) -> Result<()> {
        let root = self.network.relay.path("/");
        self.network.relay.enter(|| {
            // This thread alone sees the relay's files where the relay sees them: SQLite looks
            // behind links.
            unshare(CloneFlags::CLONE_FS)?;
            chroot(&root)?;
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let state = Path::new("/var/lib/sealpost-relay");
                does(&Database::open(None, state).await?).await
            })
        })
    }

    /// How many proofs were found since the relay began.
    pub(crate) fn proofs_found(&self) -> Result<f64> {
        let name = "sealpost_relay_proofs_total{outcome=\"found\"}";
        Ok(admin::metric(&self.network.relay, admin::RELAY, name)?.unwrap_or(0.0))
    }

    /// Kills the relay and starts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.relay = sealpost::start_relay(&self.network.relay)?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.relay.signal(&self.network.relay, "KILL")?;
        self.relay.wait(Duration::from_secs(10))?;
        Ok(())
    }
}
