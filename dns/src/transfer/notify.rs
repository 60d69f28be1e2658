//! The word that a zone changed (NOTIFY, RFC 1996), made, read, and judged. Pure.
//!
//! It is a hint and proves nothing: whoever is believed can only make a secondary ask its primary.

use std::net::IpAddr;

use domain::base::Message;
use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::MessageBuilder;
use domain::base::name::{ParsedName, ToName};
use domain::rdata::Soa;

use super::access::{Rule, admitted};
use super::query::begin_reply;
use crate::record::{Name, Record};

/// That a zone changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// To be repeated in the reply.
    pub id: u16,
    /// The zone.
    pub apex: Name,
    /// The serial that it has now, if told (section 3.7 leaves it out at will). Not to be relied on.
    pub serial: Option<u32>,
}

/// Why a message is no notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// Cannot be read.
    #[error("malformed NOTIFY")]
    Malformed,
    /// Not NOTIFY, or not of a zone's SOA (section 3.7 knows no other).
    #[error("not a NOTIFY of a SOA record")]
    Other,
}

/// What to do with a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Ask the primary, and acknowledge.
    Refresh,
    /// Too many say so at once, so that this was not taken note of: SERVFAIL, and it is sent again.
    Busy,
    /// The zone comes from elsewhere: REFUSED.
    Refused,
    /// The zone is not had from anybody here: NOTAUTH.
    NotAuth,
}

impl Decision {
    /// What to answer.
    pub fn rcode(self) -> Rcode {
        match self {
            Self::Refresh => Rcode::NOERROR,
            Self::Busy => Rcode::SERVFAIL,
            Self::Refused => Rcode::REFUSED,
            Self::NotAuth => Rcode::NOTAUTH,
        }
    }
}

/// Tells that a zone changed to the version with this SOA record.
pub fn make(id: u16, apex: &Name, soa: Option<&Record>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    let header = builder.header_mut();
    header.set_id(id);
    header.set_opcode(Opcode::NOTIFY);
    header.set_aa(true);
    let mut question = builder.question();
    question.push((apex, Rtype::SOA, Class::IN)).expect("one name fits into any message");
    let mut answer = question.answer();
    if let Some(soa) = soa {
        answer.push(soa).expect("a SOA record has three names at most");
    }
    answer.finish()
}

/// Reads a notice that is not signed any more.
pub fn parse(message: &[u8]) -> Result<Notice, NoticeError> {
    let message = Message::from_slice(message).map_err(|_| NoticeError::Malformed)?;
    let header = message.header();
    if header.qr() || header.opcode() != Opcode::NOTIFY {
        return Err(NoticeError::Other);
    }
    let question = message.sole_question().map_err(|_| NoticeError::Malformed)?;
    if question.qtype() != Rtype::SOA || question.qclass() != Class::IN {
        return Err(NoticeError::Other);
    }
    let apex: Name = question.qname().to_name();
    let answer = message.answer().map_err(|_| NoticeError::Malformed)?;
    let mut serial = None;
    for record in answer.limit_to_in::<Soa<ParsedName<_>>>() {
        let record = record.map_err(|_| NoticeError::Malformed)?;
        if record.owner() == &apex {
            serial = Some(record.data().serial().into_int());
        }
    }
    Ok(Notice { id: header.id(), apex, serial })
}

/// Whether to believe a notice: `rules` are those of the zone's primaries, and `None` when the zone
/// is not had from anybody.
pub fn decide(rules: Option<&[Rule]>, client: IpAddr, key: Option<&Name>) -> Decision {
    match rules {
        None => Decision::NotAuth,
        Some(rules) if admitted(rules, client, key) => Decision::Refresh,
        Some(_) => Decision::Refused,
    }
}

/// The answer to a notice: its header and question.
pub fn reply(notice: &[u8], decision: Decision) -> Option<Vec<u8>> {
    let notice = Message::from_slice(notice).ok().filter(|notice| !notice.header().qr())?;
    let mut reply = begin_reply(notice, decision.rcode());
    reply.header_mut().set_opcode(Opcode::NOTIFY);
    reply.header_mut().set_aa(decision == Decision::Refresh);
    Some(reply.finish())
}

/// Reads the answer to the notice with this identity: what the secondary said of it.
pub fn parse_reply(message: &[u8], id: u16) -> Option<Rcode> {
    let header = Message::from_slice(message).ok()?.header();
    let matches = header.qr() && header.opcode() == Opcode::NOTIFY && header.id() == id;
    matches.then(|| header.rcode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture::{name, soa};
    use crate::transfer::query;

    #[test]
    fn a_notice_is_read_as_it_was_made() {
        let apex = name("example.org");
        let notice = Notice { id: 3, apex: apex.clone(), serial: Some(17) };
        let with = make(3, &apex, Some(&soa(17)));
        assert_eq!(parse(&with), Ok(notice.clone()));
        assert_eq!(parse(&make(3, &apex, None)), Ok(Notice { serial: None, ..notice }));
        for end in 0..with.len() {
            assert!(parse(&with[..end]).is_err());
        }
        assert_eq!(parse(&query::soa(3, &apex)), Err(NoticeError::Other));
    }

    #[test]
    fn a_serial_of_another_zone_is_not_believed() {
        let notice = parse(&make(3, &name("example.net"), Some(&soa(17)))).unwrap();
        assert_eq!(notice.serial, None);
    }

    #[test]
    fn only_a_primary_of_a_zone_that_we_have_from_somebody_is_heard() {
        let rules = [Rule::From("192.0.2.1".parse().unwrap()), Rule::Key(name("key"))];
        let (near, far) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!(decide(Some(&rules), near, None), Decision::Refresh);
        assert_eq!(decide(Some(&rules), far, Some(&name("key"))), Decision::Refresh);
        assert_eq!(decide(Some(&rules), far, None), Decision::Refused);
        assert_eq!(decide(None, near, None), Decision::NotAuth);
    }

    #[test]
    fn the_reply_is_known_by_its_identity() {
        let notice = make(3, &name("example.org"), Some(&soa(17)));
        let yes = reply(&notice, Decision::Refresh).unwrap();
        assert_eq!(parse_reply(&yes, 3), Some(Rcode::NOERROR));
        assert_eq!(parse_reply(&yes, 4), None);
        assert_eq!(parse_reply(&notice, 3), None);
        let no = reply(&notice, Decision::NotAuth).unwrap();
        assert_eq!(parse_reply(&no, 3), Some(Rcode::NOTAUTH));
        assert_eq!(reply(&yes, Decision::Refresh), None, "no reply to a reply");
    }
}
