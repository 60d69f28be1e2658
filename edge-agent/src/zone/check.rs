//! Whether a signed zone is right, by code that did not sign it: hickory's names, order, records and
//! signatures against what was made with `domain`'s.
//!
//! A zone that is signed wrongly takes the whole domain away from everybody who validates. So no
//! zone leaves the box before each of its signatures, its chain of names and the DS for its parent
//! were verified here.
//!
//! Of the signer's own code only the conversion to octets is shared, because hickory does not know
//! all types: what it does not know, or would write differently, is opaque to it.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{Context, Digest, SHA384};
use bytes::Bytes;
use domain::base::Serial;
use domain::base::iana::{ZonemdAlgorithm, ZonemdScheme};
use domain::base::name::ToName;
use domain::rdata::Ds;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC3, RRSIG};
use hickory_proto::dnssec::{Nsec3HashAlgorithm, Verifier};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{
    BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding, Restrict,
};
use sealpost_dns::record::{Data, Name as ZoneName, Record as ZoneRecord};

use super::canonical;

/// What was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Record sets that are the zone's own.
    pub sets: usize,
    /// Signatures over them.
    pub signatures: usize,
    /// Names in the chain.
    pub names: usize,
}

/// What is wrong with a zone. All of them are faults of the signer, never of its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signed zone is wrong at {name}: {fault}. It was not published, the last one stays")]
pub struct CheckError {
    /// Where.
    pub name: String,
    /// What.
    pub fault: Fault,
}

/// How a zone can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A record cannot be read.
    #[error("a {0} record cannot be read")]
    Unreadable(RecordType),
    /// A record of another zone.
    #[error("the name is outside the zone")]
    Outside,
    /// Not one SOA.
    #[error("there is not exactly one SOA record")]
    Soa,
    /// A set without a signature.
    #[error("the {0} records have no signature")]
    Unsigned(RecordType),
    /// A signature that does not verify, of a key that is not there or of another time.
    #[error("a signature over the {0} records does not verify")]
    Signature(RecordType),
    /// A signature over what is not there, or not the zone's own.
    #[error("there is a signature over {0} records that there should not be")]
    Excess(RecordType),
    /// The TTLs of a set differ.
    #[error("the {0} records have more than one TTL")]
    Ttl(RecordType),
    /// The parent's DS leads to no key that signs the keys.
    #[error("no key that the DS records name signs the {0} records")]
    Ds(RecordType),
    /// The chain of names.
    #[error("the chain of names is broken")]
    Chain,
    /// Both kinds of chain, or none.
    #[error("there is not exactly one kind of chain")]
    Chains,
    /// The digest of the zone.
    #[error("the digest of the zone is wrong")]
    Digest,
}

/// The type of a zone's digest, which hickory does not know.
const ZONEMD: u16 = 63;

type Types = BTreeMap<RecordType, Vec<Record>>;
type Signatures<'a> = BTreeMap<RecordType, Vec<Signature<'a>>>;

/// A signature, and the TTL of its record.
struct Signature<'a> {
    rrsig: &'a RRSIG,
    ttl: u32,
}

/// A name that the chain has to tell of.
struct Told<'a> {
    name: &'a Name,
    types: BTreeSet<RecordType>,
    /// Whether anything there is signed.
    signed: bool,
}

