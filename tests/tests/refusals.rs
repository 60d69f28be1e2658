//! What must not be delivered stays with its sender, who tries again: never a bounce.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::mailbox::expect_empty;
use sealpost_tests::message::Message;
use sealpost_tests::network::{RELAY_OWN_V4, RELAY_SHARED_V4};
use sealpost_tests::scene::{At, From, Scene, Setup, scenario};
use sealpost_tests::sender::Tls;
use sealpost_tests::smtp::up_to_tls;
use sealpost_tests::tls_client::{TlsClient, expect_alert};
use sealpost_tests::wait::wait_until;

/// The TLS alert for a name that nobody here has, see rule R4.
const UNRECOGNIZED_NAME: u8 = 112;

#[test]
fn a_postfix_that_has_no_tls_is_deferred() -> Result<()> {
    defers_without_tls(From::Postfix(Tls::Never))
}

#[test]
fn an_exim_that_has_no_tls_is_deferred() -> Result<()> {
    defers_without_tls(From::Exim(Tls::Never))
}

fn defers_without_tls(from: From) -> Result<()> {
    // On its own address, where every session would find its box.
    let setup = Setup { from, mx: RELAY_OWN_V4, ..Setup::STANDARD };
    scenario(setup, |scene| {
        scene.send(&Message::small("in the clear"))?;
        let reason = scene.expect_deferred()?;
        ensure!(reason.contains("451"), "deferred for another reason: {reason}");
        scene.relay_log().expect_session("plaintext-refused")?;
        expect_empty(&scene.network.home)?;
        ensure!(scene.agent_log().matching("session", &[]).is_empty());
        Ok(())
    })
}

#[test]
fn a_postfix_that_sends_no_name_is_deferred_on_a_shared_address() -> Result<()> {
    let setup =
        Setup { from: From::Postfix(Tls::Opportunistic), mx: RELAY_SHARED_V4, ..Setup::STANDARD };
    scenario(setup, |scene| {
        scene.send(&Message::small("for whom?"))?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("sni-absent")?;
        // Nobody was told that it reached a box.
        let none = [("spliced_seconds_count", 0.0), ("box_sessions_count", 0.0)];
        admin::expect_metrics(&scene.network.relay, &none)?;
        expect_hellos(scene, "absent", "sni-absent")?;
        expect_empty(&scene.network.home)
    })
}

#[test]
fn an_exim_that_sends_no_name_is_deferred_on_a_shared_address() -> Result<()> {
    let setup =
        Setup { from: From::Exim(Tls::Opportunistic), mx: RELAY_SHARED_V4, ..Setup::STANDARD };
    scenario(setup, |scene| {
        scene.send(&Message::small("for whom?"))?;
        scene.expect_deferred()?;
        scene.relay_log().expect_session("sni-absent")?;
        expect_empty(&scene.network.home)
    })
}

#[test]
fn a_name_of_nobody_is_refused_and_its_message_deferred() -> Result<()> {
    let setup = Setup { mx_name: "mx.elsewhere.example", ..Setup::STANDARD };
    scenario(setup, |scene| {
        scene.send(&Message::small("for nobody"))?;
        scene.expect_deferred()?;
        let session = scene.relay_log().expect_session("sni-unknown")?;
        ensure!(session["sni"] == "mx.elsewhere.example", "{session}");
        expect_empty(&scene.network.home)?;
        // The same to a client that can tell what the refusal was.
        let mut stream = scene.connect(RELAY_SHARED_V4)?;
        up_to_tls(&mut stream)?;
        let client = TlsClient::new("mx.elsewhere.example", &scene.certificate)?;
        stream.write_all(client.hello())?;
        let alert = expect_alert(&mut stream)?;
        ensure!(alert == UNRECOGNIZED_NAME, "alert {alert}");
        expect_hellos(scene, "unknown", "sni-unknown")
    })
}

/// Demands that as many ClientHellos named this as sessions ended for it.
fn expect_hellos(scene: &Scene, named: &str, outcome: &str) -> Result<()> {
    let relay = &scene.network.relay;
    wait_until("every session to be counted", Duration::from_secs(10), || {
        Ok(admin::metric(relay, admin::RELAY, "sealpost_relay_sessions_open")? == Some(0.0))
    })?;
    let ended = format!("sealpost_relay_sessions_total{{outcome=\"{outcome}\"}}");
    let ended = admin::metric(relay, admin::RELAY, &ended)?.unwrap_or(0.0);
    ensure!(ended >= 1.0, "no session was counted");
    let hellos = format!("client_hellos_total{{named=\"{named}\"}}");
    admin::expect_metrics(relay, &[(&hellos, ended)])
}

#[test]
fn a_home_server_without_starttls_gets_no_mail() -> Result<()> {
    let setup = Setup { at: At::Postfix("smtpd_tls_security_level = none"), ..Setup::STANDARD };
    scenario(setup, |scene| {
        scene.send(&Message::small("not in the clear"))?;
        scene.expect_deferred()?;
        let session = scene.agent_log().expect("session", &[])?;
        let outcome = session["outcome"].as_str().unwrap_or_default();
        ensure!(["home-no-starttls", "service-withheld"].contains(&outcome), "{session}");
        expect_empty(&scene.network.home)
    })
}
