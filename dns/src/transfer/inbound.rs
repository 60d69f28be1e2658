//! The messages of a transfer into records (RFC 5936 section 2.2, RFC 1995 section 4). Pure:
//! message after message in, and at the end a zone or differences, or the name of what was wrong.
//!
//! Here is decided whether this is a transfer of what was asked for. Whether its records make a zone
//! that may be served (glue, names outside, signatures) is admission's to say.

use bytes::Bytes;
use domain::base::Message;
use domain::base::iana::{Class, Opcode, OptRcode, Rtype};
use domain::base::message::RecordSection;
use domain::base::name::{FlattenInto, ParsedName};
use domain::base::rdata::ComposeRecordData;
use domain::rdata::ZoneRecordData;

use super::difference::Difference;
use super::outbound::size;
use super::query::{Kind, expire_option, newer, serial_of};
use crate::record::{Name, Record};

/// How much a transfer may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records, of differences the removed and the added ones.
    pub records: usize,
    /// Octets of all records without compression. Compression makes up to 255 octets out of two,
    /// so octets on the wire alone would bound nothing. Those may be twice as many, as messages with
    /// few records are allowed: records hold on to the messages that they came in.
    pub octets: usize,
    /// Messages.
    pub messages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A few hundred times a mail zone, and little enough for 16 at once.
        Self { records: 200_000, octets: 32 << 20, messages: 200_002 }
    }
}

/// What a transfer brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A whole zone, the SOA record first and once.
    Zone(Vec<Record>),
    /// What changed since the serial that was asked for, oldest first, each from where the one
    /// before it leads to.
    Differences(Vec<Difference>),
    /// Nothing: the server's zone, with this SOA record, is not newer.
    UpToDate(Record),
}

/// Whether more messages are due.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// They are.
    More,
    /// The transfer is complete.
    Done(Received),
}

/// Why it is not the transfer that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that cannot be read.
    #[error("malformed message")]
    Malformed,
    /// Not a reply, or of another opcode.
    #[error("a message that is no reply to a query")]
    NotReply,
    /// Another identity.
    #[error("reply with identity {got} to a request with {asked}")]
    Identity {
        /// Of the request.
        asked: u16,
        /// Of the reply.
        got: u16,
    },
    /// The server says no.
    #[error("the server answered {0}")]
    Refused(OptRcode),
    /// The message is marked as cut short.
    #[error("truncated message (TC) in a transfer")]
    Truncated,
    /// Not the question that was asked, or none in the first message.
    #[error("reply to another question")]
    Question,
    /// A message without an answer.
    #[error("message without records")]
    Empty,
    /// The first record is no SOA record of the zone.
    #[error("the transfer begins with no SOA record of the zone")]
    NoSoa,
    /// A record of another class.
    #[error("record of class {0}")]
    Class(Class),
    /// A record of a type that exists in messages only.
    #[error("record of type {0}, which no zone has")]
    Meta(Rtype),
    /// First and last SOA record are not the same: the zone changed meanwhile, or worse.
    #[error("the transfer begins with serial {first} and ends with another SOA record ({last})")]
    SoaMismatch {
        /// The first one's serial.
        first: u32,
        /// The last one's.
        last: u32,
    },
    /// Differences that do not lead from where the zone is to the server's version.
    #[error("differences from serial {got}, but serial {expected} was due")]
    Gap {
        /// What was due.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// Records behind the end.
    #[error("records behind the last SOA record")]
    Trailing,
    /// Over [`Limits::records`].
    #[error("more than {0} records; raise the zone's limit if it is really so large")]
    Records(usize),
    /// Over [`Limits::octets`].
    #[error("more than {0} octets of records; raise the zone's limit if it is really so large")]
    Octets(usize),
    /// Over [`Limits::messages`].
    #[error("more than {0} messages")]
    Messages(usize),
}

