//! Whatever a program of the box sends as an UPDATE, by somebody who may do nothing, little or all.
#![no_main]

use domain::base::iana::Rtype;
use domain::base::name::FlattenInto;
use domain::zonefile::inplace::{Entry as Line, Zonefile};
use libfuzzer_sys::fuzz_target;
use sealpost_agent::config::dns::Update;
use sealpost_agent::publish::update::{MAX_RECORDS, apply, parse};
use sealpost_dns::record::Record;

const ZONE: &str = "a.example. 60 IN SOA ns. h. 1 4 3 77 5\na.example. 60 IN NS ns.elsewhere.\n\
    www.a.example. 60 IN A 192.0.2.1\n_acme-challenge.a.example. 60 IN TXT own\n";
const DYNAMIC: &str =
    "x.a.example. 60 IN A 192.0.2.2\n_acme-challenge.x.a.example. 60 IN TXT one\n";

fn records(text: &str) -> Vec<Record> {
    let mut file = Zonefile::load(&mut text.as_bytes()).expect("text");
    let mut records: Vec<Record> = Vec::new();
    while let Some(line) = file.next_entry().expect("a record") {
        if let Line::Record(record) = line {
            records.push(record.flatten_into());
        }
    }
    records
}

fuzz_target!(|input: &[u8]| {
    let Ok(request) = parse(input) else { return };
    let dynamic = records(DYNAMIC);
    let zone = [records(ZONE), dynamic.clone()].concat();
    let nobodys = apply(&zone, &dynamic, &request, Update::None);
    assert!(nobodys.is_err() || nobodys == Ok(dynamic.clone()));
    for may in [Update::Challenges, Update::All] {
        let Ok(after) = apply(&zone, &dynamic, &request, may) else { continue };
        assert!(after.len() <= MAX_RECORDS);
        for record in &after {
            let mut octets = Vec::new();
            let Ok(()) = record.compose(&mut octets);
            assert!(record.owner().ends_with(&request.apex) || dynamic.contains(record));
            let challenge =
                record.owner().first().as_slice().eq_ignore_ascii_case(b"_acme-challenge");
            let free = challenge && record.rtype() == Rtype::TXT;
            assert!(may == Update::All || free || dynamic.contains(record));
        }
        // What it left in the zone is what it is applied to next.
        let zone = [records(ZONE), after.clone()].concat();
        let _ = apply(&zone, &after, &request, may);
    }
});
