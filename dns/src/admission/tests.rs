//! Admission as a whole, on zones that ldns and BIND signed (`tests/zones`): they are let in, and
//! with any one thing changed they are refused for that thing.

use std::str::FromStr;

use bytes::Bytes;
use domain::base::iana::{Class, SecurityAlgorithm};
use domain::base::name::FlattenInto;
use domain::base::rdata::UnknownRecordData;
use domain::base::{Rtype, Ttl};
use domain::rdata::{A, Cname, Dnskey, Ns, Soa, Txt, ZoneRecordData};
use domain::zonefile::inplace::{Entry, Zonefile};

use super::*;
use crate::record::Data;

/// 2036-01-01, within the signatures of all zones.
const NOW: u64 = 2_082_758_400;
/// When the signatures of all zones begin: 2026-01-01.
const BEGIN: u64 = 1_767_225_600;
/// When they end: 2037-12-31.
const END: u64 = 2_145_830_400;
const SERIAL: u32 = 2_026_010_100;

/// A zone that is whole, and what is expected of it.
#[derive(Clone)]
struct Fixture {
    apex: Name,
    records: Vec<Record>,
    expect: Expect,
}

macro_rules! fixture {
    ($name:literal) => {
        Fixture::new(
            include_str!(concat!("../../tests/zones/", $name, ".zone")),
            include_str!(concat!("../../tests/zones/", $name, ".ds")),
        )
    };
}

fn whole() -> Vec<(&'static str, Fixture)> {
    vec![
        ("nsec-p256-zonemd", fixture!("nsec-p256-zonemd")),
        ("nsec3-p256-zonemd", fixture!("nsec3-p256-zonemd")),
        ("nsec-p256", fixture!("nsec-p256")),
        ("nsec3-p256", fixture!("nsec3-p256")),
        ("nsec3-optout-p256", fixture!("nsec3-optout-p256")),
        ("nsec-rsa256", fixture!("nsec-rsa256")),
        ("nsec3-rsa512", fixture!("nsec3-rsa512")),
        ("nsec-p384", fixture!("nsec-p384")),
        ("nsec-ed25519", fixture!("nsec-ed25519")),
        ("nsec-two-algorithms", fixture!("nsec-two-algorithms")),
        ("nsec-two-keys", fixture!("nsec-two-keys")),
        ("nsec-split", fixture!("nsec-split")),
        ("small-nsec", fixture!("small-nsec")),
        ("small-nsec3", fixture!("small-nsec3")),
    ]
}

fn nsec() -> Fixture {
    fixture!("nsec-p256")
}

fn nsec3() -> Fixture {
    fixture!("nsec3-p256")
}

fn plain() -> Fixture {
    let mut zone = Fixture::new(include_str!("../../tests/zones/plain.zone"), "");
    zone.expect.trust = Trust::Unsigned;
    zone
}

fn parse(text: &str) -> Vec<Record> {
    let mut file = Zonefile::from(text);
    file.set_origin(name("zone.example"));
    file.set_default_class(Class::IN);
    let mut records = Vec::new();
    while let Some(entry) = file.next_entry().expect("a zone file") {
        let Entry::Record(record) = entry else { panic!("an include") };
        records.push(record.flatten_into());
    }
    records
}

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

fn record(owner: &str, data: impl Into<Data>) -> Record {
    Record::new(name(owner), Class::IN, Ttl::from_secs(3600), data.into())
}

fn a(owner: &str) -> Record {
    record(owner, A::from_octets(192, 0, 2, 99))
}

fn txt(owner: &str) -> Record {
    record(owner, Txt::<Bytes>::build_from_slice(b"more").expect("short"))
}

fn covers(record: &Record) -> Option<Rtype> {
    match record.data() {
        ZoneRecordData::Rrsig(rrsig) => Some(rrsig.type_covered()),
        _ => None,
    }
}

impl Fixture {
    fn new(zone: &str, ds: &str) -> Self {
        let ds = parse(ds).into_iter().map(|record| match record.into_data() {
            ZoneRecordData::Ds(ds) => ds,
            other => panic!("{other} is no DS"),
        });
        Self {
            apex: name("zone.example"),
            records: parse(zone),
            expect: Expect {
                trust: Trust::Ds(ds.collect()),
                previous_serial: None,
                seal: None,
                limits: Limits::default(),
            },
        }
    }

    fn admit(&self) -> Result<Admitted, Refused> {
        self.admit_at(NOW)
    }

    fn admit_at(&self, now: u64) -> Result<Admitted, Refused> {
        admit(&self.apex, &self.records, &self.expect, now)
    }

    #[track_caller]
    fn refused(&self) -> Refused {
        self.admit().expect_err("must be refused")
    }

    fn with(mut self, record: Record) -> Self {
        self.records.push(record);
        self
    }

    /// The zone without the records of a name and type, and without their signatures.
    fn without(mut self, owner: &str, rtype: Rtype) -> Self {
        let before = self.records.len();
        self.records.retain(|record| {
            *record.owner() != name(owner)
                || (record.rtype() != rtype && covers(record) != Some(rtype))
        });
        assert!(self.records.len() < before, "{owner} {rtype} is in the zone");
        self
    }

    fn without_name(mut self, owner: &str) -> Self {
        self.records.retain(|record| *record.owner() != name(owner));
        self
    }

