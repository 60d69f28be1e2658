//! The life of keys: changed, revoked, recovered, followed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sealpost_tests::machine::Machine;
use sealpost_tests::mailbox::{self, expect_empty};
use sealpost_tests::message::Message;
use sealpost_tests::network::{FURTHER_BOX, FURTHER_RELAY_V4, RELAY_SHARED_V4};
use sealpost_tests::postfix::PROXY_PORT;
use sealpost_tests::scene::{Scene, Setup, scenario};
use sealpost_tests::sealpost::{
    self, AGENT_FILE, RelayFile, agent_does, agent_tries, expect_ready, expect_status, invite,
    proof, relay_does, relay_says,
};
use sealpost_tests::wait::wait_until;

const SOON: Duration = Duration::from_secs(20);

/// From the command that shuts a key out to the end of its tunnel.
const CUT: Duration = Duration::from_secs(5);

#[test]
fn mail_to_a_revoked_box_waits_at_its_sender_for_a_new_invite() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let began = Instant::now();
        relay_does(&scene.network.relay, "revoke home --yes")?;
        expect_cut(scene, began)?;
        let home = &scene.network.home;
        expect_status(home, &["r1           DOWN", "it was revoked", "the operator"])?;
        let message = Message::small("to whom it waits");
        scene.send(&message)?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("sni-unknown")?;

        // The old key does not come back, and who tries it is told how to go on.
        let said = relay_does(&scene.network.relay, "invite home")?;
        ensure!(said.contains("`home` was revoked. This invite brings it back"), "{said}");
        let url = said.lines().next().context("the invite")?;
        let join = format!("join '{url}' --yes");
        agent_tries(home, &join)?.expect_words(1, &["revoked", "sealpost-agent key rotate"])?;
        agent_does(home, "key rotate")?;
        agent_does(home, &join)?;
        scene.publish(&proof(&scene.network.home, "home.example")?)?;
        agent_does(&scene.network.home, "domain add home.example")?;
        sealpost::expect_tunnel(&scene.network.home, 2)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_bare_box_with_the_kit_gets_the_mail_and_the_stolen_one_is_shut_out() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let bare = scene.add_box()?;
        let stolen = &scene.network.home;
        let said = agent_does(stolen, "recovery-kit")?;
        let kit = said.lines().find(|line| line.starts_with("sealpost-kit:"));
        bare.write("/var/tmp/kit.txt", kit.context("the kit")?)?;

        let began = Instant::now();
        let recover = format!("recover /var/tmp/kit.txt --service 127.0.0.1:{PROXY_PORT} --yes");
        let said = agent_does(&bare, &recover)?;
        expect_cut(scene, began)?;
        ensure!(said.contains("the old key is revoked"), "{said}");
        let _agent = sealpost::start_agent(&bare)?;
        expect_ready(&bare)?;
        let message = Message::small("to the bare box");
        scene.send(&message)?;
        mailbox::expect_delivered(&bare, &message, Duration::from_secs(30))?;
        expect_empty(&scene.network.home)?;
        scene.expect_first_attempt()?;

        // The record that the command printed is the one of the new key.
        let record = said.lines().map(str::trim).find(|line| line.starts_with("_sealpost."));
        let record = record.context("the record")?.to_owned();
        scene.publish(&format!("{record}\n"))?;
        agent_does(&bare, "domain add home.example")?;

        // Whoever has the stolen box cannot do anything with it.
        scene.stop_agent()?;
        scene.agent = Some(sealpost::start_agent(&scene.network.home)?);
        let stolen = &scene.network.home;
        expect_status(stolen, &["r1           DOWN", "another key took its place"])?;
        for command in ["domain list", "domain add home.example", "recovery-kit"] {
            agent_tries(stolen, command)?.expect_words(1, &["was revoked or replaced"])?;
        }
        // A new key is a stranger's.
        let said = agent_does(stolen, "key rotate")?;
        ensure!(said.contains("does not know this box any more"), "{said}");
        expect_status(stolen, &["r1           DOWN", "does not know this box"])?;
        let tunnels = sealpost::agent_log(stolen).matching("tunnel up", &[]).len();
        ensure!(tunnels == 1, "the stolen box came back");
        expect_ready(&bare).map(drop)
    })
}

#[test]
fn a_running_agent_takes_up_the_new_key_of_its_box() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let thief = scene.network.add(FURTHER_BOX, &[])?;
        let home = &scene.network.home;
        copy(home, &thief)?;
        let said = agent_does(home, "key rotate")?;
        let new = key(home)?;
        let record = said.lines().map(str::trim).find(|line| line.starts_with("_sealpost."));
        let record = record.context("the record to publish")?.to_owned();
        ensure!(record.contains(&fingerprint(home)?), "{said}");
        scene.agent_log().expect_nth(2, "tunnel up", &[], SOON)?;
        expect_status(home, &[&format!("box     {new}"), "domain  home.example proved"])?;
        scene.deliver("under the new key")?;

        let _thief = sealpost::start_agent(&thief)?;
        expect_status(
            &thief,
            &["r1           DOWN", "it was revoked, or another key took its place"],
        )?;

        // The record in the DNS names the old key: the owner is warned, and mail comes meanwhile.
        let warned = expect_status(home, &["WARNED", "mail stops on"])?;
        ensure!(warned.contains(&record), "{warned}");
        scene.deliver("while the proof is missing")?;
        scene.publish(&format!("{record}\n"))?;
        let home = &scene.network.home;
        agent_does(home, "domain add home.example")?;
        expect_status(home, &["domain  home.example proved"])?;
        scene.expect_first_attempt()?;
        let tunnels = scene.agent_log().matching("tunnel up", &[]).len();
        ensure!(tunnels == 2, "the agent connected {tunnels} times");
        Ok(())
    })
}

