//! The mail servers that the book describes, configured by the very files that it shows: mail comes
//! home to each, sealed, and with its sender's own address; and to none that would relay for
//! strangers.

use std::time::Duration;

use anyhow::{Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::home::{BARE_PORT, PROXY_PORT};
use sealpost_tests::message::Message;
use sealpost_tests::network::SENDER_V4;
use sealpost_tests::scene::{At, Scene, Setup, scenario};
use sealpost_tests::sealpost::{self, AGENT_FILE};

#[test]
fn postfix_takes_mail_from_the_sender_itself_and_none_while_it_trusts_strangers() -> Result<()> {
    tells_the_tale(At::Postfix(""), |snippet| {
        replaced(snippet, "mynetworks=\n", "mynetworks=0.0.0.0/0\n").and_then(|snippet| {
            replaced(&snippet, "=defer_unauth", "=permit_mynetworks,defer_unauth")
        })
    })
}

#[test]
fn postscreen_lets_the_sender_in_and_looks_it_up_in_block_lists() -> Result<()> {
    let setup = Setup { at: At::Postscreen("postscreen_dnsbl_sites = list.example"), ..STANDARD };
    scenario(setup, |scene| {
        // Listed, which postscreen only notes unless it is told to act on it.
        let listed: Vec<&str> = SENDER_V4.rsplit('.').collect();
        let listed = format!("{}.list.example. IN A 127.0.0.2\n", listed.join("."));
        let proof = sealpost::proof(&scene.network.home, "home.example")?;
        scene.publish(&format!("{proof}{listed}"))?;
        passes_and_delivers(scene, &Message::small("screened"))?;
        let log = scene.home()?.log(&scene.network.home);
        let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        ensure!(said(&format!("DNSBL rank 1 for [{SENDER_V4}]:")) == 1, "not looked up");
        ensure!(said(&format!("CONNECT from [{SENDER_V4}]:")) == 1, "not screened");
        ensure!(said("PASS NEW [192.0.2.25]:") == 1, "the self-test was not screened");
        ensure!(said("PREGREET") == 0, "the agent did not wait for the whole greeting");
        let withheld = withheld_where_anybody_is_trusted(scene)?;
        dial(scene, PROXY_PORT, "v2")?;
        comes_after_all(scene, &withheld)
    })
}

#[test]
fn exim_takes_mail_from_the_sender_itself_and_none_while_it_trusts_strangers() -> Result<()> {
    tells_the_tale(At::Exim, |snippet| {
        let spoiled = replaced(snippet, "MAIN_ACL_CHECK_RCPT = ", "NOT_USED = ")?;
        Ok(format!("MAIN_RELAY_NETS = 0.0.0.0/0\n{spoiled}"))
    })
}

#[test]
fn opensmtpd_takes_mail_from_the_sender_itself_and_none_while_it_trusts_strangers() -> Result<()> {
    tells_the_tale(At::OpenSmtpd, |snippet| {
        let spoiled = replaced(snippet, " filter sealpost-foreign tag", " tag")?;
        let anybody = "match from any for any action \"anybody\"\n";
        Ok(format!("action \"anybody\" relay\n{anybody}{spoiled}"))
    })
}

const STANDARD: Setup = Setup::STANDARD;

/// As shipped, it gets mail. Dialled where it trusts its own machine, or with `spoiled` rules, it
/// gets none. What was sent meanwhile arrives when all is as shipped again.
fn tells_the_tale(at: At, spoil: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    scenario(Setup { at, ..STANDARD }, |scene| {
        passes_and_delivers(scene, &Message::small("as shipped"))?;
        let withheld = withheld_where_anybody_is_trusted(scene)?;

        let spoiled = spoil(scene.home()?.snippet())?;
        scene.home()?.stop(&scene.network.home)?;
        scene.home()?.start(&scene.network.home, &spoiled)?;
        dial(scene, PROXY_PORT, "v2")?;
        expect_verdict(scene, "failed", 2)?;

        scene.home()?.stop(&scene.network.home)?;
        scene.home()?.start(&scene.network.home, scene.home()?.snippet())?;
        scene.reload_agent()?;
        comes_after_all(scene, &withheld)
    })
}

/// The self-test passes; a message arrives once, in TLS that was verified with DANE, from the
/// address of its sender.
fn passes_and_delivers(scene: &Scene, message: &Message) -> Result<()> {
    expect_verdict(scene, "passed", 1)?;
    scene.send(message)?;
    scene.expect_delivered(message)?;
    scene.expect_first_attempt()?;
    scene.expect_sender_log(&[scene.server()?.dane_verified()])?;
    let log = scene.home()?.log(&scene.network.home);
    ensure!(scene.home()?.took_sealed(&log, SENDER_V4), "the home server saw another client");
    Ok(())
}

/// The usual mistake: the agent dials the port that everybody dials, where the mail server takes it
/// for a program of its own machine.
fn withheld_where_anybody_is_trusted(scene: &mut Scene) -> Result<Message> {
    dial(scene, BARE_PORT, "none")?;
    expect_verdict(scene, "failed", 1)?;
    let (status, body) = admin::get(&scene.network.home, admin::AGENT, "/readyz")?;
    ensure!(status == 503, "ready with an open relay: {body}");
    let message = Message::small("not through an open relay");
    scene.send(&message)?;
    scene.expect_deferred()?;
    scene.relay_log().expect_session("service-withheld")?;
    scene.agent_log().expect_session("service-withheld")?;
    Ok(message)
}

/// What was withheld arrives once, and no self-test has made the mail server send anything on.
fn comes_after_all(scene: &Scene, withheld: &Message) -> Result<()> {
    expect_verdict(scene, "passed", 2)?;
    scene.arrives_after_retries(&scene.network.home, withheld)?;
    let log = scene.home()?.log(&scene.network.home);
    ensure!(!log.contains(scene.home()?.sending_on()), "something was sent on");
    Ok(())
}

fn expect_verdict(scene: &Scene, result: &str, count: usize) -> Result<()> {
    let fields = [("service", "smtp"), ("result", result)];
    let verdict =
        scene.agent_log().expect_nth(count, "self-test", &fields, Duration::from_secs(30))?;
    println!("{verdict}");
    Ok(())
}

/// Makes the agent dial another port of the mail server.
fn dial(scene: &mut Scene, port: u16, proxy: &str) -> Result<()> {
    let file = scene.network.home.read(AGENT_FILE);
    let mut lines = Vec::new();
    for line in file.lines() {
        match line.split_once(" = ") {
            Some(("address", _)) => lines.push(format!("address = \"127.0.0.1:{port}\"")),
            Some(("proxy", _)) => lines.push(format!("proxy = \"{proxy}\"")),
            _ => lines.push(line.to_owned()),
        }
    }
    scene.network.home.write(AGENT_FILE, &lines.join("\n"))?;
    scene.reload_agent()
}

fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "the snippet has no {from:?}");
    Ok(text.replace(from, to))
}
