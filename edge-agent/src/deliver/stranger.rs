//! A connection to the mail server at home as a stranger makes one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sealpost_tunnel::{Carries, EhloName, SessionId, StreamHeader};
use tokio::net::TcpStream;

use super::dialogue::{self, DialogueError};
use super::proxy;
use crate::config::Service;

/// For the dialogue up to TLS, and again for the rest; a mail server may look names up before it
/// answers, and postscreen makes a new client wait 6 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How the stranger calls itself: a name that exists (RFC 2606), as many servers refuse others.
pub(super) const EHLO: &str = "example.com";
/// The stranger, and where it pretends to have connected to (TEST-NET-1, RFC 5737).
const STRANGER: &str = "192.0.2.25:25";
const RELAY: &str = "192.0.2.26:25";

/// A connection to `service` on which TLS may begin.
pub(super) async fn up_to_tls(service: &Service) -> Result<TcpStream, DialogueError> {
    let header = StreamHeader {
        service: service.name.clone(),
        client: STRANGER.parse().expect("a constant address"),
        local: RELAY.parse().expect("a constant address"),
        session: SessionId::random(),
        carries: Carries::FromTls { sni: None, ehlo: EhloName::cleaned(EHLO.as_bytes()) },
    };
    let proxy_header = proxy::encode(service.proxy, &header);
    dialogue::up_to_tls(service, &proxy_header, EHLO, Instant::now() + DEADLINE).await
}

/// The signatures that the stranger can check.
pub(super) fn signatures() -> Vec<SignatureScheme> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.signature_verification_algorithms.supported_schemes()
}

/// TLS with whatever certificate the server has, as far as it signs as one of `signatures`: a
/// stranger asks what the server does, not who it is, and tells it nothing.
pub(super) fn any_certificate(signatures: Vec<SignatureScheme>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(signatures)))
        .with_no_client_auth()
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
