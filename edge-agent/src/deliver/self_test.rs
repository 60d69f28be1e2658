//! Finds out whether a mail server would relay for strangers when the agent dials it.
//!
//! A default Postfix trusts 127.0.0.1: dialled from there without a PROXY header it takes mail for
//! anybody from anybody. So before the first delivery the agent offers it a recipient that is not
//! its own, as a stranger would, and delivers only when that was refused.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sealpost_tunnel::{EhloName, ResetCode, SessionId, StreamHeader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::starttls::{MAX_REPLY, Reply};
use super::{dialogue, proxy};
use crate::config::Service;

/// From TLS to the end of the test; a mail server may look names up before it answers.
const DEADLINE: Duration = Duration::from_secs(60);
/// How the test calls itself.
const EHLO: &str = "open-relay-test.invalid";
/// The stranger, and where it pretends to have connected to (TEST-NET-1, RFC 5737).
const STRANGER: &str = "192.0.2.25:25";
const RELAY: &str = "192.0.2.26:25";

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
    let header = StreamHeader {
        service: service.name.clone(),
        client: STRANGER.parse().expect("a constant address"),
        local: RELAY.parse().expect("a constant address"),
        sni: None,
        ehlo: EhloName::cleaned(EHLO.as_bytes()),
        session: SessionId::random(),
    };
    let proxy_header = proxy::encode(service.proxy, &header);
    let tcp = match dialogue::up_to_tls(service, &proxy_header, EHLO).await {
        Ok(tcp) => tcp,
        Err(error) => return Verdict::Unproven(error.to_string(), error.code()),
    };
    let name = ServerName::try_from("open-relay-test.invalid").expect("a constant name");
    let test = async {
        let mut tls = TlsConnector::from(Arc::new(any_certificate()))
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
    let mut verdict = None;
    for (command, decides) in [
        (format!("EHLO {EHLO}\r\n"), false),
        ("MAIL FROM:<>\r\n".into(), false),
        (format!("RCPT TO:<{recipient}>\r\n"), true),
    ] {
        let (code, shown) = ask(tls, &command).await?;
        verdict = match code {
            200..=399 if decides => Some(Verdict::Failed(format!(
                "it would take mail for {recipient} from a stranger ({shown}): an open relay; \
                 let it trust nobody on this port, or use proxy = \"v2\" where it knows the \
                 PROXY protocol"
            ))),
            200..=399 => None,
            // Some servers refuse our stranger before it names a recipient, for good.
            500..=599 => Some(Verdict::Passed(format!("refuses strangers: {shown}"))),
            // Postfix defers where others refuse.
            _ if decides => Some(Verdict::Passed(format!("refuses foreign recipients: {shown}"))),
            _ => return Err(format!("the mail server is not ready: {shown}")),
        };
        if verdict.is_some() {
            break;
        }
    }
    // No DATA was sent, so nothing is left behind whatever comes of the farewell.
    let _ = tls.write_all(b"QUIT\r\n").await;
    let _ = tls.flush().await;
    verdict.ok_or_else(|| "the mail server gave no verdict".into())
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

/// TLS with whatever certificate the server has: the test asks what it does, not who it is, and
/// tells it nothing.
fn any_certificate() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    config.enable_sni = false;
    config
}

#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
