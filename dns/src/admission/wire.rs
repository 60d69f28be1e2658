//! A zone as octets: its records one after the other, uncompressed. This is how a store may keep
//! one, and how a fuzzer hands one in.

use bytes::Bytes;
use domain::base::ParsedRecord;
use domain::base::name::{FlattenInto, ParsedName};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;

use crate::record::{Name, Record};

use super::content::Content;
use super::keys::Keys;
use super::signatures::Check;
use super::{Admitted, Expect, Limits, Meter, Refused, Trust, admit};
use super::{denial, nsec, nsec3, shape, zonemd};

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

/// Admits a zone that comes as octets.
pub fn admit_octets(
    apex: &Name,
    octets: &Bytes,
    expect: &Expect,
    now_unix: u64,
) -> Result<Admitted, Refused> {
    admit(apex, &read_records(octets, expect)?, expect, now_unix)
}

/// What a fuzzer calls: each check on its own over a stranger's octets, as [`admit`] would end at the
/// first wrong signature and hardly ever reach the others. Gives nothing that could be taken for an
/// admission.
pub fn exercise(octets: &[u8]) {
    let octets = Bytes::copy_from_slice(octets);
    let expect = Expect {
        trust: Trust::Unsigned,
        previous_serial: None,
        seal: None,
        limits: Limits { records: 1_000, octets: 256 * 1024, ..Limits::default() },
    };
    let Ok(records) = read_records(&octets, &expect) else {
        return;
    };
    let Some(apex) = records.first().map(|record| record.owner().clone()) else {
        return;
    };
    let _ = admit(&apex, &records, &expect, 0);
    let Ok(content) = Content::new(&apex, &records, &expect.limits) else {
        return;
    };
    let serial = shape::check(&content, &expect.limits).unwrap_or_default();
    if let Some(Ok(Some(keys))) = content.apex().map(|apex| Keys::read(apex, &expect.trust)) {
        let _ = Check::new(&keys, &apex, &expect.limits, false, 0).all(&content);
    }
    let _ = denial::check(&content);
    let _ = nsec::check(&content);
    let _ = nsec3::check(&content);
    let _ = zonemd::check(&content, serial);
}
