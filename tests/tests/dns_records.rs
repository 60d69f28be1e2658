//! What `sealpost-agent dns` prints is published as it is, and mail arrives by it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::network::{PAIRS, RELAY_OWN_V4, RELAY_OWN_V6, SENDER_V4};
use sealpost_tests::scene::{From, Scene, Setup, scenario};
use sealpost_tests::sealpost::{agent_does, agent_tries, relay_does};
use sealpost_tests::sender::Tls;
use sealpost_tests::wait::wait_until;

#[test]
fn a_sender_that_verifies_comes_by_either_family_and_finds_the_key() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let printed = publish_what_is_printed(scene)?;
        ensure!(printed.contains(scene.certificate.tlsa()), "another key: {printed}");
        let warning = "does not name mx2.home.example. Senders";
        ensure!(printed.contains(warning), "the certificate names mx alone: {printed}");
        arrives(scene, "by IPv6", "mx.home.example", RELAY_OWN_V6)?;
        scene.network.sender.run("ip -6 route delete default")?;
        arrives(scene, "by IPv4", "mx2.home.example", RELAY_OWN_V4)?;
        scene.expect_first_attempt()?;

        let home = &scene.network.home;
        agent_tries(home, "dns other.example")?
            .expect_words(1, &["other.example is not claimed", "domain add other.example"])?;
        agent_does(home, "domain remove home.example")?;
        agent_tries(home, "dns")?.expect_words(1, &["no domain is claimed"]).map(drop)
    })
}

#[test]
fn a_sender_that_names_nobody_comes_by_the_pair() -> Result<()> {
    let from = From::Postfix(Tls::Opportunistic);
    scenario(Setup { from, relay: PAIRS, ..Setup::STANDARD }, |scene| {
        relay_does(&scene.network.relay, &format!("address remove {RELAY_OWN_V4}"))?;
        wait_until("the relay to know that", Duration::from_secs(10), || {
            Ok(!agent_does(&scene.network.home, "dns")?.contains(RELAY_OWN_V4))
        })?;
        let printed = publish_what_is_printed(scene)?;
        let [first, second] = ["20 mx2.home.example", "30 mx3.home.example"].map(|exchanger| {
            let (_, name) = exchanger.split_once(' ').unwrap_or_default();
            ensure!(printed.contains(&format!(" IN MX {exchanger}.")), "{exchanger}: {printed}");
            let start = format!("{name}. 3600 IN A ");
            let address = printed.lines().find_map(|line| line.strip_prefix(&start));
            address.map(str::to_owned).with_context(|| format!("{start}: {printed}"))
        });
        let (first, second) = (first?, second?);
        // The first exchanger has an IPv6 address of the box's own.
        scene.network.sender.run("ip -6 route delete default")?;
        scene.deliver("to whom it may concern")?;
        scene.expect_first_attempt()?;
        let refused = scene.relay_log().expect_session("sni-absent")?;
        ensure!(refused["local"].to_string().contains(&first), "{refused}");
        expect_session_at(scene, "", &second)
    })
}

/// Has nothing in the world's zone but the sender's own address and what the command prints.
fn publish_what_is_printed(scene: &mut Scene) -> Result<String> {
    let printed = agent_does(&scene.network.home, "dns")?;
    scene.zone = format!("mail.sender.example. IN A {SENDER_V4}\n");
    scene.publish(&printed)?;
    Ok(printed)
}

/// A message comes by the exchanger `name` at the address `local` of the relay, verified by DANE.
fn arrives(scene: &Scene, subject: &str, name: &str, local: &str) -> Result<()> {
    scene.deliver(subject)?;
    scene.expect_sender_log(&["Verified TLS connection established to", name])?;
    expect_session_at(scene, name, local)
}

/// Waits for the end of a session of a sender that asked for `name` at the address `local`.
fn expect_session_at(scene: &Scene, name: &str, local: &str) -> Result<()> {
    wait_until(&format!("the session at {local}"), Duration::from_secs(20), || {
        let sessions = scene.relay_log().matching("session", &[("sni", name)]);
        Ok(sessions.iter().any(|session| session["local"].to_string().contains(local)))
    })
}
