//! Zones between name servers, by the standard messages: whole (AXFR, RFC 5936), what changed
//! (IXFR, RFC 1995), the word that something changed (NOTIFY, RFC 1996), signed (TSIG, RFC 8945).

pub mod access;
pub mod attempt;
pub mod compress;
pub mod crowd;
pub mod difference;
pub mod frame;
pub mod inbound;
pub mod journal;
pub mod notifier;
pub mod notify;
pub mod outbound;
pub mod pull;
pub mod query;
pub mod refresh;
pub mod serve;
pub mod timers;
pub mod tsig;

#[cfg(test)]
pub(crate) mod fixture;
