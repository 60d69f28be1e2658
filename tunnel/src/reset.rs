//! Why a stream or a connection ended other than by its end: QUIC application error codes.
//!
//! One list for RESET_STREAM and STOP_SENDING (RFC 9000 sections 19.4 and 19.5) and for
//! CONNECTION_CLOSE. The numbers are on the wire: they are never used again for something else.

use quinn::{ConnectionError, VarInt};

use crate::spoken::spoken;

/// Longest description of an end, in characters.
const MAX_DESCRIPTION: usize = 300;

macro_rules! reset_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $label:literal;)+) => {
        /// A reason that travels through the tunnel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ResetCode {
            $($(#[doc = $doc])+ $variant,)+
            /// One that this program does not know, from a newer peer.
            Other(u32),
        }

        impl ResetCode {
            /// Every reason that this program knows.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code on the wire.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)+
                    Self::Other(number) => number,
                }
            }

            /// The reason as logs and metrics name it.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other(_) => "unknown-reason",
                }
            }
        }

        impl From<VarInt> for ResetCode {
            fn from(code: VarInt) -> Self {
                match code.into_inner() {
                    $($number => Self::$variant,)+
                    other => Self::Other(u32::try_from(other).unwrap_or(u32::MAX)),
                }
            }
        }
    };
}

reset_codes! {
    /// The task that owned the stream ended without ending it: a panic or a cancellation.
    Aborted = 0x00, "aborted";
    /// The TCP connection at the far end was reset, or no longer takes bytes.
    TcpReset = 0x01, "tcp-reset";
    /// No byte in either direction for too long.
    Idle = 0x02, "idle";
    /// The far end is shutting down.
    Draining = 0x03, "draining";
    /// The stream header could not be read.
    HeaderBad = 0x10, "header-bad";
    /// The agent's file names no such service.
    ServiceUnknown = 0x11, "service-unknown";
    /// The service did not pass the agent's open-relay self-test.
    ServiceWithheld = 0x12, "service-withheld";
    /// The mail server at home could not be connected to.
    HomeUnreachable = 0x13, "home-unreachable";
    /// The mail server at home answered the greeting, EHLO or STARTTLS with a refusal.
    HomeRefused = 0x14, "home-refused";
    /// The mail server at home does not offer STARTTLS.
    HomeNoStarttls = 0x15, "home-no-starttls";
    /// The mail server at home sent bytes between its 220 and TLS.
    HomeInjection = 0x16, "home-injection";
    /// The mail server at home did not finish the dialogue before TLS in time.
    HomeTimeout = 0x17, "home-timeout";
    /// The agent serves as many streams as it may.
    AgentBusy = 0x18, "agent-busy";
    /// The sender's address is one that nobody on the Internet has.
    ClientImplausible = 0x19, "client-implausible";
    /// The box's owner lets this relay carry connections from TLS on alone.
    SealedOnly = 0x1a, "sealed-only";
    /// The two ends know no common version.
    Version = 0x20, "version";
    /// The peer broke the protocol of the control stream.
    Protocol = 0x21, "protocol";
    /// A newer tunnel of the same box took the place.
    Replaced = 0x22, "replaced";
    /// The box is no longer known here.
    Revoked = 0x23, "revoked";
    /// The relay knows no box with this key.
    UnknownBox = 0x24, "unknown-box";
    /// As many ask the registry as may.
    Busy = 0x25, "busy";
}

impl From<ResetCode> for VarInt {
    fn from(code: ResetCode) -> Self {
        VarInt::from_u32(code.number())
    }
}

/// Why a connection ended, for a log line or a status. The peer may have chosen the words, so what
/// could break a line or colour a terminal is left out.
pub fn describe(error: &ConnectionError) -> String {
    let text = match error {
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => {
            ResetCode::from(close.error_code).label().into()
        }
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        error => error.to_string(),
    };
    spoken(&text, MAX_DESCRIPTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_write_lines_of_its_own_into_a_log() {
        let closed = |reason: &[u8]| {
            ConnectionError::ApplicationClosed(quinn::ApplicationClose {
                error_code: ResetCode::Draining.into(),
                reason: reason.to_vec().into(),
            })
        };
        assert_eq!(
            describe(&closed(b"bye\r\nINFO all is well\x1b[31m")),
            "byeINFO all is well[31m"
        );
        assert_eq!(describe(&closed(b"")), "draining");
        assert_eq!(describe(&closed(&[b'a'; 1000])).len(), MAX_DESCRIPTION);
    }

    #[test]
    fn codes_come_back_from_the_wire() {
        for code in [ResetCode::Aborted, ResetCode::HomeInjection, ResetCode::Other(0x7777)] {
            assert_eq!(ResetCode::from(VarInt::from(code)), code);
        }
        assert_eq!(ResetCode::from(VarInt::MAX), ResetCode::Other(u32::MAX));
    }
}
