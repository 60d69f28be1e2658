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
    /// It is for whoever transfers zones: AXFR, IXFR, NOTIFY, UPDATE and what is signed by TSIG.
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
            // Whoever asks so wants the answer signed too.
            Ok(query) if query.signed => return Reply::Transfer,
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

#[cfg(test)]
mod tests {
    use domain::base::iana::Rcode as Code;
    use domain::base::name::FlattenInto;
    use domain::base::opt::Cookie as CookieOption;
    use domain::base::{Message, MessageBuilder, Rtype};
    use domain::zonefile::inplace::{Entry as Line, Zonefile};
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Name, Record};
    use crate::zone::Zone;

    const ZONE: &str = "\
        example. 3600 IN SOA ns1 hostmaster 7 14400 3600 2419200 300\n\
        example. 3600 IN NS ns1\n\
        example. 3600 IN MX 10 mx\n\
        ns1 3600 IN A 192.0.2.1\n\
        mx 300 IN A 192.0.2.2\n\
        *.wild 300 IN TXT \"w\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 1\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 2\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 3\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 4\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 5\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 6\"\n\
        many 300 IN TXT \"a long line of text that stands here to make the answer a large one: 7\"\n\
        sub 300 IN NS ns.sub\n\
        ns.sub 300 IN AAAA 2001:db8::1\n";

    fn records(text: &str) -> Vec<Record> {
        let mut file = Zonefile::load(&mut text.as_bytes()).unwrap();
        file.set_origin("example".parse::<Name>().unwrap());
        let mut records = Vec::new();
        while let Some(line) = file.next_entry().unwrap() {
            if let Line::Record(record) = line {
                records.push(record.try_flatten_into().unwrap());
            }
        }
        records
    }

    fn worker() -> Worker {
        let engine = Arc::new(Engine::default());
        let zone = Zone::compile(&"example".parse().unwrap(), &records(ZONE)).unwrap();
        engine.catalog.insert(Entry::Serving(Arc::new(zone)));
        engine.worker(1)
    }

    fn ask(name: &str, rtype: Rtype) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(0x1234);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((name.parse::<Name>().unwrap(), rtype)).unwrap();
        message.finish()
    }

    fn client() -> SocketAddr {
        "192.0.2.99:4242".parse().unwrap()
    }

    fn respond(query: &[u8], via: Via) -> (Reply, Message<Vec<u8>>) {
        let mut out = Vec::new();
        let reply = worker().respond(query, client(), via, Moment::default(), &mut out);
        (reply, Message::from_octets(out).unwrap())
    }

    #[test]
    fn the_header_says_whose_answer_it_is() {
        let (reply, message) = respond(&ask("mX.Example", Rtype::A), Via::Udp);
        assert_eq!(reply, Reply::Send(Class::Answer));
        let header = message.header();
        assert!(header.qr() && header.aa() && header.rd() && !header.ra() && !header.ad());
        assert_eq!(header.id(), 0x1234);
        // The name is written as it was asked, in the question and as the owner.
        assert_eq!(message.first_question().unwrap().qname().to_string(), "mX.Example");
        let record = message.answer().unwrap().next().unwrap().unwrap();
        assert_eq!(record.owner().to_string(), "mX.Example");
    }

    #[test]
    fn answers_have_their_classes() {
        for (name, rtype, class) in [
            ("mx.example", Rtype::A, Class::Answer),
            ("mx.example", Rtype::AAAA, Class::NoData),
            ("no.example", Rtype::A, Class::NxDomain),
            ("x.wild.example", Rtype::TXT, Class::Answer),
            ("x.sub.example", Rtype::A, Class::Referral),
            ("example.org", Rtype::A, Class::Error),
        ] {
            assert_eq!(respond(&ask(name, rtype), Via::Udp).0, Reply::Send(class), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again() {
        let (_, short) = respond(&ask("many.example", Rtype::TXT), Via::Udp);
        assert!(short.header().tc() && short.header_counts().ancount() == 0);
        let (_, long) = respond(&ask("many.example", Rtype::TXT), Via::Stream);
        assert!(!long.header().tc());
        assert_eq!(long.header_counts().ancount(), 7);
    }

    #[test]
    fn other_classes_opcodes_and_versions_are_told_so() {
        let mut chaos = ask("version.bind", Rtype::TXT);
        let at = chaos.len() - 1;
        chaos[at] = 3;
        assert_eq!(respond(&chaos, Via::Udp).1.header().rcode(), Code::REFUSED);
        let mut status = ask("mx.example", Rtype::A);
        status[2] |= 2 << 3;
        assert_eq!(respond(&status, Via::Udp).1.header().rcode(), Code::NOTIMP);
        let mut update = ask("example", Rtype::SOA);
        update[2] |= 5 << 3;
        let mut out = Vec::new();
        let reply = worker().respond(&update, client(), Via::Udp, Moment::default(), &mut out);
        assert_eq!(reply, Reply::Transfer);
        let mut version = ask("mx.example", Rtype::A);
        version[11] = 1;
        version.extend([0, 0, 41, 16, 0, 0, 1, 0, 0, 0, 0]);
        let (_, message) = respond(&version, Via::Udp);
        assert_eq!(message.opt_rcode(), domain::base::iana::OptRcode::BADVERS);
    }

    #[test]
    fn a_client_with_a_cookie_of_ours_is_not_limited() {
        let mut worker = worker();
        let with = |cookie: &[u8]| {
            let mut query = ask("mx.example", Rtype::A);
            query[11] = 1;
            let length = (cookie.len() + 4) as u8;
            query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, length, 0, 10, 0, length - 4]);
            query.extend_from_slice(cookie);
            query
        };
        let mut out = Vec::new();
        let mut sent = |query: &[u8], out: &mut Vec<u8>| {
            worker.respond(query, client(), Via::Udp, Moment::default(), out)
        };
        assert_eq!(sent(&with(&[7; 8]), &mut out), Reply::Send(Class::Answer));
        let message = Message::from_octets(&out[..]).unwrap();
        let cookie: CookieOption = message.opt().unwrap().opt().iter().next().unwrap().unwrap();
        let mut full = [7; 8].to_vec();
        full.extend_from_slice(cookie.server().unwrap().as_ref());
        let mut replies: Vec<_> = (0..3000).map(|_| sent(&with(&[7; 8]), &mut out)).collect();
        assert!(replies.contains(&Reply::Drop) && replies.contains(&Reply::Slip));
        replies = (0..3000).map(|_| sent(&with(&full), &mut out)).collect();
        assert!(replies.iter().all(|reply| *reply == Reply::Send(Class::Answer)));
        let (reply, message) = respond(&with(&[7; 9]), Via::Udp);
        assert_eq!(reply, Reply::Send(Class::Error));
        assert_eq!(message.header().rcode(), Code::FORMERR);
    }

    #[test]
    fn what_is_no_query_has_no_answer() {
        let mut answer = ask("mx.example", Rtype::A);
        answer[2] |= 0x80;
        let mut out = Vec::new();
        for bad in [&answer[..], b"", &[0; 11]] {
            let reply = worker().respond(bad, client(), Via::Udp, Moment::default(), &mut out);
            assert_eq!(reply, Reply::Drop);
        }
        // With nothing behind the header, half a question, and something behind it.
        let query = ask("mx.example", Rtype::A);
        for bad in [&query[..12], &query[..20], &[&query[..], &[0]].concat()] {
            let (_, message) = respond(bad, Via::Udp);
            assert_eq!(message.header().rcode(), Code::FORMERR);
        }
    }

    #[test]
    fn the_records_of_a_zone_are_those_it_was_made_of() {
        let given = records(ZONE);
        let zone = Zone::compile(&"example".parse().unwrap(), &given).unwrap();
        let sorted = |records: &[Record]| {
            let mut lines: Vec<_> = records.iter().map(ToString::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&zone.records()), sorted(&given));
        assert_eq!(zone.serial(), 7);
    }

    proptest! {
        #[test]
        fn any_octets_are_borne(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            worker().respond(&octets, client(), Via::Udp, Moment::default(), &mut out);
        }

        #[test]
        fn any_change_of_a_query_is_borne(at in 0usize..28, octet: u8, more in 0usize..40) {
            let mut query = ask("mx.example", Rtype::A);
            let at = at % query.len();
            query[at] = octet;
            query.extend(vec![octet; more]);
            let mut out = Vec::new();
            let reply = worker().respond(&query, client(), Via::Udp, Moment::default(), &mut out);
            if let Reply::Send(_) = reply {
                prop_assert!(out.len() <= usize::from(PAYLOAD));
                prop_assert!(Message::from_octets(&out[..]).is_ok());
            }
        }
    }
}
