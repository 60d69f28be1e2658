//! Zones of boxes on a relay: signed at home, fetched through the tunnel, served to the world. Judged
//! from outside, with `drill` at the relay's name server.

#[path = "../takeover/line.rs"]
#[expect(dead_code, reason = "the other test needs more of it")]
mod line;
mod world;
mod zone_box;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::base::iana::Rcode;
use sealpost_tests::sealpost::relay_does;
use sealpost_tests::wait::wait_until;
use sealpost_tunnel::ResetCode;
use sealpost_tunnel::request::{ProofMethod, RefusalCode};

use world::{ds, proof, world, zone};
use zone_box::Heard;

const FOREIGN: Heard = Heard::Answer(Rcode::NOTAUTH);
const GONE: &str = "REFUSED";

#[test]
fn a_zone_is_served_as_its_box_signed_it_and_only_while_the_domain_is_the_boxs() -> Result<()> {
    world(
        |machine, [alice, bob, mallory]| {
            let mut root = String::new();
            for (apex, key) in [("a.example", alice), ("b.example", bob), ("m.example", mallory)] {
                zone(machine, apex, apex, 1, &proof(apex, key.public()))?;
                root += &format!("{apex}. NS relay.example.net.\n{}", ds(machine, apex));
            }
            // Its parent vouches for a key that mallory does not have.
            zone(machine, "other.example", "other.example", 1, "")?;
            root += &ds(machine, "other.example");
            root += "other.example. NS relay.example.net.\n";
            // Proved by what stands elsewhere, and not signed in the parent's eyes.
            Ok(root + &proof("txt.example", alice.public()))
        },
        |world, [mut alice, mut bob, mut mallory]| {
            let machine = &world.network.internet;
            let made = |apex: &str, keys: &str, serial: u32, key| {
                zone(machine, apex, keys, serial, &proof(apex, key))
            };
            let (hers, his) = (alice.key(), mallory.key());

            // Nobody can prove by a zone that the relay cannot have.
            alice.claim("a.example")?.refused(RefusalCode::NotProved)?;
            for played in [&mut alice, &mut bob, &mut mallory] {
                played.connect()?;
            }
            let why = alice.claim("a.example")?.refused(RefusalCode::NotProved)?;
            ensure!(why.contains("has a DS record, but the zone that this box has"), "{why}");
            ensure!(alice.notify("a.example")? == FOREIGN, "nobody has it yet");

            // By DS: the first zone, served at once.
            alice.has(&made("a.example", "a.example", 1, hers)?)?;
            let standing = alice.claim("a.example")?.granted()?;
            ensure!(standing.domains[0].method == ProofMethod::Ds, "{standing:?}");
            world.expect("a.example", "master.world. 1 ")?;
            let text = world.drill("_sealpost.a.example TXT")?;
            ensure!(text.contains(&hers.fingerprint().to_string()), "{text}");
            ensure!(text.contains("aa"), "{text}");
            let by_tcp = world.drill("-t a.example MX")?;
            ensure!(by_tcp.contains("mx.a.example.") && by_tcp.contains("RRSIG"), "{by_tcp}");
            bob.has(&made("b.example", "b.example", 1, bob.key())?)?;
            bob.claim("b.example")?.granted()?;
            world.expect("b.example", "master.world. 1 ")?;

            // Neither with another key than the parent's, nor with a zone that names another box.
            mallory.has(&made("other.example", "mallorys", 1, his)?)?;
            let why = mallory.claim("other.example")?.refused(RefusalCode::NotProved)?;
            ensure!(why.contains("is no proof: its zone is refused"), "{why}");
            mallory.has(&made("m.example", "m.example", 1, hers)?)?;
            let why = mallory.claim("m.example")?.refused(RefusalCode::NotProved)?;
            ensure!(why.contains("has no record _sealpost.m.example"), "{why}");
            mallory.has(&made("a.example", "a.example", 9, his)?)?;
            mallory.claim("a.example")?.refused(RefusalCode::NotAvailable)?;

            // By the record that all can see; the zone comes with a notice.
            alice.has(&made("txt.example", "txt.example", 7, hers)?)?;
            alice.claim("txt.example")?.granted()?;
            ensure!(world.is("txt.example", GONE)?, "nobody brought it");
            alice.publish("txt.example")?;
            world.expect("txt.example", "master.world. 7 ")?;

            // New versions.
            alice.has(&made("a.example", "a.example", 2, hers)?)?;
            alice.publish("a.example")?;
            world.expect("a.example", "master.world. 2 ")?;
            let asked = alice.asked();
            alice.publish("a.example")?;

            // Notices of others' zones, and what is none.
            ensure!(mallory.notify("a.example")? == FOREIGN, "it is alice's");
            ensure!(mallory.notify("nobodys.example")? == FOREIGN, "it is nobody's");
            ensure!(mallory.notify("www.a.example")? == FOREIGN, "it is no domain");
            let short = mallory.tell(b"short")?;
            ensure!(short == Heard::Reset(ResetCode::Protocol), "{short:?}");
            for octets in [&[3, 0, 9][..], &[3, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 1], &[3]]
            {
                let nonsense = mallory.tell_octets(octets)?;
                ensure!(nonsense == Heard::Reset(ResetCode::Protocol), "{nonsense:?}");
            }
            ensure!(
                alice.asked() == asked,
                "a notice of what is served, or of others', costs nothing"
            );

            // What is not signed as it should be changes nothing.
            let mut broken = made("a.example", "a.example", 3, hers)?;
            broken = broken.replace("10 mx.a.example.", "10 mx.b.example.");
            for bad in [broken, made("a.example", "others", 4, hers)?] {
                alice.has(&bad)?;
                let before = alice.asked();
                alice.publish("a.example")?;
                wait_until("the zone to be fetched", Duration::from_secs(20), || {
                    Ok(alice.asked() > before + 1)
                })?;
            }
            ensure!(world.is("a.example", "master.world. 2 ")?, "the old version stays");
            wait_until("both refusals", Duration::from_secs(20), || {
                let log = world.network.relay.read("/var/log/relay.log");
                Ok(log.matches("a new version is refused, the old one stays").count() >= 2)
            })?;
            ensure!(world.is("a.example", "master.world. 2 ")?, "the old version still stays");
            alice.has(&made("a.example", "a.example", 5, hers)?)?;
            alice.publish("a.example")?;
            world.expect("a.example", "master.world. 5 ")?;

            // Transfers to those who may.
            let transfer = "drill -t @203.0.113.1 a.example AXFR || true";
            ensure!(world.network.sender.run(transfer)?.contains("mx.a.example"), "may");
            let other = world.network.internet.run(transfer)?;
            ensure!(!other.contains("mx.a.example"), "{other}");
            let status = relay_does(&world.network.relay, "status")?;
            ensure!(status.contains("203.0.113.1:53"), "{status}");

            world.expect_in_catalog(&["a.example", "b.example", "txt.example"])?;

            // A relay that comes back serves what it had, whoever is away.
            bob.disconnect();
            alice.disconnect();
            world.restart()?;
            for (apex, serial) in [("a.example", 5), ("b.example", 1), ("txt.example", 7)] {
                world.expect(apex, &format!("master.world. {serial} "))?;
            }
            world.expect_in_catalog(&["a.example", "b.example", "txt.example"])?;
            alice.connect()?;
            alice.has(&zone(
                &world.network.internet,
                "a.example",
                "a.example",
                6,
                &proof("a.example", hers),
            )?)?;
            alice.publish("a.example")?;
            world.expect("a.example", "master.world. 6 ")?;

            // Domains that go take their zones along.
            alice.release("a.example")?.granted()?;
            world.expect("a.example", GONE)?;
            wait_until("its file to go", Duration::from_secs(5), || Ok(!world.keeps("a.example")))?;
            ensure!(alice.notify("a.example")? == FOREIGN, "it was hers");
            world.expect_in_catalog(&["b.example", "txt.example"])?;
            ensure!(world.is("txt.example", "master.world. 7 ")?, "she has it still");
            ensure!(world.is("b.example", "master.world. 1 ")?, "bob has it still");
            relay_does(&world.network.relay, "revoke bob --yes")?;
            world.expect("b.example", GONE)?;
            wait_until("its file to go", Duration::from_secs(5), || Ok(!world.keeps("b.example")))
        },
    )
}

