//! What a DNS message says about the record of a domain. Pure.

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::record::{self, Reading};
use super::witness::Answer;

/// More records than anybody has at one name.
const MAX_RECORDS: usize = 64;

/// Why a message with this code is no answer, if it is none: continues "NAME: …".
pub(super) fn refused(code: ResponseCode) -> Option<String> {
    match code {
        ResponseCode::NoError | ResponseCode::NXDomain => None,
        ResponseCode::ServFail => Some("could not find out (SERVFAIL)".into()),
        ResponseCode::Refused => Some("refuses to answer (REFUSED)".into()),
        other => Some(format!("answered with the error {}", u16::from(other))),
    }
}

/// What one of the domain's own name servers said to a question about `name`.
pub(super) fn of_server(message: &Message, name: &Name) -> Answer {
    if let Some(why) = refused(message.metadata.response_code) {
        return Answer::Silent(why);
    }
    if !message.metadata.authoritative {
        let referral = message
            .authorities
            .iter()
            .any(|r| r.record_type() == RecordType::NS && r.name == *name);
        return match referral {
            true => Answer::Elsewhere,
            false => Answer::Silent("does not serve the domain".into()),
        };
    }
    if message.answers.iter().any(|record| is_alias(record, name)) {
        return Answer::Elsewhere;
    }
    match texts(message, name) {
        Err(silent) => silent,
        Ok(records) if records.is_empty() => Answer::NoRecord { secure: false },
        Ok(records) => Answer::Found { records, secure: false },
    }
}

/// What came of a resolver's answer about `name` when its signatures were checked.
pub(super) fn of_validation(result: Result<&Message, &NetError>, name: &Name) -> Answer {
    let message = match result {
        Ok(message) => message,
        // A denial whose proof is of a kind that proves nothing (RFC 9276 section 3.2).
        Err(NetError::Dns(DnsError::Nsec { proof: Proof::Insecure, .. })) => {
            return Answer::NoRecord { secure: false };
        }
        // The validator also doubts signed records beside which a resolver has put a denial of
        // something else.
        Err(NetError::Dns(DnsError::Nsec { response, .. }))
            if is_signed(response, name, &[RecordType::CNAME, RecordType::TXT]) =>
        {
            response
        }
        Err(NetError::Dns(DnsError::Nsec { .. })) => return Answer::Bogus,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    let aliases: Vec<&Record> = message.answers.iter().filter(|r| is_alias(r, name)).collect();
    if !aliases.is_empty() {
        return if common(&aliases).is_some() { Answer::Elsewhere } else { Answer::Bogus };
    }
    let texts = match texts(message, name) {
        Err(silent) => return silent,
        Ok(texts) => texts,
    };
    if texts.is_empty() {
        return match denial(message, name) {
            Some(secure) => Answer::NoRecord { secure },
            None => Answer::Bogus,
        };
    }
    let records: Vec<&Record> = message.answers.iter().filter(|r| is_text(r, name)).collect();
    match common(&records) {
        Some(secure) => Answer::Found { records: texts, secure },
        None => Answer::Bogus,
    }
}

/// Whether there are records at `name` with a valid signature that was made for this very name,
/// not for a wildcard: such an answer needs no denial beside it.
pub(super) fn is_signed(message: &Message, name: &Name, types: &[RecordType]) -> bool {
    message.answers.iter().any(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => {
            let signed = signature.input();
            record.proof == Proof::Secure
                && record.name == *name
                && signed.num_labels == name.num_labels()
                && types.contains(&signed.type_covered)
        }
        _ => false,
    })
}

/// Whether all records are proven to be signed; `None` if they should be and are not.
pub(super) fn common(records: &[&Record]) -> Option<bool> {
    let all = |proof| records.iter().all(|record| record.proof == proof);
    if all(Proof::Secure) { Some(true) } else { all(Proof::Insecure).then_some(false) }
}

/// As [`common`], for an answer without a record. The validator has checked what is there, but it
/// is content with any record of an unsigned zone; it must be one of the zone that is asked about,
/// or a denial could be forged for every signed zone.
pub(super) fn denial(message: &Message, name: &Name) -> Option<bool> {
    let is_proof = |r: &Record| matches!(r.record_type(), RecordType::NSEC | RecordType::NSEC3);
    if message.authorities.iter().any(|r| is_proof(r) && r.proof == Proof::Secure) {
        return Some(true);
    }
    let of_zone = |r: &Record| r.record_type() == RecordType::SOA && r.name.zone_of(name);
    let insecure = message.authorities.iter().any(|r| of_zone(r) && r.proof == Proof::Insecure);
    (insecure || message.authorities.is_empty()).then_some(false)
}

fn is_alias(record: &Record, name: &Name) -> bool {
    match record.record_type() {
        RecordType::CNAME => record.name == *name,
        RecordType::DNAME => record.name.zone_of(name),
        _ => false,
    }
}

fn is_text(record: &Record, name: &Name) -> bool {
    record.record_type() == RecordType::TXT && record.name == *name
}

