//! From the octets of a query to those of the answer: the one function that every transport calls.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::answer::{self, Flags, Rcode, Scratch};
use crate::cookie::{COOKIE_LEN, Cookies, Secret, Verdict};
use crate::prefix::Prefix;
use crate::query::{HEADER, Not, Query};
use crate::rate_limit::{CLASSES, Class, Decision, RateLimiter, Rates};
use crate::served::{Entry, ServedZones};
use crate::transport::{Asked, Now, Reply, Respond, Via, Worker};
use crate::unix_time;
use crate::zone::rtype;

/// Octets of the largest datagram that is sent: it passes every network in one piece.
pub const PAYLOAD: u16 = 1232;
/// Octets of the largest datagram for clients without EDNS (RFC 1035 section 4.2.1).
const PLAIN_PAYLOAD: u16 = 512;
/// Octets of an EDNS record without options.
const OPT: usize = 11;
/// Octets of the code and the length of an option.
const OPTION: usize = 4;
/// Octets of the content of EDNS EXPIRE.
const EXPIRE_LEN: usize = 4;

/// What all threads answer from.
pub struct Engine {
    /// The zones that are served.
    pub served: ServedZones,
    cookies: Cookies,
    rates: Option<Rates>,
    threads: u32,
    counters: Mutex<Vec<Arc<Counters>>>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Cookies::new(Secret::random(), None), Some(Rates::default()), 1)
    }
}

impl Engine {
    /// Without zones yet. Without `rates` every query has its answer. `threads` is how many serve an address,
    /// which share the rates between them.
    pub fn new(cookies: Cookies, rates: Option<Rates>, threads: u32) -> Self {
        let counters = Mutex::default();
        Self { served: ServedZones::default(), cookies, rates, threads, counters }
    }

    /// What was answered so far, by all threads.
    pub fn counts(&self) -> Counts {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Counts::default();
        for one in counters.iter() {
            for (sum, count) in all.answered.iter_mut().zip(&one.answered) {
                *sum += count.load(Relaxed);
            }
            all.slipped += one.slipped.load(Relaxed);
            all.dropped += one.dropped.load(Relaxed);
        }
        all
    }
}

/// What was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of each class, in the order of [`Class`].
    pub answered: [u64; CLASSES],
    /// Truncated, as the client's network got too much.
    pub slipped: u64,
    /// Left out for the same reason.
    pub dropped: u64,
}

/// What one thread counts. Nobody else writes to it, and its cache lines are its own.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    answered: [AtomicU64; CLASSES],
    slipped: AtomicU64,
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl Respond for Arc<Engine> {
    type Worker = Answerer;

    fn worker(&self) -> Answerer {
        let limiter = self.rates.as_ref().map(|rates| RateLimiter::new(rates, self.threads));
        let counters = Arc::<Counters>::default();
        let mut all = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(counters.clone());
        Answerer { engine: self.clone(), limiter, counters, scratch: Scratch::default() }
    }
}

/// Answers the queries of one thread.
pub struct Answerer {
    engine: Arc<Engine>,
    limiter: Option<RateLimiter>,
    counters: Arc<Counters>,
    scratch: Scratch,
}

/// What there is to do.
enum Outcome {
    /// An answer was written.
    Answer(Class),
    /// Nothing.
    Nothing,
    /// It is for somebody else.
    Transfer,
}

/// What a client is given for its cookie.
#[derive(Clone, Copy)]
struct Cookie {
    data: [u8; COOKIE_LEN],
    /// It showed that it gets what is sent to its address.
    reachable: bool,
}

