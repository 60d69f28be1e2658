//! Addresses that are one box's alone, where its owner wants them carried from the first byte: the
//! mail server at home speaks to senders itself, also to those without TLS.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::machine::Machine;
use sealpost_tests::message::Message;
use sealpost_tests::network::{RELAY_OWN_V4, RELAY_SHARED_V4, SENDER_V4};
use sealpost_tests::postfix;
use sealpost_tests::scene::{From, Scene, Setup, scenario};
use sealpost_tests::sealpost::{AGENT_FILE, expect_status, expect_tunnel};
use sealpost_tests::sender::Tls;
use sealpost_tests::smtp;

/// The box has joined, and its owner may still write into its file.
const BEFORE: Setup = Setup { mx: RELAY_OWN_V4, agent: false, ..Setup::STANDARD };

#[test]
fn a_sender_without_tls_is_delivered_while_the_owner_wants_it() -> Result<()> {
    scenario(Setup { from: From::Postfix(Tls::Never), ..BEFORE }, |scene| {
        choose(&scene.network.home, "transparent")?;
        scene.start_agent(1)?;
        let weaker = ["WEAKER    this box is transparent at ", RELAY_OWN_V4];
        expect_status(&scene.network.home, &weaker)?;
        scene.deliver("in the clear")?;
        scene.expect_first_attempt()?;
        let relay = scene.relay_log().expect_transfer()?;
        let agent = scene.agent_log().expect_transfer()?;
        ensure!(relay["mode"] == "transparent" && agent["mode"] == "transparent", "{relay}{agent}");
        ensure!(relay["session"] == agent["session"], "different ids: {relay} {agent}");
        expect_at_home(scene, &format!(": client=unknown[{SENDER_V4}]"), true)?;
        expect_at_home(scene, &sealed_from_sender(), false)?;

        postfix::stop(&scene.network.home)?;
        let message = Message::small("while home is down");
        scene.send(&message)?;
        scene.expect_sender_log(&["status=deferred", "421 4.3.2 The mail server is not ready"])?;
        scene.relay_log().expect("session", &[("outcome", "home-unreachable")])?;
        postfix::start_at_home(&scene.network.home)?;
        scene.arrives_after_retries(&scene.network.home, &message)?;

        choose(&scene.network.home, "sealed")?;
        scene.reload_agent()?;
        expect_tunnel(&scene.network.home, 2)?;
        expect_connected(scene, 2)?;
        let message = Message::small("after the owner's second thoughts");
        scene.send(&message)?;
        scene.expect_sender_log(&["status=deferred", "451 4.7.0"])?;
        let refused = scene.relay_log().expect_session("plaintext-refused")?;
        ensure!(refused["mode"] == "sealed", "{refused}");
        choose(&scene.network.home, "transparent")?;
        scene.reload_agent()?;
        expect_connected(scene, 3)?;
        scene.arrives_after_retries(&scene.network.home, &message)
    })
}

#[test]
fn a_sender_with_tls_has_it_with_home_and_a_shared_address_stays_sealed() -> Result<()> {
    scenario(Setup { from: From::Postfix(Tls::Opportunistic), ..BEFORE }, |scene| {
        choose(&scene.network.home, "transparent")?;
        // A box that is away has said nothing: the relay speaks.
        let greeting = smtp::reply(&mut scene.connect(RELAY_OWN_V4)?)?;
        ensure!(greeting == "220 relay.example.net ESMTP\r\n", "{greeting}");
        scene.start_agent(1)?;
        scene.deliver("in TLS all the same")?;
        expect_at_home(scene, &sealed_from_sender(), true)?;
        let session = scene.relay_log().expect_transfer()?;
        ensure!(session["mode"] == "transparent" && session["sni"] == "", "{session}");
        scene.deliver_by(RELAY_SHARED_V4)?;
        scene.relay_log().expect("session", &[("outcome", "carried"), ("mode", "sealed")])?;

        // A relay that shuts down does not let a sender wait for a greeting.
        let silent = scene.replace_home_server()?;
        let mut stream = scene.connect(RELAY_OWN_V4)?;
        let _held = smtp::accept(&silent)?;
        scene.relay.signal(&scene.network.relay, "TERM")?;
        let reply = smtp::reply(&mut stream)?;
        ensure!(reply == "421 4.3.2 Shutting down, try again\r\n", "{reply}");
        Ok(())
    })
}

/// Writes into the owner's file what becomes of the box's own addresses at the relay.
fn choose(home: &Machine, own_address: &str) -> Result<()> {
    let before = home.read(AGENT_FILE);
    let kept: Vec<_> = before.lines().filter(|line| !line.starts_with("own_address")).collect();
    let at = kept.iter().position(|line| *line == "[[relay]]").context("a relay in the file")?;
    let (above, below) = kept.split_at(at + 1);
    let chosen = format!("own_address = \"{own_address}\"");
    let lines = [above, &[chosen.as_str()], below].concat();
    home.write(AGENT_FILE, &(lines.join("\n") + "\n"))
}

/// Waits until the relay has heard of the owner's choice for the `count`th time.
fn expect_connected(scene: &Scene, count: usize) -> Result<()> {
    let deadline = Duration::from_secs(20);
    scene.relay_log().expect_nth(count, "box connected", &[], deadline).map(drop)
}

/// How the home Postfix says that the sender itself has TLS with it.
fn sealed_from_sender() -> String {
    format!("TLS connection established from unknown[{SENDER_V4}]")
}

fn expect_at_home(scene: &Scene, words: &str, wanted: bool) -> Result<()> {
    let found = postfix::log(&scene.network.home).contains(words);
    ensure!(found == wanted, "{words:?} in the home server's log: {found}");
    Ok(())
}
