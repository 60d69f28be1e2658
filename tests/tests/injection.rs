//! Bytes that stand where only TLS may follow are an attack, at both ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tests::scene::{From, MX_NAME, Setup, scenario};
use sealpost_tests::smtp::{accept, command, reply, serve_up_to_tls, up_to_tls};
use sealpost_tests::tls_client::TlsClient;

#[test]
fn the_relay_refuses_commands_behind_starttls() -> Result<()> {
    let setup = Setup { from: From::Scenario, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let mut stream = scene.connect(RELAY_SHARED_V4)?;
        reply(&mut stream)?;
        command(&mut stream, "EHLO mail.sender.example", "250")?;
        stream.write_all(b"STARTTLS\r\nMAIL FROM:<mallory@sender.example>\r\n")?;
        let answer = reply(&mut stream)?;
        ensure!(answer.starts_with("421"), "{answer}");
        let rest = until_closed(&mut stream)?;
        ensure!(rest.is_empty(), "more after 421: {rest:?}");
        scene.relay_log().expect_session("starttls-injection")?;
        ensure!(scene.agent_log().matching("session", &[]).is_empty());
        Ok(())
    })
}

#[test]
fn the_agent_refuses_bytes_behind_the_home_servers_220() -> Result<()> {
    let setup = Setup { from: From::Scenario, ..Setup::STANDARD };
    scenario(setup, |scene| {
        let listener = scene.replace_home_server()?;
        let mut outside = scene.connect(RELAY_SHARED_V4)?;
        up_to_tls(&mut outside)?;
        let client = TlsClient::new(MX_NAME, &scene.certificate)?;
        outside.write_all(client.hello())?;
        let mut inside = accept(&listener)?;
        serve_up_to_tls(&mut inside, b"220 2.0.0 Go ahead\r\n250 2.0.0 injected\r\n")?;
        scene.agent_log().expect_session("home-injection")?;
        scene.relay_log().expect_session("home-injection")?;
        // Nothing of the ClientHello went in, nothing of the injected bytes came out.
        let got = until_closed(&mut inside)?;
        ensure!(got.is_empty(), "the agent went on: {got:?}");
        let got = until_closed(&mut outside)?;
        ensure!(
            !String::from_utf8_lossy(&got).contains("injected"),
            "the sender saw injected bytes"
        );
        Ok(())
    })
}

/// All that still comes. A reset counts as closed, as there may be bytes that nobody read; to
/// be left waiting does not.
fn until_closed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(bytes),
    }
}
