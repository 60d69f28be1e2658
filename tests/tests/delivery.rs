//! Mail comes home: what arrives, from whom, and how sealed.

use anyhow::{Context, Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::message::Message;
use sealpost_tests::network::{
    RELAY_OWN_V4, RELAY_OWN_V6, RELAY_SHARED_V4, RELAY_SHARED_V6, SENDER_V4, SENDER_V6,
};
use sealpost_tests::postfix::{self, BARE_PORT, PROXY_PORT};
use sealpost_tests::scene::{At, From, MX_NAME, Scene, Setup, scenario};
use sealpost_tests::sealpost::{Service, expect_self_test};
use sealpost_tests::sender::Tls;

#[test]
fn postfix_is_delivered_by_name_on_a_shared_address() -> Result<()> {
    delivers_by_name(From::Postfix(Tls::Dane), RELAY_SHARED_V4, SENDER_V4)
}

#[test]
fn exim_is_delivered_by_name_on_a_shared_address() -> Result<()> {
    delivers_by_name(From::Exim(Tls::Dane), RELAY_SHARED_V4, SENDER_V4)
}

#[test]
fn postfix_is_delivered_by_name_on_a_shared_ipv6_address() -> Result<()> {
    delivers_by_name(From::Postfix(Tls::Dane), RELAY_SHARED_V6, SENDER_V6)
}

#[test]
fn postfix_is_delivered_without_a_name_on_the_box_own_ipv4() -> Result<()> {
    delivers_without_name(From::Postfix(Tls::Opportunistic), RELAY_OWN_V4, SENDER_V4)
}

#[test]
fn postfix_is_delivered_without_a_name_on_the_box_own_ipv6() -> Result<()> {
    delivers_without_name(From::Postfix(Tls::Opportunistic), RELAY_OWN_V6, SENDER_V6)
}

#[test]
fn exim_is_delivered_without_a_name_on_the_box_own_ipv4() -> Result<()> {
    delivers_without_name(From::Exim(Tls::Opportunistic), RELAY_OWN_V4, SENDER_V4)
}

#[test]
fn exim_is_delivered_without_a_name_on_the_box_own_ipv6() -> Result<()> {
    delivers_without_name(From::Exim(Tls::Opportunistic), RELAY_OWN_V6, SENDER_V6)
}

#[test]
fn a_message_of_25_megabytes_is_delivered_unchanged() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        let message = Message::of_size("25 MB", 25_000_000);
        scene.send(&message)?;
        scene.expect_delivered(&message)?;
        let session = scene.relay_log().expect_transfer()?;
        let bytes = session["bytes_in"].as_u64().unwrap_or(0);
        ensure!(bytes > 25_000_000, "the session line says {bytes} bytes");
        Ok(())
    })
}

#[test]
fn the_home_server_sees_the_sender_by_proxy_v1() -> Result<()> {
    let setup = Setup { service: Service { proxy: "v1", port: PROXY_PORT }, ..Setup::STANDARD };
    scenario(setup, |scene| {
        expect_self_test(&scene.network.home, "passed")?;
        deliver_one(scene)?;
        expect_client(scene, SENDER_V4)
    })
}

#[test]
fn a_home_server_without_proxy_that_trusts_nobody_gets_mail() -> Result<()> {
    let setup = Setup {
        at: At::Postfix("mynetworks ="),
        service: Service { proxy: "none", port: BARE_PORT },
        ..Setup::STANDARD
    };
    scenario(setup, |scene| {
        expect_self_test(&scene.network.home, "passed")?;
        deliver_one(scene)?;
        expect_client(scene, "127.0.0.1")
    })
}

