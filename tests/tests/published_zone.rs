//! A zone from the box to the world: made and signed by the agent at home, claimed by the DS record in
//! its parent, fetched by the relay through the tunnel, served, validated by a resolver, and changed by
//! a program that obtains a certificate.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::dns::ANCHOR;
use sealpost_tests::network::{NAME_SERVER, Network, RELAY_OWN_V4, RELAY_SHARED_V4};
use sealpost_tests::packages::unpacked;
use sealpost_tests::programs;
use sealpost_tests::scene::{allowed, with_log_tails};
use sealpost_tests::sealpost::{
    self, AGENT_FILE, RELAY_FILE, RelayFile, Service, agent_does, expect_status, invite, relay_does,
};
use sealpost_tests::wait::wait_until;
use sealpost_tests::zones::{Zone, Zones};

/// Asks on behalf of the relay, and of the world.
const RESOLVER: &str = "198.51.100.51";
const ROOT: Zone<'_> = Zone { origin: ".", file: "root" };
/// Makes a key as other programs do, and prints its DS record.
const KEY: &str = "cd /etc/zones && key=$(ldns-keygen -a ECDSAP256SHA256 -k a.example) && \
    mv $key.private own.private && ldns-key2ds -n -2 $key.key";
const SECRET: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
/// The box's zone, and a key for certbot and its like.
const ZONE: &str = r#"
[[zone]]
name = "a.example"
spf = "v=spf1 mx -all"
[[dns.key]]
name = "certbot"
secret_file = "/etc/sealpost/certbot.secret"
"#;

#[test]
fn a_zone_made_at_home_is_served_by_the_relay_and_valid() -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let network = Network::start(&programs::directory()?, &unpacked("dns")?, &[], &[])?;
    let Network { internet, relay, home, sender, .. } = &network;
    with_log_tails(&network, || {
        let mut names = Zones::on(internet);
        internet.run("mkdir -p /etc/zones")?;
        let ds = internet.run(KEY)?;
        names.write(
            ROOT,
            &format!(
                ". NS ns.world.\nns.world. A {NAME_SERVER}\n\
                 relay.example.net. A {RELAY_SHARED_V4}\na.example. NS relay.example.net.\n{ds}"
            ),
        )?;
        names.sign(ROOT, &[])?;
        names.serve(NAME_SERVER, &[ROOT])?;
        names.resolve(RESOLVER, NAME_SERVER, "")?;
        let anchor = std::fs::read_to_string(names.anchor(ROOT))?;
        relay.write(ANCHOR, &anchor)?;
        sender.write(ANCHOR, &anchor)?;
        sealpost::configure_relay(relay, RelayFile::FIRST)?;
        let file = relay.read(RELAY_FILE).replace(NAME_SERVER, RESOLVER);
        relay.write(RELAY_FILE, &format!("{file}[dns]\nlisten = [\"{RELAY_SHARED_V4}:53\"]\n"))?;
        let mut running = sealpost::start_relay(relay)?;

        // The key of a zone that comes from elsewhere.
        let key = internet.read("/etc/zones/own.private");
        home.write("/var/lib/sealpost-agent/zones/a.example/entry.key", &key)?;
        home.write("/etc/sealpost/certbot.secret", SECRET)?;
        home.run("chmod -R go= /var/lib/sealpost-agent && chmod 600 /etc/sealpost/certbot.secret")?;
        sealpost::configure_agent(home, Service { proxy: "none", port: 2525 })?;
        agent_does(home, &format!("join '{}' --yes --name r1", invite(relay, "home")?))?;
        home.write(AGENT_FILE, &(home.read(AGENT_FILE) + ZONE))?;
        agent_does(home, "check-config")?;
        let _agent = sealpost::start_agent(home)?;
        expect_status(home, &["signed", "does not take the zone", "domain add"])?;
        let claimed = agent_does(home, "domain add a.example")?;
        ensure!(claimed.contains("a.example"), "{claimed}");
        expect_status(home, &["at r1: serves serial"])?;
        // The relay says so, and the zone follows.
        relay_does(relay, &format!("address add home {RELAY_OWN_V4}"))?;

        let asked = |name: &str, rtype: &str| {
            sender.run(&format!("drill -D @{RELAY_SHARED_V4} {name} {rtype} || true"))
        };
        wait_until("the MX records", Duration::from_secs(20), || {
            Ok(asked("a.example", "MX")?.contains("mx.a.example."))
        })?;
        let chase = format!("drill -S -k {ANCHOR} @{RESOLVER} a.example MX || true");
        let chased = sender.run(&chase)?;
        ensure!(chased.contains("Chase successful"), "{chased}");
        let address = asked("mx.a.example", "A")?;
        ensure!(address.contains(RELAY_OWN_V4), "{address}");

        // Answered when it is served.
        let update = |text: &str| {
            home.run(&format!(
                "nsupdate -v <<END\nserver 127.0.0.1 5354\nzone a.example.\n\
                 key hmac-sha256:certbot {SECRET}\n{text}\nsend\nEND"
            ))
        };
        let name = "_acme-challenge.mx.a.example";
        for token in ["one", "two", "three"] {
            update(&format!("update add {name}. 60 TXT {token}"))?;
            let seen = asked(name, "TXT")?;
            ensure!(seen.contains(token), "{token}: {seen}");
        }

        // A relay that was away is told what it missed.
        running.signal(relay, "KILL")?;
        running.wait(Duration::from_secs(10)).context("the relay to end")?;
        update(&format!("update add {name}. 60 TXT missed"))?;
        let _running = sealpost::start_relay(relay)?;
        wait_until("the zone of now", Duration::from_secs(60), || {
            Ok(asked(name, "TXT")?.contains("missed"))
        })
    })
}