impl Worker for Answerer {
    fn respond(&mut self, query: &[u8], asked: &Asked, out: &mut Vec<u8>) -> Reply {
        let parsed = Query::parse(query);
        let cookie = match &parsed {
            Ok(parsed) => self.engine.cookie(parsed, asked.client.ip(), asked.now),
            Err(_) => None,
        };
        let outcome = match &parsed {
            // Whoever asks so wants the answer signed too.
            Ok(parsed) if parsed.signed => Outcome::Transfer,
            Ok(parsed) => self.engine.answer(parsed, cookie, asked.via, &mut self.scratch, out),
            Err(Not::Query) => Outcome::Nothing,
            Err(Not::WellFormed) => refuse(query, Rcode::FormErr, out),
            Err(Not::Asking(NOTIFY | UPDATE)) => Outcome::Transfer,
            Err(Not::Asking(_)) => refuse(query, Rcode::NotImp, out),
        };
        let class = match outcome {
            Outcome::Answer(class) => class,
            Outcome::Nothing => return Reply::Drop,
            Outcome::Transfer => return Reply::Transfer,
        };
        let reachable = asked.via == Via::Stream || cookie.is_some_and(|cookie| cookie.reachable);
        let decision = match &mut self.limiter {
            Some(limiter) if !reachable => {
                limiter.decide(asked.now.millis, Prefix::of(asked.client.ip()), class)
            }
            _ => Decision::Send,
        };
        match decision {
            Decision::Send => count(&self.counters.answered[class as usize]),
            Decision::Slip => {
                answer::truncate(out, parsed.as_ref().map_or(HEADER, |parsed| parsed.head.len()));
                // With its cookie a client is limited no longer.
                if let Ok(parsed) = &parsed {
                    edns(parsed, cookie, None, Rcode::NoError, out);
                }
                count(&self.counters.slipped);
            }
            Decision::Drop => {
                count(&self.counters.dropped);
                return Reply::Drop;
            }
        }
        Reply::Send
    }
}

impl Engine {
    /// Writes the answer to `query`, which came over a stream, to `out`, and leaves it empty when there is
    /// none: for whoever answers other messages than queries too.
    pub fn answer_stream(&self, query: &[u8], out: &mut Vec<u8>) {
        match Query::parse(query) {
            Ok(parsed) => {
                self.answer(&parsed, None, Via::Stream, &mut Scratch::default(), out);
            }
            Err(Not::WellFormed) => {
                refuse(query, Rcode::FormErr, out);
            }
            Err(Not::Asking(_)) => {
                refuse(query, Rcode::NotImp, out);
            }
            Err(Not::Query) => {}
        }
    }

    /// What the client gets for the cookie that it showed (RFC 7873 section 5.2).
    fn cookie(&self, query: &Query<'_>, client: IpAddr, now: Now) -> Option<Cookie> {
        let shown = query.edns?.cookie?;
        let (part, reachable) = match self.cookies.verify(shown, client, now.unix) {
            Verdict::Valid(_) => {
                return Some(Cookie { data: shown.try_into().ok()?, reachable: true });
            }
            Verdict::ValidButRenew(part) => (part, true),
            Verdict::ClientOnly(part) | Verdict::Bad(part) => (part, false),
            Verdict::Malformed => return None,
        };
        Some(Cookie { data: self.cookies.make(part, client, now.unix), reachable })
    }

    fn answer(
        &self,
        query: &Query<'_>,
        cookie: Option<Cookie>,
        via: Via,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let error = |rcode, out| error(query, cookie, rcode, out);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return error(Rcode::BadVers, out);
        }
        if query.class != IN {
            return error(Rcode::Refused, out);
        }
        if matches!(query.rtype, rtype::AXFR | rtype::IXFR) {
            return match via {
                Via::Stream => Outcome::Transfer,
                Via::Udp => error(Rcode::Refused, out),
            };
        }
        let most = match (via, query.edns) {
            (Via::Stream, _) => u16::MAX.into(),
            (Via::Udp, None) => PLAIN_PAYLOAD.into(),
            (Via::Udp, Some(edns)) => usize::from(edns.payload.clamp(PLAIN_PAYLOAD, PAYLOAD)),
        };
        // RFC 7314 section 3.2: asked of a secondary for the SOA record of one of its zones.
        let expire = query.rtype == rtype::SOA && query.edns.is_some_and(|edns| edns.expire);
        let reserve = query.edns.map_or(0, |_| OPT)
            + cookie.map_or(0, |_| OPTION + COOKIE_LEN)
            + if expire { OPTION + EXPIRE_LEN } else { 0 };
        let look = |entry: Option<&Entry>| match entry {
            Some(Entry::Serving(zone)) => {
                let class = answer::answer(zone, query, most - reserve, scratch, out);
                let at_apex = expire && query.name.as_wire() == zone.apex_lower();
                let left = at_apex.then(|| zone.expires_in(unix_time::seconds())).flatten();
                Ok((class, left))
            }
            Some(Entry::Expired(..)) => Err(Rcode::ServFail),
            None => Err(Rcode::Refused),
        };
        match self.served.with(&query.name, query.rtype == rtype::DS, look) {
            Ok((class, expire)) => {
                edns(query, cookie, expire, Rcode::NoError, out);
                Outcome::Answer(class)
            }
            Err(rcode) => error(rcode, out),
        }
    }
}

