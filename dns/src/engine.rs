//! From the octets of a query to those of the answer: the one function that every transport calls.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::answer::{self, Flags, Rcode};
use crate::catalog::{Catalog, Entry};
use crate::cookie::{COOKIE_LEN, Cookies, Secret, Verdict};
use crate::prefix::Prefix;
use crate::query::{HEADER, Not, Query};
use crate::rate_limit::{Class, Decision, RateLimiter, Rates};
use crate::zone::rtype;

/// Octets of the largest datagram that is sent: it passes every network in one piece.
pub const PAYLOAD: u16 = 1232;
/// Octets of the largest datagram for clients without EDNS (RFC 1035 section 4.2.1).
const PLAIN_PAYLOAD: u16 = 512;
/// Octets of an EDNS record without options.
const OPT: usize = 11;
/// Octets of the code and the length of an option.
const OPTION: usize = 4;

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
    Send(Class),
    /// Send it, though there would be more to say: the client's network gets too much.
    Slip,
    /// Say nothing.
    Drop,
    /// It is for whoever transfers zones: AXFR, IXFR, NOTIFY and UPDATE.
    Transfer,
}

/// When a query came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Seconds since 1970, which may wrap.
    pub unix: u32,
    /// Milliseconds of a clock that never goes back.
    pub monotonic: u64,
}

/// What all threads answer from.
pub struct Engine {
    /// The zones that are served.
    pub catalog: Catalog,
    cookies: Cookies,
    rates: Option<Rates>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Cookies::new(Secret::random(), None), Some(Rates::default()))
    }
}

impl Engine {
    /// Without zones yet. Without `rates` every query has its answer.
    pub fn new(cookies: Cookies, rates: Option<Rates>) -> Self {
        Self { catalog: Catalog::default(), cookies, rates }
    }

    /// The part of one thread, of as many as answer datagrams.
    pub fn worker(self: &Arc<Self>, threads: u32) -> Worker {
        let limiter = self.rates.as_ref().map(|rates| RateLimiter::new(rates, threads));
        Worker { engine: self.clone(), limiter }
    }
}

/// Answers the queries of one thread.
pub struct Worker {
    engine: Arc<Engine>,
    limiter: Option<RateLimiter>,
}

/// What a client is given for its cookie.
#[derive(Clone, Copy)]
struct Cookie {
    data: [u8; COOKIE_LEN],
    /// It showed that it gets what is sent to its address.
    reachable: bool,
}

impl Worker {
    /// Writes the answer to `query`, which came from `client` at `now`, to `out`.
    pub fn respond(
        &mut self,
        query: &[u8],
        client: SocketAddr,
        via: Via,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> Reply {
        let (reply, head, reachable) = match Query::parse(query) {
            Ok(query) => {
                let cookie = self.engine.cookie(&query, client, now);
                let reply = self.engine.answer(&query, cookie, via, out);
                (reply, query.head.len(), cookie.is_some_and(|cookie| cookie.reachable))
            }
            Err(Not::Query) => return Reply::Drop,
            Err(Not::WellFormed) => (refuse(query, Rcode::FormErr, out), HEADER, false),
            Err(Not::Asking(NOTIFY | UPDATE)) => return Reply::Transfer,
            Err(Not::Asking(_)) => (refuse(query, Rcode::NotImp, out), HEADER, false),
        };
        let (Reply::Send(class), Via::Udp, Some(limiter), false) =
            (reply, via, &mut self.limiter, reachable)
        else {
            return reply;
        };
        match limiter.decide(now.monotonic, Prefix::of(client.ip()), class) {
            Decision::Send => reply,
            Decision::Drop => Reply::Drop,
            Decision::Slip => {
                answer::truncate(out, head);
                Reply::Slip
            }
        }
    }
}

impl Engine {
    /// What the client gets for the cookie that it showed (RFC 7873 section 5.2).
    fn cookie(&self, query: &Query<'_>, client: SocketAddr, now: Moment) -> Option<Cookie> {
        let shown = query.edns?.cookie?;
        let (part, reachable) = match self.cookies.verify(shown, client.ip(), now.unix) {
            Verdict::Valid(_) => {
                return Some(Cookie { data: shown.try_into().ok()?, reachable: true });
            }
            Verdict::ValidButRenew(part) => (part, true),
            Verdict::ClientOnly(part) | Verdict::Bad(part) => (part, false),
            Verdict::Malformed => return None,
        };
        Some(Cookie { data: self.cookies.make(part, client.ip(), now.unix), reachable })
    }

    fn answer(
        &self,
        query: &Query<'_>,
        cookie: Option<Cookie>,
        via: Via,
        out: &mut Vec<u8>,
    ) -> Reply {
        let error = |rcode, out| error(query, cookie, rcode, out);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return error(Rcode::BadVers, out);
        }
        if query.class != IN {
            return error(Rcode::Refused, out);
        }
        if matches!(query.rtype, rtype::AXFR | rtype::IXFR) {
            return match via {
                Via::Stream => Reply::Transfer,
                Via::Udp => error(Rcode::Refused, out),
            };
        }
        let most = match (via, query.edns) {
            (Via::Stream, _) => u16::MAX.into(),
            (Via::Udp, None) => PLAIN_PAYLOAD.into(),
            (Via::Udp, Some(edns)) => usize::from(edns.payload.clamp(PLAIN_PAYLOAD, PAYLOAD)),
        };
        let reserve = query.edns.map_or(0, |_| OPT) + cookie.map_or(0, |_| OPTION + COOKIE_LEN);
        let look = |entry: Option<&Entry>| match entry {
            Some(Entry::Serving(zone)) => Ok(answer::answer(zone, query, most - reserve, out)),
            Some(Entry::Expired(_)) => Err(Rcode::ServFail),
            None => Err(Rcode::Refused),
        };
        match self.catalog.with(&query.name, query.rtype == rtype::DS, look) {
            Ok(class) => {
                edns(query, cookie, Rcode::NoError, out);
                Reply::Send(class)
            }
            Err(rcode) => error(rcode, out),
        }
    }
}

const IN: u16 = 1;
/// Opcodes (RFC 1996, RFC 2136).
const NOTIFY: u8 = 4;
const UPDATE: u8 = 5;

/// Ends an answer with EDNS if the client speaks it.
fn edns(query: &Query<'_>, cookie: Option<Cookie>, rcode: Rcode, out: &mut Vec<u8>) {
    const COOKIE: u16 = 10;
    let Some(edns) = query.edns else { return };
    let mut option = [0; OPTION + COOKIE_LEN];
    let options = match cookie {
        None => &[],
        Some(cookie) => {
            option[..2].copy_from_slice(&COOKIE.to_be_bytes());
            option[2..4].copy_from_slice(&(COOKIE_LEN as u16).to_be_bytes());
            option[4..].copy_from_slice(&cookie.data);
            &option[..]
        }
    };
    answer::finish(out, PAYLOAD, rcode, edns.dnssec, options);
}

/// An answer without records.
fn error(query: &Query<'_>, cookie: Option<Cookie>, rcode: Rcode, out: &mut Vec<u8>) -> Reply {
    let flags = Flags { authoritative: false, truncated: false, rcode };
    answer::plain(query.head, flags, out);
    edns(query, cookie, rcode, out);
    Reply::Send(Class::Error)
}

/// An answer to what is not understood: the header alone.
fn refuse(query: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> Reply {
    let mut head = [0; HEADER];
    head.copy_from_slice(&query[..HEADER]);
    head[4..6].fill(0);
    answer::plain(&head, Flags { authoritative: false, truncated: false, rcode }, out);
    Reply::Send(Class::Error)
}
