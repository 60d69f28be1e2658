//! How TLS is done for TLS and QUIC streams.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use thiserror::Error;

use crate::transport::Carrier;

/// The protocol's name in the handshake (RFC 7858 has none; this is the registered one).
const DOT: &[u8] = b"dot";
/// RFC 9250 section 4.1.1.
const DOQ: &[u8] = b"doq";

/// TLS that cannot be done.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The carrier has no TLS.
    #[error("DNS over TCP is without TLS; use the listener for TLS or QUIC")]
    Plain,
    /// The crypto library refuses the settings.
    #[error("TLS cannot be set up")]
    Provider(#[from] rustls::Error),
}

/// The settings for streams that `carrier` carries. `certificates` is asked at each handshake, so a new
/// certificate needs no new listener.
///
/// Early data (0-RTT) is never taken: it can be replayed, and an UPDATE or a NOTIFY must not be
/// (RFC 9250 section 4.5).
pub fn tls_config(
    carrier: Carrier,
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, TlsError> {
    // QUIC has no older TLS (RFC 9001); some clients of DoT do.
    let (protocol, versions): (_, &[&SupportedProtocolVersion]) = match carrier {
        Carrier::Tcp => return Err(TlsError::Plain),
        Carrier::Tls => (DOT, &[&TLS13, &TLS12]),
        Carrier::Quic => (DOQ, &[&TLS13]),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}
