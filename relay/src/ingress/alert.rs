//! The TLS alerts with which the relay ends a connection that it cannot serve.

/// A fatal alert (RFC 8446 section 6; the numbers are IANA's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alert {
    UnexpectedMessage = 10,
    DecodeError = 50,
    InternalError = 80,
    UnrecognizedName = 112,
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The alert as a TLS record; its version is 1.2 for both TLS 1.2 and 1.3 peers.
    pub(crate) fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}
