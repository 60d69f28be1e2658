//! What people get wrong, and what they are told, by the programs themselves.

use anyhow::{Context, Result, ensure};
use sealpost_tests::clock::WrongClock;
use sealpost_tests::network::FURTHER_BOX;
use sealpost_tests::postfix::PROXY_PORT;
use sealpost_tests::scene::{At, From, Scene, Setup, scenario};
use sealpost_tests::sealpost::{
    self, AGENT_FILE, agent_does, agent_tries, expect_ready, invite, proof, relay_does, relay_says,
    relay_tries,
};

/// Nobody sends and nobody receives.
const WITHOUT_MAIL: Setup =
    Setup { from: From::Scenario, at: At::Scenario, agent: false, ..Setup::STANDARD };

#[test]
fn an_invite_that_cannot_be_used_says_why() -> Result<()> {
    scenario(Setup { joined: false, ..WITHOUT_MAIL }, |scene| {
        let bob = scene.network.add(FURTHER_BOX, &[])?;
        let (relay, home) = (&scene.network.relay, &scene.network.home);
        let refused = |url: &str, words: &str| {
            agent_tries(home, &format!("join '{url}' --yes"))?.expect_words(1, &["error: ", words])
        };
        let url = invite(relay, "bob")?;
        let damaged = "the invite is damaged: a part is missing or mistyped";
        refused(&url[..url.len() - 5], damaged)?;
        refused(url.split('#').next().context("what stands before")?, damaged)?;
        refused(&url.replace(":4433", ":4434"), damaged)?;
        refused(&mistyped(&url), damaged)?;
        refused(&url.replace("sealpost:", "https:"), "this is not an invite")?;

        let old = WrongClock::on(relay, "-40d")?.relay_tries("invite carol")?.expect(0)?;
        refused(old.lines().next().context("the invite")?, "this invite has expired")?;
        let withdrawn = invite(relay, "dora")?;
        relay_does(relay, "invites withdraw dora")?;
        refused(&withdrawn, "there is no such invite here")?;
        agent_does(&bob, &format!("join '{url}' --yes"))?;
        refused(&url, "this invite has been used already; if that was not you")?;
        ensure!(home.read(AGENT_FILE).is_empty(), "a refusal left a file");

        let taken = ["error: a box named `bob` is in use; choose another name"];
        relay_tries(relay, "invite bob")?.expect_words(1, &taken)?;
        let boxes = relay_says(relay, "boxes")?;
        ensure!(boxes.as_array().is_some_and(|boxes| boxes.len() == 1), "{boxes}");
        Ok(())
    })
}

#[test]
fn a_box_with_the_key_of_another_gets_no_name_of_its_own() -> Result<()> {
    scenario(WITHOUT_MAIL, |scene| {
        let copy = scene.network.add(FURTHER_BOX, &[])?;
        let (relay, home) = (&scene.network.relay, &scene.network.home);
        copy.run("mkdir -p -m 700 /var/lib/sealpost-agent")?;
        let key = "/var/lib/sealpost-agent/agent.key";
        std::fs::copy(home.path(key), copy.path(key))?;
        let said = agent_does(&copy, &format!("join '{}' --yes", invite(relay, "carol")?))?;
        ensure!(said.contains("knows this box as `home`"), "{said}");
        let boxes = relay_says(relay, "boxes")?;
        ensure!(boxes.as_array().is_some_and(|boxes| boxes.len() == 1), "{boxes}");
        // Whom it was meant for can still use it.
        let invites = relay_says(relay, "invites")?;
        let open = invites.as_array().is_some_and(|invites| {
            invites.iter().any(|invite| invite["name"] == "carol" && invite["state"] == "open")
        });
        ensure!(open, "{invites}");
        Ok(())
    })
}

#[test]
fn a_domain_that_nobody_can_have_is_refused_with_the_reason() -> Result<()> {
    scenario(WITHOUT_MAIL, |scene| {
        let long = format!("{}example", "abcdefg.".repeat(37));
        ensure!(long.len() > 300, "{}", long.len());
        for (domain, code, words) in [
            ("com", 2, "is a single label, such as a top-level domain"),
            ("co.uk", 1, "is a public suffix: the names beneath it belong to different people"),
            ("192.0.2.1", 2, "is an IP address; mail is addressed to domains"),
            (&long, 2, "that is too long: a domain has at most 253 octets"),
            ("ex\u{430}mple.org", 1, "has a label that mixes scripts"),
            ("https://home.example/", 2, "write the domain alone"),
            ("relay.example.net", 1, "belongs to this relay"),
        ] {
            let add = format!("domain add '{domain}'");
            agent_tries(&scene.network.home, &add)?.expect_words(code, &[words])?;
        }
        let held = relay_says(&scene.network.relay, "domains")?;
        ensure!(held.as_array().is_some_and(|held| held.len() == 1), "{held}");
        Ok(())
    })
}

#[test]
fn a_proof_among_other_records_is_found() -> Result<()> {
    scenario(WITHOUT_MAIL, |scene| {
        let home = &scene.network.home;
        let ours = proof(home, "other.example")?;
        let (front, back) = ours.split_once("box=").context("the fingerprint")?;
        let beside = "_sealpost.other.example. IN TXT";
        let strings = format!(
            "{beside} \"v=spf1 -all\"\n{beside} \"\"\n{beside} \"some\" \"\" \"thing else\"\n\
             {beside} \"sealpost1 box={}\"\n{front}box=\" \"{back}",
            "A".repeat(43)
        );
        let before = proof(home, "home.example")?;
        scene.publish(&(before + &strings))?;
        let said = agent_does(&scene.network.home, "domain add other.example")?;
        ensure!(said.contains("proved, MX names: mx.other.example"), "{said}");
        Ok(())
    })
}

#[test]
fn a_box_gets_mail_with_a_clock_of_2001() -> Result<()> {
    scenario(Setup::FRESH, |scene| gets_mail_in(scene, "2001-02-03 04:05:06"))
}

#[test]
fn a_box_gets_mail_with_a_clock_of_2090() -> Result<()> {
    scenario(Setup::FRESH, |scene| gets_mail_in(scene, "2090-02-03 04:05:06"))
}

fn gets_mail_in(scene: &mut Scene, date: &str) -> Result<()> {
    let url = invite(&scene.network.relay, "home")?;
    let clock = WrongClock::on(&scene.network.home, date)?;
    clock
        .agent_tries(&format!("join '{url}' --service 127.0.0.1:{PROXY_PORT} --yes"))?
        .expect(0)?;
    scene.agent = Some(clock.start_agent()?);
    expect_ready(&scene.network.home)?;
    let log = scene.network.home.read("/var/log/agent.log");
    ensure!(log.starts_with(&date[..10]), "the agent saw the true date: {log}");
    let record = proof(&scene.network.home, "home.example")?;
    scene.publish(&record)?;
    let clock = WrongClock::on(&scene.network.home, date)?;
    clock.agent_tries("domain add home.example")?.expect(0)?;
    scene.deliver("at another time")?;
    scene.expect_first_attempt()?;
    sealpost::expect_status(&scene.network.home, &["domain  home.example proved"]).map(drop)
}

/// With two neighbouring characters of the secret exchanged.
fn mistyped(url: &str) -> String {
    let mut octets = url.as_bytes().to_vec();
    let start = url.find('#').map_or(0, |at| at + 1);
    let differ = (start..octets.len() - 1).find(|&at| octets[at] != octets[at + 1]);
    if let Some(at) = differ {
        octets.swap(at, at + 1);
    }
    String::from_utf8_lossy(&octets).into_owned()
}
