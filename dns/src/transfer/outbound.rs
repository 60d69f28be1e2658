//! Records into the messages of a transfer: many records a message, SOA first and last (RFC 5936
//! section 2.2), names compressed in their case. Pure, and lazy: one message at a time.

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, MessageBuilder};
use domain::base::rdata::ComposeRecordData;

use super::compress::ExactCompressor;
use super::query::put_edns;
use super::tsig;
use crate::record::{Name, Record};

/// Where a message ends, in octets: names cannot be compressed against what is further behind.
pub const TARGET: usize = 16 * 1024;
/// The largest message, in octets: what its length can say, less what a signature takes and an OPT
/// record with EXPIRE.
pub const LARGEST: usize = u16::MAX as usize - tsig::MAX_OVERHEAD - 32;

/// A record that does not fit into any message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {rtype} record of {owner} has {octets} octets, but a message carries at most {LARGEST}"
)]
pub struct TooLarge {
    /// Whose record.
    pub owner: Name,
    /// Of what type.
    pub rtype: Rtype,
    /// Its size without compression.
    pub octets: usize,
}

/// What is the same in all messages of a transfer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The request's identity.
    pub id: u16,
    /// The zone as the request spelled it.
    pub apex: Name,
    /// AXFR or IXFR.
    pub qtype: Rtype,
    /// Whether the client speaks EDNS.
    pub edns: bool,
    /// Seconds until the zone expires, when the client asked.
    pub expire: Option<u32>,
}

/// The messages, one by one.
pub struct Messages<I: Iterator> {
    head: Head,
    records: std::iter::Peekable<I>,
    first: bool,
}

/// The messages that carry these records, in this order and none added.
pub fn messages<I, R>(head: Head, records: I) -> Messages<I::IntoIter>
where
    I: IntoIterator<Item = R>,
    R: AsRef<Record>,
{
    Messages { head, records: records.into_iter().peekable(), first: true }
}

/// How many octets a record takes without compression.
pub fn size(record: &Record) -> usize {
    // No length means more than a record's length field can say.
    let data = record.data().rdlen(false).map_or(usize::from(u16::MAX) + 1, usize::from);
    record.owner().as_slice().len() + 10 + data
}

impl<I, R> Iterator for Messages<I>
where
    I: Iterator<Item = R>,
    R: AsRef<Record>,
{
    type Item = Result<Vec<u8>, TooLarge>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.peek()?;
        let mut answer = self.begin();
        let mut filled = false;
        while let Some(record) = self.records.peek() {
            let record = record.as_ref();
            // What has no valid length would be composed with a wrong one.
            let fits = size(record) <= LARGEST && answer.push(record).is_ok();
            if !fits && !filled && size(record) <= LARGEST {
                answer.set_push_limit(LARGEST);
                if answer.push(record).is_ok() {
                    self.records.next();
                    break;
                }
            }
            if !fits {
                if filled {
                    break;
                }
                return Some(Err(TooLarge {
                    owner: record.owner().clone(),
                    rtype: record.rtype(),
                    octets: size(record),
                }));
            }
            filled = true;
            self.records.next();
        }
        answer.clear_push_limit();
        let mut additional = answer.additional();
        // The first message is where EXPIRE belongs; the OPT record may be in all (RFC 5936 2.2.5).
        if self.first && self.head.edns {
            put_edns(&mut additional, self.head.expire.map(Some));
        }
        self.first = false;
        Some(Ok(additional.finish().into_octets()))
    }
}

impl<I: Iterator> Messages<I> {
    fn begin(&self) -> AnswerBuilder<ExactCompressor> {
        let Ok(mut builder) = MessageBuilder::from_target(ExactCompressor::default());
        builder.set_push_limit(TARGET);
        let header = builder.header_mut();
        header.set_id(self.head.id);
        header.set_qr(true);
        header.set_aa(true);
        header.set_rcode(Rcode::NOERROR);
        let mut question = builder.question();
        // In every message rather than the first alone, which old clients expect (2.2.1 allows it).
        let asked = (&self.head.apex, self.head.qtype, Class::IN);
        question.push(asked).expect("one name fits into any message");
        question.answer()
    }
}

#[cfg(test)]
mod tests {
    use domain::base::Message;

    use super::*;
    use crate::transfer::fixture::{name, records, soa, zone};

    fn head() -> Head {
        let apex = name("example.org");
        Head { id: 5, apex, qtype: Rtype::AXFR, edns: true, expire: Some(9) }
    }

    #[test]
    fn messages_are_full_but_names_stay_in_reach() {
        let zone = zone(1, 1000);
        let out: Vec<_> = messages(head(), &zone).map(Result::unwrap).collect();
        let octets: usize = out.iter().map(Vec::len).sum();
        assert!(out.iter().all(|message| message.len() <= TARGET + 32));
        assert_eq!(out.len(), octets.div_ceil(TARGET - 256), "no message is half empty");
        let count: usize = out
            .iter()
            .map(|m| usize::from(Message::from_slice(m).unwrap().header_counts().ancount()))
            .sum();
        assert_eq!(count, zone.len());
    }

    #[test]
    fn a_record_larger_than_usual_has_a_message_of_its_own() {
        let mut zone = vec![soa(1)];
        let strings = format!(" \"{}\"", "y".repeat(255)).repeat(200);
        zone.extend(records(&format!("big.example.org. 60 IN TXT{strings}\n")));
        zone.push(soa(1));
        let out: Vec<_> = messages(head(), &zone).map(Result::unwrap).collect();
        let counts: Vec<_> =
            out.iter().map(|m| Message::from_slice(m).unwrap().header_counts().ancount()).collect();
        assert_eq!(counts, [1, 1, 1]);
    }

    #[test]
    fn a_record_that_fits_nowhere_is_named() {
        let strings = format!(" \"{}\"", "y".repeat(255)).repeat(255);
        let zone = records(&format!("big.example.org. 60 IN TXT{strings}\n"));
        let error = messages(head(), &zone).next().unwrap().unwrap_err();
        assert_eq!(error.owner, name("big.example.org"));
        assert!(error.octets > LARGEST);
    }
}
