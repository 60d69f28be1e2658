//! Both ends of a tunnel prove an Ed25519 key in the TLS handshake as a raw public key
//! (RFC 7250), and each accepts only keys that it was told: no authority, no name, no date.

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

/// The protocol that both ends must name in ALPN; a change that old peers cannot skip gets a
/// new number.
pub const ALPN: &[u8] = b"sealpost/1";

/// Which keys an end accepts from its peer. Asked once a handshake, before it completes.
pub trait Admission: Send + Sync + 'static {
    /// Whether the peer with `key` may connect.
    fn admits(&self, key: &PublicKey) -> bool;
}

impl<F: Fn(&PublicKey) -> bool + Send + Sync + 'static> Admission for F {
    fn admits(&self, key: &PublicKey) -> bool {
        self(key)
    }
}

/// TLS for the relay: proves `identity`, admits the boxes that `boxes` knows.
pub(crate) fn server_config(
    identity: &Identity,
    boxes: impl Admission,
) -> Result<rustls::ServerConfig, Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned::new(boxes)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // No resumption: a ticket costs memory a box and would let a revoked key come back.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// TLS for the agent: proves `identity`, accepts the relay that holds `relay`.
pub(crate) fn client_config(
    identity: &Identity,
    relay: PublicKey,
) -> Result<rustls::ClientConfig, Error> {
    let pinned = Pinned::new(move |key: &PublicKey| *key == relay);
    let mut config = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
            identity.certified(),
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    // The server name is a constant; whom we meant is said by the pin.
    config.enable_sni = false;
    Ok(config)
}

/// Accepts a raw public key that `admission` knows, for clients and for servers alike.
struct Pinned<A> {
    admission: A,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<A: Admission> Pinned<A> {
    fn new(admission: A) -> Self {
        Self { admission, algorithms: crypto_provider().signature_verification_algorithms }
    }

    fn check(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        match PublicKey::from_spki(key) {
            Ok(key) if self.admission.admits(&key) => Ok(()),
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

impl<A> fmt::Debug for Pinned<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

fn tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl<A: Admission> ServerCertVerifier for Pinned<A> {
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

impl<A: Admission> ClientCertVerifier for Pinned<A> {
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
