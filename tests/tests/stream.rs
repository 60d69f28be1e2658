//! The stream between sender and home: cut anywhere, ended either way, always the same bytes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealpost_tests::mailbox::expect_delivered;
use sealpost_tests::message::Message;
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tests::scene::{From, MX_NAME, Scene, Setup, scenario};
use sealpost_tests::smtp::{accept, deliver, serve_up_to_tls, up_to_tls};
use sealpost_tests::tls_client::{TlsClient, send_in_segments};
use socket2::SockRef;

/// More than all buffers on the way hold, so that a side which stops reading too early shows.
const PLENTY: usize = 4_000_000;

const BY_HAND: Setup = Setup { from: From::Scenario, ..Setup::STANDARD };

#[test]
fn a_client_hello_in_two_segments_and_in_three_records_gets_through() -> Result<()> {
    scenario(BY_HAND, |scene| {
        let two_segments = TlsClient::new(MX_NAME, &scene.certificate)?;
        let hello = two_segments.hello().to_vec();
        let (first, second) = hello.split_at(1200);
        deliver_with_hello(scene, two_segments, &[first, second])?;

        let three_records = TlsClient::new(MX_NAME, &scene.certificate)?;
        let hello = three_records.hello_in_records(3);
        deliver_with_hello(scene, three_records, &[&hello])?;

        // Both at once, and cut inside a record's header.
        let both = TlsClient::new(MX_NAME, &scene.certificate)?;
        let hello = both.hello_in_records(3);
        let (first, rest) = hello.split_at(3);
        let (second, third) = rest.split_at(700);
        deliver_with_hello(scene, both, &[first, second, third])
    })
}

/// Delivers a message on a connection whose ClientHello is sent in `segments`. The client
/// accepts no certificate but that of the mail server at home.
fn deliver_with_hello(scene: &Scene, client: TlsClient, segments: &[&[u8]]) -> Result<()> {
    let mut stream = scene.connect(RELAY_SHARED_V4)?;
    up_to_tls(&mut stream)?;
    send_in_segments(&mut stream, segments)?;
    let mut sealed = client.finish(stream).context("TLS with home")?;
    let message = Message::small("a long hello");
    deliver(&mut sealed, &message)?;
    expect_delivered(&scene.network.home, &message, Duration::from_secs(20))
}

#[test]
fn each_direction_may_end_while_the_other_goes_on() -> Result<()> {
    scenario(BY_HAND, |scene| {
        let listener = scene.replace_home_server()?;
        let (outside, inside) = spliced(scene, &listener)?;
        ends_first_then_hears_the_rest(&outside, &inside).context("sender ends first")?;
        let (outside, inside) = spliced(scene, &listener)?;
        ends_first_then_hears_the_rest(&inside, &outside).context("home ends first")?;
        drop((outside, inside));
        for log in [scene.relay_log(), scene.agent_log()] {
            let both = [("outcome", "carried")];
            log.expect_nth(2, "session", &both, Duration::from_secs(10))?;
        }
        Ok(())
    })
}

fn ends_first_then_hears_the_rest(mut first: &TcpStream, mut second: &TcpStream) -> Result<()> {
    first.write_all(b"last words")?;
    first.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    second.read_to_end(&mut heard).context("the first one's words")?;
    ensure!(heard == b"last words", "{} bytes arrived", heard.len());
    let long: Vec<u8> = (0..PLENTY).map(|number| (number % 251) as u8).collect();
    let mut answer = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<()> {
            second.write_all(&long)?;
            Ok(second.shutdown(Shutdown::Write)?)
        });
        first.read_to_end(&mut answer).context("the answer")?;
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(answer == long, "{} of {PLENTY} bytes came back", answer.len());
    Ok(())
}

#[test]
fn a_reset_arrives_as_a_reset_and_never_as_an_end() -> Result<()> {
    scenario(BY_HAND, |scene| {
        let listener = scene.replace_home_server()?;
        let (outside, inside) = spliced(scene, &listener)?;
        reset(outside)?;
        expect_reset(&inside).context("home")?;
        scene.relay_log().expect_session("sender-reset")?;
        let (outside, inside) = spliced(scene, &listener)?;
        reset(inside)?;
        expect_reset(&outside).context("sender")?;
        scene.relay_log().expect_session("home-reset")?;
        scene.agent_log().expect_session("home-reset")?;
        Ok(())
    })
}

/// Both ends of a session that is past its ClientHello, with a word exchanged each way.
fn spliced(scene: &Scene, listener: &std::net::TcpListener) -> Result<(TcpStream, TcpStream)> {
    let mut outside = scene.connect(RELAY_SHARED_V4)?;
    up_to_tls(&mut outside)?;
    let client = TlsClient::new(MX_NAME, &scene.certificate)?;
    outside.write_all(client.hello())?;
    let mut inside = accept(listener)?;
    serve_up_to_tls(&mut inside, b"220 2.0.0 Go ahead\r\n")?;
    let mut hello = vec![0; client.hello().len()];
    inside.read_exact(&mut hello)?;
    ensure!(hello == client.hello(), "the ClientHello was altered");
    inside.write_all(b"welcome")?;
    let mut word = [0; 7];
    outside.read_exact(&mut word)?;
    ensure!(&word == b"welcome");
    Ok((outside, inside))
}

/// Ends a connection as a crash does.
fn reset(stream: TcpStream) -> Result<()> {
    Ok(SockRef::from(&stream).set_linger(Some(Duration::ZERO))?)
}

fn expect_reset(mut stream: &TcpStream) -> Result<()> {
    let error = match stream.read(&mut [0; 64]) {
        Ok(read) => anyhow::bail!("{read} bytes instead of a reset (0 is a clean end)"),
        Err(error) => error,
    };
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}