    fn change(mut self, which: impl Fn(&Record) -> bool, change: impl Fn(&mut Record)) -> Self {
        let mut found = self.records.iter_mut().filter(|record| which(record)).peekable();
        assert!(found.peek().is_some(), "there is such a record");
        found.for_each(change);
        self
    }

    fn unsigned_allowed(mut self) -> Self {
        self.expect.trust = Trust::Unsigned;
        self
    }

    fn keys(&self) -> Vec<Dnskey<Bytes>> {
        let keys = self.records.iter().filter_map(|record| match record.data() {
            ZoneRecordData::Dnskey(key) => Some(key.clone()),
            _ => None,
        });
        keys.collect()
    }
}

#[test]
fn whole_zones_are_let_in() {
    for (zone, fixture) in whole() {
        let admitted = fixture.admit().unwrap_or_else(|refused| panic!("{zone}: {refused}"));
        assert_eq!(admitted.serial, SERIAL);
        assert_eq!(admitted.valid_until, Some(END));
        assert!(!admitted.same);
        let keys = Fixture {
            expect: Expect { trust: Trust::Keys(fixture.keys()), ..fixture.expect.clone() },
            ..fixture.clone()
        };
        keys.admit().unwrap_or_else(|refused| panic!("{zone}, pinned key: {refused}"));
        fixture.unsigned_allowed().admit().unwrap_or_else(|refused| panic!("{zone}: {refused}"));
    }
    assert_eq!(plain().admit().expect("whole").valid_until, None);
}

#[test]
fn a_zone_comes_back_by_its_seal() {
    for (zone, mut fixture) in whole() {
        let seal = fixture.admit().expect("whole").seal;
        fixture.expect.seal = Some(Seal::from_octets(*seal.as_octets()));
        fixture.expect.previous_serial = Some(SERIAL);
        fixture.records.reverse();
        let again = fixture.admit().unwrap_or_else(|refused| panic!("{zone}: {refused}"));
        assert!(again.same);
        assert_eq!(again.seal, seal);
        // A seal does not stand in for the time,
        assert!(matches!(fixture.admit_at(END + 1), Err(Refused::Expired { .. })));
        // nor for other keys,
        let other = Fixture {
            expect: Expect {
                trust: Trust::Keys(vec![
                    Dnskey::new(256, 3, SecurityAlgorithm::ED25519, Bytes::from_static(&[1; 32]))
                        .expect("short"),
                ]),
                previous_serial: None,
                ..fixture.expect.clone()
            },
            ..fixture.clone()
        };
        assert_eq!(other.refused(), Refused::NotPinned);
        // nor for other content.
        assert_eq!(
            fixture.clone().unsigned_allowed().refused(),
            Refused::SerialSame { serial: SERIAL }
        );
        let less = fixture.without("plain.zone.example", Rtype::NS);
        assert_eq!(less.refused(), Refused::SerialSame { serial: SERIAL });
    }
}

#[test]
fn the_case_of_names_does_not_count() {
    for (zone, fixture) in whole() {
        let mut other = fixture.clone();
        other.apex = name("ZONE.Example");
        for record in &mut other.records {
            let owner = Name::from_str(&record.owner().to_string().to_uppercase());
            *record = Record::new(
                owner.expect("a name"),
                record.class(),
                record.ttl(),
                record.data().clone(),
            );
        }
        let (one, other) = (fixture.admit(), other.admit());
        assert_eq!(one, other, "{zone}");
    }
}

#[test]
fn rdata_that_came_uninterpreted_is_the_same() {
    for (zone, fixture) in whole() {
        let mut other = fixture.clone();
        for record in &mut other.records {
            let mut rdata = Vec::new();
            let Ok(()) =
                domain::base::rdata::ComposeRecordData::compose_rdata(record.data(), &mut rdata);
            let data = UnknownRecordData::from_octets(record.rtype(), Bytes::from(rdata));
            *record.data_mut() = data.expect("short").into();
        }
        assert_eq!(fixture.admit(), other.admit(), "{zone}");
    }
    let pointer = UnknownRecordData::from_octets(Rtype::MX, Bytes::from_static(&[0, 10, 0xc0, 0]));
    let malformed = plain().with(record("x.zone.example", pointer.expect("short"))).refused();
    assert!(matches!(malformed, Refused::Malformed { .. }), "{malformed}");
    let long = UnknownRecordData::from_octets(Rtype::A, Bytes::from_static(&[0; 5]));
    let malformed = plain().with(record("x.zone.example", long.expect("short"))).refused();
    assert!(matches!(malformed, Refused::Malformed { .. }), "{malformed}");
}

#[test]
fn limits_hold_while_receiving_and_after() {
    let mut zone = nsec();
    zone.expect.limits.records = zone.records.len();
    zone.admit().expect("just enough");
    zone.expect.limits.records -= 1;
    let limit = zone.expect.limits.records;
    assert_eq!(zone.refused(), Refused::TooManyRecords { limit });
    let mut meter = Meter::new(&zone.expect.limits);
    let (last, rest) = zone.records.split_last().expect("records");
    rest.iter().for_each(|record| meter.count(record).expect("within the limit"));
    assert_eq!(meter.count(last), Err(Refused::TooManyRecords { limit }));

    let octets = write_records(&zone.records).len();
    zone.expect.limits = Limits { octets, ..Limits::default() };
    zone.admit().expect("just enough");
    zone.expect.limits.octets -= 1;
    assert_eq!(zone.refused(), Refused::TooManyOctets { limit: octets - 1 });
    let read = read_records(&write_records(&zone.records).into(), &zone.expect);
    assert_eq!(read, Err(Refused::TooManyOctets { limit: octets - 1 }));
}

