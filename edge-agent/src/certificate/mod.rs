//! The certificate of the mail server, obtained here: by ACME (RFC 8555) with DNS-01 through the
//! box's own zones.
//!
//! [`keeper`] is the task, `steps` and `obtaining` are what it does; what it does next is decided in [`progress`] and [`renewal`], which are
//! pure, out of what [`memory`] keeps on disk. The order of things is made by DANE: a key is in the
//! zone before it is shown, and a certificate is nothing but a paper about a key that is there
//! already. No challenge but DNS-01 is used: a relay answers for the addresses.

pub mod account;
pub mod chain;
pub mod https;
pub mod install;
pub mod keeper;
pub mod memory;
mod obtaining;
pub mod order;
pub mod pair;
pub mod progress;
pub mod renewal;
pub mod report;
pub mod running;
pub mod servers;
pub mod settings;
mod steps;

pub use keeper::{Certificate, Keeper, ask_for_renewal};
pub use report::Report;
pub use running::Running;
pub use settings::Settings;
