//! The hosted side of Sealpost: takes port-25 traffic and forwards the sealed TLS stream to the
//! box at home that it is for. It cannot read, command or keep anything.
//!
//! [`ingress`] (senders) and [`agents`] (boxes) never import each other: they meet in [`boxes`].

pub mod admin;
pub mod agents;
pub mod boxes;
pub mod command;
pub mod config;
pub mod ingress;
pub mod metrics;
pub mod pairs;
mod prefix;
pub mod privacy;
pub mod proof;
pub mod rechecks;
pub mod registrar;
pub mod registry;
pub mod relay;
pub mod relay_key;
pub mod route;
pub mod shield;
pub mod zones;
