//! One question to a name server or a resolver, and what an answer to it says (RFC 1035, RFC 6891).
//! Pure: octets in, octets out.

use bytes::Bytes;
use domain::base::iana::{Class, ExtendedErrorCode, Rcode, Rtype};
use domain::base::message_builder::MessageBuilder;
use domain::base::name::FlattenInto;
use domain::base::opt::ExtendedError;
use domain::base::{Message, ParsedName};
use domain::rdata::ZoneRecordData;
use sealpost_dns::record::{Data, Name, Record};

/// The largest answer over UDP that is asked for, in octets: it is not fragmented anywhere
/// (RFC 9715).
pub const PAYLOAD: u16 = 1232;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type.
    pub rtype: Rtype,
    /// Who is asked, and for what service.
    pub of: Of,
}

/// Who is asked, and for what service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A name server, for what it has itself.
    NameServer,
    /// A resolver, which looks it up. It says whether it has validated the answer.
    Resolver,
    /// A resolver, for what it found without validating it (CD, RFC 4035 section 3.2.2).
    Unchecked,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub rcode: Rcode,
    /// Whether it is the server's own (AA).
    pub authoritative: bool,
    /// Whether the resolver has validated it (AD). It is as good as the way to the resolver.
    pub validated: bool,
    /// Whether it was cut to fit (TC).
    pub truncated: bool,
    /// Why it failed, in the words of RFC 8914, if the server said.
    pub reason: Option<ExtendedErrorCode>,
    /// Records that answer the question.
    pub answer: Vec<Record>,
    /// Records about who knows more.
    pub authority: Vec<Record>,
    /// Other records, such as addresses of name servers.
    pub additional: Vec<Record>,
}

impl Answer {
    /// What it says of `rtype` at `name` itself: data and TTL of each record.
    pub fn of<'a>(&'a self, name: &'a Name, rtype: Rtype) -> impl Iterator<Item = &'a Record> {
        let fits = move |record: &&Record| record.owner() == name && record.rtype() == rtype;
        self.answer.iter().filter(fits)
    }
}

/// Why a message is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not the answer to this question. Over UDP it may be somebody else's forgery.
    #[error("it is the answer to something else")]
    Other,
    /// It cannot be read.
    #[error("it is not a DNS message that can be read")]
    Malformed,
}

/// The question as a message. `id` tells its answer from others and is to be unguessable.
pub fn query(question: &Question, id: u16) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    let header = message.header_mut();
    header.set_id(id);
    header.set_rd(question.of != Of::NameServer);
    // Asks for the AD flag without asking for signatures (RFC 6840 section 5.7).
    header.set_ad(question.of == Of::Resolver);
    header.set_cd(question.of == Of::Unchecked);
    let mut message = message.question();
    // A message with one question has room for it and for the option.
    let pushed = message.push((&question.name, question.rtype, Class::IN));
    debug_assert!(pushed.is_ok());
    let mut message = message.additional();
    let opted = message.opt(|opt| {
        opt.set_udp_payload_size(PAYLOAD);
        Ok(())
    });
    debug_assert!(opted.is_ok());
    message.finish()
}