/// Verifies a whole zone at `now`, in seconds since 1970, against what its parent says or will say.
pub fn verify(
    apex: &ZoneName,
    records: &[ZoneRecord],
    ds: &[Ds<Bytes>],
    now: u64,
) -> Result<Verified, CheckError> {
    let zone = View::read(apex, records)?;
    let keys = zone.keys()?;
    let entries = zone.entries(&keys, ds)?;
    let mut verified = Verified { sets: 0, signatures: 0, names: 0 };
    let mut told = Vec::new();
    let mut cut: Option<&Name> = None;
    for (name, types) in &zone.nodes {
        let below = cut.is_some_and(|cut| cut.zone_of(name));
        let is_cut = !below && types.contains_key(&RecordType::NS) && *name != zone.apex;
        if is_cut {
            cut = Some(name);
        }
        let own = |rtype: RecordType| match rtype {
            RecordType::DS | RecordType::NSEC => !below,
            _ => !below && !is_cut,
        };
        let known = |rtype: RecordType| own(rtype) || (is_cut && rtype == RecordType::NS);
        let signatures = zone.signatures(name)?;
        let excess = signatures.keys().find(|rtype| !types.contains_key(rtype) || !own(**rtype));
        if let Some(rtype) = excess {
            return Err(fault(name, Fault::Excess(*rtype)));
        }
        for (rtype, set) in types.iter().filter(|(rtype, _)| own(**rtype)) {
            let over = signatures.get(rtype).map(Vec::as_slice).unwrap_or_default();
            let signers = zone.signers(name, *rtype, set, over, &keys, now)?;
            let list = [RecordType::DNSKEY, RecordType::CDS, RecordType::CDNSKEY];
            if list.contains(rtype) && *name == zone.apex && signers.is_disjoint(&entries) {
                return Err(fault(name, Fault::Ds(*rtype)));
            }
            verified.sets += 1;
            verified.signatures += over.len();
        }
        // NSEC3 records stand at names of their own, which the chain does not tell of.
        let hashed = types.len() == 1 && types.contains_key(&RecordType::NSEC3);
        if !below && !hashed {
            let shown: BTreeSet<_> = types.keys().copied().filter(|rtype| known(*rtype)).collect();
            told.push(Told { name, types: shown, signed: !signatures.is_empty() });
        }
    }
    verified.names = zone.chain(&told)?;
    zone.digest(apex, records)?;
    Ok(verified)
}

fn fault(name: &Name, fault: Fault) -> CheckError {
    CheckError { name: name.to_string(), fault }
}

/// A zone as hickory sees it.
struct View {
    apex: Name,
    /// All records but signatures. The order of names is the canonical one.
    nodes: BTreeMap<Name, Types>,
    signatures: BTreeMap<Name, Vec<Record>>,
}

impl View {
    fn read(apex: &ZoneName, records: &[ZoneRecord]) -> Result<Self, CheckError> {
        let root = |kind| fault(&Name::root(), kind);
        let unnamed = || root(Fault::Outside);
        let apex = Name::from_bytes(&canonical::name(apex)).map_err(|_| unnamed())?;
        let mut zone = Self { apex, nodes: BTreeMap::new(), signatures: BTreeMap::new() };
        for record in records {
            let record = read(record).ok_or_else(|| {
                root(Fault::Unreadable(RecordType::from(record.rtype().to_int())))
            })?;
            if !zone.apex.zone_of(&record.name) {
                return Err(fault(&record.name, Fault::Outside));
            }
            let (name, rtype) = (record.name.clone(), record.record_type());
            match rtype {
                RecordType::RRSIG => zone.signatures.entry(name).or_default().push(record),
                _ => {
                    let types = zone.nodes.entry(name).or_default();
                    types.entry(rtype).or_default().push(record);
                }
            }
        }
        let lonely = zone.signatures.keys().find(|name| !zone.nodes.contains_key(name));
        if let Some(name) = lonely {
            return Err(fault(name, Fault::Excess(RecordType::ANY)));
        }
        let soas = zone.nodes.values().filter_map(|types| types.get(&RecordType::SOA));
        let at_apex = zone.set(RecordType::SOA).len();
        if soas.map(Vec::len).sum::<usize>() != 1 || at_apex != 1 {
            return Err(fault(&zone.apex, Fault::Soa));
        }
        Ok(zone)
    }

    /// A record set of the apex.
    fn set(&self, rtype: RecordType) -> &[Record] {
        let types = self.nodes.get(&self.apex);
        types.and_then(|types| types.get(&rtype)).map(Vec::as_slice).unwrap_or_default()
    }

