//! Things end, move and come back in the middle of mail; no message is lost, doubled or cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::mailbox::expect_empty;
use sealpost_tests::message::Message;
use sealpost_tests::network::{NAT, NAT_AFTER_REBINDING, RELAY_SHARED_V4};
use sealpost_tests::postfix;
use sealpost_tests::scene::{Setup, scenario};
use sealpost_tests::sealpost::{self, AGENT_FILE, RELAY_FILE};
use sealpost_tests::wait::wait_until;

const SOON: Duration = Duration::from_secs(20);

/// Takes several seconds at the speed of [`Scene::send_until_midway`].
const BIG: usize = 8_000_000;

#[test]
fn a_message_to_a_box_that_is_offline_arrives_once_it_is_back() -> Result<()> {
    let setup = Setup { agent: false, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let message = Message::small("later");
        scene.send(&message)?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("box-offline")?;
        let gave_up = [("parked_total{outcome=\"gave-up\"}", 1.0), ("parked", 0.0)];
        admin::expect_metrics(&scene.network.relay, &gave_up)?;
        scene.start_agent(1)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_sender_waits_while_a_box_comes_back() -> Result<()> {
    let setup = Setup { agent: false, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let message = Message::small("in a moment");
        scene.send(&message)?;
        wait_until("a ClientHello that waits at the relay", SOON, || {
            let parked = "sealpost_relay_parked";
            let parked = admin::metric(&scene.network.relay, admin::RELAY, parked)?;
            Ok(parked == Some(1.0))
        })?;
        scene.start_agent(1)?;
        scene.expect_delivered(&message)?;
        scene.expect_first_attempt()?;
        let came = [("parked_total{outcome=\"came\"}", 1.0), ("parked", 0.0)];
        admin::expect_metrics(&scene.network.relay, &came)
    })
}

#[test]
fn a_message_survives_a_relay_that_is_killed_midway() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let message = scene.send_until_midway(BIG)?;
        scene.relay.signal(&scene.network.relay, "KILL")?;
        scene.relay.wait(SOON)?;
        scene.network.full_speed_sender()?;
        scene.relay = sealpost::start_relay(&scene.network.relay)?;
        // Cut off is what home must have seen, not ended.
        wait_until("the home server to notice", SOON, || {
            let log = postfix::log(&scene.network.home);
            Ok(log.contains("lost connection after DATA"))
        })?;
        expect_empty(&scene.network.home)?;
        sealpost::expect_tunnel(&scene.network.home, 2)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_relay_that_was_killed_has_its_box_back_while_a_sender_waits() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        scene.relay.signal(&scene.network.relay, "KILL")?;
        scene.relay.wait(SOON)?;
        scene.relay = sealpost::start_relay(&scene.network.relay)?;
        // The agent cannot know yet. Its next keep-alive meets a stateless reset, it dials anew,
        // and all that time the relay holds the ClientHello.
        let message = Message::small("just after a restart");
        scene.send(&message)?;
        scene.expect_delivered(&message)?;
        let down = scene.agent_log().expect("tunnel down", &[])?;
        ensure!(down["reason"].as_str().is_some_and(|why| why.contains("reset")), "{down}");
        scene.expect_first_attempt()
    })
}

#[test]
fn a_message_survives_an_agent_that_is_killed_midway() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let message = scene.send_until_midway(BIG)?;
        let mut agent = scene.agent.take().context("the agent")?;
        agent.signal(&scene.network.home, "KILL")?;
        agent.wait(SOON)?;
        scene.network.full_speed_sender()?;
        scene.start_agent(2)?;
        wait_until("the home server to notice", SOON, || {
            let log = postfix::log(&scene.network.home);
            Ok(log.contains("lost connection after DATA"))
        })?;
        expect_empty(&scene.network.home)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_message_to_a_home_server_that_is_down_arrives_once_it_is_up() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        postfix::stop(&scene.network.home)?;
        let message = Message::small("later");
        scene.send(&message)?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("home-unreachable")?;
        scene.agent_log().expect_session("home-unreachable")?;
        postfix::start_at_home(&scene.network.home)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_message_goes_on_when_the_home_router_changes_its_mapping() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let mappings = scene.network.nat_mappings()?;
        ensure!(mappings.contains(&format!("dst={NAT} ")), "{mappings}");
        let message = scene.send_until_midway(BIG)?;
        scene.network.rebind_nat()?;
        scene.expect_delivered(&message)?;
        let mappings = scene.network.nat_mappings()?;
        ensure!(
            mappings.contains(&format!("dst={NAT_AFTER_REBINDING} ")),
            "the new mapping was not used: {mappings}"
        );
        // The same tunnel and the same session carried it to its end.
        let tunnels = scene.agent_log().matching("tunnel up", &[]).len();
        ensure!(tunnels == 1, "the agent had to connect {tunnels} times");
        scene.relay_log().expect_transfer()?;
        scene.expect_first_attempt()
    })
}

