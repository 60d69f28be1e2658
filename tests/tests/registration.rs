//! From an invite to the first message, as operator and owner type it.

use anyhow::{Context, Result, ensure};
use sealpost_tests::message::Message;
use sealpost_tests::network::{FURTHER_RELAY_V4, RELAY_SHARED_V4};
use sealpost_tests::postfix::PROXY_PORT;
use sealpost_tests::scene::{Setup, scenario};
use sealpost_tests::sealpost::{
    self, AGENT_FILE, Kept, RelayFile, agent_does, agent_tries, expect_ready, expect_status,
    invite, relay_says,
};

#[test]
fn mail_arrives_after_invite_join_and_proof_with_a_registry_in_a_file() -> Result<()> {
    from_invite_to_first_message(Kept::Sqlite)
}

#[test]
fn mail_arrives_after_invite_join_and_proof_with_a_registry_on_postgresql() -> Result<()> {
    from_invite_to_first_message(Kept::Postgres)
}

fn from_invite_to_first_message(kept: Kept) -> Result<()> {
    scenario(Setup { kept, ..Setup::FRESH }, |scene| {
        let pid = scene.network.relay.read("/run/relay.pid");
        let home = &scene.network.home;
        ensure!(home.read(AGENT_FILE).is_empty(), "there is a file already");

        let invite = relay_says(&scene.network.relay, "invite alice")?;
        let (url, words) = (&invite["url"], &invite["relay_words"]);
        let (url, words) = (url.as_str().context("url")?, words.as_str().context("words")?);
        let service = format!("127.0.0.1:{PROXY_PORT}");
        let said = agent_does(home, &format!("join '{url}' --service {service} --yes"))?;
        // What operator and owner compare on the telephone.
        ensure!(said.contains(words), "no {words} in {said}");
        ensure!(said.contains("knows this box as `alice`"), "{said}");
        ensure!(home.read(AGENT_FILE).contains(&service), "{}", home.read(AGENT_FILE));
        scene.agent = Some(sealpost::start_agent(home)?);
        expect_ready(home)?;
        expect_status(home, &["`alice`, without a domain: sealpost-agent domain add"])?;

        let refused = agent_tries(home, "domain add home.example")?
            .expect_words(1, &["no record", "Publish this"])?;
        let record = refused.lines().map(str::trim).find(|line| line.starts_with("_sealpost."));
        let record = record.context("the record to publish")?.to_owned();
        scene.publish(&format!("{record}\n"))?;
        let home = &scene.network.home;
        let said = agent_does(home, "domain add home.example")?;
        ensure!(said.contains("proved, MX names: mx.home.example"), "{said}");

        scene.deliver("the first one")?;
        scene.expect_sender_log(&[scene.server()?.dane_verified()])?;
        let session = scene.relay_log().expect_transfer()?;
        ensure!(session["box"] == "alice", "{session}");
        expect_status(home, &["domain  home.example proved"])?;

        ensure!(scene.relay.is_running()?, "the relay ended");
        ensure!(scene.network.relay.read("/run/relay.pid") == pid, "another relay runs");
        let starts = scene.relay_log().matching("relay", &[]).len();
        ensure!(starts == 1, "the relay started {starts} times");
        Ok(())
    })
}

#[test]
fn a_second_operator_is_added_and_the_first_can_be_left() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let (machine, _second) = scene.add_relay(RelayFile::FURTHER)?;
        let home = &scene.network.home;
        let before = home.read(AGENT_FILE);
        let url = invite(&machine, "anna")?;
        let said = agent_does(home, &format!("join '{url}' --yes --name r2"))?;
        ensure!(said.contains("relay2.example.org knows this box as `anna`"), "{said}");
        let file = home.read(AGENT_FILE);
        ensure!(file.starts_with(before.trim_end()), "more than an entry was added:\n{file}");
        agent_does(home, "domain add home.example --relay r2")?;
        scene.reload_agent()?;
        scene.agent_log().expect("tunnel up", &[("relay", "r2")])?;
        let tunnels = scene.agent_log().matching("tunnel up", &[("relay", "r1")]).len();
        ensure!(tunnels == 1, "the tunnel to the first was cut");
        for relay in [RELAY_SHARED_V4, FURTHER_RELAY_V4] {
            scene.deliver_by(relay)?;
        }

        let home = &scene.network.home;
        let said = agent_does(home, "leave r1 --yes")?;
        ensure!(said.contains("left: r1 has forgotten this box"), "{said}");
        let file = home.read(AGENT_FILE);
        ensure!(!file.contains("\"r1\"") && file.contains("\"r2\""), "{file}");
        scene.reload_agent()?;
        scene.relay_log().expect("box gone", &[("box", "home")])?;
        let held = relay_says(&scene.network.relay, "boxes")?;
        ensure!(held[0]["state"] == "left" && held[0]["name"] == "home#256", "{held}");
        let domains = relay_says(&scene.network.relay, "domains")?;
        ensure!(domains[0]["state"] == "released", "{domains}");
        ensure!(domains[0]["rests_until"].is_string(), "{domains}");
        scene.send(&Message::small("to a relay that was left"))?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("sni-unknown")?;
        scene.deliver_by(FURTHER_RELAY_V4)?;
        expect_status(&scene.network.home, &["r2           up"]).map(drop)
    })
}
