//! DNS UPDATE (RFC 2136): a message read, its prerequisites looked at, its changes made to the
//! records that came by updates. Pure.
//!
//! What the agent makes itself, and what the owner's files say, an update neither changes nor
//! removes.

use std::collections::BTreeSet;

use bytes::Bytes;
use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::FlattenInto;
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedRecord, Record as AnyRecord, Ttl};
use domain::rdata::ZoneRecordData;
use sealpost_dns::record::{Data, Name, Record};

use crate::config::dns::Update;
use crate::zone::conflicts::MAX_TTL;
use crate::zone::content::SHORT_TTL;
use crate::zone::{canonical, conflicts};

/// What stands in the place of a file for records that came by updates.
pub const SOURCE: &str = "DNS UPDATE";
/// The most records that updates may leave in a zone.
pub const MAX_RECORDS: usize = 1000;
/// The label at which certificate authorities look (RFC 8555 section 8.4).
const CHALLENGE: &[u8] = b"_acme-challenge";

/// An update that can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The zone.
    pub apex: Name,
    prerequisites: Vec<Prerequisite>,
    changes: Vec<Change>,
}

/// What must hold before (section 2.4).
#[derive(Debug, Clone, PartialEq)]
enum Prerequisite {
    InUse(Name),
    NotInUse(Name),
    Exists(Name, Rtype),
    Missing(Name, Rtype),
    /// One record of a set that must be exactly so.
    Equal(Record),
}

/// What is to be done (section 2.5).
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Add(Record),
    DeleteName(Name),
    DeleteSet(Name, Rtype),
    Delete(Record),
}

/// Reads an update that is not signed any more, or says what to answer.
pub fn parse(message: &[u8]) -> Result<Request, Rcode> {
    let message = Message::from_octets(Bytes::copy_from_slice(message));
    let message = message.map_err(|_| Rcode::FORMERR)?;
    let header = message.header();
    if header.qr() || header.opcode() != Opcode::UPDATE {
        return Err(Rcode::FORMERR);
    }
    let zone = message.sole_question().map_err(|_| Rcode::FORMERR)?;
    if zone.qtype() != Rtype::SOA {
        return Err(Rcode::FORMERR);
    }
    if zone.qclass() != Class::IN {
        return Err(Rcode::NOTAUTH);
    }
    let apex: Name = zone.into_qname().try_flatten_into().map_err(|_| Rcode::FORMERR)?;
    let mut prerequisites = Vec::new();
    for record in message.answer().map_err(|_| Rcode::FORMERR)? {
        prerequisites.push(prerequisite(&apex, record.map_err(|_| Rcode::FORMERR)?)?);
    }
    let mut changes = Vec::new();
    for record in message.authority().map_err(|_| Rcode::FORMERR)? {
        changes.push(change(&apex, record.map_err(|_| Rcode::FORMERR)?)?);
    }
    Ok(Request { apex, prerequisites, changes })
}

/// Of the sections' common rules: the owner is in the zone.
fn owner(apex: &Name, record: &ParsedRecord<'_, Bytes>) -> Result<Name, Rcode> {
    let owner: Name = record.owner().try_flatten_into().map_err(|_| Rcode::FORMERR)?;
    if owner.ends_with(apex) { Ok(owner) } else { Err(Rcode::NOTZONE) }
}

fn prerequisite(apex: &Name, record: ParsedRecord<'_, Bytes>) -> Result<Prerequisite, Rcode> {
    let owner = owner(apex, &record)?;
    let bare = record.rdlen() == 0;
    if record.ttl() != Ttl::ZERO {
        return Err(Rcode::FORMERR);
    }
    match (record.class(), record.rtype()) {
        (Class::ANY, Rtype::ANY) if bare => Ok(Prerequisite::InUse(owner)),
        (Class::ANY, rtype) if bare => Ok(Prerequisite::Exists(owner, rtype)),
        (Class::NONE, Rtype::ANY) if bare => Ok(Prerequisite::NotInUse(owner)),
        (Class::NONE, rtype) if bare => Ok(Prerequisite::Missing(owner, rtype)),
        (Class::IN, _) => Ok(Prerequisite::Equal(whole(record)?)),
        _ => Err(Rcode::FORMERR),
    }
}