    fn signatures(&self, name: &Name) -> Result<Signatures<'_>, CheckError> {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in self.signatures.get(name).into_iter().flatten() {
            let RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) = &record.data else {
                return Err(fault(name, Fault::Unreadable(RecordType::RRSIG)));
            };
            found
                .entry(rrsig.input().type_covered)
                .or_default()
                .push(Signature { rrsig, ttl: record.ttl });
        }
        Ok(found)
    }

    /// The zone's keys, with their tags.
    fn keys(&self) -> Result<Vec<(u16, &DNSKEY)>, CheckError> {
        let unreadable = || fault(&self.apex, Fault::Unreadable(RecordType::DNSKEY));
        let keys = self.set(RecordType::DNSKEY).iter().map(|record| {
            let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = &record.data else {
                return Err(unreadable());
            };
            Ok((key.calculate_key_tag().map_err(|_| unreadable())?, key))
        });
        keys.collect()
    }

    /// The places of those keys that the parent's DS name. Each DS must name one.
    fn entries(
        &self,
        keys: &[(u16, &DNSKEY)],
        ds: &[Ds<Bytes>],
    ) -> Result<BTreeSet<usize>, CheckError> {
        let wrong = || fault(&self.apex, Fault::Ds(RecordType::DNSKEY));
        let mut places = BTreeSet::new();
        for ds in ds {
            let mut octets = Vec::new();
            let Ok(()) = domain::base::rdata::ComposeRecordData::compose_rdata(ds, &mut octets);
            let length = u16::try_from(octets.len()).map_err(|_| wrong())?;
            let mut decoder = BinDecoder::new(&octets);
            let data = RData::read(&mut decoder, RecordType::DS, Restrict::new(length));
            let Ok(RData::DNSSEC(DNSSECRData::DS(ds))) = data else { return Err(wrong()) };
            places.insert(self.entry(keys, &ds).ok_or_else(wrong)?);
        }
        if places.is_empty() { Err(wrong()) } else { Ok(places) }
    }

    fn entry(&self, keys: &[(u16, &DNSKEY)], ds: &DS) -> Option<usize> {
        keys.iter().position(|(tag, key)| {
            *tag == ds.key_tag()
                && key.algorithm() == ds.algorithm()
                && ds.covers(&self.apex, key).unwrap_or(false)
        })
    }

    /// The places of the keys that signed a set. All of its signatures must be right.
    fn signers(
        &self,
        name: &Name,
        rtype: RecordType,
        set: &[Record],
        signatures: &[Signature<'_>],
        keys: &[(u16, &DNSKEY)],
        now: u64,
    ) -> Result<BTreeSet<usize>, CheckError> {
        let ttl = set[0].ttl;
        if set.iter().any(|record| record.ttl != ttl) {
            return Err(fault(name, Fault::Ttl(rtype)));
        }
        if signatures.is_empty() {
            return Err(fault(name, Fault::Unsigned(rtype)));
        }
        let signer = |Signature { rrsig, ttl: own_ttl }: &Signature<'_>| {
            let input = rrsig.input();
            // Compared as serials are (RFC 4034 section 3.1.5).
            let now = Serial(now as u32);
            let begun = Serial(input.sig_inception.get()) <= now;
            let ended = Serial(input.sig_expiration.get()) <= now;
            let fits = input.signer_name == self.apex
                && input.original_ttl == ttl
                && *own_ttl == ttl
                && input.num_labels == name.num_labels()
                && begun
                && !ended;
            let right = |(tag, key): &(u16, &DNSKEY)| {
                *tag == input.key_tag
                    && key.zone_key()
                    && !key.revoke()
                    && key.algorithm() == input.algorithm
                    && key.verify_rrsig(name, DNSClass::IN, rrsig, set.iter()).is_ok()
            };
            let place = keys.iter().position(right).filter(|_| fits);
            place.ok_or_else(|| fault(name, Fault::Signature(rtype)))
        };
        signatures.iter().map(signer).collect()
    }

    /// Verifies the chain over all names that it has to tell of.
    fn chain(&self, told: &[Told<'_>]) -> Result<usize, CheckError> {
        let mut kinds = self.nodes.values().flat_map(|types| types.keys());
        let nsec = kinds.clone().any(|rtype| *rtype == RecordType::NSEC);
        let nsec3 = kinds.any(|rtype| *rtype == RecordType::NSEC3);
        match (nsec, nsec3) {
            (true, false) => self.nsec(told),
            (false, true) => self.nsec3(told),
            _ => Err(fault(&self.apex, Fault::Chains)),
        }
    }

    fn nsec(&self, told: &[Told<'_>]) -> Result<usize, CheckError> {
        let nexts = told.iter().cycle().skip(1);
        for (Told { name, types, .. }, next) in told.iter().zip(nexts) {
            let set = self.nodes.get(*name).and_then(|types| types.get(&RecordType::NSEC));
            let [record] = set.map(Vec::as_slice).unwrap_or_default() else {
                return Err(fault(name, Fault::Chain));
            };
            let RData::DNSSEC(DNSSECRData::NSEC(nsec)) = &record.data else {
                return Err(fault(name, Fault::Chain));
            };
            let mut types = types.clone();
            types.insert(RecordType::RRSIG);
            let right = nsec.next_domain_name() == next.name && nsec.type_bit_maps().eq(types);
            if !right {
                return Err(fault(name, Fault::Chain));
            }
        }
        Ok(told.len())
    }

    fn nsec3(&self, told: &[Told<'_>]) -> Result<usize, CheckError> {
        let broken = |name: &Name| fault(name, Fault::Chain);
        // What the chain should tell, by hash; names in between have nothing.
        let mut wanted: BTreeMap<Vec<u8>, (&Name, BTreeSet<RecordType>)> = BTreeMap::new();
        let hash = |name: &Name| {
            let hash = Nsec3HashAlgorithm::SHA1.hash(&[], name, 0);
            hash.map(|hash| hash.as_ref().to_vec()).map_err(|_| broken(name))
        };
        for Told { name, types, signed } in told {
            let mut types = types.clone();
            if *signed {
                types.insert(RecordType::RRSIG);
            }
            wanted.insert(hash(name)?, (*name, types));
            let mut above = name.base_name();
            while **name != self.apex && above != self.apex {
                wanted.entry(hash(&above)?).or_insert_with(|| (*name, BTreeSet::new()));
                above = above.base_name();
            }
        }
        // Each record is found by the hash that it leads to.
        let mut leads: BTreeMap<&[u8], (&Name, &NSEC3)> = BTreeMap::new();
        for (name, types) in &self.nodes {
            for record in types.get(&RecordType::NSEC3).into_iter().flatten() {
                let RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) = &record.data else {
                    return Err(broken(name));
                };
                let plain =
                    nsec3.iterations() == 0 && nsec3.salt().is_empty() && nsec3.flags() == 0;
                let doubled = leads.insert(nsec3.next_hashed_owner_name(), (name, nsec3));
                if !plain || doubled.is_some() {
                    return Err(broken(name));
                }
            }
        }
        if leads.len() != wanted.len() {
            return Err(broken(&self.apex));
        }
        let hashes: Vec<_> = wanted.keys().collect();
        for (place, (hash, (name, types))) in wanted.iter().enumerate() {
            let next = hashes[(place + 1) % hashes.len()];
            let (owner, nsec3) = leads.get(next.as_slice()).ok_or_else(|| broken(name))?;
            // The record that leads here has this hash as a label.
            let label = leads
                .get(hash.as_slice())
                .and_then(|(_, nsec3)| nsec3.next_hashed_owner_name_base32());
            let expected = label.and_then(|label| self.apex.prepend_label(label.clone()).ok());
            if expected.as_ref() != Some(*owner) || !nsec3.type_bit_maps().eq(types.iter().copied())
            {
                return Err(broken(name));
            }
        }
        Ok(wanted.len())
    }

    /// Verifies the digest of the zone, if it carries one.
    fn digest(&self, apex: &ZoneName, records: &[ZoneRecord]) -> Result<(), CheckError> {
        let wrong = || fault(&self.apex, Fault::Digest);
        let mut digests = records.iter().filter_map(|record| match record.data() {
            Data::Zonemd(found) if record.owner().name_eq(apex) => Some(found),
            _ => None,
        });
        let Some(found) = digests.next() else { return Ok(()) };
        let RData::SOA(soa) = &self.set(RecordType::SOA)[0].data else { return Err(wrong()) };
        let right = found.serial() == Serial(soa.serial)
            && found.scheme() == ZonemdScheme::SIMPLE
            && found.algorithm() == ZonemdAlgorithm::SHA384
            && self.sha384().is_some_and(|digest| digest.as_ref() == found.digest().as_ref())
            && digests.next().is_none();
        if right { Ok(()) } else { Err(wrong()) }
    }

    /// The digest over all records but itself (RFC 8976 section 3).
    fn sha384(&self) -> Option<Digest> {
        let mut context = Context::new(&SHA384);
        for (name, types) in &self.nodes {
            let mut sets: BTreeMap<u16, Vec<&Record>> = BTreeMap::new();
            let signatures = self.signatures.get(name).into_iter().flatten();
            for record in types.values().flatten().chain(signatures) {
                let covers = match &record.data {
                    RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => rrsig.input().type_covered,
                    _ => record.record_type(),
                };
                if u16::from(covers) != ZONEMD || *name != self.apex {
                    sets.entry(record.record_type().into()).or_default().push(record);
                }
            }
            for set in sets.into_values() {
                let keyed = set.into_iter().map(|record| Some((written(&record.data)?, record)));
                let mut keyed = keyed.collect::<Option<Vec<_>>>()?;
                keyed.sort_by(|(left, _), (right, _)| left.cmp(right));
                for (_, record) in keyed {
                    context.update(&written(record)?);
                }
            }
        }
        Some(context.finish())
    }
}

/// A record in hickory's form. Data that it cannot read, or would write differently, is opaque.
fn read(record: &ZoneRecord) -> Option<Record> {
    let name = Name::from_bytes(&canonical::name(record.owner())).ok()?;
    let rtype = RecordType::from(record.rtype().to_int());
    let octets = canonical::data(record);
    let length = u16::try_from(octets.len()).ok()?;
    let known = RData::read(&mut BinDecoder::new(&octets), rtype, Restrict::new(length)).ok();
    let same = |data: &RData| data.record_type() == rtype && written(data) == Some(octets.clone());
    let data = match known.filter(same) {
        Some(data) => data,
        None => RData::Unknown { code: rtype, rdata: NULL::with(octets) },
    };
    let mut read = Record::from_rdata(name, record.ttl().as_secs(), data);
    read.dns_class = DNSClass::from(record.class().to_int());
    Some(read)
}

/// A record or its data as hickory would sign it.
fn written(data: &impl BinEncodable) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_canonical_form(true);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;
    use crate::zone::denial::Denial;
    use crate::zone::keys::Keys;
    use crate::zone::sign::{Policy, sign};
    use crate::zone::zone_key::{Role, ZoneKey};

    const NOW: u64 = 1_790_000_000;
    const ZONE: &str = "@ 3600 SOA ns h 0 14400 3600 2419200 300\n@ 3600 NS ns\n\
        ns 300 A 192.0.2.1\nmail 60 MX 10 NS\nx.y 60 TXT a\n*.y 60 TXT b\n\
        sub 60 NS ns.sub\nns.sub 60 A 192.0.2.2\nsub 60 DS 1 13 2 00\n";

    fn signed(denial: Denial, digest: bool) -> (ZoneName, Vec<ZoneRecord>, Vec<Ds<Bytes>>) {
        let apex: ZoneName = "example.".parse().unwrap();
        let keys = Keys::combined(ZoneKey::generate(Role::Entry).unwrap());
        let unsigned = canonical::sort(records("example.", ZONE));
        let policy = Policy { denial, digest, ..Policy::default() };
        let zone = sign(&apex, &unsigned, 7, &keys, &policy, None, NOW).unwrap();
        let ds = keys.ds(&apex);
        (apex, zone.records, ds)
    }

    fn verdict(zone: &[ZoneRecord], ds: &[Ds<Bytes>], now: u64) -> Result<Verified, Fault> {
        verify(&"example.".parse().unwrap(), zone, ds, now).map_err(|error| error.fault)
    }

    #[test]
    fn a_right_zone_is_right_from_an_hour_ago_until_its_signatures_end() {
        for denial in [Denial::Nsec, Denial::Nsec3] {
            let (_, zone, ds) = signed(denial, true);
            assert!(verdict(&zone, &ds, NOW).is_ok());
            assert!(verdict(&zone, &ds, NOW - 3600).is_ok());
            assert!(matches!(verdict(&zone, &ds, NOW - 3601), Err(Fault::Signature(_))));
            let weeks = 14 * 24 * 3600;
            assert!(matches!(verdict(&zone, &ds, NOW + weeks), Err(Fault::Signature(_))));
        }
    }

    /// The wire format of a zone with one bit flipped is refused or is the same zone: bits that
    /// tell small letters from large ones, and those of what only the digest covers.
    #[test]
    fn no_flipped_bit_passes() {
        for denial in [Denial::Nsec, Denial::Nsec3] {
            let (_, zone, ds) = signed(denial, true);
            for (place, record) in zone.iter().enumerate() {
                let octets = canonical::data(record);
                // Not each of a signature's bits, as each takes a verification of the whole zone.
                for bit in (0..octets.len() * 8).step_by(29) {
                    let mut flipped = octets.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let Some(data) = parsed(record, flipped) else { continue };
                    let mut other = zone.clone();
                    *other[place].data_mut() = data;
                    let same = canonical::data(&other[place]) == octets;
                    assert_eq!(verdict(&other, &ds, NOW).is_ok(), same, "bit {bit} of {record}");
                }
            }
        }
    }

    fn parsed(record: &ZoneRecord, data: Vec<u8>) -> Option<Data> {
        use domain::base::name::FlattenInto;
        use domain::base::rdata::ParseRecordData;
        let octets = Bytes::from(data);
        let mut parser = domain::dep::octseq::Parser::from_ref(&octets);
        let data = domain::rdata::ZoneRecordData::parse_rdata(record.rtype(), &mut parser);
        let Ok(data) = data.ok()??.try_flatten_into();
        Some(data)
    }

    #[test]
    fn each_fault_has_its_name() {
        let (_, zone, ds) = signed(Denial::Nsec, false);
        let without = |rtype: RecordType| -> Vec<_> {
            let number = u16::from(rtype);
            zone.iter().filter(|record| record.rtype().to_int() != number).cloned().collect()
        };
        let of = |zone: &[ZoneRecord]| verdict(zone, &ds, NOW).unwrap_err();
        assert_eq!(of(&without(RecordType::SOA)), Fault::Soa);
        assert_eq!(of(&without(RecordType::NSEC)), Fault::Excess(RecordType::NSEC));
        assert_eq!(of(&without(RecordType::DNSKEY)), Fault::Ds(RecordType::DNSKEY));
        assert_eq!(of(&without(RecordType::RRSIG)), Fault::Unsigned(RecordType::NS));
        let with = |text: &str| [zone.clone(), records("example.", text)].concat();
        assert_eq!(of(&with("a.other. 60 A 192.0.2.1\n")), Fault::Outside);
        assert_eq!(of(&with("mail 61 MX 20 ns\n")), Fault::Ttl(RecordType::MX));
        assert_eq!(of(&with("new 60 A 192.0.2.1\n")), Fault::Unsigned(RecordType::A));
        assert_eq!(of(&with("@ 60 SOA ns h 0 14400 3600 2419200 300\n")), Fault::Soa);
        let (_, _, other) = signed(Denial::Nsec, false);
        assert_eq!(verdict(&zone, &other, NOW), Err(Fault::Ds(RecordType::DNSKEY)));
        assert_eq!(verdict(&zone, &[], NOW), Err(Fault::Ds(RecordType::DNSKEY)));
        assert!(verdict(&[], &ds, NOW).is_err());
    }
}
