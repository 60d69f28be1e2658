//! What `sealpost-agent dns check` says of real name servers and validating resolvers, from a home
//! behind a NAT.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tests::scene::{From, Scene, Setup, scenario};
use sealpost_tests::sealpost::{RelayFile, agent_does, agent_tries};
use sealpost_tests::wait::wait_until;
use sealpost_tests::zones::{Zone, Zones};

/// Has the root and the top-level domain.
const TOP: &str = "198.51.100.31";
/// Have the domain.
const SERVERS: [&str; 2] = ["198.51.100.32", "198.51.100.33"];
/// Validate.
const RESOLVER: &str = "198.51.100.41";
const LATER_RESOLVER: &str = "198.51.100.42";
/// Is not there.
const AWAY: &str = "198.51.100.71";

const ROOT: Zone<'_> = Zone { origin: ".", file: "top-root" };
const TLD: Zone<'_> = Zone { origin: "example.", file: "top-example" };
const HOME: Zone<'_> = Zone { origin: "home.example.", file: "home" };
/// The second name server's copy.
const COPY: Zone<'_> = Zone { origin: "home.example.", file: "home-copy" };

const VALIDATES: &str = "  module-config: \"validator iterator\"\n  trust-anchor-file: \"/etc/zones/top-root.anchor\"\n";

const NS: &str = "home.example. NS ns1.world.\nhome.example. NS ns2.world.\n";

/// Signs and serves the whole way down to the domain with `records`.
fn world<'a>(scene: &'a Scene, records: &str) -> Result<Zones<'a>> {
    let mut zones = Zones::on(&scene.network.internet);
    zones.write(HOME, &format!("{NS}{records}"))?;
    let ds = zones.sign(HOME, &[])?;
    scene.network.internet.run("cp /etc/zones/home /etc/zones/home-copy")?;
    zones.write(TLD, &format!("example. NS ns.world.\n{NS}{ds}"))?;
    let ds = zones.sign(TLD, &[])?;
    let [first, second] = SERVERS;
    zones.write(
        ROOT,
        &format!(
            ". NS ns.world.\nexample. NS ns.world.\n{ds}ns.world. A {TOP}\nns1.world. A {first}\n\
             ns2.world. A {second}\n"
        ),
    )?;
    zones.sign(ROOT, &[])?;
    zones.serve(TOP, &[ROOT, TLD])?;
    zones.serve(SERVERS[0], &[HOME])?;
    zones.serve(SERVERS[1], &[COPY])?;
    zones.resolve(RESOLVER, TOP, VALIDATES)?;
    Ok(zones)
}

#[test]
fn what_the_world_says_stands_beside_what_it_should_say() -> Result<()> {
    let setup = Setup { from: From::Scenario, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let home = &scene.network.home;
        let printed = agent_does(home, "dns")?;
        let mut zones = world(scene, &printed)?;
        let check = format!("dns check home.example --resolver {RESOLVER}");
        // The resolver has begun to serve, and may still be learning about the root's keys.
        wait_until("all to be well", Duration::from_secs(30), || {
            let ended = agent_tries(home, &check)?;
            Ok(ended.expect_words(0, &["All is as it should be", "validated"]).is_ok())
        })?;
        let said = agent_does(home, &check)?;
        for server in SERVERS {
            ensure!(said.contains(&format!("({server})")), "{server}: {said}");
        }

        agent_tries(home, &format!("dns check --resolver {RESOLVER} --resolver {AWAY}"))?
            .expect_words(1, &["UNKNOWN", "does not answer", "1 could not be found out"])?;
        agent_tries(home, &format!("dns check other.example --resolver {RESOLVER}"))?
            .expect_words(1, &["other.example is not claimed"])?;

        // Another key signs, and one exchanger is lost, at one name server.
        let less: Vec<_> = printed.lines().filter(|line| !line.contains(" MX 10 ")).collect();
        zones.write(HOME, &format!("{NS}{}\n", less.join("\n")))?;
        scene.network.internet.run(
            "rm /etc/zones/home.keys; sed -i 's/master.world. 1 /master.world. 2 /' /etc/zones/home",
        )?;
        zones.sign(HOME, &[])?;
        zones.reload(SERVERS[0], HOME)?;
        scene.network.internet.run("cp /etc/zones/home /etc/zones/home-copy")?;
        zones.reload(SERVERS[1], COPY)?;
        zones.resolve(LATER_RESOLVER, TOP, VALIDATES)?;
        let check = format!("dns check home.example --resolver {LATER_RESOLVER}");
        agent_tries(home, &check)?
            .expect_words(1, &["BOGUS", "NOT as it should be", "home.example MX: 10 mx"])
            .map(drop)
    })
}

