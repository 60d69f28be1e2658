//! What relay and agent must agree on.
//!
//! Nothing here knows a configuration file, a metric or a log: the crate holds the two keys that
//! trust each other ([`identity`], [`pins`]), the settings of the QUIC connection between them
//! ([`quic`], [`restart_keys`]), what is said on it ([`control`], [`header`], [`reset`]) and how
//! bytes pass between a TCP connection and one of its streams ([`stream`], [`mod@splice`]).

pub mod control;
pub mod greeting;
pub mod header;
pub mod identity;
pub mod names;
pub mod pins;
mod private_file;
pub mod quic;
pub mod reset;
pub mod restart_keys;
pub mod splice;
pub mod stream;

pub use header::StreamHeader;
pub use identity::{Identity, PublicKey};
pub use names::{EhloName, MxName, ServiceName, SessionId};
pub use reset::ResetCode;
