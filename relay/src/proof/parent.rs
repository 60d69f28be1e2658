//! What the parent zone says of a domain's keys (DS, RFC 4034 section 5): answers in, one word out.
//! Pure.
//!
//! Signatures are what counts here, so one honest resolver would do; but each may remember an older
//! set, and one that lies can repeat one that is still signed. A DS record counts when more than half
//! of those that answered have it: in the middle of a rollover that is the one that all know.

use bytes::Bytes;
use domain::base::iana::{DigestAlgorithm, SecurityAlgorithm};
use domain::rdata::Ds;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use sealpost_tunnel::DomainName;

use super::answer::{self, common, denial, is_signed};

/// More DS records than any zone needs.
const MAX_RECORDS: usize = 32;

/// What the parent zone vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// Keys with one of these digests, by its signature.
    Signed(Vec<Ds<Bytes>>),
    /// Nothing, and that is proved: it has no DS record, or is not signed itself.
    Unsigned,
    /// That could not be found out; why, as a sentence.
    Unclear(String),
}

/// What one resolver says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// These records, with a valid signature.
    Signed(Vec<Ds<Bytes>>),
    /// There are none, or none that could be signed; proved.
    Unsigned,
    /// Something that does not have the signatures that it must have.
    Bogus,
    /// No answer, and why: continues "resolver ADDRESS: ".
    Silent(String),
}

/// What came of a resolver's answer when its signatures were checked.
pub(super) fn of_validation(result: Result<&Message, &NetError>, name: &Name) -> Word {
    let message = match result {
        Ok(message) => message,
        Err(NetError::Dns(DnsError::Nsec { proof: Proof::Insecure, .. })) => return Word::Unsigned,
        // As for other records: doubts about a denial beside them do not concern them.
        Err(NetError::Dns(DnsError::Nsec { response, .. }))
            if is_signed(response, name, &[RecordType::DS]) =>
        {
            response
        }
        Err(NetError::Dns(DnsError::Nsec { .. })) => return Word::Bogus,
        Err(error) => return Word::Silent(error.to_string()),
    };
    if let Some(why) = answer::refused(message.metadata.response_code) {
        return Word::Silent(why);
    }
    let is_ours = |r: &&Record| r.record_type() == RecordType::DS && r.name == *name;
    let records: Vec<&Record> = message.answers.iter().filter(is_ours).collect();
    if records.len() > MAX_RECORDS {
        return Word::Silent(format!("has more than {MAX_RECORDS} DS records"));
    }
    if records.is_empty() {
        // An alias is no cut, and what is behind it says nothing of this name.
        let alias = message.answers.iter().any(|r| r.record_type() == RecordType::CNAME);
        return if !alias && denial(message, name).is_some() {
            Word::Unsigned
        } else {
            Word::Bogus
        };
    }
    match common(&records) {
        Some(true) => Word::Signed(records.into_iter().filter_map(read).collect()),
        Some(false) => Word::Unsigned,
        None => Word::Bogus,
    }
}

fn read(record: &Record) -> Option<Ds<Bytes>> {
    let RData::DNSSEC(DNSSECRData::DS(ds)) = &record.data else { return None };
    let algorithm = SecurityAlgorithm::from_int(ds.algorithm().into());
    let kind = DigestAlgorithm::from_int(ds.digest_type().into());
    Ds::new(ds.key_tag(), algorithm, kind, Bytes::copy_from_slice(ds.digest())).ok()
}