/// A transfer as it comes in.
#[derive(Debug)]
pub struct Inbound {
    id: u16,
    apex: Name,
    kind: Kind,
    limits: Limits,
    records: usize,
    octets: usize,
    wire: usize,
    messages: usize,
    expire: Option<u32>,
    state: State,
    /// For the data of the record that is counted.
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Nothing yet.
    Begin,
    /// One SOA record; what follows tells which kind of answer this is.
    First(Record),
    /// A whole zone, its SOA record first.
    Zone(Vec<Record>),
    /// Differences, of which the last is not complete.
    Removing {
        target: Record,
        done: Vec<Difference>,
        open: Box<Half>,
    },
    Adding {
        target: Record,
        done: Vec<Difference>,
        open: Box<Difference>,
    },
    Done,
}

#[derive(Debug)]
struct Half {
    from: Record,
    removed: Vec<Record>,
}

impl Inbound {
    /// A transfer of the zone `apex` that was asked for with this identity.
    pub fn new(id: u16, apex: Name, kind: Kind, limits: Limits) -> Self {
        Self {
            id,
            apex,
            kind,
            limits,
            records: 0,
            octets: 0,
            scratch: Vec::new(),
            wire: 0,
            messages: 0,
            expire: None,
            state: State::Begin,
        }
    }

    /// The content of an EDNS EXPIRE option that came along: seconds until the zone expires.
    pub fn expire(&self) -> Option<u32> {
        self.expire
    }

    /// Takes the next message, after its signature was verified and taken off. After an error, and
    /// after `Done`, nothing more may be taken.
    pub fn take(&mut self, message: Bytes) -> Result<Step, Fault> {
        self.messages += 1;
        if self.messages > self.limits.messages {
            return Err(Fault::Messages(self.limits.messages));
        }
        self.wire += message.len();
        if self.wire / 2 > self.limits.octets {
            return Err(Fault::Octets(self.limits.octets));
        }
        let message = Message::from_octets(message).map_err(|_| Fault::Malformed)?;
        self.check_header(&message)?;
        let answer = message.answer().map_err(|_| Fault::Malformed)?;
        check_rest(&message)?;
        if message.header_counts().ancount() == 0 {
            return Err(Fault::Empty);
        }
        if let Some(Some(expire)) = expire_option(message.for_slice()) {
            self.expire = Some(expire);
        }
        self.take_records(answer)
    }

    fn check_header(&self, message: &Message<Bytes>) -> Result<(), Fault> {
        let header = message.header();
        if !header.qr() || header.opcode() != Opcode::QUERY {
            return Err(Fault::NotReply);
        }
        if header.id() != self.id {
            return Err(Fault::Identity { asked: self.id, got: header.id() });
        }
        let rcode = message.opt_rcode();
        if rcode != OptRcode::NOERROR {
            return Err(Fault::Refused(rcode));
        }
        if header.tc() {
            return Err(Fault::Truncated);
        }
        if message.header_counts().qdcount() == 0 {
            // Later messages may leave it out (RFC 5936 section 2.2.1).
            return if self.messages == 1 { Err(Fault::Question) } else { Ok(()) };
        }
        let question = message.sole_question().map_err(|_| Fault::Question)?;
        let same = question.qname() == &self.apex
            && question.qtype() == self.kind.qtype()
            && question.qclass() == Class::IN;
        if same { Ok(()) } else { Err(Fault::Question) }
    }

    fn take_records(&mut self, answer: RecordSection<'_, Bytes>) -> Result<Step, Fault> {
        let mut end = None;
        for record in answer {
            if end.is_some() {
                return Err(Fault::Trailing);
            }
            let record = record.map_err(|_| Fault::Malformed)?;
            if record.class() != Class::IN {
                return Err(Fault::Class(record.class()));
            }
            if is_meta(record.rtype()) {
                return Err(Fault::Meta(record.rtype()));
            }
            let rtype = record.rtype();
            let record: Record = record
                .into_record::<ZoneRecordData<Bytes, ParsedName<Bytes>>>()
                .map_err(|_| Fault::Malformed)?
                .ok_or(Fault::Meta(rtype))?
                .flatten_into();
            self.count(&record)?;
            end = self.take_record(record)?;
        }
        if let Some(end) = end {
            return Ok(Step::Done(end));
        }
        self.single_soa()
    }