/// Reads the answer to `question` that was asked as `id`.
pub fn read(octets: Bytes, question: &Question, id: u16) -> Result<Answer, Unfit> {
    let message = Message::from_octets(octets).map_err(|_| Unfit::Malformed)?;
    let header = message.header();
    if header.id() != id || !header.qr() {
        return Err(Unfit::Other);
    }
    match message.sole_question() {
        Ok(asked) if asked.qname() == &question.name && asked.qtype() == question.rtype => {}
        // Some servers refuse without repeating the question.
        Err(_) if header.rcode() != Rcode::NOERROR && message.header_counts().qdcount() == 0 => {}
        _ => return Err(Unfit::Other),
    }
    let mut read = Answer {
        rcode: header.rcode(),
        authoritative: header.aa(),
        validated: header.ad(),
        truncated: header.tc(),
        reason: None,
        answer: Vec::new(),
        authority: Vec::new(),
        additional: Vec::new(),
    };
    // What was cut may end anywhere.
    if read.truncated {
        return Ok(read);
    }
    read.reason = message.opt().and_then(|opt| {
        let mut errors = opt.opt().iter::<ExtendedError<Bytes>>();
        errors.find_map(Result::ok).map(|error| error.code())
    });
    let (_, answer, authority, additional) = message.sections().map_err(|_| Unfit::Malformed)?;
    for (section, records) in [
        (answer, &mut read.answer),
        (authority, &mut read.authority),
        (additional, &mut read.additional),
    ] {
        for record in section {
            let record = record.map_err(|_| Unfit::Malformed)?;
            if record.rtype() == Rtype::OPT || record.class() != Class::IN {
                continue;
            }
            let record = record
                .into_record::<ZoneRecordData<Bytes, ParsedName<Bytes>>>()
                .map_err(|_| Unfit::Malformed)?
                .ok_or(Unfit::Malformed)?;
            let (class, ttl) = (record.class(), record.ttl());
            let (owner, data) = record.into_owner_and_data();
            let owner: Name = owner.try_flatten_into().map_err(|_| Unfit::Malformed)?;
            let data: Data = data.try_flatten_into().map_err(|_| Unfit::Malformed)?;
            records.push(Record::new(owner, class, ttl, data));
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::Ttl;
    use proptest::prelude::*;

    fn question() -> Question {
        Question { name: "a.example.".parse().unwrap(), rtype: Rtype::MX, of: Of::Resolver }
    }

    fn answered(flags: impl Fn(&mut domain::base::Header)) -> Vec<u8> {
        let query = Message::from_octets(query(&question(), 7)).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).unwrap();
        flags(answer.header_mut());
        let exchange: Name = "mx.a.example.".parse().unwrap();
        let mx = domain::rdata::Mx::new(10, exchange);
        answer.push(("A.example.".parse::<Name>().unwrap(), 60, mx)).unwrap();
        answer.finish()
    }

    #[test]
    fn a_question_says_who_is_asked() {
        for (of, rd, ad, cd) in [
            (Of::NameServer, false, false, false),
            (Of::Resolver, true, true, false),
            (Of::Unchecked, true, false, true),
        ] {
            let octets = query(&Question { of, ..question() }, 7);
            let message = Message::from_octets(octets).unwrap();
            let header = message.header();
            assert_eq!((header.rd(), header.ad(), header.cd()), (rd, ad, cd));
            assert_eq!(message.opt().unwrap().udp_payload_size(), PAYLOAD);
        }
    }

    #[test]
    fn an_answer_is_read_and_one_to_another_question_is_not() {
        let octets = Bytes::from(answered(|header| header.set_ad(true)));
        let answer = read(octets.clone(), &question(), 7).unwrap();
        assert!(answer.validated && !answer.authoritative);
        let name = "a.EXAMPLE.".parse().unwrap();
        let found: Vec<_> = answer.of(&name, Rtype::MX).collect();
        assert_eq!((found.len(), found[0].ttl()), (1, Ttl::from_secs(60)));
        assert_eq!(read(octets.clone(), &question(), 8), Err(Unfit::Other));
        let other = Question { rtype: Rtype::A, ..question() };
        assert_eq!(read(octets.clone(), &other, 7), Err(Unfit::Other));
        assert_eq!(read(octets.slice(..octets.len() - 1), &question(), 7), Err(Unfit::Malformed));
        let cut = Bytes::from(answered(|header| header.set_tc(true)));
        assert!(read(cut.slice(..cut.len() - 1), &question(), 7).unwrap().truncated);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_does_harm(
            noise in prop::collection::vec(any::<u8>(), 0..80),
            at in 0..80usize,
            byte: u8,
        ) {
            let mut octets = answered(|_| {});
            if let Some(place) = octets.get_mut(at) {
                *place = byte;
            }
            let _ = read(octets.into(), &question(), 7);
            let _ = read(noise.into(), &question(), 7);
        }
    }
}