const IN: u16 = 1;
/// Opcodes (RFC 1996, RFC 2136).
const NOTIFY: u8 = 4;
const UPDATE: u8 = 5;

/// Ends an answer with EDNS if the client speaks it. `expire` is how many seconds the zone has left, for
/// whoever asked.
fn edns(
    query: &Query<'_>,
    cookie: Option<Cookie>,
    expire: Option<u32>,
    rcode: Rcode,
    out: &mut Vec<u8>,
) {
    const COOKIE: u16 = 10;
    const EXPIRE: u16 = 9;
    let Some(edns) = query.edns else { return };
    let mut options = [0; OPTION + COOKIE_LEN + OPTION + EXPIRE_LEN];
    let mut end = 0;
    let mut put = |code: u16, value: &[u8]| {
        let (head, rest) = options[end..].split_at_mut(OPTION);
        head[..2].copy_from_slice(&code.to_be_bytes());
        head[2..].copy_from_slice(&(value.len() as u16).to_be_bytes());
        rest[..value.len()].copy_from_slice(value);
        end += OPTION + value.len();
    };
    if let Some(cookie) = cookie {
        put(COOKIE, &cookie.data);
    }
    if let Some(expire) = expire {
        put(EXPIRE, &expire.to_be_bytes());
    }
    answer::finish(out, PAYLOAD, rcode, edns.dnssec, &options[..end]);
}

/// An answer without records.
fn error(query: &Query<'_>, cookie: Option<Cookie>, rcode: Rcode, out: &mut Vec<u8>) -> Outcome {
    let flags = Flags { authoritative: false, truncated: false, rcode };
    answer::plain(query.head, flags, out);
    edns(query, cookie, None, rcode, out);
    Outcome::Answer(Class::Error)
}

