//! From the octets of a query to those of the answer: the one function that every transport calls.

use std::net::SocketAddr;

use crate::answer::{self, Flags, Kind, Rcode};
use crate::catalog::{Catalog, Entry};
use crate::query::{HEADER, Not, Query};
use crate::zone::rtype;

/// Octets of the largest datagram that is sent: it passes every network in one piece.
pub const PAYLOAD: u16 = 1232;
/// Octets of the largest datagram for clients without EDNS (RFC 1035 section 4.2.1).
const PLAIN_PAYLOAD: u16 = 512;
/// Octets of an EDNS record without options.
const OPT: usize = 11;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// In a datagram: whoever sent it may have lied about the address.
    Udp,
    /// By TCP, TLS or QUIC.
    Stream,
}

/// What to do with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send it.
    Send(Kind),
    /// Say nothing.
    Drop,
    /// It is for whoever transfers zones: AXFR, IXFR, NOTIFY and UPDATE.
    Transfer,
}

/// Answers queries.
#[derive(Default)]
pub struct Engine {
    /// The zones that are served.
    pub catalog: Catalog,
}

impl Engine {
    /// Writes the answer to `query` to `out`.
    pub fn respond(&self, query: &[u8], client: SocketAddr, via: Via, out: &mut Vec<u8>) -> Reply {
        let _ = client;
        match Query::parse(query) {
            Ok(query) => self.answer(&query, via, out),
            Err(Not::Query) => Reply::Drop,
            Err(Not::WellFormed) => refuse(query, Rcode::FormErr, out),
            Err(Not::Asking(NOTIFY | UPDATE)) => Reply::Transfer,
            Err(Not::Asking(_)) => refuse(query, Rcode::NotImp, out),
        }
    }

    fn answer(&self, query: &Query<'_>, via: Via, out: &mut Vec<u8>) -> Reply {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return error(query, Rcode::BadVers, out);
        }
        if query.class != IN {
            return error(query, Rcode::Refused, out);
        }
        if matches!(query.rtype, rtype::AXFR | rtype::IXFR) {
            return match via {
                Via::Stream => Reply::Transfer,
                Via::Udp => error(query, Rcode::Refused, out),
            };
        }
        let most = match (via, query.edns) {
            (Via::Stream, _) => u16::MAX.into(),
            (Via::Udp, None) => PLAIN_PAYLOAD.into(),
            (Via::Udp, Some(edns)) => usize::from(edns.payload.clamp(PLAIN_PAYLOAD, PAYLOAD)),
        };
        let most = most - query.edns.map_or(0, |_| OPT);
        let look = |entry: Option<&Entry>| match entry {
            Some(Entry::Serving(zone)) => Ok(answer::answer(zone, query, most, out)),
            Some(Entry::Expired(_)) => Err(Rcode::ServFail),
            None => Err(Rcode::Refused),
        };
        match self.catalog.with(&query.name, query.rtype == rtype::DS, look) {
            Ok(kind) => {
                if let Some(edns) = query.edns {
                    answer::finish(out, PAYLOAD, Rcode::NoError, edns.dnssec, &[]);
                }
                Reply::Send(kind)
            }
            Err(rcode) => error(query, rcode, out),
        }
    }
}

const IN: u16 = 1;
/// Opcodes (RFC 1996, RFC 2136).
const NOTIFY: u8 = 4;
const UPDATE: u8 = 5;

/// An answer without records.
fn error(query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) -> Reply {
    let flags = Flags { authoritative: false, truncated: false, rcode };
    answer::plain(query.head, flags, out);
    if let Some(edns) = query.edns {
        answer::finish(out, PAYLOAD, rcode, edns.dnssec, &[]);
    }
    Reply::Send(Kind::Error)
}

/// An answer to what is not understood: the header alone.
fn refuse(query: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> Reply {
    let mut head = [0; HEADER];
    head.copy_from_slice(&query[..HEADER]);
    head[4..6].fill(0);
    answer::plain(&head, Flags { authoritative: false, truncated: false, rcode }, out);
    Reply::Send(Kind::Error)
}
