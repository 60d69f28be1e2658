//! The server's side: who may have a zone gets it, whole or what changed; a notice from a primary is
//! passed on; other queries that are signed are answered signed.
//!
//! The decision and the messages are made here, one message at a time, and need no runtime. [`send`]
//! writes them to a stream.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use domain::base::Message;
use domain::base::iana::{Opcode, Rcode, Rtype};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::access::{Rule, admitted};
use super::difference::Difference;
use super::frame::{FrameError, Pace, Reader, Writer};
use super::notify::{self, Decision};
use super::outbound::{Head, Messages, TooLarge, messages, size};
use super::query::{self, Kind, Request, RequestError, newer, serial_of};
use super::tsig::{self, Keys, ReplySigner};
use crate::record::{Name, Record};
use crate::unix_time;

/// Transfers at the same time in all.
pub const MAX_TRANSFERS: usize = 64;
/// Transfers at the same time of one client: of an IPv4 address, or an IPv6 network of 64 bits.
pub const MAX_TRANSFERS_OF_CLIENT: usize = 8;
/// Octets of differences that are sent without a look at how large the zone itself is.
const SMALL_DIFFERENCE: usize = 16 * 1024;
/// The largest UDP answer in octets, as everywhere in this server.
const MAX_DATAGRAM: usize = 1232;

/// One version of a zone, as it is served.
pub trait Served: Send + Sync {
    /// Its SOA record.
    fn soa(&self) -> Record;
    /// All records; the SOA record may be among them, anywhere.
    fn records(&self) -> Vec<Record>;
    /// Seconds until this server will not serve it any more: what is left for a secondary, the SOA
    /// record's expire for a primary (RFC 7314 section 3).
    fn expires_in(&self) -> Option<u32>;
    /// The steps from the version with this serial to this one, if they are known.
    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>>;
}

/// The zones of a server.
pub trait Zones: Send + Sync {
    /// The version to serve; `None` when there is none, or it expired.
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>>;
    /// Who may have the zone; nobody when empty, as for a zone that is not known.
    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]>;
    /// Who may say that the zone changed; `None` when it is not had from anybody.
    fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>>;
    /// One who may said so. The serial is a hint. `false` if it was not taken note of, as too many say
    /// so at once.
    fn notified(&self, apex: &Name, serial: Option<u32>) -> bool;
    /// The SOA record of a zone that plain queries are not answered from: who may transfer it, and signs
    /// its question, asks for that first.
    fn private_soa(&self, _: &Name) -> Option<Record> {
        None
    }
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// In a UDP datagram.
    Datagram,
    /// On a stream: TCP, TLS or QUIC.
    Stream,
}

/// What to answer.
pub enum Reply {
    /// Nothing: what came is no query.
    Nothing,
    /// One message.
    One(Vec<u8>),
    /// A transfer, on a stream only.
    Transfer(Box<Transfer>),
}

/// The server's side of transfers.
pub struct Server<Z> {
    zones: Z,
    keys: ArcSwap<Keys>,
    slots: Arc<Slots>,
}

/// A transfer that was granted. It holds its place until dropped.
pub struct Transfer {
    messages: Messages<std::vec::IntoIter<Record>>,
    signer: Option<ReplySigner>,
    _slot: Slot,
}

