//! The digest over the whole zone (RFC 8976), which also covers what no signature does: glue, the
//! NS of delegations and all TTLs.
//!
//! The scheme SIMPLE with SHA-384 and SHA-512 is verified; others are passed over (section 4). Where
//! there are two that can be verified, both must be right. The RFC is content with one; but whoever
//! sends a wrong digest has a broken signer, and better learns of it here.

use aws_lc_rs::digest::{Algorithm, Context, SHA384, SHA512};
use domain::base::Rtype;
use domain::base::iana::{ZonemdAlgorithm, ZonemdScheme};
use domain::rdata::Zonemd;

use super::Refused;
use super::content::{Content, Entry};

/// Checks the ZONEMD records at the apex, if there are any.
pub(super) fn check(content: &Content<'_>, serial: u32) -> Result<(), Refused> {
    let Some(apex) = content.apex() else {
        return Ok(());
    };
    let mut seen = Vec::new();
    for entry in apex.rrset(Rtype::ZONEMD).entries() {
        let zonemd = entry.parse(Zonemd::<&[u8]>::parse)?;
        let Some(hash) = hash(zonemd.scheme(), zonemd.algorithm()) else {
            continue;
        };
        let algorithm = zonemd.algorithm().to_int();
        if seen.contains(&algorithm) {
            return Err(Refused::ZonemdTwice { algorithm });
        }
        seen.push(algorithm);
        if zonemd.serial().into_int() != serial {
            return Err(Refused::ZonemdSerial { zonemd: zonemd.serial().into_int(), serial });
        }
        if digest(content, apex.key(), hash).as_ref() != *zonemd.digest() {
            return Err(Refused::ZonemdDigest { algorithm });
        }
    }
    Ok(())
}

fn hash(scheme: ZonemdScheme, algorithm: ZonemdAlgorithm) -> Option<&'static Algorithm> {
    match (scheme, algorithm) {
        (ZonemdScheme::SIMPLE, ZonemdAlgorithm::SHA384) => Some(&SHA384),
        (ZonemdScheme::SIMPLE, ZonemdAlgorithm::SHA512) => Some(&SHA512),
        _ => None,
    }
}

fn digest(
    content: &Content<'_>,
    apex: &[u8],
    hash: &'static Algorithm,
) -> aws_lc_rs::digest::Digest {
    let mut digest = Context::new(hash);
    let mut octets = Vec::new();
    for entry in content.entries().filter(|entry| !is_left_out(*entry, apex)) {
        octets.clear();
        octets.extend_from_slice(entry.owner());
        octets.extend_from_slice(&entry.fixed(entry.ttl()));
        octets.extend_from_slice(entry.rdata());
        digest.update(&octets);
    }
    digest.finish()
}

/// The apex's ZONEMD and their RRSIGs (RFC 8976 section 3.3.1.1).
fn is_left_out(entry: Entry<'_>, apex: &[u8]) -> bool {
    entry.key() == apex && (entry.rtype() == Rtype::ZONEMD || entry.covers() == Some(Rtype::ZONEMD))
}