/// A root, a top-level domain that delegates `home.example` to the relay with `ds`, and a resolver
/// that validates; the resolver's address. Each has its own addresses, as resolvers remember.
fn delegated(zones: &mut Zones<'_>, number: u8, ds: &str) -> Result<String> {
    let (top, resolver) =
        (format!("198.51.100.{}", 80 + number), format!("198.51.100.{}", 90 + number));
    let (root, tld) = (format!("root-{number}"), format!("tld-{number}"));
    let root = Zone { origin: ".", file: &root };
    let tld = Zone { origin: "example.", file: &tld };
    let relay = RelayFile::FIRST.hostname;
    zones.write(tld, &format!("example. NS ns.world.\nhome.example. NS {relay}.\n{ds}\n"))?;
    let above = zones.sign(tld, &[])?;
    zones.write(
        root,
        &format!(
            ". NS ns.world.\nexample. NS ns.world.\n{above}ns.world. A {top}\n\
             {relay}. A {RELAY_SHARED_V4}\n"
        ),
    )?;
    zones.sign(root, &[])?;
    zones.serve(&top, &[root, tld])?;
    let anchor = VALIDATES.replace("top-root", root.file);
    zones.resolve(&resolver, &top, &anchor)?;
    Ok(resolver)
}

#[test]
fn a_zone_made_at_home_is_followed_from_the_registrar_to_the_world() -> Result<()> {
    let relay = "[dns]\nlisten = [\"203.0.113.1:53\"]\nthreads = 1\n";
    scenario(Setup { from: From::Scenario, relay, ..Setup::STANDARD }, |scene| {
        let home = &scene.network.home;
        let said = agent_does(home, "domain add home.example")?;
        ensure!(!said.contains("[[zone]]"), "it works with its DNS elsewhere: {said}");
        let said = agent_does(home, "domain add home.example --zone")?;
        let relay = RelayFile::FIRST.hostname;
        for words in ["systemctl reload", relay, " IN DS ", "dns check home.example"] {
            ensure!(said.contains(words), "{words}: {said}");
        }
        let ds = said.lines().map(str::trim).find(|line| line.contains(" IN DS "));
        let ds = ds.context("a DS")?.to_owned();
        ensure!(agent_does(home, "dns ds home.example")?.contains(&ds), "{ds}");
        let home_config = home.read("/etc/sealpost/agent.toml");
        ensure!(home_config.contains("[[zone]]\nname = \"home.example\""), "{home_config}");

        let agent = scene.agent.as_mut().context("the agent")?;
        agent.signal(home, "HUP")?;
        wait_until("the zone to be made", Duration::from_secs(30), || {
            Ok(agent_tries(home, "dns zone home.example")?.expect(0).is_ok())
        })?;
        let mut zones = Zones::on(&scene.network.internet);
        let resolver = delegated(&mut zones, 1, "")?;
        let unsigned = format!("dns check home.example --resolver {resolver}");
        wait_until("the zone to be served", Duration::from_secs(40), || {
            let said = agent_tries(home, &unsigned)?.expect_words(1, &["paste this DS"]);
            Ok(said.is_ok_and(|said| said.contains("NOT as it should be: 1")))
        })?;

        let resolver = delegated(&mut zones, 2, &ds)?;
        let check = format!("dns check home.example --resolver {resolver}");
        wait_until("all to be well", Duration::from_secs(40), || {
            Ok(agent_tries(home, &check)?.expect_words(0, &["All is as it should be"]).is_ok())
        })?;
        let mut other: Vec<_> = ds.split(' ').map(str::to_owned).collect();
        let digest = other.last_mut().context("a digest")?;
        *digest = digest.chars().rev().collect();
        let resolver = delegated(&mut zones, 3, &other.join(" "))?;
        agent_tries(home, &format!("dns check home.example --resolver {resolver}"))?
            .expect_words(1, &["WARNING: the parent names a key", "BOGUS"])?;

        // It can be taken elsewhere, and a try changes nothing.
        agent_does(home, "dns zone home.example --output /tmp/home.zone")?;
        let taken = home.read("/tmp/home.zone");
        scene.network.internet.write("/etc/zones/taken", &taken)?;
        scene.network.internet.run("ldns-verify-zone /etc/zones/taken")?;
        let said = agent_does(home, "dns sign --check home.example")?;
        ensure!(said.contains("as the last version"), "{said}");

        // The parent with the right key again; both keys are served after a reload at the latest.
        let resolver = "--resolver 198.51.100.92";
        agent_does(home, &format!("dns rollover home.example {resolver}"))?;
        let agent = scene.agent.as_mut().context("the agent")?;
        agent.signal(home, "TERM")?;
        agent.wait(Duration::from_secs(20))?;
        scene.start_agent(2)?;
        let home = &scene.network.home;
        wait_until("both keys to be seen", Duration::from_secs(40), || {
            let said = agent_does(home, &format!("dns rollover home.example {resolver}"))?;
            Ok(said.contains("1  done") && said.contains("caches to forget"))
        })?;
        agent_does(home, &check)?;
        agent_does(home, "dns rollover home.example --abort")?;
        let said = agent_does(home, &format!("dns rollover home.example --status {resolver}"))?;
        ensure!(said.contains("is not being changed"), "{said}");
        Ok(())
    })
}