#[test]
fn a_claim_by_ds_lives_on_by_the_zone_that_is_served_also_under_the_boxs_next_key() -> Result<()> {
    // Its name servers never answer, so that nobody sees the record.
    world(
        |machine, [alice, ..]| {
            zone(machine, "a.example", "a.example", 1, &proof("a.example", alice.public()))?;
            let ds = ds(machine, "a.example");
            Ok(format!("dead.world. A 198.51.100.3\na.example. NS dead.world.\n{ds}"))
        },
        |world, [mut alice, ..]| {
            alice.connect()?;
            let signed = zone(
                &world.network.internet,
                "a.example",
                "a.example",
                1,
                &proof("a.example", alice.key()),
            )?;
            alice.has(&signed)?;
            alice.claim("a.example")?.granted()?;
            world.expect("a.example", "master.world. 1 ")?;
            ensure!(world.proofs_found()? == 0.0, "nobody looked yet");
            // The box itself is not needed for it.
            alice.disconnect();
            world.look_again()?;
            wait_until("the proof to be found", Duration::from_secs(60), || {
                Ok(world.proofs_found()? > 0.0)
            })?;

            // The zone stays the box's under its next key, which it then is had from.
            let mut next = alice.rotated(world.relay_key)?;
            next.connect()?;
            let network = world.network;
            let signed = zone(
                &network.internet,
                "a.example",
                "a.example",
                2,
                &proof("a.example", next.key()),
            )?;
            next.has(&signed)?;
            next.publish("a.example")?;
            world.expect("a.example", "master.world. 2 ")
        },
    )
}

