//! The run in which all is well: one message all the way, and the proof.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::arguments::Arguments;
use crate::child::Child;
use crate::journal::Journal;
use crate::letter::Letter;
use crate::proof::{self, Finding, Proof};
use crate::report::Report;
use crate::sender::{EHLO_NAME, Sender, Trust};
use crate::stage::{CLOSING, MX, START, Stage};

/// One message all the way, and the proof.
pub(crate) async fn play(
    stage: &mut Stage,
    arguments: &Arguments,
    journal: &Journal,
) -> anyhow::Result<Report> {
    let (mail_server, trust) = match &arguments.mta {
        Some(mta) => (find(mta).await?, Trust::Anyone),
        None => {
            let address = stage.start_sink(true).await?;
            (address, Trust::Only(stage.certificate()?))
        }
    };
    stage.start_relay(mail_server, arguments.proxy, false).await?;
    let agent = stage.start_agent()?;
    let test = agent.line("the self-test", START, |line| line.message() == "self-test").await?;
    if test.text("result") != Some("passed") {
        bail!(
            "the agent will not deliver to {mail_server}: its self-test {}: {}{}",
            test.or_dash("result"),
            test.or_dash("detail"),
            advice(arguments)
        );
    }
    let relay = stage.relay()?;
    relay.line("the box", START, |line| line.message() == "box connected").await?;

    let from = arguments.from.as_ref().map(ToString::to_string);
    let letter = Letter::write(from.as_deref(), &arguments.recipient())?;
    let tap = stage.smtp_tap()?;
    let sent = Box::pin(post(stage, &letter, &trust, journal)).await;
    // Its closing line says most about what went wrong, if something did.
    let closing = relay.line("the session's end", CLOSING, |line| line.message() == "session");
    let _ = closing.await;
    let posted = sent?;

    let maildir = match &arguments.mta {
        Some(_) => None,
        None => {
            let files = stage.delivered()?;
            let [file] = &files[..] else { bail!("{} files in the Maildir, not one", files.len()) };
            Some(proof::in_file(file, &letter.markers)?)
        }
    };
    let proof = Proof {
        words: letter.markers.len(),
        smtp: proof::in_capture(tap.capture(), &letter.markers, &[EHLO_NAME, MX]),
        tunnel: proof::in_capture(stage.tunnel_tap().capture(), &letter.markers, &[]),
        memory: posted.relay_memory,
        home_memory: posted.home_memory,
        maildir,
    };
    Ok(Report {
        delivered: true,
        sealed: Some(proof.is_sealed()),
        reply: Some(posted.reply),
        proof: Some(proof),
        ..Report::default()
    })
}

/// A letter that the mail server at home has taken.
struct Posted {
    reply: String,
    relay_memory: Finding,
    home_memory: Option<Finding>,
}

/// Sends the letter, and searches the relay's memory at the moment when it would hold it: with the
/// session open and the message just gone through.
async fn post(
    stage: &Stage,
    letter: &Letter,
    trust: &Trust,
    journal: &Journal,
) -> anyhow::Result<Posted> {
    let mut sender = Sender::connect(stage.smtp_tap()?.address(), EHLO_NAME).await?;
    let text = format!("reached the relay as {EHLO_NAME}, asks for TLS");
    journal.hop("sender", "connected", text);
    let certificate = sender.start_tls(MX, trust).await?;
    journal.hop("sender", "tls", certified(&certificate, trust));
    let reply = sender.send(letter).await?;
    let text = format!("sent the message, heard: {reply}");
    journal.hop("sender", "sent", text);
    let relay_memory = search_memory(stage.relay()?, letter, &[EHLO_NAME, MX]).await?;
    let home_memory = match stage.sink() {
        Some(sink) => Some(search_memory(sink, letter, &[]).await?),
        None => None,
    };
    if let Err(error) = sender.quit().await {
        // The message is delivered all the same (RFC 5321 section 4.1.1.10).
        journal.hop("sender", "no goodbye", format!("{error:#}"));
    }
    Ok(Posted { reply, relay_memory, home_memory })
}

/// Searches a child's memory. On a thread of its own: the taps go on carrying meanwhile.
async fn search_memory(
    child: &Child,
    letter: &Letter,
    controls: &'static [&'static str],
) -> anyhow::Result<Finding> {
    let pid = child.id().context("a process has ended too early")?;
    let markers = letter.markers.clone();
    let search = move || proof::in_memory(pid, &markers, controls);
    Ok(tokio::task::spawn_blocking(search).await?)
}

/// The real mail server's address, after a look whether anyone is there.
async fn find(mta: &str) -> anyhow::Result<SocketAddr> {
    let addresses = tokio::net::lookup_host(mta)
        .await
        .with_context(|| format!("{mta:?} is no HOST:PORT, or the host has no address"))?;
    for address in addresses {
        if let Ok(Ok(_)) = timeout(Duration::from_secs(3), TcpStream::connect(address)).await {
            return Ok(address);
        }
    }
    bail!("nobody answers at {mta}: start the mail server, or check the port")
}

/// What to try when a real mail server does not pass the self-test.
fn advice(arguments: &Arguments) -> String {
    match &arguments.mta {
        Some(mta) => format!(
            "\nDoes {mta} expect a PROXY header (sent now: {}; see --proxy), offer STARTTLS, and \
             refuse foreign recipients?",
            arguments.proxy.as_str()
        ),
        None => String::new(),
    }
}

/// What the handshake showed about the other end.
fn certified(certificate: &[u8], trust: &Trust) -> String {
    match trust {
        Trust::Only(expected) if certificate == &expected[..] => {
            format!("TLS is up: the certificate is {MX}'s own, made at home, byte for byte")
        }
        _ => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
            let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "TLS is up: the certificate (not checked, as most senders do) has SHA-256 {digest}"
            )
        }
    }
}