#[test]
fn rdata_may_not_grow_too_long_when_its_names_are_whole() {
    let long = format!("{}zone.example", "a-label-of-some-length.".repeat(10));
    let mut octets = write_records(&[a(&long)]);
    // A pointer to that name as the owner and as the signer of an RRSIG, then 65,000 octets of
    // signature; and as the next name of an NSEC, then a bitmap that repeats its first block.
    let blocks = [&[0, 32][..], &[1; 32]].concat();
    for (rtype, head, tail) in [(46_u16, 18, vec![1; 65_515]), (47, 0, blocks.repeat(1_927))] {
        let length = u16::try_from(head + 2 + tail.len()).expect("just fits");
        octets.extend([0xc0, 0]);
        octets.extend(rtype.to_be_bytes());
        octets.extend([0, 1, 0, 0, 0, 60]);
        octets.extend(length.to_be_bytes());
        octets.extend(vec![0; head]);
        octets.extend([0xc0, 0]);
        octets.extend(tail);
        let wire = Bytes::from(octets.clone());
        let refused = read_records(&wire, &plain().expect).expect_err("too long");
        assert!(matches!(refused, Refused::Malformed { .. }), "{refused}");
        octets.truncate(octets.len() - usize::from(length) - 12);
    }
}

#[test]
fn an_rrset_must_fit_into_an_answer() {
    let mut zone = plain();
    for count in 0..=u8::MAX {
        let text = [count; 255];
        let txt = Txt::<Bytes>::build_from_slice(&text).expect("short");
        zone = zone.with(record("big.zone.example", txt));
    }
    assert!(matches!(zone.refused(), Refused::RrsetTooLarge { limit: RRSET_OCTETS, .. }));
    let mut zone = nsec();
    zone.expect.limits.rrset_octets = 200;
    assert!(matches!(zone.refused(), Refused::RrsetTooLarge { limit: 200, .. }));
}

#[test]
fn records_must_be_of_the_zone() {
    for owner in ["example", "other.example", "azone.example", "zone.example.com", "."] {
        let refused = nsec().with(a(owner)).refused();
        let apex = name("zone.example");
        assert_eq!(refused, Refused::OutsideZone { name: name(owner), apex });
    }
    let mut chaos = a("x.zone.example");
    chaos.set_class(Class::CH);
    assert!(matches!(nsec().with(chaos).refused(), Refused::NotIn { class: Class::CH, .. }));
    for rtype in [0, 41, 128, 249, 250, 251, 252, 255] {
        let rtype = Rtype::from_int(rtype);
        let data = UnknownRecordData::from_octets(rtype, Bytes::new()).expect("short");
        let refused = nsec().with(record("x.zone.example", data)).refused();
        assert_eq!(refused, Refused::NotForZones { name: name("x.zone.example"), rtype });
    }
    let zone = nsec();
    let mx = zone.records.iter().find(|record| record.rtype() == Rtype::MX).cloned();
    let twice = zone.with(mx.expect("an MX"));
    assert!(matches!(twice.refused(), Refused::Twice { rtype: Rtype::MX, .. }));
}

fn soa(owner: &str, serial: u32) -> Record {
    let (hour, none) = (Ttl::from_secs(3600), name("."));
    record(owner, Soa::new(none.clone(), none, serial.into(), hour, hour, hour, hour))
}

#[test]
fn the_apex_has_one_soa_and_an_ns() {
    assert_eq!(nsec().without("zone.example", Rtype::SOA).refused(), Refused::NoSoa);
    assert_eq!(nsec().without_name("zone.example").refused(), Refused::NoSoa);
    let empty = Fixture { records: Vec::new(), ..nsec() };
    assert_eq!(empty.refused(), Refused::NoSoa);
    assert_eq!(nsec().with(soa("zone.example", 1)).refused(), Refused::ManySoa);
    let below = nsec().with(soa("x.zone.example", 1)).refused();
    assert_eq!(below, Refused::SoaBelowApex { name: name("x.zone.example") });
    assert_eq!(nsec().without("zone.example", Rtype::NS).refused(), Refused::NoNs);
    let ds = parse("zone.example. 3600 IN DS 1 13 2 00\n").remove(0);
    assert_eq!(nsec().with(ds).refused(), Refused::DsAtApex);
}

