//! A domain that is its owner's: signed at home, served by a relay that cannot change it, validated from
//! the root on, and used by mail servers that demand it. Days pass, boxes go away, keys change.

mod away;
mod certificates;
mod world;

use anyhow::{Result, ensure};
use sealpost_tests::network::{RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4};
use sealpost_tests::scene::MX_NAME;
use sealpost_tests::wait::wait_until;

use world::{DEADLINE, world};

const DOMAIN: &str = "home.example";
const VALIDATED: &str = "; fully validated";

#[test]
fn a_domain_is_proved_by_ds_served_and_validated_and_mail_comes_verified() -> Result<()> {
    world(&[], "", |world| {
        ensure!(world.asked(DOMAIN, "SOA")?.contains("REFUSED"), "nobody has the domain yet");
        world.own(DOMAIN)?;

        for (name, kind, part) in [
            (DOMAIN, "SOA", "relay.example.net."),
            (DOMAIN, "NS", "relay.example.net."),
            (DOMAIN, "MX", "mx.home.example."),
            (DOMAIN, "CDS", " 13 2 "),
            (MX_NAME, "AAAA", RELAY_OWN_V6),
            ("mx2.home.example", "A", RELAY_OWN_V4),
            ("_25._tcp.mx.home.example", "TLSA", "3 1 1 "),
            ("_25._tcp.mx2.home.example", "TLSA", "3 1 1 "),
            ("_sealpost.home.example", "TXT", "sealpost1 box="),
        ] {
            world.internet.expect_delv(name, kind, &[VALIDATED, part])?;
            ensure!(world.is_authentic(name, kind)?, "{name} {kind}: no AD");
        }
        let absent = "negative response, fully validated";
        for (name, kind) in [("nobody.home.example", "A"), (DOMAIN, "LOC"), (MX_NAME, "MX")] {
            world.internet.expect_delv(name, kind, &[absent])?;
            ensure!(world.is_authentic(name, kind)?, "{name} {kind}: no AD");
        }

        // What the relay hands on, before verifiers that are not ours.
        let judged = world.network.sender.run(&format!(
            "cd /tmp; dig +onesoa +noall +answer @{RELAY_SHARED_V4} {DOMAIN} AXFR > zone
             ldns-verify-zone -V 1 zone; dnssec-verify -z -o {DOMAIN} zone"
        ))?;
        ensure!(judged.contains("fully signed"), "{judged}");

        let sender = world.sender()?;
        world.deliver(&sender, "verified")?;

        // A relay that comes back serves what it had.
        let served = world.asked(DOMAIN, "SOA")?;
        ensure!(served.contains("RRSIG"), "{served}");
        world.stop_agent()?;
        for signal in ["TERM", "KILL"] {
            world.stop_relay(signal)?;
            ensure!(world.asked(DOMAIN, "SOA")?.contains("no servers"), "it is off");
            world.start_relay()?;
            let record = |answer: &str| {
                let line = answer.lines().find(|line| line.contains("hostmaster.home.example."));
                line.map(str::to_owned)
            };
            let before = record(&served);
            wait_until("the kept zone", DEADLINE, || {
                Ok(record(&world.asked(DOMAIN, "SOA")?) == before)
            })?;
        }
        world.start_agent()?;
        world.expect_served(DOMAIN)?;
        world.deliver(&sender, "after all came back")
    })
}