#[test]
fn a_zone_is_its_owners_alone_below_anothers_and_after_a_change_of_hands() -> Result<()> {
    world(
        |_, [alice, bob, _]| {
            Ok(proof("a.example", alice.public()) + &proof("sub.a.example", bob.public()))
        },
        |world, [mut alice, mut bob, mut mallory]| {
            let machine = &world.network.internet;
            for played in [&mut alice, &mut bob, &mut mallory] {
                played.connect()?;
            }
            // Nobody can claim beneath a domain that is another's here, but this one came first.
            bob.claim("sub.a.example")?.granted()?;
            bob.has(&zone(machine, "sub.a.example", "bobs", 1, "")?)?;
            bob.publish("sub.a.example")?;
            world.expect("sub.a.example", "master.world. 1 ")?;
            alice.claim("a.example")?.granted()?;
            alice.has(&zone(machine, "a.example", "hers", 1, "")?)?;
            alice.publish("a.example")?;
            world.expect("sub.a.example", "NXDOMAIN")?;
            world.expect_in_catalog(&["a.example"])?;
            // A new version does not bring it back, a delegation does.
            bob.has(&zone(machine, "sub.a.example", "bobs", 2, "")?)?;
            bob.publish("sub.a.example")?;
            let cut = "sub.a.example. NS relay.example.net.\n";
            alice.has(&zone(machine, "a.example", "hers", 5, cut)?)?;
            ensure!(world.is("sub.a.example", "NXDOMAIN")?, "nobody delegated it");
            alice.publish("a.example")?;
            world.expect("sub.a.example", "master.world. 2 ")?;
            world.expect_in_catalog(&["a.example", "sub.a.example"])?;

            // What was kept of alice's zone is not served for mallory, whose serials are his own.
            for played in [&mut alice, &mut bob, &mut mallory] {
                played.disconnect();
            }
            world.passes_unseen("a.example", alice.key(), mallory.key())?;
            world.expect("a.example", GONE)?;
            wait_until("its file to go", Duration::from_secs(5), || Ok(!world.keeps("a.example")))?;
            world.expect("sub.a.example", "master.world. 2 ")?;
            mallory.connect()?;
            let machine = &world.network.internet;
            mallory.has(&zone(machine, "a.example", "mallorys", 1, "")?)?;
            mallory.publish("a.example")?;
            world.expect("a.example", "master.world. 1 ")?;
            world.expect("sub.a.example", "NXDOMAIN")?;
            world.restart()?;
            world.expect("a.example", "master.world. 1 ")?;
            ensure!(world.is("sub.a.example", "NXDOMAIN")?, "not after a restart either");
            Ok(())
        },
    )
}

#[test]
fn a_box_that_floods_or_drips_slows_nobody() -> Result<()> {
    /// Mallory's.
    const DOMAINS: usize = 40;
    let domain = |number: usize| format!("m{number}.example");
    world(
        |_, [alice, _, mallory]| {
            let his: String = (0..DOMAINS).map(|at| proof(&domain(at), mallory.public())).collect();
            Ok(his + &proof("a.example", alice.public()))
        },
        |world, [mut alice, _, mut mallory]| {
            alice.connect()?;
            mallory.connect()?;
            alice.claim("a.example")?.granted()?;
            let version = |serial| zone(&world.network.internet, "a.example", "hers", serial, "");
            alice.has(&version(1)?)?;
            alice.publish("a.example")?;
            world.expect("a.example", "master.world. 1 ")?;

            mallory.drip();
            for at in 0..DOMAINS {
                mallory.claim(&domain(at))?.granted()?;
                mallory.publish(&domain(at))?;
            }
            // More than a burst: it ends with no answer, on a stream that is given up.
            let busy = (0..200).find_map(|at| match mallory.notify(&domain(at % DOMAINS)) {
                Ok(Heard::Answer(Rcode::NOERROR)) => None,
                other => Some(other),
            });
            let busy = busy.context("a flood of notices must meet a limit")??;
            ensure!(busy == Heard::Reset(ResetCode::Busy), "{busy:?}");
            for serial in 2..6 {
                alice.has(&version(serial)?)?;
                alice.publish("a.example")?;
                world.expect("a.example", &format!("master.world. {serial} "))?;
            }
            Ok(())
        },
    )
}
