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

/// Reads a ClientHello piece by piece.
pub struct HelloReader {
    acceptor: Acceptor,
    start: Vec<u8>,
    seen: usize,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self { acceptor: Acceptor::default(), start: Vec::with_capacity(2), seen: 0 }
    }
}

impl HelloReader {
    /// Takes the next bytes of the connection, each once; `None` while the hello is incomplete.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        self.check_start(bytes)?;
        while !bytes.is_empty() {
            let room = MAX_HELLO - self.seen;
            // Fed in small pieces, as rustls gives what it takes at once no more than a record.
            let mut piece = &bytes[..bytes.len().min(room).min(1024)];
            let offered = piece.len();
            if offered == 0 {
                return Err(HelloError::TooLong);
            }
            let Ok(taken) = self.acceptor.read_tls(&mut piece) else {
                return Ok(Some(Hello::unreadable()));
            };
            self.seen += taken;
            bytes = &bytes[taken..];
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(Some(Hello::of(&accepted.client_hello()))),
                Err((error, _alert)) => return Ok(Some(Hello::of_error(&error))),
            }
        }
        if self.seen >= MAX_HELLO { Err(HelloError::TooLong) } else { Ok(None) }
    }

    /// Tells a peer that speaks no TLS by its first octets, before rustls waits for a whole record.
    fn check_start(&mut self, bytes: &[u8]) -> Result<(), HelloError> {
        let missing = HANDSHAKE_RECORD.len() - self.start.len();
        self.start.extend(bytes.iter().take(missing));
        if HANDSHAKE_RECORD.starts_with(&self.start) { Ok(()) } else { Err(HelloError::NotTls) }
    }
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