#[test]
fn aliases_stand_alone() {
    let refused = plain().with(a("www.zone.example")).refused();
    let www = name("www.zone.example");
    assert_eq!(refused, Refused::CnameBeside { name: www.clone(), rtype: Rtype::A });
    let cname = |owner| record(owner, Cname::new(name("x.example")));
    let refused = plain().with(cname("www.zone.example")).refused();
    assert_eq!(refused, Refused::ManyAliases { name: www, rtype: Rtype::CNAME });
    assert!(matches!(plain().with(cname("zone.example")).refused(), Refused::CnameBeside { .. }));
    assert!(matches!(
        plain().with(cname("old.zone.example")).refused(),
        Refused::CnameBeside { rtype: Rtype::DNAME, .. }
    ));
    let dname = |owner| record(owner, domain::rdata::Dname::new(name("x.example")));
    assert!(matches!(
        plain().with(dname("old.zone.example")).refused(),
        Refused::ManyAliases { rtype: Rtype::DNAME, .. }
    ));
    assert!(matches!(
        plain().with(a("x.y.old.zone.example")).refused(),
        Refused::BelowDname { .. }
    ));
    assert!(matches!(plain().with(dname("zone.example")).refused(), Refused::BelowDname { .. }));
    assert!(matches!(plain().with(dname("ds.zone.example")).refused(), Refused::DnameAtCut { .. }));
    plain().with(a("old.zone.example")).admit().expect("a DNAME may have data beside it");
}

#[test]
fn a_wildcard_is_not_delegated() {
    let refused = plain().with(record("*.x.zone.example", Ns::new(name("ns.example")))).refused();
    assert_eq!(refused, Refused::WildcardCut { name: name("*.x.zone.example") });
}

#[test]
fn an_rrset_has_one_ttl() {
    let mut other = a("mail.zone.example");
    other.set_ttl(Ttl::from_secs(1));
    let refused = plain().with(other).refused();
    assert!(matches!(refused, Refused::Ttls { rtype: Rtype::A, .. }), "{refused}");
}

#[test]
fn serials_go_on() {
    let mut zone = nsec();
    for held in [SERIAL - 1, 1, SERIAL.wrapping_sub(0x7fff_ffff)] {
        zone.expect.previous_serial = Some(held);
        zone.admit().expect("a later serial");
    }
    for held in [SERIAL + 1, SERIAL.wrapping_add(0x7fff_ffff), SERIAL.wrapping_add(1 << 31)] {
        zone.expect.previous_serial = Some(held);
        assert_eq!(zone.refused(), Refused::SerialBack { held, offered: SERIAL });
    }
    zone.expect.previous_serial = Some(SERIAL);
    assert_eq!(zone.refused(), Refused::SerialSame { serial: SERIAL });
}

#[test]
fn the_pinned_key_must_sign() {
    let other = fixture!("nsec-p384");
    let mut zone = nsec();
    zone.expect.trust = other.expect.trust.clone();
    assert_eq!(zone.refused(), Refused::NotPinned);
    zone.expect.trust = Trust::Keys(other.keys());
    assert_eq!(zone.refused(), Refused::NotPinned);
    for none in [Trust::Ds(Vec::new()), Trust::Keys(Vec::new())] {
        zone.expect.trust = none;
        assert_eq!(zone.refused(), Refused::NoAnchor);
    }
    let plain = Fixture { expect: nsec().expect, ..plain() };
    assert_eq!(plain.refused(), Refused::NoKeys);
    // A pinned key in the set that did not sign it: one of the two signatures is taken away.
    let zone = fixture!("nsec-two-keys");
    let (one, two) = (zone.keys()[0].clone(), zone.keys()[1].clone());
    for (pinned, other) in [(&one, &two), (&two, &one)] {
        let mut zone = zone.clone();
        zone.expect.trust = Trust::Keys(vec![pinned.clone()]);
        zone.admit().expect("signed by both");
        zone.records.retain(|record| match record.data() {
            ZoneRecordData::Rrsig(rrsig) if rrsig.type_covered() == Rtype::DNSKEY => {
                rrsig.key_tag() == other.key_tag()
            }
            _ => true,
        });
        assert_eq!(zone.refused(), Refused::KeysNotSigned);
    }
}

#[test]
fn keys_that_make_verification_dear_are_refused() {
    let zone = nsec();
    let key = zone.keys().remove(0);
    let mut octets = key.public_key().to_vec();
    // The tag is a sum of pairs of octets, so it stays when two pairs change places.
    octets.swap(0, 2);
    octets.swap(1, 3);
    let twin = Dnskey::new(257, 3, key.algorithm(), Bytes::from(octets)).expect("short");
    assert_eq!(
        zone.clone().with(record("zone.example", twin)).refused(),
        Refused::SameTag { tag: key.key_tag() }
    );
    let mut many = zone;
    for octet in 0..24 {
        let key = Dnskey::new(256, 3, SecurityAlgorithm::ED25519, Bytes::from(vec![octet; 32]));
        many = many.with(record("zone.example", key.expect("short")));
    }
    assert_eq!(many.refused(), Refused::TooManyKeys { limit: 24 });
}