/// Why a transfer could not be sent to its end. The stream must then be reset or closed, so that the
/// client does not take it for complete.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The stream, or a client that does not read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The zone has a record that no message can carry.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl<Z: Zones> Server<Z> {
    /// A server of these zones, with the keys of all who sign.
    pub fn new(zones: Z, keys: Keys) -> Self {
        Self { zones, keys: ArcSwap::from_pointee(keys), slots: Arc::default() }
    }

    /// Knows these keys from now on, and no others.
    pub fn set_keys(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// The zones.
    pub fn zones(&self) -> &Z {
        &self.zones
    }

    /// Answers a transfer request, a notice, or any query that is signed. `plain` answers what is
    /// neither, from a query without its signature, and leaves nothing when there is no answer.
    /// `now` is in Unix seconds.
    pub fn handle(
        &self,
        query: &[u8],
        client: IpAddr,
        over: Over,
        now: u64,
        plain: impl FnOnce(&[u8], &mut Vec<u8>),
    ) -> Reply {
        let opcode = match Message::from_slice(query) {
            Ok(message) if !message.header().qr() => message.header().opcode(),
            _ => return Reply::Nothing,
        };
        let keys = self.keys.load();
        let opened = match tsig::open_request(query, &keys, now) {
            Ok(opened) => opened,
            Err(fault) => {
                let reply = tsig::fault_reply(query, &fault, &keys, now);
                return one(reply.or_else(|| query::error_reply(query, Rcode::FORMERR)));
            }
        };
        let (body, mut signer) = match &opened {
            Some(opened) => (&opened.message[..], Some(opened.signer.clone())),
            None => (query, None),
        };
        let reply = if opcode == Opcode::NOTIFY {
            self.hear(body, client, signer.as_ref())
        } else {
            match Request::parse(body) {
                Ok(request) => match self.grant(body, &request, client, over, signer.clone()) {
                    Ok(reply) => reply,
                    Err(rcode) => one(query::error_reply(body, rcode)),
                },
                Err(RequestError::Malformed) if is_transfer(body) => {
                    one(query::error_reply(body, Rcode::FORMERR))
                }
                Err(_) => match self.private_soa(body, client, signer.as_ref()) {
                    Some(reply) => Reply::One(reply),
                    None => {
                        let mut out = Vec::new();
                        plain(body, &mut out);
                        if out.is_empty() { Reply::Nothing } else { Reply::One(out) }
                    }
                },
            }
        };
        match (reply, &mut signer) {
            (Reply::One(message), Some(signer)) => {
                Reply::One(sign_one(body, message, signer, over, now))
            }
            (reply, _) => reply,
        }
    }

    fn hear(&self, body: &[u8], client: IpAddr, signer: Option<&ReplySigner>) -> Reply {
        let Ok(notice) = notify::parse(body) else {
            return one(query::error_reply(body, Rcode::FORMERR));
        };
        let rules = self.zones.primaries(&notice.apex);
        let key = signer.map(ReplySigner::key_name);
        let mut decision = notify::decide(rules.as_deref(), client, key);
        if decision == Decision::Refresh && !self.zones.notified(&notice.apex, notice.serial) {
            decision = Decision::Busy;
        }
        one(notify::reply(body, decision))
    }

    fn private_soa(
        &self,
        body: &[u8],
        client: IpAddr,
        signer: Option<&ReplySigner>,
    ) -> Option<Vec<u8>> {
        let apex = query::asks_soa(body)?;
        let soa = self.zones.private_soa(&apex)?;
        let key = signer.map(ReplySigner::key_name);
        let admitted = admitted(&self.zones.transfer_rules(&apex), client, key);
        admitted.then(|| query::soa_reply(body, &soa)).flatten()
    }

    fn grant(
        &self,
        body: &[u8],
        request: &Request,
        client: IpAddr,
        over: Over,
        signer: Option<ReplySigner>,
    ) -> Result<Reply, Rcode> {
        let key = signer.as_ref().map(ReplySigner::key_name);
        // One answer for a zone that is not for this client and for one that does not exist.
        if !admitted(&self.zones.transfer_rules(&request.apex), client, key) {
            return Err(Rcode::REFUSED);
        }
        let zone = self.zones.find(&request.apex).ok_or(Rcode::SERVFAIL)?;
        let soa = zone.soa();
        let head = Head {
            id: request.id,
            apex: request.apex.clone(),
            qtype: request.kind.qtype(),
            edns: request.edns,
            expire: request.expire.then(|| zone.expires_in()).flatten(),
        };
        if over == Over::Datagram {
            // AXFR has no meaning there (RFC 5936 section 4.2). To IXFR the current SOA record tells
            // all: nothing new, or come by TCP (RFC 1995 section 2).
            return match request.kind {
                Kind::Axfr => Err(Rcode::FORMERR),
                Kind::Ixfr { .. } => {
                    let message = messages(head, [soa]).next().and_then(Result::ok);
                    Ok(one(message.or_else(|| query::error_reply(body, Rcode::SERVFAIL))))
                }
            };
        }
        let slot = self.slots.take(client).ok_or(Rcode::SERVFAIL)?;
        let records = match request.kind {
            Kind::Axfr => whole(&*zone, soa),
            Kind::Ixfr { serial } => since(&*zone, soa, serial),
        };
        let messages = messages(head, records);
        Ok(Reply::Transfer(Box::new(Transfer { messages, signer, _slot: slot })))
    }
}

