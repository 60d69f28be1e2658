//! Catalogs as a primary that is nobody's friend would send them, and as members come and go here.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sealpost_dns::admission::{Expect, Limits, Trust, read_records};
use sealpost_dns::catalog_zone::{exercise, read::read};
use sealpost_dns::record::Name;

const MOST: usize = 50;

fuzz_target!(|input: &[u8]| {
    exercise(input);
    let limits = Limits { records: 1_000, octets: 1 << 18, ..Limits::default() };
    let expect = Expect { trust: Trust::Unsigned, previous_serial: None, seal: None, limits };
    let Ok(records) = read_records(&Bytes::copy_from_slice(input), &expect) else { return };
    let apex: Name = "catalog.example".parse().expect("a name");
    let Ok(members) = read(&apex, &records, MOST) else { return };
    assert!(members.len() <= MOST);
    // The order of records says nothing.
    let turned: Vec<_> = records.into_iter().rev().collect();
    assert_eq!(read(&apex, &turned, MOST), Ok(members));
});
