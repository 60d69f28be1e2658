//! Real sockets around an engine that says who asked: what the transports do, whatever is answered.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod echo;
mod quic;
mod streams;
mod udp;