fn delivers_by_name(from: From, mx: &'static str, client: &str) -> Result<()> {
    let setup = Setup { from, mx, ..Setup::STANDARD };
    scenario(setup, |scene| {
        expect_self_test(&scene.network.home, "passed")?;
        let (ready, body) = admin::get(&scene.network.home, admin::AGENT, "/readyz")?;
        ensure!(ready == 200, "the agent is not ready: {body}");
        deliver_one(scene)?;
        // The sender has compared the certificate with the TLSA record: it spoke to home.
        scene.expect_sender_log(&[scene.server()?.dane_verified()])?;
        expect_client(scene, client)?;
        let session = scene.relay_log().expect_transfer()?;
        ensure!(session["sni"] == MX_NAME, "routed by another name: {session}");
        expect_counted(scene, 1.0)
    })
}

fn delivers_without_name(from: From, mx: &'static str, client: &str) -> Result<()> {
    let setup = Setup { from, mx, ..Setup::STANDARD };
    scenario(setup, |scene| {
        deliver_one(scene)?;
        expect_client(scene, client)?;
        let session = scene.relay_log().expect_transfer()?;
        ensure!(session["sni"] != MX_NAME, "a name was sent: {session}");
        ensure!(session["local"].as_str().is_some_and(|local| local.contains(mx)));
        // What a ClientHello names says nothing on an address of the box's own.
        expect_counted(scene, 0.0)
    })
}

/// Sends a message and demands that it arrived in a session that both ends know by one id.
fn deliver_one(scene: &Scene) -> Result<()> {
    let message = Message::small("delivered");
    scene.send(&message)?;
    scene.expect_delivered(&message)?;
    let relay = scene.relay_log().expect_transfer()?;
    let agent = scene.agent_log().expect_transfer()?;
    ensure!(relay["box"] == "home", "{relay}");
    ensure!(agent["service"] == "smtp", "{agent}");
    ensure!(relay["session"] == agent["session"], "different ids: {relay} {agent}");
    // Postfix says so whichever sender it was: what it took came in TLS.
    ensure!(postfix::log(&scene.network.home).contains("TLS connection established from"));
    Ok(())
}

/// Demands that the metrics tell of the one session that there was, and that its sender waited for
/// nothing; `matched` is how many names led to a box.
fn expect_counted(scene: &Scene, matched: f64) -> Result<()> {
    let relay = &scene.network.relay;
    admin::expect_metrics(
        relay,
        &[
            ("client_hellos_total{named=\"match\"}", matched),
            ("client_hellos_total{named=\"unknown\"}", 0.0),
            ("client_hellos_total{named=\"absent\"}", 0.0),
            ("parked_total{outcome=\"came\"}", 0.0),
            ("parked", 0.0),
            ("greeting_seconds_count", 1.0),
            ("spliced_seconds_count", 1.0),
            ("home_seconds_count{load=\"quiet\"}", 1.0),
            ("home_seconds_count{load=\"loud\"}", 0.0),
            ("box_sessions_bucket{le=\"1\"}", 1.0),
            ("sessions_open", 0.0),
        ],
    )?;
    let seconds = |of: &str| -> Result<f64> {
        let name = format!("sealpost_relay_{of}_seconds_sum");
        let name = if of == "home" { format!("{name}{{load=\"quiet\"}}") } else { name };
        admin::metric(relay, admin::RELAY, &name)?.context(name)
    };
    let (greeting, home, spliced) = (seconds("greeting")?, seconds("home")?, seconds("spliced")?);
    let times =
        format!("greeted after {greeting} s, home took {home} s, spliced after {spliced} s");
    ensure!(greeting > 0.0 && home > 0.0 && greeting + home < spliced, "{times}");
    let session = scene.relay_log().expect_transfer()?;
    let lasted = session["duration_ms"].as_f64().context("duration_ms")? / 1000.0;
    ensure!(spliced <= lasted + 0.001, "{times}, and the session lasted {lasted} s");
    Ok(())
}

fn expect_client(scene: &Scene, client: &str) -> Result<()> {
    let log = postfix::log(&scene.network.home);
    let received = log.lines().find(|line| line.contains(": client=")).unwrap_or_default();
    ensure!(
        received.contains(&format!("[{client}]")),
        "the home server saw another client: {received}"
    );
    Ok(())
}