fn texts(message: &Message, name: &Name) -> Result<Vec<Reading>, Answer> {
    let records = message.answers.iter().filter(|record| is_text(record, name));
    let texts: Vec<Reading> = records
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(record::read(&text.txt_data)),
            _ => None,
        })
        .take(MAX_RECORDS + 1)
        .collect();
    if texts.len() > MAX_RECORDS {
        return Err(Answer::Silent(format!("has more than {MAX_RECORDS} TXT records there")));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::rdata::{CNAME, NS, SOA, TXT};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn asked() -> Name {
        name("_sealpost.home.example.")
    }

    fn text(owner: &str, text: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::TXT(TXT::new(vec![text.into()])))
    }

    fn soa(owner: &str) -> Record {
        let soa = SOA::new(name("ns."), name("master."), 1, 1, 1, 1, 1);
        Record::from_rdata(name(owner), 60, RData::SOA(soa))
    }

    fn message(answers: Vec<Record>, authorities: Vec<Record>) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.authoritative = true;
        message.add_answers(answers);
        message.add_authorities(authorities);
        message
    }

    fn proven(mut record: Record, proof: Proof) -> Record {
        record.proof = proof;
        record
    }

    #[test]
    fn a_servers_own_records_are_taken_and_others_are_not() {
        let answers = vec![
            text("_SEALPOST.home.example.", "sealpost1"),
            text("_sealpost.home.example.", "v=spf1 -all"),
            text("other.home.example.", "sealpost1"),
        ];
        let Answer::Found { records, secure: false } =
            of_server(&message(answers, vec![]), &asked())
        else {
            panic!()
        };
        assert_eq!(records.len(), 2);
        let elsewhere = vec![text("other.home.example.", "sealpost1")];
        let none = Answer::NoRecord { secure: false };
        assert_eq!(of_server(&message(elsewhere, vec![]), &asked()), none);
    }

    #[test]
    fn a_server_that_does_not_speak_for_the_zone_says_nothing() {
        let mut lame = message(vec![text("_sealpost.home.example.", "sealpost1")], vec![]);
        lame.metadata.authoritative = false;
        assert!(matches!(of_server(&lame, &asked()), Answer::Silent(_)));
        for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
            let mut failed = message(vec![], vec![]);
            failed.metadata.response_code = code;
            assert!(matches!(of_server(&failed, &asked()), Answer::Silent(_)));
        }
    }

    #[test]
    fn aliases_and_delegations_lead_elsewhere() {
        let cname = RData::CNAME(CNAME(name("other.example.")));
        let alias = Record::from_rdata(asked(), 60, cname);
        let followed = vec![alias.clone(), text("other.example.", "sealpost1")];
        assert_eq!(of_server(&message(followed, vec![]), &asked()), Answer::Elsewhere);
        let ns = Record::from_rdata(asked(), 60, RData::NS(NS(name("ns.evil.example."))));
        let mut referral = message(vec![], vec![ns]);
        referral.metadata.authoritative = false;
        assert_eq!(of_server(&referral, &asked()), Answer::Elsewhere);
        for (proof, expected) in [
            (Proof::Secure, Answer::Elsewhere),
            (Proof::Insecure, Answer::Elsewhere),
            (Proof::Bogus, Answer::Bogus),
        ] {
            let message = message(vec![proven(alias.clone(), proof)], vec![]);
            assert_eq!(of_validation(Ok(&message), &asked()), expected);
        }
    }

    #[test]
    fn more_records_than_anybody_has_are_not_read() {
        let many = vec![text("_sealpost.home.example.", "x"); MAX_RECORDS + 1];
        assert!(matches!(of_server(&message(many, vec![]), &asked()), Answer::Silent(_)));
    }

    #[test]
    fn records_count_by_their_weakest_proof() {
        for (proofs, expected) in [
            ([Proof::Secure, Proof::Secure], Some(true)),
            ([Proof::Insecure, Proof::Insecure], Some(false)),
            ([Proof::Secure, Proof::Insecure], None),
            ([Proof::Secure, Proof::Bogus], None),
            ([Proof::Indeterminate, Proof::Indeterminate], None),
        ] {
            let record = text("_sealpost.home.example.", "sealpost1");
            let answers = proofs.map(|proof| proven(record.clone(), proof)).to_vec();
            let found = match of_validation(Ok(&message(answers, vec![])), &asked()) {
                Answer::Found { secure, .. } => Some(secure),
                Answer::Bogus => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{proofs:?}");
        }
    }

    #[test]
    fn an_unsigned_denial_must_be_of_the_zone_that_was_asked() {
        for (authority, expected) in [
            (proven(soa("home.example."), Proof::Insecure), Answer::NoRecord { secure: false }),
            (proven(soa("."), Proof::Insecure), Answer::NoRecord { secure: false }),
            (proven(soa("evil.example."), Proof::Insecure), Answer::Bogus),
            (proven(soa("a._sealpost.home.example."), Proof::Insecure), Answer::Bogus),
            (proven(soa("home.example."), Proof::Bogus), Answer::Bogus),
        ] {
            let denial = message(vec![], vec![authority]);
            assert_eq!(of_validation(Ok(&denial), &asked()), expected);
        }
    }
}
