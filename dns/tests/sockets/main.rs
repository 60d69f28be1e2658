//! Real sockets around an engine that says who asked: what the transports do, whatever is answered.

mod echo;
mod quic;
mod streams;
mod udp;