#[test]
fn what_is_ours_is_signed() {
    let more = nsec().with(txt("mail.zone.example")).refused();
    assert!(matches!(more, Refused::Unsigned { rtype: Rtype::TXT, .. }), "{more}");
    let more = nsec().with(txt("new.zone.example")).refused();
    assert_eq!(more, Refused::Unsigned { name: name("new.zone.example"), rtype: Rtype::TXT });
    let more = nsec().with(txt("zone.example")).refused();
    assert!(matches!(more, Refused::BadSignature { rtype: Rtype::TXT, .. }), "{more}");
    let more = nsec3().with(txt("new.zone.example")).refused();
    assert_eq!(more, Refused::Unsigned { name: name("new.zone.example"), rtype: Rtype::TXT });
    let mut less = nsec();
    less.records.retain(|record| covers(record) != Some(Rtype::DS));
    assert!(matches!(less.refused(), Refused::Unsigned { rtype: Rtype::DS, .. }));
    let mut less = fixture!("nsec-two-algorithms");
    less.records.retain(|record| match record.data() {
        ZoneRecordData::Rrsig(rrsig) => {
            rrsig.type_covered() != Rtype::CAA || rrsig.algorithm() != SecurityAlgorithm::ED25519
        }
        _ => true,
    });
    assert_eq!(
        less.refused(),
        Refused::AlgorithmMissing { name: name("zone.example"), rtype: Rtype::CAA, algorithm: 15 }
    );
}

#[test]
fn what_is_not_ours_is_not_signed() {
    let zone = nsec();
    let rrsig = |covered| {
        let found = zone.records.iter().find(|record| covers(record) == Some(covered));
        found.cloned().expect("signed")
    };
    let moved = |covered, owner| {
        let rrsig = rrsig(covered);
        Record::new(name(owner), Class::IN, rrsig.ttl(), rrsig.into_data())
    };
    for (covered, owner) in [
        (Rtype::A, "ns.ds.zone.example"),
        (Rtype::AAAA, "ns.ds.zone.example"),
        (Rtype::NS, "ds.zone.example"),
        (Rtype::A, "plain.zone.example"),
    ] {
        let refused = zone.clone().with(moved(covered, owner)).refused();
        assert_eq!(refused, Refused::SignedNotOurs { name: name(owner), rtype: covered });
    }
    let refused = zone.clone().with(moved(Rtype::MX, "www.zone.example")).refused();
    let www = name("www.zone.example");
    assert_eq!(refused, Refused::SignatureOfNothing { name: www, rtype: Rtype::MX });
}

#[test]
fn signatures_are_of_now() {
    let zone = nsec();
    zone.admit_at(BEGIN).expect("just begun");
    assert!(matches!(zone.admit_at(BEGIN - 1), Err(Refused::NotYetValid { .. })));
    let day = 86_400;
    zone.admit_at(END - day).expect("a day left");
    let least = u32::try_from(day).expect("small");
    let soon = zone.admit_at(END - day + 1);
    assert!(matches!(soon, Err(Refused::EndsSoon { left, .. }) if left == least - 1));
    assert!(matches!(zone.admit_at(END + 1), Err(Refused::Expired { .. })));
    let mut again = zone;
    again.expect.limits.remaining_lifetime = Some(0);
    again.admit_at(END).expect("the last second");
    assert!(matches!(again.admit_at(END + 1), Err(Refused::Expired { .. })));
    again.expect.limits.remaining_lifetime = None;
    assert_eq!(again.admit_at(END + 1).expect("loaded again").valid_until, Some(END));
}

#[test]
fn fields_of_signatures_fit() {
    use domain::rdata::Rrsig;
    let with = |change: fn(&Rrsig<Bytes, Name>) -> (u8, Ttl, Name)| {
        nsec().change(
            |record| covers(record) == Some(Rtype::MX),
            |record| {
                let ZoneRecordData::Rrsig(rrsig) = record.data().clone() else { return };
                let (labels, ttl, signer) = change(&rrsig);
                let changed = Rrsig::new(
                    rrsig.type_covered(),
                    rrsig.algorithm(),
                    labels,
                    ttl,
                    rrsig.expiration(),
                    rrsig.inception(),
                    rrsig.key_tag(),
                    signer,
                    rrsig.signature().clone(),
                );
                *record.data_mut() = changed.expect("short").into();
            },
        )
    };
    let of = |field| Refused::Field { name: name("zone.example"), rtype: Rtype::MX, field };
    let zone = with(|rrsig| (1, rrsig.original_ttl(), rrsig.signer_name().clone()));
    assert_eq!(zone.refused(), of(Field::Labels));
    let zone = with(|rrsig| (2, Ttl::from_secs(7200), rrsig.signer_name().clone()));
    assert_eq!(zone.refused(), of(Field::Ttl));
    let zone = with(|rrsig| (2, rrsig.original_ttl(), name("example")));
    assert_eq!(zone.refused(), of(Field::Signer));
    // A lower TTL is right in a cache and wrong in a zone.
    let zone = nsec()
        .change(|record| record.rtype() == Rtype::MX, |record| record.set_ttl(Ttl::from_secs(60)));
    assert_eq!(zone.refused(), of(Field::Ttl));
    let zone = nsec().change(
        |record| covers(record) == Some(Rtype::MX),
        |record| record.set_ttl(Ttl::from_secs(60)),
    );
    assert_eq!(zone.refused(), of(Field::Ttl));
}

