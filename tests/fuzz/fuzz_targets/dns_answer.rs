//! Whatever a name server or resolver answers to the agent, or somebody in its name.
#![no_main]

use bytes::Bytes;
use domain::base::iana::{Class, Rtype};
use libfuzzer_sys::fuzz_target;
use sealpost_agent::lookup::message::{Of, Question, query, read};

const TYPES: [Rtype; 8] =
    [Rtype::A, Rtype::NS, Rtype::SOA, Rtype::MX, Rtype::TXT, Rtype::DS, Rtype::TLSA, Rtype::CAA];

fuzz_target!(|input: &[u8]| {
    let Some((which, answer)) = input.split_first() else { return };
    let name: domain::base::Name<Bytes> = "a.example".parse().expect("a name");
    let rtype = TYPES[usize::from(which % 8)];
    for of in [Of::NameServer, Of::Resolver, Of::Unchecked] {
        let question = Question { name: name.clone(), rtype, of };
        // Whatever the question was, the answer has its number.
        let id = answer.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        // A question is no answer, not even to itself.
        assert!(read(query(&question, id).into(), &question, id).is_err());
        let Ok(read) = read(Bytes::copy_from_slice(answer), &question, id) else { continue };
        let found = read.of(&name, rtype).count();
        assert!(found <= read.answer.len());
        for record in [&read.answer, &read.authority, &read.additional].into_iter().flatten() {
            assert_eq!(record.class(), Class::IN);
            // It is shown to people.
            let _ = record.to_string();
        }
    }
});
