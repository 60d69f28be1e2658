//! Zones between name servers, by the standard messages: whole (AXFR, RFC 5936), what changed
//! (IXFR, RFC 1995), the word that something changed (NOTIFY, RFC 1996), signed (TSIG, RFC 8945).

pub mod compress;
pub mod difference;
pub mod inbound;
pub mod journal;
pub mod outbound;
pub mod query;
pub mod tsig;

#[cfg(test)]
pub(crate) mod fixture;