/// All of a zone between its SOA records.
fn whole(zone: &dyn Served, soa: Record) -> Vec<Record> {
    let all = zone.records();
    let mut records = Vec::with_capacity(all.len() + 2);
    records.push(soa.clone());
    let is_apex_soa =
        |record: &Record| record.rtype() == Rtype::SOA && record.owner() == soa.owner();
    records.extend(all.into_iter().filter(|record| !is_apex_soa(record)));
    records.push(soa);
    records
}

/// What changed since `serial`; nothing but the SOA record when nothing did, and the whole zone when
/// that is shorter, or the steps are not known (RFC 1995 section 4).
fn since(zone: &dyn Served, soa: Record, serial: u32) -> Vec<Record> {
    if !newer(serial_of(&soa), serial) {
        return vec![soa];
    }
    let fits = |steps: &Vec<Arc<Difference>>| steps.last().is_some_and(|last| last.to == soa);
    let Some(steps) = zone.steps_since(serial).filter(fits) else {
        return whole(zone, soa);
    };
    let octets: usize = steps.iter().map(|step| step.octets()).sum();
    if octets > SMALL_DIFFERENCE {
        let all = whole(zone, soa.clone());
        if all.iter().map(size).sum::<usize>() <= octets {
            return all;
        }
    }
    let mut records = vec![soa.clone()];
    records.extend(steps.iter().flat_map(|step| step.records()).cloned());
    records.push(soa);
    records
}

fn one(message: Option<Vec<u8>>) -> Reply {
    message.map_or(Reply::Nothing, Reply::One)
}

fn is_transfer(body: &[u8]) -> bool {
    Message::from_slice(body).is_ok_and(|message| message.is_xfr())
}

/// Signs an answer. When the signature makes it too long for a datagram, the client is to come by
/// TCP.
fn sign_one(
    body: &[u8],
    mut message: Vec<u8>,
    signer: &mut ReplySigner,
    over: Over,
    now: u64,
) -> Vec<u8> {
    let most = match over {
        Over::Datagram => MAX_DATAGRAM,
        Over::Stream => usize::from(u16::MAX),
    };
    let mut signed = message.clone();
    let unsigned = signer.clone();
    signer.sign(&mut signed, now);
    if signed.len() <= most {
        return signed;
    }
    *signer = unsigned;
    if let Some(short) = query::error_reply(body, Rcode::NOERROR) {
        message = short;
        message[2] |= 0x02;
    }
    signer.sign(&mut message, now);
    message
}

impl Transfer {
    /// The next message, signed where the request was. `now` is in Unix seconds.
    pub fn next(&mut self, now: u64) -> Option<Result<Vec<u8>, TooLarge>> {
        let message = self.messages.next()?;
        Some(message.map(|mut message| {
            if let Some(signer) = &mut self.signer {
                signer.sign(&mut message, now);
            }
            message
        }))
    }
}

