//! The chain of names that proves what a zone does not have: NSEC (RFC 4034 section 4), or NSEC3
//! (RFC 5155) for those who do not want their names to be listed. Pure.
//!
//! NSEC is the default: the names of a mail zone can be guessed anyway, and it is simpler to serve
//! and to verify. NSEC3 has no extra iterations, no salt and no opt-out (RFC 9276).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::{Bytes, BytesMut};
use domain::base::iana::{Class, Nsec3HashAlgorithm, Rtype};
use domain::base::{Record as AnyRecord, ToName, Ttl};
use domain::rdata::dnssec::{RtypeBitmap, RtypeBitmapBuilder};
use domain::rdata::nsec3::{Nsec3Salt, OwnerHash};
use domain::rdata::{Nsec, Nsec3, Nsec3param};
use domain::utils::base32;
use sealpost_dns::record::{Data, Name, Record};

use super::canonical::{self, Standing};
use super::content;

/// Octets of a hashed name.
const HASH: usize = 20;
/// No opt-out.
const FLAGS: u8 = 0;
/// No extra iterations.
const ITERATIONS: u16 = 0;

/// How a zone proves what it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denial {
    /// By the names on either side.
    #[default]
    Nsec,
    /// By the hashes of names on either side.
    Nsec3,
}

/// Why there is no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DenialError {
    /// Two names have the same hash.
    #[error("{0} has the same NSEC3 hash as another name: rename it, or use NSEC")]
    Collision(Name),
    /// A hashed name does not fit.
    #[error("{0} is too long for NSEC3: use NSEC")]
    LongApex(Name),
}

/// What the zone says beside the chain, for the chain to tell: NSEC3PARAM (RFC 5155 section 4).
pub fn parameters(apex: &Name, denial: Denial) -> Option<Record> {
    let data = Nsec3param::new(Nsec3HashAlgorithm::SHA1, FLAGS, ITERATIONS, Nsec3Salt::empty());
    let record = AnyRecord::new(apex.clone(), Class::IN, content::TTL, Data::Nsec3param(data));
    (denial == Denial::Nsec3).then_some(record)
}

/// The chain for a zone in canonical order that has all it will have but the chain and signatures.
/// `ttl` is the lesser of the SOA's and its minimum (RFC 9077).
pub fn chain(
    apex: &Name,
    sorted: &[Record],
    denial: Denial,
    ttl: Ttl,
) -> Result<Vec<Record>, DenialError> {
    match denial {
        Denial::Nsec => Ok(nsec(apex, sorted, ttl)),
        Denial::Nsec3 => nsec3(apex, sorted, ttl),
    }
}

/// The names that a chain tells of, with the types there.
fn told<'a>(
    apex: &'a Name,
    sorted: &'a [Record],
) -> impl Iterator<Item = (&'a Name, Standing, BTreeSet<Rtype>)> {
    canonical::standings(apex, sorted).filter(|(_, it)| *it != Standing::Below).map(
        |(node, standing)| {
            let types = node.iter().map(Record::rtype).filter(|rtype| standing.tells(*rtype));
            (node[0].owner(), standing, types.collect())
        },
    )
}

fn nsec(apex: &Name, sorted: &[Record], ttl: Ttl) -> Vec<Record> {
    let told: Vec<_> = told(apex, sorted).collect();
    // The last one leads back to the first, which is the apex.
    let nexts = told.iter().map(|(name, ..)| *name).cycle().skip(1);
    let record = |((name, _, types), next): (&(&Name, _, BTreeSet<_>), &Name)| {
        // NSEC itself and its signature are everywhere.
        let types = types.iter().copied().chain([Rtype::NSEC, Rtype::RRSIG]);
        let data = Nsec::new(next.clone(), bitmap(types));
        AnyRecord::new((*name).clone(), Class::IN, ttl, Data::Nsec(data))
    };
    told.iter().zip(nexts).map(record).collect()
}

