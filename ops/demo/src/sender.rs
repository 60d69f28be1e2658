//! The sending mail server, played by lettre: TLS or nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use tokio::time::timeout;

use crate::letter::Letter;

/// How long one step may take: longer than the relay parks a ClientHello.
const STEP: Duration = Duration::from_secs(30);

/// The name that the sender says in EHLO. It travels in clear, and so shows that the taps see.
pub(crate) const EHLO_NAME: &str = "mail.sender.example";

/// Whom the sender believes to be the mail server.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Exactly this certificate (DER), as a sender with DANE would.
    Only(Vec<u8>),
    /// Anyone, as most senders do.
    Anyone,
}

/// A connection to what an MX record points to.
pub(crate) struct Sender {
    connection: AsyncSmtpConnection,
    hello: ClientId,
}

impl Sender {
    /// Connects, reads the banner, says EHLO.
    pub(crate) async fn connect(address: SocketAddr, hello: &str) -> anyhow::Result<Self> {
        let hello = ClientId::Domain(hello.to_owned());
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, Some(STEP), &hello, None, None);
        let connection = timed("the banner and the answer to EHLO", connecting).await?;
        Ok(Self { connection, hello })
    }

    /// STARTTLS, the handshake and EHLO again. `name` goes into the ClientHello, unless it is an
    /// IP address: those are not sent (RFC 6066 section 3).
    pub(crate) async fn start_tls(&mut self, name: &str, trust: &Trust) -> anyhow::Result<Vec<u8>> {
        let builder =
            TlsParameters::builder(name.to_owned()).certificate_store(CertificateStore::None);
        let parameters = match trust {
            Trust::Only(certificate) => {
                builder.add_root_certificate(Certificate::from_der(certificate.clone())?)
            }
            Trust::Anyone => builder
                .dangerous_accept_invalid_certs(true)
                .dangerous_accept_invalid_hostnames(true),
        };
        let securing = self.connection.starttls(parameters.build()?, &self.hello);
        timed("TLS", securing).await?;
        Ok(self.connection.peer_certificate()?)
    }

    /// MAIL, RCPT, DATA and the message; returns the reply to the final dot.
    pub(crate) async fn send(&mut self, letter: &Letter) -> anyhow::Result<String> {
        let message = letter.message.formatted();
        let sending = self.connection.send(letter.message.envelope(), &message);
        let response = timed("the reply to the message", sending).await?;
        Ok(format!("{} {}", response.code(), response.first_line().unwrap_or("")).trim().to_owned())
    }

    /// Leaves in order.
    pub(crate) async fn quit(mut self) -> anyhow::Result<()> {
        timed("the answer to QUIT", self.connection.quit()).await?;
        Ok(())
    }
}

async fn timed<T>(
    what: &str,
    step: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
) -> anyhow::Result<T> {
    Box::pin(timeout(STEP, step))
        .await
        .with_context(|| format!("no sign of {what} within {} s", STEP.as_secs()))?
        .map_err(|error| anyhow::anyhow!("waiting for {what}: {}", reason(&error)))
}

/// What lettre means. A refusal carries the reply itself; anything else is wrapped several times,
/// and only the innermost error says something.
fn reason(error: &lettre::transport::smtp::Error) -> String {
    if error.status().is_some() {
        return error.to_string();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
