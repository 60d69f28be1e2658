//! What a secondary asks of a primary, and how a primary reads it: SOA (RFC 1034 section 4.3.5),
//! AXFR (RFC 5936 section 2.1), IXFR (RFC 1995 section 3), each with an EDNS EXPIRE option
//! (RFC 7314), and what is answered when the answer is no. Pure.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, MessageBuilder};
use domain::base::name::ToName;
use domain::base::opt::Expire;
use domain::base::{Message, ParsedName};
use domain::rdata::{Soa, ZoneRecordData};

use crate::record::{Name, Record};

/// The largest UDP answer that is asked for, in octets; the same as the server's own.
const UDP_OCTETS: u16 = 1232;

/// A request for a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// To be repeated in the reply.
    pub id: u16,
    /// The zone, in the case in which it was asked for.
    pub apex: Name,
    /// All of it, or what changed.
    pub kind: Kind,
    /// Whether the client speaks EDNS, so that the reply may.
    pub edns: bool,
    /// Whether the client asked when the zone expires.
    pub expire: bool,
}

/// How much of a zone is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of it.
    Axfr,
    /// What changed since this serial.
    Ixfr {
        /// The serial that the client has.
        serial: u32,
    },
}

impl Kind {
    /// Its number in a question.
    pub fn qtype(self) -> Rtype {
        match self {
            Self::Axfr => Rtype::AXFR,
            Self::Ixfr { .. } => Rtype::IXFR,
        }
    }
}

/// Why a message is no request for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Cannot be read, or does not have what such a request has.
    #[error("malformed request for a transfer")]
    Malformed,
    /// Of another opcode, question type or class.
    #[error("not a request for a transfer")]
    Other,
}

/// Asks for the SOA record.
pub fn soa(id: u16, apex: &Name) -> Vec<u8> {
    ask(id, apex, Rtype::SOA, None)
}

/// Asks for the whole zone.
pub fn axfr(id: u16, apex: &Name) -> Vec<u8> {
    ask(id, apex, Rtype::AXFR, None)
}

/// Asks for what changed since the version with this SOA record.
pub fn ixfr(id: u16, apex: &Name, have: &Record) -> Vec<u8> {
    ask(id, apex, Rtype::IXFR, Some(have))
}

fn ask(id: u16, apex: &Name, qtype: Rtype, have: Option<&Record>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    let mut question = builder.question();
    question.push((apex, qtype, Class::IN)).expect("one name fits into any message");
    let mut authority = question.authority();
    if let Some(have) = have {
        authority.push(have).expect("a SOA record has three names at most");
    }
    let mut additional = authority.additional();
    put_edns(&mut additional, Some(None));
    additional.finish()
}

/// Adds an OPT record; `expire` is the option and its content, if any.
pub(crate) fn put_edns<T: domain::base::wire::Composer>(
    additional: &mut AdditionalBuilder<T>,
    expire: Option<Option<u32>>,
) {
    // Fails only in a message that has no room left, which those who build one take care of.
    let _ = additional.opt(|opt| {
        opt.set_udp_payload_size(UDP_OCTETS);
        match expire {
            Some(content) => opt.push(&Expire::new(content)),
            None => Ok(()),
        }
    });
}

/// The EDNS EXPIRE option of a message: `Some(None)` when it is there and empty.
pub fn expire_option(message: &Message<[u8]>) -> Option<Option<u32>> {
    message.opt().and_then(|opt| opt.opt().expire()).map(Expire::expire)
}

impl Request {
    /// Reads a request that is not signed any more.
    pub fn parse(message: &[u8]) -> Result<Self, RequestError> {
        let message = Message::from_slice(message).map_err(|_| RequestError::Malformed)?;
        let header = message.header();
        if header.qr() || header.opcode() != Opcode::QUERY {
            return Err(RequestError::Other);
        }
        let question = message.sole_question().map_err(|_| RequestError::Malformed)?;
        if question.qclass() != Class::IN {
            return Err(RequestError::Other);
        }
        let apex: Name = question.qname().to_name();
        let kind = match question.qtype() {
            Rtype::AXFR => Kind::Axfr,
            Rtype::IXFR => Kind::Ixfr { serial: client_serial(message, &apex)? },
            _ => return Err(RequestError::Other),
        };
        Ok(Self {
            id: header.id(),
            apex,
            kind,
            edns: message.opt().is_some(),
            expire: expire_option(message).is_some(),
        })
    }
}

