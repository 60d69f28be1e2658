//! Taps: they carry what passes by and keep a copy.
//!
//! One stands before the relay's SMTP port, one between the agent and the relay's QUIC port.
//! Together they see every byte that enters or leaves the relay, and they stand outside of it: the
//! proof that the message was not among those bytes does not rest on the relay's word.

mod capture;
mod tcp;
mod udp;

pub(crate) use capture::{Capture, Chunk, Direction, Piece};
pub(crate) use tcp::TcpTap;
pub(crate) use udp::UdpTap;