#[test]
fn signatures_of_others_are_passed_over() {
    let zone = nsec();
    let found = zone.records.iter().find(|record| covers(record) == Some(Rtype::MX)).cloned();
    let ZoneRecordData::Rrsig(rrsig) = found.expect("signed").into_data() else {
        panic!("an RRSIG");
    };
    let by = |algorithm, tag| {
        let signature = Bytes::from_static(&[7; 64]);
        let rrsig = domain::rdata::Rrsig::new(
            rrsig.type_covered(),
            algorithm,
            rrsig.labels(),
            rrsig.original_ttl(),
            rrsig.expiration(),
            rrsig.inception(),
            tag,
            rrsig.signer_name().clone(),
            signature,
        );
        zone.clone().with(record("zone.example", rrsig.expect("short")))
    };
    // Signatures come before their key in an algorithm's rollover (RFC 6781 section 4.1.4).
    by(SecurityAlgorithm::ED25519, rrsig.key_tag()).admit().expect("a key to come");
    by(SecurityAlgorithm::ED448, 1).admit().expect("an algorithm that is not known");
    let tag = rrsig.key_tag();
    let refused = by(rrsig.algorithm(), tag).refused();
    let apex = name("zone.example");
    assert_eq!(refused, Refused::BadSignature { name: apex, rtype: Rtype::MX, tag });
}

#[test]
fn the_key_that_signs_the_rest_is_not_pinned() {
    let mut zone = fixture!("nsec-split");
    let zone_key = zone.keys().into_iter().find(|key| !key.is_secure_entry_point());
    zone.expect.trust = Trust::Keys(vec![zone_key.expect("a zone key")]);
    assert_eq!(zone.refused(), Refused::KeysNotSigned);
}

#[test]
fn too_many_signatures_are_refused() {
    let mut zone = nsec();
    let rrsig = zone.records.iter().find(|record| covers(record) == Some(Rtype::SOA));
    let ZoneRecordData::Rrsig(rrsig) = rrsig.expect("signed").data().clone() else {
        panic!("an RRSIG");
    };
    for octet in 0..8 {
        let mut rrsig = rrsig.clone();
        rrsig.set_signature(Bytes::from(vec![octet; 64]));
        zone = zone.with(record("zone.example", rrsig));
    }
    assert!(matches!(zone.refused(), Refused::TooManySignatures { limit: 8, .. }));
}

#[test]
fn a_zone_without_keys_has_nothing_of_dnssec() {
    for (zone, fixture) in whole() {
        let refused = fixture.unsigned_allowed().without("zone.example", Rtype::DNSKEY).refused();
        assert!(matches!(refused, Refused::WithoutKeys { .. }), "{zone}: {refused}");
    }
}

#[test]
fn the_nsec_chain_is_whole_and_exact() {
    let mail = || name("Mail.zone.example");
    let refused = nsec().without("mail.zone.example", Rtype::NSEC).refused();
    assert_eq!(refused, Refused::NsecMissing { name: mail() });
    let refused = nsec().without("plain.zone.example", Rtype::NSEC).refused();
    assert_eq!(refused, Refused::NsecMissing { name: name("plain.zone.example") });
    // A type that the bitmap knows, and a name that the chain knows, are gone.
    let refused = nsec().without("zone.example", Rtype::CAA).refused();
    assert_eq!(refused, Refused::Types { name: name("zone.example"), rtype: Rtype::NSEC });
    let refused = nsec().without("ds.zone.example", Rtype::DS).refused();
    assert_eq!(refused, Refused::Types { name: name("ds.zone.example"), rtype: Rtype::NSEC });
    let refused = nsec().without_name("naptr.zone.example").refused();
    assert!(matches!(refused, Refused::NextName { rtype: Rtype::NSEC, .. }), "{refused}");
    // The last name is gone, so the chain does not come back to the apex.
    let refused = nsec().without_name("y.mixed.zone.example").refused();
    assert!(matches!(refused, Refused::NextName { .. }), "{refused}");
    // A delegation from nowhere needs no signature, but an NSEC.
    let refused = nsec().with(record("new.zone.example", Ns::new(name("ns.example")))).refused();
    assert_eq!(refused, Refused::NsecMissing { name: name("new.zone.example") });
    let mut none = nsec();
    none.records.retain(|r| r.rtype() != Rtype::NSEC && covers(r) != Some(Rtype::NSEC));
    assert_eq!(none.refused(), Refused::NoDenial);
    let zone = nsec();
    let nsec = zone.records.iter().find(|record| record.rtype() == Rtype::NSEC).cloned();
    let mut below = nsec.expect("an NSEC");
    below = Record::new(name("ns.ds.zone.example"), Class::IN, below.ttl(), below.into_data());
    let refused = zone.with(below).refused();
    assert_eq!(refused, Refused::NsecNotOurs { name: name("ns.ds.zone.example") });
}