    /// Whether a zone that differences led to is within the limits too: each of them may be small.
    pub(super) fn check_zone(limits: Limits, zone: &[Record]) -> Result<(), Fault> {
        if zone.len() > limits.records.saturating_add(1) {
            return Err(Fault::Records(limits.records));
        }
        if zone.iter().map(size).sum::<usize>() > limits.octets {
            return Err(Fault::Octets(limits.octets));
        }
        Ok(())
    }

    fn count(&mut self, record: &Record) -> Result<(), Fault> {
        self.records += 1;
        // The SOA records around a zone are not of its number.
        if self.records > self.limits.records.saturating_add(2) {
            return Err(Fault::Records(self.limits.records));
        }
        // Asking for the length panics on data that is too long once its names are whole, as behind a
        // signer's name that came compressed; composing does not.
        self.scratch.clear();
        let Ok(()) = record.data().compose_rdata(&mut self.scratch);
        if self.scratch.len() > usize::from(u16::MAX) {
            return Err(Fault::Malformed);
        }
        self.octets += size(record);
        if self.octets > self.limits.octets {
            return Err(Fault::Octets(self.limits.octets));
        }
        Ok(())
    }

    /// An IXFR of one SOA record that is not newer says that nothing changed. With a newer one, and
    /// so with one record a message, there is more to come.
    fn single_soa(&mut self) -> Result<Step, Fault> {
        match (&self.state, self.kind) {
            (State::First(soa), Kind::Ixfr { serial }) if !newer(serial_of(soa), serial) => {
                let soa = soa.clone();
                self.state = State::Done;
                Ok(Step::Done(Received::UpToDate(soa)))
            }
            (State::Done, _) => Err(Fault::Trailing),
            _ => Ok(Step::More),
        }
    }

    fn take_record(&mut self, record: Record) -> Result<Option<Received>, Fault> {
        let soa = record.rtype() == Rtype::SOA && record.owner() == &self.apex;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Begin if soa => self.state = State::First(record),
            State::Begin => return Err(Fault::NoSoa),
            State::First(first) => return self.second(first, record, soa),
            State::Zone(mut records) if !soa => {
                records.push(record);
                self.state = State::Zone(records);
            }
            State::Zone(records) => return end_of_zone(records, &record).map(Some),
            State::Removing { target, done, mut open } => {
                if soa {
                    let Half { from, removed } = *open;
                    let open = Difference { from, removed, to: record, added: Vec::new() };
                    let open = Box::new(open);
                    self.state = State::Adding { target, done, open };
                } else {
                    open.removed.push(record);
                    self.state = State::Removing { target, done, open };
                }
            }
            State::Adding { target, done, mut open } if !soa => {
                open.added.push(record);
                self.state = State::Adding { target, done, open };
            }
            State::Adding { target, done, open } => {
                return self.next_difference(target, done, *open, record);
            }
            State::Done => return Err(Fault::Trailing),
        }
        Ok(None)
    }

    /// The second record tells what kind of answer this is (RFC 1995 section 4).
    fn second(
        &mut self,
        first: Record,
        record: Record,
        soa: bool,
    ) -> Result<Option<Received>, Fault> {
        let Kind::Ixfr { serial } = self.kind else {
            return self.begin_zone(first, record, soa);
        };
        if !soa || (serial_of(&record) == serial_of(&first) && serial_of(&record) != serial) {
            return self.begin_zone(first, record, soa);
        }
        if serial_of(&record) != serial {
            return Err(Fault::Gap { expected: serial, got: serial_of(&record) });
        }
        let open = Box::new(Half { from: record, removed: Vec::new() });
        self.state = State::Removing { target: first, done: Vec::new(), open };
        Ok(None)
    }

    fn begin_zone(
        &mut self,
        first: Record,
        record: Record,
        soa: bool,
    ) -> Result<Option<Received>, Fault> {
        if soa {
            return end_of_zone(vec![first], &record).map(Some);
        }
        self.state = State::Zone(vec![first, record]);
        Ok(None)
    }

    /// A SOA record behind added records: the end, or the beginning of the next difference.
    fn next_difference(
        &mut self,
        target: Record,
        mut done: Vec<Difference>,
        open: Difference,
        record: Record,
    ) -> Result<Option<Received>, Fault> {
        let (reached, serial) = (serial_of(&open.to), serial_of(&record));
        if serial != reached {
            return Err(Fault::Gap { expected: reached, got: serial });
        }
        if reached == serial_of(&target) {
            if record != target || open.to != target {
                return Err(Fault::SoaMismatch { first: serial_of(&target), last: serial });
            }
            done.push(open);
            return Ok(Some(Received::Differences(done)));
        }
        done.push(open);
        let open = Box::new(Half { from: record, removed: Vec::new() });
        self.state = State::Removing { target, done, open };
        Ok(None)
    }
}

