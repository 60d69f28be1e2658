//! The authoritative name server: zones that were signed elsewhere, verified, compiled and served as
//! they came.

pub mod record;
