//! The authoritative name server: zones that were signed elsewhere, verified, compiled and served as
//! they came.

pub mod admission;
pub mod answer;
pub mod catalog_zone;
pub mod command;
pub mod config;
pub mod cookie;
mod desk;
pub mod engine;
pub mod handle;
mod metrics;
pub mod name;
mod nesting;
mod own_thread;
pub mod prefix;
mod program;
pub mod query;
pub mod rate_limit;
pub mod record;
pub mod secondaries;
pub mod served;
pub mod server;
pub mod store;
pub mod stream;
pub mod transfer;
pub mod transport;
pub mod trust;
mod turns;
pub mod udp;
pub mod unix_time;
mod wanted;
pub mod zone;