/// Writes an answer to a stream.
pub async fn send<S>(stream: &mut S, reply: Reply, pace: Pace) -> Result<(), SendError>
where
    S: AsyncWrite + Unpin,
{
    let mut writer = Writer::new(pace);
    match reply {
        Reply::Nothing => return Ok(()),
        Reply::One(message) => writer.write(stream, &message).await?,
        Reply::Transfer(mut transfer) => {
            while let Some(message) = transfer.next(unix_time::seconds()) {
                writer.write(stream, &message?).await?;
                // A fast reader must not keep the thread for a whole zone.
                tokio::task::yield_now().await;
            }
        }
    }
    stream.flush().await.map_err(FrameError::Io)?;
    Ok(())
}

/// Most questions on one stream.
const MAX_QUERIES: usize = 1000;

/// Answers the questions on a stream, one after the other, until the client ends it: for streams
/// that carry transfers alone, as in a tunnel. `plain` is as in [`Server::handle`].
pub async fn serve<S, Z>(
    stream: &mut S,
    server: &Server<Z>,
    client: IpAddr,
    pace: Pace,
    plain: impl Fn(&[u8], &mut Vec<u8>),
) -> Result<(), SendError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Z: Zones,
{
    let mut reader = Reader::new(pace);
    for _ in 0..MAX_QUERIES {
        let Some(query) = reader.read(stream).await? else { break };
        let now = unix_time::seconds();
        let reply = server.handle(&query, client, Over::Stream, now, &plain);
        send(stream, reply, pace).await?;
        reader.restart();
    }
    Ok(())
}

/// Places for transfers.
#[derive(Debug, Default)]
struct Slots(Mutex<HashMap<IpAddr, usize>>);

/// A place that is taken until dropped.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    client: IpAddr,
}

impl Slots {
    fn take(self: &Arc<Self>, client: IpAddr) -> Option<Slot> {
        let client = network(client);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&client).copied().unwrap_or(0);
        if all >= MAX_TRANSFERS || own >= MAX_TRANSFERS_OF_CLIENT {
            return None;
        }
        taken.insert(client, own + 1);
        Some(Slot { slots: self.clone(), client })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::transfer::difference::between;
    use crate::transfer::fixture::{name, zone};
    use crate::transfer::inbound::{Inbound, Limits, Received, Step};
    use crate::transfer::journal::Journal;
    use crate::transfer::pull::{Ask, pull};
    use crate::transfer::tsig::{Algorithm, TsigKey};

    struct Version {
        records: Vec<Record>,
        journal: Journal,
    }

