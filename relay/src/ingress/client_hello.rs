//! Finds the name in a sender's ClientHello without taking part in the handshake.
//!
//! This is the only file that knows how a ClientHello is read: rustls' `Acceptor` reassembles it
//! from segments and records and parses it.

use rustls::server::Acceptor;
use rustls::{Error, PeerIncompatible, PeerMisbehaved};

use crate::route::Sni;

/// Most octets of a ClientHello with its record headers; the largest seen has about 1,650.
pub const MAX_HELLO: usize = 16 * 1024;
/// TLS record of type handshake (RFC 8446 section 5.1), major version 3.
const HANDSHAKE_RECORD: [u8; 2] = [22, 3];
/// The ALPN names of mail (the IANA registry has none; these are the ones in use).
const MAIL_PROTOCOLS: [&[u8]; 2] = [b"smtp", b"esmtp"];

/// What a ClientHello says that concerns the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Whom the sender means.
    pub sni: Sni,
    /// Whether it can speak mail: it offers no ALPN, or mail is in the list.
    pub speaks_mail: bool,
}

/// Why the bytes are no ClientHello that could be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first octets are no TLS handshake record.
    #[error("not TLS")]
    NotTls,
    /// No end within [`MAX_HELLO`].
    #[error("the ClientHello is longer than {MAX_HELLO} octets")]
    TooLong,
}

/// Reads a ClientHello that comes piece by piece. rustls gets only whole records, so that a sender
/// which drips octets costs no more than these.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Option<Box<Acceptor>>,
    seen: usize,
}

impl HelloReader {
    /// Looks at all bytes that came so far, the former ones too; `None` while the hello is
    /// incomplete.
    pub fn read(&mut self, wire: &[u8]) -> Result<Option<Hello>, HelloError> {
        // Tells a peer that speaks no TLS by its first octets.
        let start = wire.len().min(HANDSHAKE_RECORD.len());
        if wire[..start] != HANDSHAKE_RECORD[..start] {
            return Err(HelloError::NotTls);
        }
        let wire = &wire[..wire.len().min(MAX_HELLO)];
        while let Some(record) = first_record(&wire[self.seen..]) {
            self.seen += record.len();
            if let Some(hello) = self.take(record) {
                return Ok(Some(hello));
            }
        }
        if wire.len() == MAX_HELLO { Err(HelloError::TooLong) } else { Ok(None) }
    }

    fn take(&mut self, mut record: &[u8]) -> Option<Hello> {
        let acceptor = self.acceptor.get_or_insert_default();
        while !record.is_empty() {
            // Fed in small pieces, as rustls gives what it takes at once no more than a record.
            let mut piece = &record[..record.len().min(1024)];
            let Ok(taken) = acceptor.read_tls(&mut piece) else {
                return Some(Hello::unreadable());
            };
            record = &record[taken..];
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Some(Hello::of(&accepted.client_hello())),
                Err((error, _alert)) => return Some(Hello::of_error(&error)),
            }
        }
        None
    }
}

/// The first record of `wire`, once it is whole; what there is of one that is longer than a
/// ClientHello may be.
fn first_record(wire: &[u8]) -> Option<&[u8]> {
    const HEADER: usize = 5;
    let [_, _, _, high, low, ..] = *wire else {
        return None;
    };
    let end = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if end > MAX_HELLO { Some(wire) } else { wire.get(..end) }
}

impl Hello {
    fn of(hello: &rustls::server::ClientHello<'_>) -> Self {
        let sni = match hello.server_name() {
            None => Sni::Absent,
            Some(name) => name.parse().map_or(Sni::Bad, Sni::Name),
        };
        let speaks_mail = hello
            .alpn()
            .is_none_or(|mut list| list.any(|protocol| MAIL_PROTOCOLS.contains(&protocol)));
        Self { sni, speaks_mail }
    }

    /// rustls could not serve this hello, but the mail server at home perhaps can: on an address
    /// of its own the box gets it all the same.
    fn of_error(error: &Error) -> Self {
        let sni = match error {
            Error::PeerIncompatible(
                PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::NullCompressionRequired,
            ) => Sni::Absent,
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => Sni::Bad,
            _ => Sni::Unreadable,
        };
        Self { sni, speaks_mail: true }
    }

    fn unreadable() -> Self {
        Self { sni: Sni::Unreadable, speaks_mail: true }
    }
}