fn change(apex: &Name, record: ParsedRecord<'_, Bytes>) -> Result<Change, Rcode> {
    let owner = owner(apex, &record)?;
    let rtype = record.rtype();
    let bare = record.rdlen() == 0 && record.ttl() == Ttl::ZERO;
    let meta = matches!(rtype.to_int(), 0 | 41 | 128..=255);
    match (record.class(), rtype) {
        (Class::ANY, Rtype::ANY) if bare => Ok(Change::DeleteName(owner)),
        (Class::ANY, _) if bare && !meta => Ok(Change::DeleteSet(owner, rtype)),
        (Class::NONE, _) if !meta && record.ttl() == Ttl::ZERO => {
            Ok(Change::Delete(whole(record)?))
        }
        (Class::IN, _) if !meta => Ok(Change::Add(whole(record)?)),
        _ => Err(Rcode::FORMERR),
    }
}

/// A record with its data, as one of class IN.
fn whole(record: ParsedRecord<'_, Bytes>) -> Result<Record, Rcode> {
    let parsed = record.into_record::<ZoneRecordData<_, _>>().map_err(|_| Rcode::FORMERR)?;
    let parsed = parsed.ok_or(Rcode::FORMERR)?;
    let record: Record = parsed.try_flatten_into().map_err(|_| Rcode::FORMERR)?;
    let (owner, ttl, data) = (record.owner().clone(), record.ttl(), record.into_data());
    // With its names whole it may be longer than what came, and than any record can be.
    let mut octets = Vec::new();
    let Ok(()) = data.compose_rdata(&mut octets);
    if octets.len() > usize::from(u16::MAX) {
        return Err(Rcode::FORMERR);
    }
    Ok(AnyRecord::new(owner, Class::IN, ttl, own(data)))
}

/// The data with octets of its own: what came in a message would keep all of the message.
fn own(data: Data) -> Data {
    let mut octets = Vec::new();
    let record = AnyRecord::new(Name::root_bytes(), Class::IN, Ttl::ZERO, data.clone());
    let Ok(()) = record.compose(&mut octets);
    let octets = Bytes::from(octets);
    let mut parser = domain::dep::octseq::Parser::from_ref(&octets);
    let parsed = ParsedRecord::parse(&mut parser).ok();
    let parsed = parsed.and_then(|it| it.into_record::<ZoneRecordData<_, _>>().ok().flatten());
    let settled: Option<Record> = parsed.and_then(|it| it.try_flatten_into().ok());
    settled.map_or(data, |record| record.into_data())
}

/// The records that updates leave in the zone, after `request` by somebody who `may` do so much.
/// `zone` is all that the zone says now; `dynamic` is what of it came by updates.
pub fn apply(
    zone: &[Record],
    dynamic: &[Record],
    request: &Request,
    may: Update,
) -> Result<Vec<Record>, Rcode> {
    let zone: Vec<_> = zone.iter().filter(|it| !conflicts::is_signers(it.rtype())).collect();
    check(&zone, &request.prerequisites)?;
    if !request.changes.iter().all(|change| change.permitted(may)) {
        return Err(Rcode::REFUSED);
    }
    let mut records = dynamic.to_vec();
    for change in &request.changes {
        // What is not there because of updates is not theirs to remove.
        let foreign = |it: &Record| {
            let deletes = !matches!(change, Change::Add(_)) && change.removes(it);
            deletes && !dynamic.iter().any(|own| same(own, it))
        };
        if may == Update::All && zone.iter().any(|it| foreign(it)) {
            return Err(Rcode::REFUSED);
        }
        records.retain(|record| !change.removes(record));
        if let Change::Add(record) = change {
            let mut record = record.clone();
            let most = if is_challenge(record.owner()) { SHORT_TTL } else { MAX_TTL };
            record.set_ttl(record.ttl().min(most));
            // Of one set all have the TTL that was said last (section 3.4.2.2).
            let ttl = record.ttl();
            let in_set =
                |it: &&mut Record| it.owner() == record.owner() && it.rtype() == record.rtype();
            records.iter_mut().filter(in_set).for_each(|it| it.set_ttl(ttl));
            records.push(record);
        }
        if records.len() > MAX_RECORDS {
            return Err(Rcode::REFUSED);
        }
    }
    Ok(canonical::sort(records))
}