    impl Served for Version {
        fn soa(&self) -> Record {
            self.records[0].clone()
        }
        fn records(&self) -> Vec<Record> {
            self.records.clone()
        }
        fn expires_in(&self) -> Option<u32> {
            Some(77)
        }
        fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
            self.journal.since(serial)
        }
    }

    struct One {
        version: Option<Arc<Version>>,
        heard: Mutex<Vec<Option<u32>>>,
    }

    impl Zones for One {
        fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
            let zone = self.version.clone().filter(|_| apex == &name("example.org"));
            zone.map(|zone| zone as Arc<dyn Served>)
        }
        fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
            if apex != &name("example.org") {
                return Arc::new([]);
            }
            Arc::new([Rule::Key(name("key")), Rule::From("192.0.2.0/24".parse().unwrap())])
        }
        fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>> {
            (apex == &name("example.org")).then(|| self.transfer_rules(apex))
        }
        fn notified(&self, _: &Name, serial: Option<u32>) -> bool {
            let mut heard = self.heard.lock().unwrap();
            heard.push(serial);
            heard.len() < 2
        }
    }

    fn key() -> TsigKey {
        TsigKey::new(name("key"), Algorithm::Sha256, &[3; 32]).unwrap()
    }

    fn server() -> Server<One> {
        let versions = [zone(1, 100), zone(2, 101), zone(3, 102)];
        let mut journal = Journal::default();
        for pair in versions.windows(2) {
            journal.push(between(&pair[0], &pair[1]).unwrap());
        }
        let version = Arc::new(Version { records: versions[2].clone(), journal });
        let zones = One { version: Some(version), heard: Mutex::default() };
        Server::new(zones, [key()].into_iter().collect())
    }

    fn near() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn ask(server: &Server<One>, query: &[u8], client: &str, over: Over) -> Reply {
        server.handle(query, client.parse().unwrap(), over, unix_time::seconds(), |_, out| {
            out.extend_from_slice(b"plain");
        })
    }

    fn rcode(reply: &Reply) -> u8 {
        let Reply::One(message) = reply else { panic!("not one message") };
        message[3] & 15
    }

    fn receive(reply: Reply, kind: Kind) -> Received {
        let Reply::Transfer(mut transfer) = reply else { panic!("no transfer") };
        let mut inbound = Inbound::new(5, name("example.org"), kind, Limits::default());
        while let Some(message) = transfer.next(0) {
            if let Step::Done(got) = inbound.take(Bytes::from(message.unwrap())).unwrap() {
                assert_eq!(inbound.expire(), Some(77));
                return got;
            }
        }
        panic!("the transfer stops in the middle")
    }

    #[test]
    fn a_transfer_is_closed_to_whom_no_rule_admits_and_says_no_more() {
        let server = server();
        let query = query::axfr(5, &name("example.org"));
        assert_eq!(rcode(&ask(&server, &query, "198.51.100.1", Over::Stream)), 5);
        let unknown = query::axfr(5, &name("example.net"));
        assert_eq!(rcode(&ask(&server, &unknown, "192.0.2.1", Over::Stream)), 5);
        assert!(matches!(ask(&server, &query, "192.0.2.1", Over::Stream), Reply::Transfer(_)));
        let mut expired = server;
        expired.zones.version = None;
        assert_eq!(rcode(&ask(&expired, &query, "192.0.2.1", Over::Stream)), 2);
    }

    #[test]
    fn a_client_gets_all_what_changed_or_nothing() {
        let server = server();
        let apex = name("example.org");
        let got =
            receive(ask(&server, &query::axfr(5, &apex), "192.0.2.1", Over::Stream), Kind::Axfr);
        assert_eq!(got, Received::Zone(zone(3, 102)));
        for (serial, steps) in [(1, 2), (2, 1)] {
            let query = query::ixfr(5, &apex, &zone(serial, 0)[0]);
            let got =
                receive(ask(&server, &query, "192.0.2.1", Over::Stream), Kind::Ixfr { serial });
            let Received::Differences(got) = got else { panic!("{got:?}") };
            assert_eq!(got.len(), steps);
        }
        for serial in [3, 4] {
            let query = query::ixfr(5, &apex, &zone(serial, 0)[0]);
            let got =
                receive(ask(&server, &query, "192.0.2.1", Over::Stream), Kind::Ixfr { serial });
            assert!(matches!(got, Received::UpToDate(soa) if serial_of(&soa) == 3));
        }
        let query = query::ixfr(5, &apex, &zone(0, 0)[0]);
        let got =
            receive(ask(&server, &query, "192.0.2.1", Over::Stream), Kind::Ixfr { serial: 0 });
        assert_eq!(got, Received::Zone(zone(3, 102)));
    }

    #[test]
    fn in_a_datagram_ixfr_is_told_the_serial_and_axfr_that_it_is_wrong() {
        let server = server();
        let apex = name("example.org");
        let query = query::axfr(5, &apex);
        assert_eq!(rcode(&ask(&server, &query, "192.0.2.1", Over::Datagram)), 1);
        let query = query::ixfr(5, &apex, &zone(1, 0)[0]);
        let Reply::One(message) = ask(&server, &query, "192.0.2.1", Over::Datagram) else {
            panic!("no answer")
        };
        assert_eq!(Message::from_slice(&message).unwrap().header_counts().ancount(), 1);
    }

    #[test]
    fn places_are_limited_and_come_back() {
        let server = server();
        let query = query::axfr(5, &name("example.org"));
        let mut taken = Vec::new();
        for _ in 0..MAX_TRANSFERS_OF_CLIENT {
            taken.push(ask(&server, &query, "192.0.2.1", Over::Stream));
        }
        assert_eq!(rcode(&ask(&server, &query, "192.0.2.1", Over::Stream)), 2);
        assert!(matches!(ask(&server, &query, "192.0.2.2", Over::Stream), Reply::Transfer(_)));
        taken.pop();
        assert!(matches!(ask(&server, &query, "192.0.2.1", Over::Stream), Reply::Transfer(_)));
        drop(taken);
        assert!(server.slots.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_notice_is_heard_from_a_primary_only() {
        let server = server();
        let notice = notify::make(5, &name("example.org"), Some(&zone(9, 0)[0]));
        assert_eq!(rcode(&ask(&server, &notice, "198.51.100.1", Over::Datagram)), 5);
        assert_eq!(rcode(&ask(&server, &notice, "192.0.2.1", Over::Datagram)), 0);
        let other = notify::make(5, &name("example.net"), None);
        assert_eq!(rcode(&ask(&server, &other, "192.0.2.1", Over::Datagram)), 9);
        assert_eq!(*server.zones.heard.lock().unwrap(), [Some(9)]);
        // Where it is not taken note of, whoever sent it is to send it again.
        assert_eq!(rcode(&ask(&server, &notice, "192.0.2.1", Over::Datagram)), 2);
    }

    #[test]
    fn what_is_signed_is_answered_signed_and_what_is_signed_badly_is_refused() {
        let server = server();
        let now = unix_time::seconds();
        let holder = Arc::new(key());
        let mut query = query::soa(5, &name("example.org"));
        let bare = query.clone();
        let mut verifier = tsig::sign_request(&mut query, &holder, now);
        let reply = server.handle(&query, near(), Over::Datagram, now, |body, out| {
            assert_eq!(body, bare);
            out.extend_from_slice(&query::error_reply(body, Rcode::NOERROR).unwrap());
        });
        let Reply::One(message) = reply else { panic!("no answer") };
        verifier.verify(&message, now).unwrap();

        let reply = server.handle(&query, near(), Over::Datagram, now, |body, out| {
            out.extend_from_slice(&query::error_reply(body, Rcode::NOERROR).unwrap());
            out.resize(MAX_DATAGRAM, 0);
        });
        let Reply::One(message) = reply else { panic!("no answer") };
        assert_eq!(message[2] & 0x02, 0x02, "too long when signed, so truncated");

        let reply = server.handle(&query, near(), Over::Stream, now + 301, |_, _| panic!("plain"));
        assert_eq!(rcode(&reply), 9);
        assert!(matches!(ask(&server, &message, "192.0.2.1", Over::Stream), Reply::Nothing));
        let cut = &query::ixfr(5, &name("example.org"), &zone(1, 0)[0])[..40];
        assert_eq!(rcode(&ask(&server, cut, "192.0.2.1", Over::Stream)), 1);
    }

    #[tokio::test]
    async fn both_sides_agree_over_a_stream_with_a_key() {
        let server = server();
        let ask = Ask {
            apex: name("example.org"),
            key: Some(Arc::new(key())),
            limits: Limits::default(),
            pace: Pace::default(),
        };
        let (mut near_end, mut far_end) = tokio::io::duplex(1000);
        let client = "::1".parse().unwrap();
        let served = async {
            serve(&mut far_end, &server, client, Pace::default(), |_, _| {}).await.unwrap();
        };
        let pulled = async {
            let mut got = Vec::new();
            for _ in 0..3 {
                got.push(pull(&mut near_end, &ask, None).await.unwrap());
            }
            drop(near_end);
            got
        };
        for pulled in tokio::join!(served, pulled).1 {
            assert_eq!(pulled.received, Received::Zone(zone(3, 102)));
            assert_eq!(pulled.expire, Some(77));
        }
    }
}
