//! What `sealpost-agent dns check` says of real name servers and validating resolvers, from a home
//! behind a NAT.

use std::time::Duration;

use anyhow::{Result, ensure};
use sealpost_tests::scene::{From, Scene, Setup, scenario};
use sealpost_tests::sealpost::{agent_does, agent_tries};
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

const VALIDATES: &str =
    "  module-config: \"validator iterator\"\n  trust-anchor-file: \"/etc/zones/top-root.anchor\"\n";

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
        scene.network.internet.run("sed -i 's/master.world. 1 /master.world. 2 /' /etc/zones/home")?;
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
