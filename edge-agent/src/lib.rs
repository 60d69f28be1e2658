//! The home side of Sealpost: keeps tunnels to relays up and delivers the streams that come
//! through them to services that the owner of this box named, and nowhere else.

pub mod agent;
pub mod certificate;
pub mod command;
pub mod config;
pub mod deliver;
pub mod lookup;
pub mod metrics;
pub mod publish;
pub mod reach;
pub mod registration;
pub mod status;
pub mod uplink;
pub mod zone;
