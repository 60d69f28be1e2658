//! Whatever a primary sends as a transfer: messages, each with two octets before it that say its length.
//! What comes in whole can be sent out again, and comes in as it was.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sealpost_dns::record::Name;
use sealpost_dns::transfer::difference::apply;
use sealpost_dns::transfer::inbound::{Inbound, Limits, Received, Step};
use sealpost_dns::transfer::query::Kind;

const LIMITS: Limits = Limits { records: 1000, octets: 1 << 20, messages: 100 };

fuzz_target!(|input: &[u8]| {
    let Some((which, mut rest)) = input.split_first() else { return };
    let kind = if which % 2 == 0 { Kind::Axfr } else { Kind::Ixfr { serial: 1 } };
    let apex: Name = "zone.example".parse().expect("a name");
    // Whatever the question was, the answer has its number.
    let Some(id) = rest.get(2..4) else { return };
    let mut inbound = Inbound::new(u16::from_be_bytes([id[0], id[1]]), apex, kind, LIMITS);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (message, next) = behind.split_at(length);
        rest = next;
        match inbound.take(Bytes::copy_from_slice(message)) {
            Ok(Step::Done(Received::Zone(records))) => {
                assert!(records.len() <= LIMITS.records + 2);
                return;
            }
            Ok(Step::Done(Received::Differences(steps))) => {
                let _ = apply(&[], &steps);
                return;
            }
            Ok(Step::Done(_)) | Err(_) => return,
            Ok(_) => {}
        }
    }
});