#[test]
fn a_rotation_that_did_not_reach_a_relay_is_finished_later() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        // Of another operator.
        let (machine, mut second) = scene.add_relay(RelayFile::FURTHER)?;
        let join = format!("join '{}' --yes --name r2", invite(&machine, "anna")?);
        agent_does(&scene.network.home, &join)?;
        agent_does(&scene.network.home, "domain add home.example")?;
        scene.reload_agent()?;
        scene.agent_log().expect("tunnel up", &[("relay", "r2")])?;

        second.signal(&machine, "KILL")?;
        second.wait(SOON)?;
        let home = &scene.network.home;
        let old = key(home)?;
        let words = ["r1: knows the new key", "NOT DONE: the old key is kept for r2. Run"];
        agent_tries(home, "key rotate")?.expect_words(1, &words)?;
        ensure!(key(home)? == old, "the old key is gone");
        let first = [("relay", "r1")];
        scene.agent_log().expect_nth(2, "tunnel up", &first, SOON)?;
        second = sealpost::start_relay(&machine)?;
        let other = [("relay", "r2")];
        scene.agent_log().expect_nth(2, "tunnel up", &other, Duration::from_secs(60))?;
        for relay in [RELAY_SHARED_V4, FURTHER_RELAY_V4] {
            scene.deliver_by(relay)?;
        }

        agent_does(home, "key rotate")?;
        ensure!(key(home)? != old, "the old key is still in use");
        scene.agent_log().expect_nth(3, "tunnel up", &other, SOON)?;
        for relay in [RELAY_SHARED_V4, FURTHER_RELAY_V4] {
            scene.deliver_by(relay)?;
        }
        ensure!(second.is_running()?, "the second relay ended");
        Ok(())
    })
}

#[test]
fn boxes_follow_a_relay_to_its_new_keys() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let old_invite = invite(&scene.network.relay, "bob")?;
        let message = scene.send_until_midway(8_000_000)?;
        rotate_relay(scene)?;
        scene.expect_delivered(&message)?;
        scene.network.full_speed_sender()?;
        scene.expect_first_attempt()?;
        let tunnels = scene.agent_log().matching("tunnel up", &[]).len();
        ensure!(tunnels == 1, "the agent connected {tunnels} times");

        // Away for two rotations: it knows the first key alone.
        scene.stop_agent()?;
        let third = rotate_relay(scene)?;
        scene.start_agent(2)?;
        let home = &scene.network.home;
        expect_status(home, &["NEW KEY", &format!("key = \"{third}\"")])?;
        scene.deliver("over the third key")?;

        let other = scene.network.add(FURTHER_BOX, &[])?;
        let said = agent_does(&other, &format!("join '{old_invite}' --yes"))?;
        ensure!(said.contains("knows this box as `bob`"), "{said}");
        ensure!(said.contains("has changed its key since the invite was made"), "{said}");
        Ok(())
    })
}

/// What a thief or a careless backup does: file and keys stand on another machine too.
fn copy(home: &Machine, other: &Machine) -> Result<()> {
    other.write(AGENT_FILE, &home.read(AGENT_FILE))?;
    other.run("mkdir -p -m 700 /var/lib/sealpost-agent")?;
    let key = "/var/lib/sealpost-agent/agent.key";
    std::fs::copy(home.path(key), other.path(key))?;
    Ok(())
}

fn key(home: &Machine) -> Result<String> {
    let printed = agent_does(home, "key")?;
    printed.lines().next().map(str::to_owned).context("the key of the box")
}

fn fingerprint(home: &Machine) -> Result<String> {
    agent_does(home, "key")?.lines().nth(1).map(str::to_owned).context("its fingerprint")
}

/// Gives the relay a new key, which it uses when this returns.
fn rotate_relay(scene: &mut Scene) -> Result<String> {
    let relay = &scene.network.relay;
    let rotated = relay_says(relay, "key rotate --yes")?;
    let key = rotated["key"].as_str().context("the new key")?.to_owned();
    scene.relay.signal(relay, "HUP")?;
    wait_until("the relay to use its new key", SOON, || {
        Ok(relay_says(relay, "status")?["key"] == key)
    })?;
    Ok(key)
}

/// Demands that the agent at home lost its tunnel, as its key is not taken any more, soon after
/// `began`.
fn expect_cut(scene: &Scene, began: Instant) -> Result<()> {
    let down = scene.agent_log().expect("tunnel down", &[])?;
    let took = began.elapsed();
    ensure!(down["reason"].as_str().is_some_and(|why| why.contains("revoked")), "{down}");
    ensure!(took < CUT, "the tunnel was cut only after {took:?}");
    println!("cut after {took:?}");
    Ok(())
}
