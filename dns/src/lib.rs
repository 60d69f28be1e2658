//! The authoritative name server: zones that were signed elsewhere, verified, compiled and served as
//! they came.

pub mod answer;
pub mod catalog;
pub mod engine;
pub mod name;
pub mod query;
pub mod record;
pub mod zone;