fn client_serial(message: &Message<[u8]>, apex: &Name) -> Result<u32, RequestError> {
    let mut authority = message.authority().map_err(|_| RequestError::Malformed)?;
    let record = authority.next().ok_or(RequestError::Malformed)?;
    let soa = record
        .and_then(|record| record.into_record::<Soa<ParsedName<_>>>())
        .map_err(|_| RequestError::Malformed)?
        .filter(|record| record.owner() == apex)
        .ok_or(RequestError::Malformed)?;
    Ok(soa.data().serial().into_int())
}

/// The SOA data of a record, when it is a SOA record.
pub fn soa_of(record: &Record) -> Option<&Soa<Name>> {
    match record.data() {
        ZoneRecordData::Soa(soa) => Some(soa),
        _ => None,
    }
}

/// The serial of a SOA record; 0 of any other.
pub fn serial_of(record: &Record) -> u32 {
    soa_of(record).map_or(0, |soa| soa.serial().into_int())
}

/// Whether serial `a` is newer than `b` (RFC 1982). Neither is, when they are 2^31 apart.
pub fn newer(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 0x8000_0000
}

/// The zone whose SOA record a query asks for.
pub fn asks_soa(query: &[u8]) -> Option<Name> {
    let query = Message::from_slice(query).ok()?;
    let header = query.header();
    let question = query.sole_question().ok()?;
    let asked = !header.qr() && header.opcode() == Opcode::QUERY;
    let asked = asked && question.qtype() == Rtype::SOA && question.qclass() == Class::IN;
    asked.then(|| question.qname().to_name())
}

/// The reply to it.
pub fn soa_reply(query: &[u8], soa: &Record) -> Option<Vec<u8>> {
    let query = Message::from_slice(query).ok()?;
    let mut reply = begin_reply(query, Rcode::NOERROR);
    reply.header_mut().set_aa(true);
    reply.push(soa).ok()?;
    let mut additional = reply.additional();
    if query.opt().is_some() {
        put_edns(&mut additional, None);
    }
    Some(additional.finish())
}

/// A reply without records: the query's header and question, and why there is nothing else. `None`
/// when it is no query with a readable header.
pub fn error_reply(query: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let query = Message::from_slice(query).ok().filter(|query| !query.header().qr())?;
    Some(begin_reply(query, rcode).finish())
}

/// A reply's header and question, ready for answers.
pub(crate) fn begin_reply(query: &Message<[u8]>, rcode: Rcode) -> AnswerBuilder<Vec<u8>> {
    // Fails only for a buffer of a fixed size; a vector has none.
    let start = || MessageBuilder::new_vec().start_answer(query, rcode);
    match start() {
        Ok(reply) => reply,
        Err(_) => MessageBuilder::new_vec().answer(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture::{name, soa as soa_record};

    #[test]
    fn what_is_asked_can_be_read() {
        let apex = name("Example.org");
        let request = Request::parse(&axfr(7, &apex)).unwrap();
        let expected = Request { id: 7, apex, kind: Kind::Axfr, edns: true, expire: true };
        assert_eq!(request, expected);
        let apex = name("example.org");
        let request = Request::parse(&ixfr(8, &apex, &soa_record(42))).unwrap();
        assert_eq!(request.kind, Kind::Ixfr { serial: 42 });
        assert_eq!(Request::parse(&soa(9, &apex)), Err(RequestError::Other));
    }

    #[test]
    fn an_ixfr_without_the_zones_own_soa_is_malformed() {
        let apex = name("example.net");
        let foreign = ixfr(8, &apex, &soa_record(42));
        assert_eq!(Request::parse(&foreign), Err(RequestError::Malformed));
        let bare = ask(8, &apex, Rtype::IXFR, None);
        assert_eq!(Request::parse(&bare), Err(RequestError::Malformed));
        for end in 0..foreign.len() {
            assert!(Request::parse(&foreign[..end]).is_err());
        }
    }

    #[test]
    fn a_refusal_repeats_the_question_and_answers_no_answer() {
        let apex = name("example.org");
        let reply = error_reply(&axfr(7, &apex), Rcode::REFUSED).unwrap();
        let message = Message::from_slice(&reply).unwrap();
        assert!(message.header().qr() && message.header().id() == 7);
        assert_eq!(message.header().rcode(), Rcode::REFUSED);
        assert_eq!(message.sole_question().unwrap().qname(), &apex);
        assert_eq!(error_reply(&reply, Rcode::REFUSED), None);
        assert_eq!(error_reply(&[0; 11], Rcode::REFUSED), None);
    }

    #[test]
    fn serials_go_round() {
        assert!(newer(2, 1) && newer(0, u32::MAX) && newer(0x7fff_ffff, 0));
        assert!(!newer(1, 1) && !newer(1, 2) && !newer(0x8000_0000, 0) && !newer(0, 0x8000_0000));
    }
}
