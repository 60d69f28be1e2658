//! The little of TLS that is readable from outside: records, the ClientHello's name, alerts
//! (RFC 8446 sections 5.1, 6; RFC 6066 section 3). Pure.

use serde::Serialize;

/// The length of a record header.
pub(crate) const HEADER: usize = 5;

/// Content type of alerts.
const ALERT: u8 = 21;

/// Content type of handshake messages.
const HANDSHAKE: u8 = 22;

/// A TLS alert that went over the wire unencrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Alert {
    /// The number in the protocol.
    pub(crate) code: u8,
    /// The name in the RFC.
    pub(crate) name: &'static str,
    /// Whether it ends the connection.
    pub(crate) fatal: bool,
}

/// Whether a byte can begin a record. SMTP lines begin with printable characters, and no content
/// type is one, so one byte tells the two apart.
pub(crate) fn begins_record(first: u8) -> bool {
    (20..=23).contains(&first)
}

/// The length of the first record in `bytes`, header included, when it is all there.
pub(crate) fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (bytes.len() >= length).then_some(length)
}

/// The alert that a whole record carries, if it does and is readable.
pub(crate) fn alert(record: &[u8]) -> Option<Alert> {
    match record {
        [ALERT, _, _, 0, 2, level, code] => {
            Some(Alert { code: *code, name: alert_name(*code), fatal: *level == 2 })
        }
        _ => None,
    }
}

/// Whether a record carries (the begin of) a handshake message in clear.
pub(crate) fn is_handshake(record: &[u8]) -> bool {
    record.first() == Some(&HANDSHAKE)
}

/// What a ClientHello says about the server it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The server name (SNI).
    Name(String),
    /// It names none.
    Nobody,
    /// It is no complete ClientHello.
    Unreadable,
}

/// Reads the server name out of the records that a client sent first.
pub(crate) fn wanted(mut records: &[u8]) -> Wanted {
    let mut acceptor = rustls::server::Acceptor::default();
    while !records.is_empty() {
        if acceptor.read_tls(&mut records).is_err() {
            return Wanted::Unreadable;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return name.map_or(Wanted::Nobody, Wanted::Name);
            }
            Err(_) => return Wanted::Unreadable,
        }
    }
    Wanted::Unreadable
}

/// The name of an alert (RFC 8446 appendix B.2).
fn alert_name(code: u8) -> &'static str {
    match code {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        90 => "user_canceled",
        109 => "missing_extension",
        112 => "unrecognized_name",
        120 => "no_application_protocol",
        _ => "not named in RFC 8446",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    /// A ClientHello as rustls sends it.
    pub(crate) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    }

    #[test]
    fn reads_names_and_their_absence() {
        assert_eq!(wanted(&hello("mx.home.example")), Wanted::Name("mx.home.example".into()));
        assert_eq!(wanted(&hello("192.0.2.1")), Wanted::Nobody);
        assert_eq!(wanted(b"\x16\x03\x01\x00\x02hi"), Wanted::Unreadable);
        assert_eq!(wanted(b""), Wanted::Unreadable);
    }

    #[test]
    fn names_alerts() {
        let alert = alert(&[21, 3, 3, 0, 2, 2, 112]).expect("an alert");
        assert_eq!((alert.code, alert.name, alert.fatal), (112, "unrecognized_name", true));
        assert_eq!(super::alert(&[23, 3, 3, 0, 2, 2, 112]), None);
        assert_eq!(record_length(&[21, 3, 3, 0, 2, 2]), None);
        assert_eq!(record_length(&[21, 3, 3, 0, 2, 2, 112, 9]), Some(7));
    }
}