#[test]
fn the_nsec3_chain_is_whole_and_exact() {
    for zone in [nsec3(), fixture!("nsec3-p256-zonemd"), fixture!("nsec3-optout-p256")] {
        let refused = zone.clone().without("zone.example", Rtype::CAA).refused();
        assert_eq!(refused, Refused::Types { name: name("zone.example"), rtype: Rtype::NSEC3 });
        let refused = zone.clone().without_name("naptr.zone.example").refused();
        assert!(matches!(refused, Refused::Nsec3Stray { .. }), "{refused}");
        // With this name three empty non-terminals go; their NSEC3 are left over.
        let refused = zone.clone().without_name("a.b.c.deep.zone.example").refused();
        assert!(matches!(refused, Refused::Nsec3Stray { .. }), "{refused}");
        let refused = zone.clone().without("zone.example", Rtype::NSEC3PARAM).refused();
        assert_eq!(refused, Refused::Nsec3Param);
        let hashes = zone.records.iter().filter(|record| record.rtype() == Rtype::NSEC3);
        for hash in hashes {
            let refused = zone.clone().without_name(&hash.owner().to_string()).refused();
            assert!(matches!(refused, Refused::NextName { rtype: Rtype::NSEC3, .. }), "{refused}");
        }
        let both = nsec().records.into_iter().find(|record| record.rtype() == Rtype::NSEC);
        let refused = zone.with(both.expect("an NSEC")).refused();
        assert!(matches!(refused, Refused::Unsigned { .. } | Refused::BothDenials), "{refused}");
    }
    let refused = fixture!("nsec3-iterations").refused();
    assert_eq!(refused, Refused::Iterations(crate::zone::TooManyIterations(101)));
    let delegation = || record("new.zone.example", Ns::new(name("ns.example")));
    let refused = nsec3().with(delegation()).refused();
    assert_eq!(refused, Refused::Nsec3Missing { name: name("new.zone.example") });
    // Opt-out is there so that insecure delegations come and go without the chain.
    let zone = fixture!("nsec3-optout-p256").with(delegation());
    zone.clone().admit().expect("covered by opt-out");
    zone.clone()
        .with(record("ns.new.zone.example", A::from_octets(1, 2, 3, 4)))
        .admit()
        .expect("with glue");
    zone.with(record("x.y.away.zone.example", Ns::new(name("ns.example"))))
        .admit()
        .expect("below an empty non-terminal that is left out too");
}

#[test]
fn denial_chains_are_not_mixed() {
    let nsec3 = nsec3();
    let parameters = nsec3.records.iter().find(|record| record.rtype() == Rtype::NSEC3PARAM);
    let content = nsec().with(parameters.cloned().expect("an NSEC3PARAM"));
    let limits = Limits::default();
    let content = Content::new(&content.apex, &content.records, &limits).expect("well-formed");
    assert_eq!(denial::check(&content), Err(Refused::BothDenials));
}

#[test]
fn names_to_hash_are_bounded() {
    let mut zone = nsec3();
    let deep = |first: &str| format!("{first}.{}zone.example", "x.".repeat(100));
    for first in 0..8 {
        let (head, tail) = (format!("n{first}"), deep("a").replace("x.", &format!("{first}.")));
        zone = zone.with(record(&format!("{head}.{tail}"), Ns::new(name("ns.example"))));
    }
    assert!(matches!(zone.refused(), Refused::TooManyNames { .. }));
}

#[test]
fn a_zonemd_covers_what_signatures_do_not() {
    for zone in [fixture!("nsec-p256-zonemd"), fixture!("nsec3-p256-zonemd")] {
        let refused = zone.clone().without_name("ns.plain.zone.example").refused();
        assert_eq!(refused, Refused::ZonemdDigest { algorithm: 1 });
        let refused = zone.clone().with(a("ns.plain.zone.example")).refused();
        assert_eq!(refused, Refused::ZonemdDigest { algorithm: 1 });
        let refused = zone
            .change(
                |record| *record.owner() == name("ns.plain.zone.example"),
                |record| record.set_ttl(Ttl::from_secs(3601)),
            )
            .refused();
        assert_eq!(refused, Refused::ZonemdDigest { algorithm: 1 });
    }
    let zonemd = |text: &str| parse(&format!("zone.example. 3600 IN ZONEMD {text}\n")).remove(0);
    let digest = "00".repeat(48);
    let other = plain().with(zonemd(&format!("2026010101 1 1 {digest}"))).refused();
    assert_eq!(other, Refused::ZonemdSerial { zonemd: SERIAL + 1, serial: SERIAL });
    let wrong = zonemd(&format!("2026010100 1 1 {digest}"));
    let other = plain().with(wrong.clone()).refused();
    assert_eq!(other, Refused::ZonemdDigest { algorithm: 1 });
    for unknown in ["2026010100 2 1", "2026010100 1 3", "1 240 1"] {
        plain().with(zonemd(&format!("{unknown} {digest}"))).admit().expect("passed over");
    }
    let right = fixture!("nsec-p256-zonemd").records.into_iter();
    let right = right.filter(|record| record.rtype() == Rtype::ZONEMD);
    let mut twice = fixture!("nsec-p256-zonemd").unsigned_allowed();
    twice.records.extend(right.filter_map(|mut record| {
        let ZoneRecordData::Zonemd(zonemd) = record.data().clone() else { return None };
        let digest = Bytes::from(vec![0; zonemd.digest().len()]);
        let (serial, scheme) = (zonemd.serial(), zonemd.scheme());
        *record.data_mut() =
            domain::rdata::Zonemd::new(serial, scheme, zonemd.algorithm(), digest).into();
        Some(record)
    }));
    let limits = Limits::default();
    let content = Content::new(&twice.apex, &twice.records, &limits).expect("well-formed");
    let refused = zonemd::check(&content, SERIAL);
    assert!(matches!(refused, Err(Refused::ZonemdDigest { .. } | Refused::ZonemdTwice { .. })));
}