fn nsec3(apex: &Name, sorted: &[Record], ttl: Ttl) -> Result<Vec<Record>, DenialError> {
    let mut names: HashMap<Vec<u8>, BTreeSet<Rtype>> = HashMap::new();
    for (name, standing, mut types) in told(apex, sorted) {
        if types.iter().any(|rtype| standing.signs(*rtype)) {
            types.insert(Rtype::RRSIG);
        }
        names.insert(canonical::name(name), types);
        // Names that are there only because there are others below them are told of too.
        let up_to_apex = name.iter_suffixes().take_while(|above| !above.name_eq(apex));
        for above in up_to_apex.skip(1) {
            names.entry(canonical::name(&above)).or_default();
        }
    }
    let mut hashes = BTreeMap::new();
    for (name, types) in names {
        if hashes.insert(hash(&name), types).is_some() {
            let name = Name::from_octets(name.into()).unwrap_or_else(|_| apex.clone());
            return Err(DenialError::Collision(name));
        }
    }
    let nexts: Vec<_> = hashes.keys().copied().cycle().skip(1).take(hashes.len()).collect();
    let records = hashes.into_iter().zip(nexts).map(|((hash, types), next)| {
        let next = OwnerHash::from_octets(Bytes::copy_from_slice(&next));
        let data = Nsec3::new(
            Nsec3HashAlgorithm::SHA1,
            FLAGS,
            ITERATIONS,
            Nsec3Salt::empty(),
            next.expect("a hash is short"),
            bitmap(types.into_iter()),
        );
        let label = base32::encode_string_hex(&hash).to_ascii_lowercase();
        let owner = content::below(&[&label], apex);
        let owner = owner.map_err(|_| DenialError::LongApex(apex.clone()))?;
        Ok(AnyRecord::new(owner, Class::IN, ttl, Data::Nsec3(data)))
    });
    records.collect()
}

/// The hash of a name in small letters on the wire (RFC 5155 section 5).
fn hash(name: &[u8]) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, name).as_ref());
    hash
}

fn bitmap(types: impl Iterator<Item = Rtype>) -> RtypeBitmap<Bytes> {
    let mut builder = RtypeBitmapBuilder::<BytesMut>::new();
    for rtype in types {
        let Ok(()) = builder.add(rtype);
    }
    builder.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;

    const ZONE: &str = "@ 60 SOA ns h 1 2 3 4 5\n@ 60 NS ns\nns 60 A 192.0.2.1\n\
        a.b.c 60 TXT \"deep\"\nsub 60 NS ns.sub\nns.sub 60 A 192.0.2.2\n\
        safe 60 NS ns\nsafe 60 DS 1 13 2 00\n*.w 60 A 192.0.2.3\nx 60 TYPE65280 \\# 0\n";

    fn shown(denial: Denial) -> Vec<String> {
        let apex = "example.".parse().unwrap();
        let sorted = canonical::sort(records("example.", ZONE));
        let chain = chain(&apex, &sorted, denial, Ttl::from_secs(5)).unwrap();
        chain.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nsec_tells_each_name_that_is_the_zones_own() {
        assert_eq!(
            shown(Denial::Nsec),
            [
                "example. 5 IN NSEC a.b.c.example. NS SOA RRSIG NSEC",
                "a.b.c.example. 5 IN NSEC ns.example. TXT RRSIG NSEC",
                "ns.example. 5 IN NSEC safe.example. A RRSIG NSEC",
                "safe.example. 5 IN NSEC sub.example. NS DS RRSIG NSEC",
                "sub.example. 5 IN NSEC *.w.example. NS RRSIG NSEC",
                "*.w.example. 5 IN NSEC x.example. A RRSIG NSEC",
                "x.example. 5 IN NSEC example. RRSIG NSEC TYPE65280",
            ]
        );
    }

    #[test]
    fn nsec3_tells_also_of_names_in_between() {
        let shown = shown(Denial::Nsec3);
        // Seven names with records, and c, b.c and w.
        assert_eq!(shown.len(), 10, "{shown:?}");
        assert!(shown.iter().any(|it| it.ends_with("NS DS RRSIG")), "{shown:?}");
        assert!(shown.iter().any(|it| it.ends_with(" NS")), "an unsigned delegation: {shown:?}");
        assert!(shown.iter().all(|it| it.contains(" 5 IN NSEC3 1 0 0 - ")), "{shown:?}");
    }

    #[test]
    fn a_name_has_the_hash_of_the_rfc() {
        // RFC 5155 appendix A, with its own salt and iterations.
        let salt = [0xaa, 0xbb, 0xcc, 0xdd];
        let first = [&b"\x07example\0"[..], &salt].concat();
        let hash =
            (0..12).fold(super::hash(&first), |last, _| super::hash(&[&last[..], &salt].concat()));
        let text = base32::encode_string_hex(&hash).to_ascii_lowercase();
        assert_eq!(text, "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom");
    }
}
