//! The operator's live socket: what a running relay shows to who administers its machine.
//!
//! HTTP and JSON over a Unix socket that only the relay's own user and root can open. Whoever can
//! could also read the process, so it asks for no password; and nothing that is sent to it
//! changes anything.

pub mod client;
mod live;
mod location;
pub mod report;
mod server;
mod socket;

pub use live::Live;
pub use location::registry_location;
pub use server::serve;
pub use socket::AdminSocket;
