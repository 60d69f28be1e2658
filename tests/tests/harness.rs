//! The harness proves itself without Sealpost: a plain byte pipe stands where relay, tunnel
//! and agent belong. What passes here and fails elsewhere is Sealpost's doing.

use std::io::{Write, copy};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use sealpost_tests::certificate::Certificate;
use sealpost_tests::dns::Names;
use sealpost_tests::exim::EximSender;
use sealpost_tests::mailbox::expect_delivered;
use sealpost_tests::message::Message;
use sealpost_tests::network::{Network, RELAY_SHARED_V4, SENDER_V4};
use sealpost_tests::packages::unpacked;
use sealpost_tests::postfix::{self, PostfixSender};
use sealpost_tests::scene::{MX_NAME, allowed, records, with_log_tails};
use sealpost_tests::sender::{SendingServer, Tls, expect_empty_queue, expect_log};
use sealpost_tests::smtp;

#[test]
fn postfix_verifies_dane_through_a_plain_pipe() -> Result<()> {
    through_a_plain_pipe("postfix", |network| {
        Ok(Box::new(PostfixSender::start(&network.sender, Tls::Dane)?))
    })
}

#[test]
fn exim_verifies_dane_through_a_plain_pipe() -> Result<()> {
    through_a_plain_pipe("exim", |network| {
        Ok(Box::new(EximSender::start(&network.sender, Tls::Dane)?))
    })
}

fn through_a_plain_pipe(
    packages: &str,
    sender: impl FnOnce(&Network) -> Result<Box<dyn SendingServer>>,
) -> Result<()> {
    if !allowed()? {
        return Ok(());
    }
    let nothing = std::env::temp_dir();
    let network = Network::start(
        &nothing,
        &unpacked("dns")?,
        &[unpacked(packages)?],
        &[unpacked("postfix")?],
    )?;
    with_log_tails(&network, || {
        let certificate = Certificate::for_name(MX_NAME)?;
        certificate.install(&network.home)?;
        let _names =
            Names::start(&network, &records(MX_NAME, RELAY_SHARED_V4, Some(certificate.tlsa())))?;
        postfix::start_at_home(&network.home)?;
        let listener = smtp::listen(&network.relay, RELAY_SHARED_V4, 25)?;
        let server = sender(&network)?;
        let message = Message::of_size("through a plain pipe", 100_000);
        thread::scope(|scope| {
            scope.spawn(|| -> Result<()> {
                let outside = smtp::accept(&listener)?;
                let mut inside = smtp::connect(&network.home, "127.0.0.1", postfix::PROXY_PORT)?;
                write!(inside, "PROXY TCP4 {SENDER_V4} {RELAY_SHARED_V4} 40000 25\r\n")?;
                pipe(&outside, &inside)
            });
            server.send(&network.sender, &message)?;
            let deadline = Duration::from_secs(30);
            expect_log(&*server, &network.sender, &[server.dane_verified()], deadline)?;
            expect_delivered(&network.home, &message, deadline)?;
            expect_empty_queue(&*server, &network.sender)?;
            anyhow::ensure!(
                postfix::log(&network.home).contains("connect from unknown[198.51.100.10]")
            );
            // How the pipe ended is of no interest: a sender may well reset it after QUIT.
            Ok(())
        })
    })
}

fn pipe(outside: &TcpStream, inside: &TcpStream) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| one_way(outside, inside));
        one_way(inside, outside)
    })
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) -> Result<()> {
    copy(&mut from, &mut to)?;
    Ok(to.shutdown(Shutdown::Write)?)
}
