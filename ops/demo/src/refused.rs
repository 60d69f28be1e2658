//! The run with a fault: one message that must not get through, and what the sender sees of it.

use std::net::SocketAddr;

use crate::arguments::Proxy;
use crate::dialogue;
use crate::faults::Fault;
use crate::journal::Journal;
use crate::letter::Letter;
use crate::logline::LogLine;
use crate::narrate;
use crate::report::{Faulted, Report};
use crate::roles::Role;
use crate::sender::{EHLO_NAME, Sender, Trust};
use crate::stage::{CLOSING, DOMAIN, MX, START, Stage};

/// One message that must not get through, and what the sender sees of it.
pub(crate) async fn play(
    stage: &mut Stage,
    fault: Fault,
    journal: &Journal,
) -> anyhow::Result<Report> {
    let mail_server = match fault {
        Fault::MtaDown => stage.closed_port()?,
        _ => stage.start_sink(fault != Fault::MtaNoStarttls).await?,
    };
    stage.start_relay(mail_server, Proxy::V2, fault == Fault::BadPin).await?;
    let agent_says = match fault {
        Fault::BoxOffline => None,
        Fault::BadPin => {
            let agent = stage.start_agent()?;
            let refused = agent.line("a refusal", START, |line| line.message() == "no tunnel");
            Some(refused.await?)
        }
        _ => {
            let agent = stage.start_agent()?;
            let tested = agent.line("the self-test", START, |line| line.message() == "self-test");
            let tested = tested.await?;
            stage.relay()?.line("the box", START, |line| line.message() == "box connected").await?;
            matches!(fault, Fault::MtaDown | Fault::MtaNoStarttls).then_some(tested)
        }
    };

    // An IP address is never sent as a server name (RFC 6066 section 3).
    let name = match fault {
        Fault::NoSni => "192.0.2.1",
        Fault::UnknownName => "stranger.example",
        _ => MX,
    };
    let tap = stage.smtp_tap()?;
    let attempt = Box::pin(attempt(tap.address(), name, journal)).await;
    let closing =
        stage.relay()?.line("the session's end", CLOSING, |line| line.message() == "session");
    let relay_outcome = outcome(closing.await.ok());
    // Only these two get as far as the agent; for the others there is nothing to wait for.
    let agent_outcome = match stage.agent() {
        Some(agent) if matches!(fault, Fault::MtaDown | Fault::MtaNoStarttls) => {
            let closing = agent.line("an end", CLOSING, |line| line.message() == "session");
            outcome(closing.await.ok())
        }
        _ => None,
    };
    let heard = dialogue::read(&tap.capture().connection(0));
    let delivered = attempt.is_ok() || !stage.delivered()?.is_empty();
    let observed = fault.is_observed(relay_outcome.as_deref(), heard.alert.as_ref());
    let faulted = Faulted {
        name: fault,
        observed: observed && !heard.handshake_answered && !delivered,
        dialogue: heard.lines,
        alert: heard.alert,
        sender_error: attempt.err().map(|error| format!("{error:#}")),
        why: fault.why(relay_outcome.as_deref()),
        relay_outcome,
        agent_outcome,
        agent_says: agent_says.and_then(|line| narrate::hop(Role::Agent, &line)),
        next: fault.next(),
    };
    Ok(Report { delivered, fault: Some(faulted), ..Report::default() })
}

/// A sender's whole attempt.
async fn attempt(address: SocketAddr, name: &str, journal: &Journal) -> anyhow::Result<()> {
    let letter = Letter::write(None, &format!("you@{DOMAIN}"))?;
    let mut sender = Sender::connect(address, EHLO_NAME).await?;
    journal.hop("sender", "connected", format!("reached the relay as {EHLO_NAME}, asks for TLS"));
    let secured = sender.start_tls(name, &Trust::Anyone).await;
    if secured.is_err() {
        journal.hop("sender", "refused", "no TLS: keeps the message in its queue".to_owned());
    }
    secured?;
    sender.send(&letter).await?;
    Ok(())
}

fn outcome(closing: Option<LogLine>) -> Option<String> {
    closing.and_then(|line| line.text("outcome").map(str::to_owned))
}
