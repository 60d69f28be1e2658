//! What relay and agent must agree on.
//!
//! Nothing here knows a configuration file, a metric or a log: the crate holds the two keys that
//! trust each other ([`identity`], [`pins`]) and how one gives way to the next ([`handover`],
//! [`fingerprint`]), the settings of the QUIC connection between them ([`quic`],
//! [`restart_keys`]), what is said on it ([`control`], [`header`], [`reset`], [`request`],
//! [`ask`]), how bytes pass between a TCP connection and one of its streams ([`stream`],
//! [`mod@splice`]), and the lines that a person carries from one to the other ([`invite`],
//! [`kit`]).

pub mod ask;
pub mod control;
pub mod fingerprint;
pub mod greeting;
pub mod handover;
pub mod header;
pub mod host_port;
pub mod identity;
pub mod invite;
pub mod kit;
mod line;
pub mod names;
pub mod pins;
pub mod private_file;
pub mod quic;
mod refusal;
pub mod relay_ref;
pub mod request;
pub mod reset;
pub mod restart_keys;
pub mod splice;
pub mod spoken;
mod standing;
pub mod stream;

pub use fingerprint::Fingerprint;
pub use handover::Handover;
pub use header::{Carries, Opening, StreamHeader};
pub use host_port::HostPort;
pub use identity::{Identity, PublicKey};
pub use invite::Invite;
pub use kit::Kit;
pub use names::{BoxName, DomainName, EhloName, MxName, ServiceName, SessionId};
pub use relay_ref::RelayRef;
pub use request::{Answer, Request};
pub use reset::ResetCode;
pub use standing::AddressPair;