/// An answer to what is not understood: the header alone.
fn refuse(query: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> Outcome {
    let mut head = [0; HEADER];
    head.copy_from_slice(&query[..HEADER]);
    head[4..6].fill(0);
    answer::plain(&head, Flags { authoritative: false, truncated: false, rcode }, out);
    Outcome::Answer(Class::Error)
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

    fn worker() -> Answerer {
        let engine = Arc::new(Engine::default());
        let zone = Zone::compile(&"example".parse().unwrap(), &records(ZONE)).unwrap();
        engine.served.insert(Entry::Serving(Arc::new(zone)));
        engine.worker()
    }

    fn ask(name: &str, rtype: Rtype) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(0x1234);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((name.parse::<Name>().unwrap(), rtype)).unwrap();
        message.finish()
    }

    fn client() -> std::net::SocketAddr {
        "192.0.2.99:4242".parse().unwrap()
    }

    fn asked(via: Via) -> Asked {
        Asked { client: client(), via, now: Now { millis: 0, unix: 0 } }
    }

    fn respond(query: &[u8], via: Via) -> Message<Vec<u8>> {
        let mut out = Vec::new();
        assert_eq!(worker().respond(query, &asked(via), &mut out), Reply::Send);
        Message::from_octets(out).unwrap()
    }

    #[test]
    fn the_header_says_whose_answer_it_is() {
        let message = respond(&ask("mX.Example", Rtype::A), Via::Udp);
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
            let mut worker = worker();
            worker.respond(&ask(name, rtype), &asked(Via::Udp), &mut Vec::new());
            assert_eq!(worker.engine.counts().answered[class as usize], 1, "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again() {
        let short = respond(&ask("many.example", Rtype::TXT), Via::Udp);
        assert!(short.header().tc() && short.header_counts().ancount() == 0);
        let long = respond(&ask("many.example", Rtype::TXT), Via::Stream);
        assert!(!long.header().tc());
        assert_eq!(long.header_counts().ancount(), 7);
    }

    #[test]
    fn who_asks_for_the_soa_record_hears_when_the_zone_expires() {
        use domain::base::opt::Expire;
        let ask = |name: &str, rtype| {
            let mut message = MessageBuilder::new_vec().question();
            message.push((name.parse::<Name>().unwrap(), rtype)).unwrap();
            let mut message = message.additional();
            message.opt(|opt| opt.push(&Expire::new(None))).unwrap();
            message.finish()
        };
        let zone = Zone::compile(&"example".parse().unwrap(), &records(ZONE)).unwrap();
        let engine = Arc::new(Engine::default());
        let zone = Arc::new(zone);
        engine.served.insert(Entry::Serving(zone.clone()));
        let told = |query: &[u8]| {
            let mut out = Vec::new();
            engine.worker().respond(query, &asked(Via::Udp), &mut out);
            let message = Message::from_octets(out).unwrap();
            message.opt().unwrap().opt().expire().map(|option| option.expire())
        };
        // Of a zone that does not expire there is nothing to say.
        assert_eq!(told(&ask("example", Rtype::SOA)), None);
        zone.set_expires(unix_time::seconds() + 1000);
        let left = told(&ask("EXAMPLE", Rtype::SOA)).flatten().unwrap();
        assert!((1..=1000).contains(&left), "{left}");
        assert_eq!(told(&ask("example", Rtype::MX)), None);
        assert_eq!(told(&ask("mx.example", Rtype::SOA)), None);
        zone.set_expires(1);
        assert_eq!(told(&ask("example", Rtype::SOA)), Some(Some(0)));
    }

    #[test]
    fn other_classes_opcodes_and_versions_are_told_so() {
        let mut chaos = ask("version.bind", Rtype::TXT);
        let at = chaos.len() - 1;
        chaos[at] = 3;
        assert_eq!(respond(&chaos, Via::Udp).header().rcode(), Code::REFUSED);
        let mut status = ask("mx.example", Rtype::A);
        status[2] |= 2 << 3;
        assert_eq!(respond(&status, Via::Udp).header().rcode(), Code::NOTIMP);
        let mut update = ask("example", Rtype::SOA);
        update[2] |= 5 << 3;
        let mut out = Vec::new();
        let reply = worker().respond(&update, &asked(Via::Udp), &mut out);
        assert_eq!(reply, Reply::Transfer);
        let mut version = ask("mx.example", Rtype::A);
        version[11] = 1;
        version.extend([0, 0, 41, 16, 0, 0, 1, 0, 0, 0, 0]);
        let message = respond(&version, Via::Udp);
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
            out.clear();
            worker.respond(query, &asked(Via::Udp), out)
        };
        assert_eq!(sent(&with(&[7; 8]), &mut out), Reply::Send);
        let message = Message::from_octets(&out[..]).unwrap();
        let cookie: CookieOption = message.opt().unwrap().opt().iter().next().unwrap().unwrap();
        let mut full = [7; 8].to_vec();
        full.extend_from_slice(cookie.server().unwrap().as_ref());
        let mut truncated = 0;
        let mut dropped = 0;
        for _ in 0..3000 {
            dropped += usize::from(sent(&with(&[7; 8]), &mut out) == Reply::Drop);
            let message = Message::from_octets(&out[..]).unwrap();
            if message.header().tc() {
                truncated += 1;
                assert!(message.opt().is_some(), "the cookie is there");
            }
        }
        assert!(truncated > 500 && dropped > 500, "{truncated}, {dropped}");
        for _ in 0..3000 {
            assert_eq!(sent(&with(&full), &mut out), Reply::Send);
            assert!(!Message::from_octets(&out[..]).unwrap().header().tc());
        }
        let message = respond(&with(&[7; 9]), Via::Udp);
        assert_eq!(message.header().rcode(), Code::FORMERR);
    }

    #[test]
    fn what_is_no_query_has_no_answer() {
        let mut answer = ask("mx.example", Rtype::A);
        answer[2] |= 0x80;
        let mut out = Vec::new();
        for bad in [&answer[..], b"", &[0; 11]] {
            let reply = worker().respond(bad, &asked(Via::Udp), &mut out);
            assert_eq!(reply, Reply::Drop);
        }
        // With nothing behind the header, half a question, and something behind it.
        let query = ask("mx.example", Rtype::A);
        for bad in [&query[..12], &query[..20], &[&query[..], &[0]].concat()] {
            let message = respond(bad, Via::Udp);
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
            worker().respond(&octets, &asked(Via::Udp), &mut out);
        }

        #[test]
        fn any_change_of_a_query_is_borne(at in 0usize..28, octet: u8, more in 0usize..40) {
            let mut query = ask("mx.example", Rtype::A);
            let at = at % query.len();
            query[at] = octet;
            query.extend(vec![octet; more]);
            let mut out = Vec::new();
            if worker().respond(&query, &asked(Via::Udp), &mut out) == Reply::Send {
                prop_assert!(out.len() <= usize::from(PAYLOAD));
                prop_assert!(Message::from_octets(&out[..]).is_ok());
            }
        }
    }
}