/// What signatures cannot cover: see the module's docs.
fn is_uncovered(record: &Record) -> bool {
    let at_or_below_cut = ["ds", "plain", "far.away", "x.mixed"]
        .iter()
        .any(|cut| record.owner().ends_with(&name(&format!("{cut}.zone.example"))));
    at_or_below_cut && matches!(record.rtype(), Rtype::NS | Rtype::A | Rtype::AAAA)
}

/// Whether two zones are the same but for the case of names.
fn are_one(apex: &Name, one: &[Record], other: &[Record]) -> bool {
    let limits = Limits::default();
    let seal = |records: &[Record]| {
        let content = Content::new(apex, records, &limits).ok()?;
        Some(Seal::of(apex, &content, &Trust::Unsigned))
    };
    seal(one) == seal(other)
}

/// Flips a bit of the zone's octets; whether what comes of it is admitted as something else.
fn is_let_in_with(zone: &Fixture, octets: &[u8], bit: usize) -> Option<Vec<Record>> {
    let mut octets = octets.to_vec();
    octets[bit / 8] ^= 1 << (bit % 8);
    let octets = Bytes::from(octets);
    let admitted = admit_octets(&zone.apex, &octets, &zone.expect, NOW);
    let records = read_records(&octets, &zone.expect).ok()?;
    (admitted.is_ok() && !are_one(&zone.apex, &zone.records, &records)).then_some(records)
}

#[test]
fn a_bit_flipped_in_any_record_is_noticed() {
    for (zone, fixture) in [
        ("nsec-p256-zonemd", fixture!("nsec-p256-zonemd")),
        ("nsec3-optout-p256", fixture!("nsec3-optout-p256")),
        ("nsec-rsa256", fixture!("nsec-rsa256")),
        ("nsec-ed25519", fixture!("nsec-ed25519")),
    ] {
        let octets = write_records(&fixture.records);
        let mut at = 0;
        for record in &fixture.records {
            let length = write_records(std::slice::from_ref(record)).len();
            // The last octet is RDATA or the end of a name; the one before the middle is anything.
            for bit in [(at + length) * 8 - 1, (at + length / 2) * 8, (at + length) * 8 - 4] {
                if is_let_in_with(&fixture, &octets, bit).is_some() {
                    assert!(is_uncovered(record) && !zone.ends_with("zonemd"), "{zone}: {record}");
                }
            }
            at += length;
        }
    }
}

/// A generator of our own, so that a failure comes again.
fn numbers(mut state: u64) -> impl Iterator<Item = usize> {
    std::iter::repeat_with(move || {
        // Knuth's MMIX generator; its high bits are good enough here.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits")
    })
}

#[test]
fn ten_thousand_flipped_bits_are_noticed() {
    // Small zones, since a flip costs all the signatures before it; the large ones get a share.
    for (zone, fixture, flips) in [
        ("small-nsec", fixture!("small-nsec"), 5_000),
        ("small-nsec3", fixture!("small-nsec3"), 4_500),
        ("nsec-p256-zonemd", fixture!("nsec-p256-zonemd"), 250),
        ("nsec3-p256-zonemd", fixture!("nsec3-p256-zonemd"), 250),
    ] {
        let octets = write_records(&fixture.records);
        for number in numbers(1).take(flips) {
            let bit = number % (octets.len() * 8);
            assert!(is_let_in_with(&fixture, &octets, bit).is_none(), "{zone}, bit {bit}");
        }
    }
}

#[test]
fn without_zonemd_only_what_signatures_leave_open_can_change() {
    const FLIPS: usize = 500;
    for (zone, fixture) in [("nsec-p256", nsec()), ("nsec3-p256", nsec3())] {
        let octets = write_records(&fixture.records);
        for number in numbers(2).take(FLIPS) {
            let bit = number % (octets.len() * 8);
            let Some(records) = is_let_in_with(&fixture, &octets, bit) else { continue };
            for (one, other) in fixture.records.iter().zip(&records) {
                let same = write_records(std::slice::from_ref(one))
                    .eq_ignore_ascii_case(&write_records(std::slice::from_ref(other)));
                assert!(same || is_uncovered(one), "{zone}, bit {bit}: {one} became {other}");
            }
        }
    }
}

#[test]
fn nothing_is_too_strange_to_be_refused() {
    for zone in [nsec(), nsec3(), fixture!("small-nsec3")] {
        strange(&zone);
    }
}

fn strange(zone: &Fixture) {
    let octets = write_records(&zone.records);
    for number in numbers(3).take(600) {
        let mut octets = octets.clone();
        let (at, with) = (number % octets.len(), number >> 8);
        match number % 4 {
            0 => octets.truncate(at),
            1 => octets.insert(at, with.to_le_bytes()[0]),
            2 => {
                octets.remove(at);
            }
            _ => octets.rotate_left(at),
        }
        exercise(&octets);
        let octets = Bytes::from(octets);
        let unsigned = Expect { trust: Trust::Unsigned, ..zone.expect.clone() };
        let _ = admit_octets(&zone.apex, &octets, &unsigned, NOW);
        if let Ok(records) = read_records(&octets, &zone.expect) {
            let admitted = admit(&zone.apex, &records, &zone.expect, NOW);
            assert!(admitted.is_err() || are_one(&zone.apex, &zone.records, &records));
        }
    }
}
