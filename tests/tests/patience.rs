//! A sender that waits for the answer to its message gets it, however long home takes: up to the
//! 10 minutes of RFC 5321 section 4.5.3.2.6. Whoever cuts it off gets the message twice.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::message::Message;
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tests::postfix;
use sealpost_tests::scene::{At, From, MX_NAME, Setup, scenario};
use sealpost_tests::sealpost::RELAY_FILE;
use sealpost_tests::sender::Tls;
use sealpost_tests::slow_home::{Policy, SETTINGS};
use sealpost_tests::smtp::{command, up_to_tls};
use sealpost_tests::tls_client::TlsClient;
use sealpost_tests::wait::wait_until;

const SOON: Duration = Duration::from_secs(20);

/// What Postfix (`smtp_data_done_timeout`) and Exim (`final_timeout`) wait, less ten seconds.
const ALMOST_TEN_MINUTES: Duration = Duration::from_secs(590);
/// After so many seconds of silence a home router of the forgetful kind forgets a mapping.
const MEMORY: u32 = 30;

#[test]
#[ignore = "takes 10 minutes: ops/interop --patience runs it"]
fn postfix_waits_590_seconds_for_the_answer_to_its_message() -> Result<()> {
    waits(From::Postfix(Tls::Dane), ALMOST_TEN_MINUTES)
}

#[test]
#[ignore = "takes 10 minutes: ops/interop --patience runs it"]
fn exim_waits_590_seconds_for_the_answer_to_its_message() -> Result<()> {
    waits(From::Exim(Tls::Dane), ALMOST_TEN_MINUTES)
}

/// More than the tunnel's idle timeout (40 s), than the home router's memory, and than every limit
/// of the file below but `idle` and `drain`, which alone may count here.
const LONG: Duration = Duration::from_secs(45);
const SHORT_LIMITS: &str = "[limits]\ncommand = \"5s\"\npreamble = \"10s\"\nclient_hello = \"5s\"\n\
    park = \"5s\"\nhome = \"10s\"\n";

#[test]
fn programs_told_to_end_wait_for_the_answer_to_a_message() -> Result<()> {
    let setup = Setup { at: At::Postfix(SETTINGS), ..Setup::STANDARD };
    scenario(setup, |scene| {
        let policy = Policy::at_home(scene)?;
        scene.network.forget_silent_mappings(MEMORY)?;
        let file = scene.network.relay.read(RELAY_FILE);
        scene.network.relay.write(RELAY_FILE, &format!("{file}{SHORT_LIMITS}"))?;
        scene.relay.signal(&scene.network.relay, "HUP")?;
        scene.relay_log().expect("reloaded", &[])?;
        let message = Message::small("thought over");
        scene.send(&message)?;
        let question = policy.asked()?;
        let mut agent = scene.agent.take().context("the agent")?;
        agent.signal(&scene.network.home, "TERM")?;
        scene.relay.signal(&scene.network.relay, "TERM")?;
        question.stay_silent(scene, LONG)?;
        question.answer()?;
        scene.expect_one_attempt(&policy, &message)?;
        for process in [&mut agent, &mut scene.relay] {
            let status = process.wait(SOON)?;
            ensure!(status.success(), "{status}");
        }
        Ok(())
    })
}

#[test]
fn a_relay_told_to_end_does_not_wait_for_a_sender_that_waits_for_nothing() -> Result<()> {
    let setup = Setup { from: From::Scenario, mx: RELAY_SHARED_V4, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let mut stream = scene.connect(RELAY_SHARED_V4)?;
        up_to_tls(&mut stream)?;
        let client = TlsClient::new(MX_NAME, &scene.certificate)?;
        stream.write_all(client.hello())?;
        let mut stream = client.finish(stream)?;
        command(&mut stream, "EHLO mail.sender.example", "250")?;
        scene.relay.signal(&scene.network.relay, "TERM")?;
        // Its turn to speak: a server may end then, and does so with FIN.
        let mut end = Vec::new();
        stream.sock.read_to_end(&mut end).context("not a clean end")?;
        let status = scene.relay.wait(SOON)?;
        ensure!(status.success(), "{status}");
        scene.relay_log().expect_session("draining")?;
        let lost = || postfix::log(&scene.network.home).contains("lost connection after EHLO");
        wait_until("the home server to notice", SOON, || Ok(lost()))
    })
}

fn waits(from: From, silence: Duration) -> Result<()> {
    let setup = Setup { from, at: At::Postfix(SETTINGS), ..Setup::STANDARD };
    scenario(setup, |scene| {
        let policy = Policy::at_home(scene)?;
        scene.network.forget_silent_mappings(MEMORY)?;
        let message = Message::small("thought over");
        scene.send(&message)?;
        let question = policy.asked()?;
        question.stay_silent(scene, silence)?;
        question.answer()?;
        scene.expect_one_attempt(&policy, &message)
    })
}
