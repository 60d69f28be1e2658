//! A relay whose places are all taken by connections that say nothing: mail arrives all the same,
//! and what is past its ClientHello is left in peace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::admin;
use sealpost_tests::crowd;
use sealpost_tests::message::Message;
use sealpost_tests::network::{RELAY_SHARED_V4, RELAY_SHARED_V6};
use sealpost_tests::scene::{MX_NAME, Scene, Setup, scenario};
use sealpost_tests::sealpost::{RELAY_FILE, relay_tries};
use sealpost_tests::smtp::{deliver, reply, up_to_tls};
use sealpost_tests::tls_client::{TlsClient, expect_alert};
use sealpost_tests::wait::wait_until;

/// Places of the relay.
const PLACES: usize = 50;
/// Connections that want them and say nothing, each from a network of its own.
const SILENT: u32 = 200;

#[test]
fn silent_connections_make_room_for_mail() -> Result<()> {
    scenario(Setup::STANDARD, |scene| {
        give_few_places(scene)?;
        let carried = Message::small("began before the flood");
        let mut before = sealed(scene)?;

        let machine = crowd::join(&mut scene.network)?;
        let port_25 = SocketAddr::new(RELAY_SHARED_V6.parse()?, 25);
        let mut silent = crowd::connect(&machine, 0..SILENT, port_25)?;
        // One that had begun with TLS is told so in TLS.
        let mut half = crowd::connect(&machine, SILENT..SILENT + 1, port_25)?.remove(0);
        up_to_tls(&mut half)?;
        silent.extend(crowd::connect(&machine, SILENT + 1..2 * SILENT, port_25)?);
        ensure!(expect_alert(&mut half)? == 80);

        // A real mail server gets through, at its first attempt.
        let message = Message::small("in the flood");
        scene.send(&message)?;
        scene.expect_delivered(&message)?;
        ensure!(!scene.server()?.log(&scene.network.sender).contains("status=deferred"));

        // Who had to go was told to come again, in words of SMTP.
        let evicted = evicted(scene)?;
        ensure!(evicted >= f64::from(2 * SILENT) - PLACES as f64 - 1.0, "{evicted}");
        let mut words = String::new();
        silent[0].read_to_string(&mut words)?;
        let mut lines = words.lines();
        ensure!(lines.next().is_some_and(|line| line.starts_with("220 ")), "{words}");
        ensure!(lines.next().is_some_and(|line| line.starts_with("421 4.3.2 ")), "{words}");
        ensure!(lines.next().is_none(), "{words}");
        // Those that came last still have their places.
        let last = silent.last_mut().context("the last one")?;
        let greeting = reply(last)?;
        ensure!(greeting.starts_with("220 "), "{greeting}");
        last.set_nonblocking(true)?;
        ensure!(last.read(&mut [0]).is_err(), "the last one was evicted too");

        // Nobody is told that all is well.
        relay_tries(&scene.network.relay, "status")?.expect_words(1, &["TROUBLE", "it is full"])?;

        // What was past its ClientHello has its place still.
        deliver(&mut before, &carried)?;
        Ok(())
    })
}

/// A TLS session with the mail server at home.
fn sealed(scene: &Scene) -> Result<impl Read + Write + use<>> {
    let mut stream: TcpStream = scene.connect(RELAY_SHARED_V4)?;
    up_to_tls(&mut stream)?;
    let client = TlsClient::new(MX_NAME, &scene.certificate)?;
    stream.write_all(client.hello())?;
    client.finish(stream)
}

fn give_few_places(scene: &mut Scene) -> Result<()> {
    let machine = &scene.network.relay;
    let file = machine.read(RELAY_FILE);
    machine.write(RELAY_FILE, &format!("{file}[limits]\nsessions = {PLACES}\n"))?;
    scene.relay.signal(machine, "HUP")?;
    scene.relay_log().expect("reloaded", &[]).map(drop)
}

fn evicted(scene: &Scene) -> Result<f64> {
    let name = "sealpost_relay_sessions_total{outcome=\"evicted\"}";
    let count = || admin::metric(&scene.network.relay, admin::RELAY, name);
    // The last ones end a moment after their successors came.
    wait_until("all evictions to be counted", Duration::from_secs(5), || {
        Ok(count()?.is_some_and(|count| count >= f64::from(2 * SILENT) - PLACES as f64 - 1.0))
    })?;
    count()?.context("the counter")
}