#[test]
fn a_silent_tunnel_outlives_the_memory_of_the_home_router() -> Result<()> {
    /// Common home routers forget a silent UDP mapping after this time.
    const MEMORY: u32 = 30;
    scenario(Setup::STANDARD, |scene| {
        scene.network.forget_silent_mappings(MEMORY)?;
        // The commands that registered the box have left mappings too; those may be forgotten.
        let sockets = scene.network.home.run("ss --no-header --udp --all --ipv4 --numeric")?;
        let port = sockets.split_whitespace().nth(3).and_then(|local| local.rsplit(':').next());
        let tunnel = format!("sport={} ", port.context("the agent has no socket")?);
        // The silence itself is what is tested; a mapping that was forgotten does not come back
        // unless the agent speaks first, and then it would have to reconnect.
        let over = Instant::now() + Duration::from_secs(u64::from(MEMORY) + 15);
        while Instant::now() < over {
            let mappings = scene.network.nat_mappings()?;
            ensure!(mappings.contains(&tunnel), "{tunnel}is forgotten: {mappings}");
            std::thread::sleep(Duration::from_millis(500));
        }
        let message = Message::small("after a silence");
        scene.send(&message)?;
        scene.expect_delivered(&message)?;
        let tunnels = scene.agent_log().matching("tunnel up", &[]).len();
        ensure!(tunnels == 1, "the agent had to connect {tunnels} times");
        scene.expect_first_attempt()
    })
}

#[test]
fn a_relay_told_to_end_finishes_the_message_under_way() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let message = scene.send_until_midway(BIG)?;
        scene.relay.signal(&scene.network.relay, "TERM")?;
        wait_until("the relay to take no more", SOON, || {
            let Ok(mut stream) = scene.connect(RELAY_SHARED_V4) else {
                return Ok(true);
            };
            let greeting = sealpost_tests::smtp::reply(&mut stream);
            Ok(greeting.is_ok_and(|greeting| greeting.starts_with("421")))
        })?;
        ensure!(scene.relay.is_running()?, "it ended with a session open");
        scene.expect_delivered(&message)?;
        scene.expect_first_attempt()?;
        let status = scene.relay.wait(SOON)?;
        ensure!(status.success(), "{status}");
        scene.relay_log().expect_transfer()?;
        Ok(())
    })
}

#[test]
fn a_broken_configuration_changes_nothing() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let relay = scene.network.relay.read(RELAY_FILE);
        let agent = scene.network.home.read(AGENT_FILE);
        let broken = "colour = \"green\"\n";
        scene.network.relay.write(RELAY_FILE, &format!("{broken}{relay}"))?;
        scene.network.home.write(AGENT_FILE, &format!("{broken}{agent}"))?;
        scene.relay.signal(&scene.network.relay, "HUP")?;
        if let Some(process) = &mut scene.agent {
            process.signal(&scene.network.home, "HUP")?;
        }
        for log in [scene.relay_log(), scene.agent_log()] {
            wait_until("a complaint that names the key", SOON, || {
                Ok(log.events().iter().any(|event| {
                    matches!(event["level"].as_str(), Some("ERROR" | "WARN"))
                        && event.to_string().contains("colour")
                }))
            })?;
        }
        let message = Message::small("as before");
        scene.send(&message)?;
        scene.expect_delivered(&message)?;
        scene.expect_first_attempt()
    })
}