/// What the parent of `domain` says, by what the resolvers said, each told by its name.
pub(super) fn judge(domain: &DomainName, words: &[(String, Word)]) -> Parent {
    let answered = words.iter().filter(|(_, word)| !matches!(word, Word::Silent(_))).count();
    let agree = |votes: usize| 2 * votes > answered && 2 * answered >= words.len();
    if agree(words.iter().filter(|(_, word)| *word == Word::Unsigned).count()) {
        return Parent::Unsigned;
    }
    let mut agreed: Vec<Ds<Bytes>> = Vec::new();
    let sets = || {
        words.iter().filter_map(|(_, word)| match word {
            Word::Signed(records) => Some(records),
            _ => None,
        })
    };
    for record in sets().flatten() {
        if !agreed.contains(record) && agree(sets().filter(|set| set.contains(record)).count()) {
            agreed.push(record.clone());
        }
    }
    agreed.sort_by(|a, b| (a.key_tag(), a.digest()).cmp(&(b.key_tag(), b.digest())));
    if !agreed.is_empty() {
        return Parent::Signed(agreed);
    }
    let silent = words.iter().find_map(|(who, word)| match word {
        Word::Silent(why) => Some(format!("{who}: {why}")),
        _ => None,
    });
    Parent::Unclear(if words.iter().any(|(_, word)| *word == Word::Bogus) {
        format!(
            "The DS record of {domain} could not be verified: signatures of a zone above it are \
             invalid or missing."
        )
    } else if 2 * answered < words.len() || answered == 0 {
        let silent = silent.unwrap_or_else(|| "there is no resolver".into());
        format!("The DS record of {domain} could not be looked up ({silent}). Try again later.")
    } else {
        format!(
            "The relay's resolvers do not agree on the DS record of {domain}; some remember an older \
             one. Try again in an hour."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ds(tag: u16) -> Ds<Bytes> {
        let digest = Bytes::from(vec![tag as u8; 32]);
        Ds::new(tag, SecurityAlgorithm::ECDSAP256SHA256, DigestAlgorithm::SHA256, digest).unwrap()
    }

    fn signed(tags: &[u16]) -> Word {
        Word::Signed(tags.iter().copied().map(ds).collect())
    }

    fn silent() -> Word {
        Word::Silent("no answer within 3 s".into())
    }

    fn judged(words: &[Word]) -> Parent {
        let named = |(i, word): (usize, &Word)| (format!("resolver 192.0.2.{i}"), word.clone());
        let words: Vec<_> = words.iter().enumerate().map(named).collect();
        judge(&"home.example".parse().unwrap(), &words)
    }

    fn unclear(words: &[Word], because: &str) {
        let Parent::Unclear(reason) = judged(words) else { panic!("{words:?}") };
        assert!(reason.contains(because), "{reason}");
    }

    #[test]
    fn what_more_than_half_have_counts() {
        assert_eq!(judged(&[signed(&[1])]), Parent::Signed(vec![ds(1)]));
        assert_eq!(judged(&[Word::Unsigned]), Parent::Unsigned);
        // One lies, or remembers.
        for odd in [signed(&[9]), Word::Unsigned, Word::Bogus, silent(), signed(&[1, 9])] {
            let words = [signed(&[1]), odd.clone(), signed(&[1])];
            assert_eq!(judged(&words), Parent::Signed(vec![ds(1)]));
            let words = [Word::Unsigned, odd, Word::Unsigned];
            assert_eq!(judged(&words), Parent::Unsigned);
        }
    }

    #[test]
    fn in_a_rollover_the_records_count_that_all_know() {
        let words = [signed(&[1, 2]), signed(&[1]), signed(&[1, 2])];
        assert_eq!(judged(&words), Parent::Signed(vec![ds(1), ds(2)]));
        assert_eq!(judged(&[signed(&[1, 2]), signed(&[2])]), Parent::Signed(vec![ds(2)]));
    }

    #[test]
    fn what_is_not_agreed_on_is_unclear() {
        unclear(&[signed(&[1]), signed(&[2])], "do not agree");
        unclear(&[signed(&[1]), Word::Unsigned], "do not agree");
        unclear(&[signed(&[]), signed(&[])], "do not agree");
        unclear(&[Word::Bogus], "could not be verified");
        unclear(&[signed(&[1]), Word::Bogus], "could not be verified");
        unclear(&[signed(&[1]), silent(), silent()], "no answer within 3 s");
        unclear(&[silent()], "no answer within 3 s");
        unclear(&[], "there is no resolver");
    }

    proptest! {
        #[test]
        fn one_of_three_never_decides(
            truth in prop::sample::select(vec![signed(&[1]), signed(&[1, 2]), Word::Unsigned]),
            lie in prop::sample::select(
                vec![signed(&[]), signed(&[2, 3]), signed(&[3]), Word::Unsigned, Word::Bogus, silent()],
            ),
            place in 0usize..3,
        ) {
            let mut words = vec![truth.clone(), truth.clone()];
            words.insert(place, lie);
            prop_assert_eq!(judged(&words), judged(&[truth]));
        }
    }
}