/// Section 3.2.
fn check(zone: &[&Record], prerequisites: &[Prerequisite]) -> Result<(), Rcode> {
    let used = |name: &Name| zone.iter().any(|it| it.owner() == name);
    let exists =
        |name: &Name, rtype| zone.iter().any(|it| it.owner() == name && it.rtype() == rtype);
    for prerequisite in prerequisites {
        match prerequisite {
            Prerequisite::InUse(name) if !used(name) => return Err(Rcode::NXDOMAIN),
            Prerequisite::NotInUse(name) if used(name) => return Err(Rcode::YXDOMAIN),
            Prerequisite::Exists(name, rtype) if !exists(name, *rtype) => {
                return Err(Rcode::NXRRSET);
            }
            Prerequisite::Missing(name, rtype) if exists(name, *rtype) => {
                return Err(Rcode::YXRRSET);
            }
            Prerequisite::Equal(record) => {
                let wanted = prerequisites.iter().filter_map(|it| match it {
                    Prerequisite::Equal(other) if in_set(other, record) => Some(data(other)),
                    _ => None,
                });
                let there = zone.iter().filter(|it| in_set(it, record)).map(|it| data(it));
                if wanted.collect::<BTreeSet<_>>() != there.collect() {
                    return Err(Rcode::NXRRSET);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Change {
    fn permitted(&self, may: Update) -> bool {
        let (owner, rtype) = match self {
            Self::Add(record) | Self::Delete(record) => (record.owner(), record.rtype()),
            Self::DeleteSet(owner, rtype) => (owner, *rtype),
            Self::DeleteName(owner) => (owner, Rtype::TXT),
        };
        match may {
            Update::None => false,
            Update::Challenges => rtype == Rtype::TXT && is_challenge(owner),
            Update::All => true,
        }
    }

    /// Whether the record goes. One that is added takes the place of the same with another TTL.
    fn removes(&self, record: &Record) -> bool {
        match self {
            Self::Add(other) => same(other, record),
            Self::DeleteName(name) => record.owner() == name,
            Self::DeleteSet(name, rtype) => record.owner() == name && record.rtype() == *rtype,
            Self::Delete(other) => same(other, record),
        }
    }
}

fn is_challenge(name: &Name) -> bool {
    name.first().as_slice().eq_ignore_ascii_case(CHALLENGE)
}

fn in_set(one: &Record, other: &Record) -> bool {
    one.owner() == other.owner() && one.rtype() == other.rtype()
}

fn same(one: &Record, other: &Record) -> bool {
    in_set(one, other) && data(one) == data(other)
}

fn data(record: &Record) -> Vec<u8> {
    canonical::data(record)
}

#[cfg(test)]
mod tests {
    use domain::base::MessageBuilder;
    use domain::base::iana::Class;
    use domain::base::rdata::UnknownRecordData;
    use proptest::prelude::*;

    use super::*;
    use crate::zone::canonical::tests::records;

    const ZONE: &str = "@ SOA ns h 1 4 3 77 5\n@ NS ns.elsewhere.\nwww A 192.0.2.1\n\
        _acme-challenge TXT own\n";

    fn zone() -> Vec<Record> {
        records("a.example.", ZONE)
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn line(text: &str) -> Record {
        records("a.example.", text).remove(0)
    }

    /// A record with a class of its own, and no data where it is bare.
    type Entry = (Class, Record, bool);

    fn message(prerequisites: &[Entry], changes: &[Entry]) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_opcode(Opcode::UPDATE);
        let mut question = builder.question();
        question.push((name("a.example."), Rtype::SOA, Class::IN)).unwrap();
        let wire = |(class, record, bare): &Entry| {
            let octets = if *bare { Vec::new() } else { data(record) };
            let octets = UnknownRecordData::from_octets(record.rtype(), octets).unwrap();
            let ttl = if *class == Class::IN { record.ttl() } else { Ttl::ZERO };
            AnyRecord::new(record.owner().clone(), *class, ttl, octets)
        };
        let mut answer = question.answer();
        prerequisites.iter().for_each(|it| answer.push(wire(it)).unwrap());
        let mut authority = answer.authority();
        changes.iter().for_each(|it| authority.push(wire(it)).unwrap());
        authority.finish()
    }

    fn add(text: &str) -> Entry {
        (Class::IN, line(text), false)
    }

    fn done(changes: &[Entry], dynamic: &[Record], may: Update) -> Result<Vec<String>, Rcode> {
        let request = parse(&message(&[], changes))?;
        let zone = [zone(), dynamic.to_vec()].concat();
        let after = apply(&zone, dynamic, &request, may)?;
        Ok(after.iter().map(|it| it.to_string()).collect())
    }

    #[test]
    fn challenges_come_and_go_beside_those_of_the_agent() {
        let first = add("_acme-challenge 9999 TXT \"one\"");
        let second = add("_ACME-challenge.mx 60 TXT \"two\"");
        let after = done(&[first.clone(), second], &[], Update::Challenges).unwrap();
        assert_eq!(
            after,
            [
                "_acme-challenge.a.example. 300 IN TXT \"one\"",
                "_ACME-challenge.mx.a.example. 60 IN TXT \"two\""
            ]
        );
        let dynamic = [line("_acme-challenge 300 TXT one")];
        let again = done(std::slice::from_ref(&first), &dynamic, Update::Challenges).unwrap();
        assert_eq!(again.len(), 1);
        for gone in [(Class::NONE, first.1.clone(), false), (Class::ANY, first.1.clone(), true)] {
            assert_eq!(done(&[gone], &dynamic, Update::Challenges).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn nobody_does_more_than_he_may() {
        for refused in ["www A 192.0.2.9", "x TXT y", "_acme-challenge A 192.0.2.9", "@ NS b."] {
            assert_eq!(done(&[add(refused)], &[], Update::Challenges), Err(Rcode::REFUSED));
        }
        assert_eq!(done(&[add("_acme-challenge TXT x")], &[], Update::None), Err(Rcode::REFUSED));
        // What came by no update stays.
        for entry in [
            (Class::ANY, line("www A 192.0.2.1"), true),
            (Class::NONE, line("www A 192.0.2.1"), false),
        ] {
            assert_eq!(done(&[entry], &[], Update::All), Err(Rcode::REFUSED));
        }
        let free = done(&[add("x A 192.0.2.9")], &[], Update::All).unwrap();
        assert_eq!(free, ["x.a.example. 3600 IN A 192.0.2.9"]);
    }

    #[test]
    fn prerequisites_are_the_rfcs() {
        let at = |text: &str| line(text);
        let with = |class, text: &str, bare| {
            let request = parse(&message(&[(class, at(text), bare)], &[]))?;
            apply(&zone(), &[], &request, Update::Challenges).map(drop)
        };
        assert_eq!(with(Class::ANY, "www A 192.0.2.1", true), Ok(()));
        assert_eq!(with(Class::ANY, "x A 192.0.2.1", true), Err(Rcode::NXRRSET));
        assert_eq!(with(Class::NONE, "www A 192.0.2.1", true), Err(Rcode::YXRRSET));
        assert_eq!(with(Class::NONE, "www TXT x", true), Ok(()));
        assert_eq!(with(Class::ANY, "www A 192.0.2.1", false), Err(Rcode::FORMERR));
        let equal = |lines: &[&str]| {
            let mut list: Vec<Entry> = lines.iter().map(|it| add(it)).collect();
            list.iter_mut().for_each(|it| it.1.set_ttl(Ttl::ZERO));
            apply(&zone(), &[], &parse(&message(&list, &[]))?, Update::All).map(drop)
        };
        assert_eq!(equal(&["www A 192.0.2.1"]), Ok(()));
        assert_eq!(equal(&["www A 192.0.2.1", "www A 192.0.2.2"]), Err(Rcode::NXRRSET));
        assert_eq!(equal(&["www A 192.0.2.2"]), Err(Rcode::NXRRSET));
    }

    #[test]
    fn what_is_outside_or_malformed_is_named() {
        assert_eq!(done(&[add("x.other. TXT y")], &[], Update::All), Err(Rcode::NOTZONE));
        assert_eq!(parse(b"short"), Err(Rcode::FORMERR));
        let whole = message(&[], &[add("_acme-challenge TXT x")]);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Err(Rcode::FORMERR));
        }
    }

    #[test]
    fn records_that_stay_are_bounded() {
        let dynamic: Vec<_> = (0..MAX_RECORDS).map(|n| line(&format!("x{n} TXT y"))).collect();
        assert_eq!(done(&[add("more TXT y")], &dynamic, Update::All), Err(Rcode::REFUSED));
    }

    proptest! {
        #[test]
        fn noise_never_panics(mut noise: Vec<u8>, changes in prop::collection::vec(any::<(usize, u8)>(), 0..4)) {
            let _ = parse(&noise);
            noise = message(&[], &[add("_acme-challenge TXT x"), add("b MX 1 c")]);
            for (place, octet) in changes {
                let length = noise.len();
                noise[place % length] = octet;
            }
            if let Ok(request) = parse(&noise) {
                let _ = apply(&zone(), &[], &request, Update::All);
            }
        }
    }
}