/// A message that is cut short behind its answers was cut short all the same.
fn check_rest(message: &Message<Bytes>) -> Result<(), Fault> {
    let mut rest = message.additional().map_err(|_| Fault::Malformed)?;
    for record in rest.by_ref() {
        record.map_err(|_| Fault::Malformed)?;
    }
    if rest.pos() == message.as_slice().len() { Ok(()) } else { Err(Fault::Malformed) }
}

fn end_of_zone(records: Vec<Record>, last: &Record) -> Result<Received, Fault> {
    match records.first() {
        Some(first) if first == last => Ok(Received::Zone(records)),
        Some(first) => Err(Fault::SoaMismatch { first: serial_of(first), last: serial_of(last) }),
        None => Err(Fault::NoSoa),
    }
}

/// Types that exist in messages only: OPT, and the range of RFC 6895 section 3.1.
fn is_meta(rtype: Rtype) -> bool {
    rtype == Rtype::OPT || rtype.to_int() == 0 || (128..=255).contains(&rtype.to_int())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::difference::between;
    use crate::transfer::fixture::{name, records, soa, zone};
    use crate::transfer::outbound::{Head, messages};

    const LIMITS: Limits = Limits { records: 10_000, octets: 1 << 22, messages: 100 };

    fn head(qtype: Rtype) -> Head {
        Head { id: 5, apex: name("example.ORG"), qtype, edns: true, expire: Some(99) }
    }

    fn axfr(zone: &[Record]) -> Vec<Vec<u8>> {
        let all = zone.iter().chain(&zone[..1]);
        messages(head(Rtype::AXFR), all).map(Result::unwrap).collect()
    }

    fn ixfr(records: &[&Record]) -> Vec<Vec<u8>> {
        messages(head(Rtype::IXFR), records.iter().copied()).map(Result::unwrap).collect()
    }

    fn take(kind: Kind, limits: Limits, messages: &[Vec<u8>]) -> Result<Step, Fault> {
        let mut inbound = Inbound::new(5, name("example.org"), kind, limits);
        let mut step = Ok(Step::More);
        for message in messages {
            step = inbound.take(Bytes::from(message.clone()));
            if step.is_err() {
                break;
            }
        }
        step
    }

    fn full(messages: &[Vec<u8>]) -> Result<Step, Fault> {
        take(Kind::Axfr, LIMITS, messages)
    }

    fn wire(records: &[Record]) -> Vec<u8> {
        let mut out = Vec::new();
        for record in records {
            let Ok(()) = record.compose(&mut out);
        }
        out
    }

    #[test]
    fn a_zone_comes_back_to_the_octet() {
        let zone = zone(7, 500);
        let messages = axfr(&zone);
        assert!(messages.len() > 3);
        let Ok(Step::Done(Received::Zone(got))) = full(&messages) else { panic!("no zone") };
        assert_eq!(wire(&got), wire(&zone));
        for end in 1..messages.len() {
            assert_eq!(full(&messages[..end]), Ok(Step::More), "it stops after {end} messages");
        }
        let mut inbound = Inbound::new(5, name("example.org"), Kind::Axfr, LIMITS);
        inbound.take(Bytes::from(messages[0].clone())).unwrap();
        assert_eq!(inbound.expire(), Some(99));
    }

    #[test]
    fn what_is_not_the_answer_is_named() {
        let whole = axfr(&zone(7, 1)).remove(0);
        let changed = |at: usize, xor: u8| {
            let mut message = whole.clone();
            message[at] ^= xor;
            full(&[message])
        };
        assert_eq!(changed(1, 1), Err(Fault::Identity { asked: 5, got: 4 }));
        assert_eq!(changed(2, 0x80), Err(Fault::NotReply));
        assert_eq!(changed(2, 0x02), Err(Fault::Truncated));
        assert_eq!(changed(3, 5), Err(Fault::Refused(OptRcode::REFUSED)));
        assert_eq!(changed(13, 1), Err(Fault::Question));
        for end in 0..whole.len() {
            let fault = full(&[whole[..end].to_vec()]).expect_err("cut short");
            assert!(matches!(fault, Fault::Malformed | Fault::Question), "{end}: {fault:?}");
        }
        let mut twice = zone(7, 1);
        twice[0] = soa(8);
        let mut ends_otherwise: Vec<_> = twice.clone();
        ends_otherwise.push(soa(9));
        let messages: Vec<_> =
            messages(head(Rtype::AXFR), &ends_otherwise).map(Result::unwrap).collect();
        assert_eq!(full(&messages), Err(Fault::SoaMismatch { first: 8, last: 9 }));
    }

    #[test]
    fn what_no_zone_has_is_refused() {
        let chaos = {
            let mut record = zone(1, 1).remove(2);
            record.set_class(Class::CH);
            record
        };
        let of_type =
            |number: u16| records(&format!("example.org. 1 IN TYPE{number} \\# 1 00\n")).remove(0);
        for (bad, fault) in [
            (chaos, Fault::Class(Class::CH)),
            (of_type(250), Fault::Meta(Rtype::TSIG)),
            (of_type(255), Fault::Meta(Rtype::ANY)),
        ] {
            let zone = vec![soa(1), bad];
            assert_eq!(full(&axfr(&zone)), Err(fault));
        }
        let no_soa = zone(1, 1).split_off(1);
        assert_eq!(full(&axfr(&no_soa)), Err(Fault::NoSoa));
        let mut trailing = zone(1, 1);
        trailing.extend([soa(1), trailing[1].clone()]);
        let all: Vec<_> = messages(head(Rtype::AXFR), &trailing).map(Result::unwrap).collect();
        assert_eq!(full(&all), Err(Fault::Trailing));
        let mut after = axfr(&zone(1, 1));
        after.extend(axfr(&zone(1, 1)));
        assert_eq!(full(&after), Err(Fault::Trailing));
    }

    #[test]
    fn limits_hold() {
        let zone = zone(7, 200);
        let messages = axfr(&zone);
        let with = |limits| take(Kind::Axfr, limits, &messages);
        let records = zone.len() - 1;
        assert!(matches!(with(Limits { records, ..LIMITS }), Ok(Step::Done(_))));
        let records = 100;
        assert_eq!(with(Limits { records, ..LIMITS }), Err(Fault::Records(100)));
        assert_eq!(with(Limits { octets: 9, ..LIMITS }), Err(Fault::Octets(9)));
        assert_eq!(with(Limits { messages: 1, ..LIMITS }), Err(Fault::Messages(1)));
        let check = |limits| Inbound::check_zone(limits, &zone);
        assert_eq!(check(Limits { records: zone.len() - 1, ..LIMITS }), Ok(()));
        assert_eq!(check(Limits { records, ..LIMITS }), Err(Fault::Records(100)));
        assert_eq!(check(Limits { octets: 9, ..LIMITS }), Err(Fault::Octets(9)));
    }

    #[test]
    fn padding_counts_too() {
        // One small record a message, and behind it, in the additional section, much else.
        let mut message = ixfr(&[&soa(2)]).remove(0);
        let junk =
            records(&format!("example.org. 1 IN TYPE65280 \\# 60000 {}\n", "00".repeat(60_000)));
        let Ok(()) = junk[0].compose(&mut message);
        message[11] += 1;
        let kind = Kind::Ixfr { serial: 1 };
        let mut inbound = Inbound::new(5, name("example.org"), kind, LIMITS);
        assert_eq!(inbound.take(message.into()), Ok(Step::More));
        let record = records("a.example.org. 1 IN A 192.0.2.1\n").remove(0);
        let mut message = ixfr(&[&record]).remove(0);
        let Ok(()) = junk[0].compose(&mut message);
        message[11] += 1;
        let message = Bytes::from(message);
        let fault = (0..LIMITS.messages - 1).find_map(|_| inbound.take(message.clone()).err());
        assert_eq!(fault, None, "within the limit");
        let limits = Limits { octets: 1 << 20, ..LIMITS };
        let mut inbound = Inbound::new(5, name("example.org"), kind, limits);
        inbound.take(ixfr(&[&soa(2)]).remove(0).into()).unwrap();
        let fault = (0..LIMITS.messages - 1).find_map(|_| inbound.take(message.clone()).err());
        assert_eq!(fault, Some(Fault::Octets(1 << 20)));
    }

    #[test]
    fn an_ixfr_is_differences_a_zone_or_nothing() {
        let (a, b, c) = (zone(1, 3), zone(2, 5), zone(3, 4));
        let (ab, bc) = (between(&a, &b).unwrap(), between(&b, &c).unwrap());
        let kind = Kind::Ixfr { serial: 1 };
        let mut all = vec![&c[0]];
        all.extend(ab.records().chain(bc.records()));
        all.push(&c[0]);
        let got = take(kind, LIMITS, &ixfr(&all));
        assert_eq!(got, Ok(Step::Done(Received::Differences(vec![ab.clone(), bc.clone()]))));

        let whole: Vec<_> = c.iter().chain(&c[..1]).collect();
        let got = take(kind, LIMITS, &ixfr(&whole));
        assert_eq!(got, Ok(Step::Done(Received::Zone(c.clone()))));

        let got = take(Kind::Ixfr { serial: 3 }, LIMITS, &ixfr(&[&c[0]]));
        assert_eq!(got, Ok(Step::Done(Received::UpToDate(c[0].clone()))));
        assert_eq!(take(kind, LIMITS, &ixfr(&[&c[0]])), Ok(Step::More));

        // One record a message is allowed.
        let single: Vec<_> = all.iter().flat_map(|record| ixfr(&[record])).collect();
        assert!(matches!(take(kind, LIMITS, &single), Ok(Step::Done(Received::Differences(_)))));

        let mut gap = vec![&c[0]];
        gap.extend(bc.records());
        gap.push(&c[0]);
        assert_eq!(take(kind, LIMITS, &ixfr(&gap)), Err(Fault::Gap { expected: 1, got: 2 }));
        let mut hole = vec![&c[0]];
        hole.extend(ab.records());
        hole.push(&c[0]);
        assert_eq!(take(kind, LIMITS, &ixfr(&hole)), Err(Fault::Gap { expected: 2, got: 3 }));
    }

    proptest! {
        #[test]
        fn damage_is_survived(
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            incremental in any::<bool>(),
        ) {
            let (old, new) = (zone(1, 3), zone(2, 5));
            let difference = between(&old, &new).unwrap();
            let mut all = vec![&new[0]];
            all.extend(difference.records());
            all.push(&new[0]);
            let (kind, mut messages) = if incremental {
                (Kind::Ixfr { serial: 1 }, ixfr(&all))
            } else {
                (Kind::Axfr, axfr(&new))
            };
            for (at, value) in hits {
                let message = &mut messages[0];
                let at = at.index(message.len());
                message[at] = value;
            }
            let _ = take(kind, LIMITS, &messages);
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut octets = octets;
            if octets.len() > 12 {
                octets[..4].copy_from_slice(&[0, 5, 0x84, 0]);
            }
            let _ = take(Kind::Ixfr { serial: 1 }, LIMITS, &[octets]);
        }
    }
}
