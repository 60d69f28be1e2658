//! Both ends of a connection prove an Ed25519 key in the TLS handshake as a raw public key
//! (RFC 7250): no authority, no name, no date. An agent accepts the one key that it was told. A
//! relay accepts all and decides afterwards what each may do.

use std::fmt;
use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};

use crate::identity::{Identity, PublicKey};
use crate::quic::crypto_provider;

/// What a connection is for. Both ends must name the same in ALPN (RFC 7301); a change that old
/// peers cannot skip gets a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// To carry mail, as long as it holds.
    Tunnel,
    /// To ask the registry something, and be closed.
    Registry,
}

impl Use {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tunnel, Self::Registry];

    /// Its name on the wire.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Tunnel => b"sealpost/1",
            Self::Registry => b"sealpost-registry/1",
        }
    }

    /// The use that `alpn` names.
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|this| this.alpn() == alpn)
    }
}

/// Which key the peer must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// This one.
    Exactly(PublicKey),
    /// Any Ed25519 key. Who is there is known after the handshake, and nothing that it says may
    /// be believed but what is signed by a key that is known.
    Any,
}

impl Pin {
    fn admits(self, key: PublicKey) -> bool {
        match self {
            Self::Exactly(pinned) => pinned == key,
            Self::Any => true,
        }
    }
}

/// TLS for the relay: proves `identity`, admits whoever proves a key.
pub(crate) fn server_config(identity: &Identity) -> Result<rustls::ServerConfig, Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned::new(Pin::Any)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = Use::ALL.map(|this| this.alpn().to_vec()).to_vec();
    // No resumption: a ticket costs memory a box and would let a revoked key come back.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// TLS for the agent: proves `identity`, accepts the relay that `pin` means.
pub(crate) fn client_config(
    identity: &Identity,
    pin: Pin,
    purpose: Use,
) -> Result<rustls::ClientConfig, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(pin)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
            identity.certified(),
        )));
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    // The server name is a constant; whom we meant is said by the pin.
    config.enable_sni = false;
    Ok(config)
}

/// Accepts a raw public key that `pin` allows, of clients and of servers alike.
struct Pinned {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(pin: Pin) -> Self {
        Self { pin, algorithms: crypto_provider().signature_verification_algorithms }
    }

    fn check(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        match PublicKey::from_spki(key) {
            Ok(key) if self.pin.admits(key) => Ok(()),
            // Becomes the alert `access_denied`, which the other end reads as "not my key".
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

fn tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
