//! Two relays on one registry, and one box with a tunnel to each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sealpost_tests::machine::Machine;
use sealpost_tests::network::{FURTHER_RELAY_V4, RELAY_SHARED_V4};
use sealpost_tests::postgres::Postgres;
use sealpost_tests::process::Process;
use sealpost_tests::scene::{Scene, Setup, scenario};
use sealpost_tests::sealpost::{
    self, Kept, RelayFile, agent_does, agent_tries, expect_status, invite, proof, relay_does,
    relay_log, relay_tries,
};

const SOON: Duration = Duration::from_secs(20);

/// From the operator's command to the end of every tunnel.
const CUT: Duration = Duration::from_secs(5);

/// The second relay.
struct Second {
    machine: Arc<Machine>,
    relay: Process,
}

#[test]
fn mail_arrives_by_the_other_relay_when_one_is_killed() -> Result<()> {
    fleet(|scene, second| {
        scene.relay.signal(&scene.network.relay, "KILL")?;
        scene.relay.wait(SOON)?;
        scene.deliver("while the first is dead")?;
        scene.expect_sender_log(&["status=sent", "mx2.home.example"])?;
        relay_log(&second.machine).expect_transfer()?;

        scene.relay = sealpost::start_relay(&scene.network.relay)?;
        let up = [("relay", "r1")];
        scene.agent_log().expect_nth(2, "tunnel up", &up, Duration::from_secs(45))?;
        second.relay.signal(&second.machine, "KILL")?;
        second.relay.wait(SOON)?;
        scene.deliver("while the second is dead")?;
        scene.relay_log().expect_transfer()?;
        scene.expect_first_attempt()
    })
}

#[test]
fn a_box_revoked_at_one_relay_is_cut_off_from_both() -> Result<()> {
    fleet(|scene, second| {
        // What led this box here lets no stranger in, whoever has it.
        let way = format!("join '{}' --yes", invite(&second.machine, "home --known")?);
        agent_tries(&second.machine, &way)?.expect_words(1, &["there is no such invite here"])?;

        let began = Instant::now();
        relay_does(&second.machine, "revoke home --yes")?;
        for relay in ["r1", "r2"] {
            let down = scene.agent_log().expect("tunnel down", &[("relay", relay)])?;
            ensure!(down["reason"].as_str().is_some_and(|why| why.contains("revoked")), "{down}");
        }
        let took = began.elapsed();
        ensure!(took < CUT, "the tunnels were cut only after {took:?}");
        println!("revoked at one relay, cut off from both after {took:?}");
        scene.relay_log().expect("box gone", &[("box", "home")])?;
        relay_log(&second.machine).expect("box gone", &[("box", "home")])?;
        expect_status(&scene.network.home, &["r1           DOWN", "r2           DOWN"])?;
        Ok(())
    })
}

#[test]
fn mail_flows_through_both_relays_while_their_registry_is_dead() -> Result<()> {
    fleet(|scene, second| {
        database(scene)?.kill()?;
        for address in [RELAY_SHARED_V4, FURTHER_RELAY_V4] {
            scene.deliver_by(address)?;
        }
        let began = Instant::now();
        for machine in [&scene.network.relay, &*second.machine] {
            relay_tries(machine, "invite bob")?.expect_words(
                1,
                &["error: the registry (postgresql, ", "cannot be used now", "repeating is safe"],
            )?;
        }
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(20), "two refusals took {took:?}");
        // A box that comes back meanwhile is known too.
        scene.stop_agent()?;
        scene.agent = Some(sealpost::start_agent(&scene.network.home)?);
        for relay in ["r1", "r2"] {
            scene.agent_log().expect_nth(2, "tunnel up", &[("relay", relay)], SOON)?;
        }
        scene.deliver("without a registry")?;

        database(scene)?.restart()?;
        scene.relay_log().expect("the registry is back", &[])?;
        relay_log(&second.machine).expect("the registry is back", &[])?;
        invite(&scene.network.relay, "bob")?;
        for address in [RELAY_SHARED_V4, FURTHER_RELAY_V4] {
            scene.deliver_by(address)?;
        }
        Ok(())
    })
}

/// Plays in a world whose box has a tunnel to each of two relays of one operator.
fn fleet(play: impl FnOnce(&mut Scene, &mut Second) -> Result<()>) -> Result<()> {
    scenario(Setup { kept: Kept::Postgres, ..Setup::STANDARD }, |scene| {
        let url = database(scene)?.url("registry");
        let file = RelayFile { registry: Some(&url), ..RelayFile::FURTHER };
        let (machine, relay) = scene.add_relay(file)?;
        let way = invite(&machine, "home --known")?;
        let home = &scene.network.home;
        let said = agent_does(home, &format!("join '{way}' --yes --name r2"))?;
        ensure!(said.contains("relay2.example.org knows this box as `home`"), "{said}");
        agent_does(home, "domain add home.example --mx mx.home.example --mx mx2.home.example")?;
        scene.reload_agent()?;
        scene.agent_log().expect("tunnel up", &[("relay", "r2")])?;
        let records = format!(
            "{}home.example. IN MX 20 mx2.home.example.\nmx2.home.example. IN A {FURTHER_RELAY_V4}\n\
             _25._tcp.mx2.home.example. IN TLSA {}\n",
            proof(&scene.network.home, "home.example")?,
            scene.certificate.tlsa()
        );
        scene.publish(&records)?;
        play(scene, &mut Second { machine, relay })
    })
}

fn database(scene: &mut Scene) -> Result<&mut Postgres> {
    scene.postgres.as_mut().context("a database server")
}
