//! A zone as octets: its records one after the other, uncompressed. This is how a store may keep
//! one, and how the fuzzer hands one in.

use bytes::Bytes;
use domain::base::ParsedRecord;
use domain::base::name::{FlattenInto, ParsedName};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;

use crate::record::{Name, Record};

use super::{Admitted, Expect, Meter, Refused, admit};

/// Reads records that [`write_records`] wrote. The limits hold from the first record on.
pub fn read_records(octets: &Bytes, expect: &Expect) -> Result<Vec<Record>, Refused> {
    let mut meter = Meter::new(&expect.limits);
    let mut parser = Parser::from_ref(octets);
    let mut records = Vec::new();
    while parser.remaining() != 0 {
        let offset = parser.pos();
        let record = read_record(&mut parser).ok_or(Refused::NoRecord { offset })?;
        meter.count(&record)?;
        records.push(record);
    }
    Ok(records)
}

fn read_record(parser: &mut Parser<'_, Bytes>) -> Option<Record> {
    let parsed = ParsedRecord::parse(parser).ok()?;
    let record = parsed.into_record::<ZoneRecordData<Bytes, ParsedName<Bytes>>>().ok()??;
    record.try_flatten_into().ok()
}

/// Writes records, which a [`Meter`] or [`admit`] let through, as [`read_records`] reads them.
pub fn write_records(records: &[Record]) -> Vec<u8> {
    let mut octets = Vec::new();
    for record in records {
        let Ok(()) = record.compose(&mut octets);
    }
    octets
}

/// Admits a zone that comes as octets: the one function through which a fuzzer reaches everything
/// here.
pub fn admit_octets(
    apex: &Name,
    octets: &Bytes,
    expect: &Expect,
    now_unix: u64,
) -> Result<Admitted, Refused> {
    admit(apex, &read_records(octets, expect)?, expect, now_unix)
}
