//! Finds out whether a mail server would relay for strangers when the agent dials it.
//!
//! A default Postfix trusts 127.0.0.1: dialled from there without a PROXY header it takes mail for
//! anybody from anybody. So before the first delivery the agent offers it a recipient that is not
//! its own, as a stranger would, and delivers only when that was refused.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use sealpost_tunnel::ResetCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::starttls::{MAX_REPLY, Reply};
use super::stranger::{self, DEADLINE, EHLO, any_certificate, signatures};
use crate::config::Service;

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The stranger was refused.
    Passed(String),
    /// The mail server would relay for strangers.
    Failed(String),
    /// It could not be found out; a stream that comes now is refused for this reason.
    Unproven(String, ResetCode),
}

impl Verdict {
    /// One word for logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "failed",
            Self::Unproven(..) => "unproven",
        }
    }

    /// What was seen.
    pub fn detail(&self) -> &str {
        match self {
            Self::Passed(detail) | Self::Failed(detail) | Self::Unproven(detail, _) => detail,
        }
    }
}

/// Tests `service` once.
pub async fn self_test(service: &Service) -> Verdict {
    let tcp = match stranger::up_to_tls(service).await {
        Ok(tcp) => tcp,
        Err(error) => return Verdict::Unproven(error.to_string(), error.code()),
    };
    let mut config = any_certificate(signatures());
    config.enable_sni = false;
    let name = ServerName::try_from(EHLO).expect("a constant name");
    let test = async {
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|error| format!("TLS with the mail server failed: {error}"))?;
        offer_foreign_recipient(&mut tls, &service.self_test_recipient).await
    };
    match timeout(DEADLINE, test).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(detail)) => Verdict::Unproven(detail, ResetCode::HomeRefused),
        Err(_) => {
            let detail = "the mail server did not answer in time".into();
            Verdict::Unproven(detail, ResetCode::HomeTimeout)
        }
    }
}

async fn offer_foreign_recipient(
    tls: &mut (impl AsyncRead + AsyncWrite + Unpin),
    recipient: &str,
) -> Result<Verdict, String> {
    for command in [format!("EHLO {EHLO}\r\n"), "MAIL FROM:<>\r\n".into()] {
        let (code, shown) = ask(tls, &command).await?;
        if !(200..400).contains(&code) {
            let command = command.trim_end();
            return Err(format!("{command} of the test was answered {shown}"));
        }
    }
    let (code, shown) = ask(tls, &format!("RCPT TO:<{recipient}>\r\n")).await?;
    // No DATA was sent, so nothing is left behind whatever comes of the farewell.
    let _ = tls.write_all(b"QUIT\r\n").await;
    let _ = tls.flush().await;
    judge(code, &shown, recipient)
}

/// What the answer to a foreign recipient proves.
fn judge(code: u16, shown: &str, recipient: &str) -> Result<Verdict, String> {
    let passed = || Ok(Verdict::Passed(format!("refuses foreign recipients: {shown}")));
    let enhanced = shown.split(' ').nth(1).unwrap_or_default();
    // Policy (RFC 3463 section 3.8); Postfix defers with 454 4.7.1 where others refuse.
    let policy = enhanced.starts_with("4.7.") || code == 454;
    // The recipient's domain was looked at before the question whether to relay for it.
    let about_domain = code == 556 || ["5.1.2", "5.1.10"].contains(&enhanced);
    match code {
        200..=399 => Ok(Verdict::Failed(format!(
            "it would take mail for {recipient} from a stranger ({shown}): an open relay; let it \
             trust nobody on this port, or use proxy = \"v2\" where it knows the PROXY protocol"
        ))),
        500..=599 if about_domain => Err(format!(
            "the test's recipient was refused for its domain ({shown}), which proves nothing; \
             name one elsewhere by self_test_recipient"
        )),
        500..=599 => passed(),
        _ if policy => passed(),
        // Greylisting, or a server that cannot tell now.
        _ => Err(format!("the mail server does not say yet whether it would relay: {shown}")),
    }
}

async fn ask(
    tls: &mut (impl AsyncRead + AsyncWrite + Unpin),
    command: &str,
) -> Result<(u16, String), String> {
    tls.write_all(command.as_bytes()).await.map_err(|e| e.to_string())?;
    tls.flush().await.map_err(|e| e.to_string())?;
    let mut buffer = Vec::new();
    loop {
        if let Some(reply) = Reply::parse(&buffer).map_err(|e| e.to_string())? {
            return Ok((reply.code, reply.shown()));
        }
        let room = (MAX_REPLY - buffer.len()).min(2048) as u64;
        if (&mut *tls).take(room).read_buf(&mut buffer).await.map_err(|e| e.to_string())? == 0 {
            return Err("the mail server ended the connection".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(reply: &str) -> &'static str {
        let code = reply[..3].parse().unwrap();
        match judge(code, reply, "open-relay-test@example.com") {
            Ok(verdict) => verdict.label(),
            Err(_) => "unproven",
        }
    }

    #[test]
    fn only_a_refusal_to_relay_is_a_proof() {
        for (reply, verdict) in [
            ("250 2.1.5 Ok", "failed"),
            ("251 User not local; will forward", "failed"),
            ("454 4.7.1 <a@b>: Relay access denied", "passed"),
            ("554 5.7.1 Relay access denied", "passed"),
            ("550 relay not permitted", "passed"),
            ("450 4.7.25 Client host rejected: cannot find your hostname", "passed"),
            ("450 4.2.0 Greylisted", "unproven"),
            ("451 4.3.0 Temporary lookup failure", "unproven"),
            ("451", "unproven"),
            ("556 5.1.10 Domain does not accept mail", "unproven"),
            ("550 5.1.2 Domain not found", "unproven"),
        ] {
            assert_eq!(judged(reply), verdict, "{reply}");
        }
    }
}
