//! Every authoritative RRset is signed by the zone's keys, now and for long enough, and nothing else
//! is signed (RFC 4035 section 2.2).
//!
//! TTLs are held to the letter: RFC 4034 section 3.1.4 has the original TTL be that of the zone, and
//! section 3 the RRSIG's own TTL be the same. A resolver must take lower TTLs, since caches count
//! down; a transfer from a signer does not count, so the zone must match and its TTLs are thereby
//! covered by the signatures. What no signature covers is a delegation's NS and its glue, and
//! signatures by keys that are not (yet, or any more) in the zone. ZONEMD covers these.

use domain::base::Rtype;
use domain::base::name::{ParsedName, ToName};
use domain::rdata::Rrsig;

use crate::record::Name;

use super::content::{Content, Entry, Place, Rrset};
use super::keys::Keys;
use super::refused::Field;
use super::{Limits, Refused};

/// Most signatures over one RRset: two algorithms, two signers, each with an old and a new key.
const MAX_SIGNATURES: usize = 8;

/// What an admission looks at besides the records.
pub(super) struct Check<'k> {
    /// The zone's keys.
    keys: &'k Keys,
    /// The zone's name in lower case, which all signatures must name.
    apex: Vec<u8>,
    /// Whether the signatures themselves are checked; not for a zone that is sealed.
    crypto: bool,
    /// The least seconds that signatures must last; `None` where times do not matter.
    least: Option<u32>,
    /// Now, in seconds since 1970 modulo 2^32 (RFC 4034 section 3.1.5).
    now: u32,
}

impl<'k> Check<'k> {
    /// A check by `keys` at the time `now`.
    pub(super) fn new(
        keys: &'k Keys,
        apex: &Name,
        limits: &Limits,
        crypto: bool,
        now_unix: u64,
    ) -> Self {
        let mut owner = Vec::new();
        let Ok(()) = apex.compose_canonical(&mut owner);
        let [.., a, b, c, d] = now_unix.to_be_bytes();
        let now = u32::from_be_bytes([a, b, c, d]);
        Self { keys, apex: owner, crypto, least: limits.remaining_lifetime, now }
    }

    /// Checks all signatures; gives the seconds until the first RRset has none that is valid, which
    /// are negative when that has been.
    pub(super) fn all(&self, content: &Content<'_>) -> Result<i32, Refused> {
        let mut left = i32::MAX;
        let mut scratch = Vec::new();
        for named in content.names() {
            for (rtype, _) in named.signatures() {
                if rtype == Rtype::RRSIG || named.rrset(rtype).len() == 0 {
                    let name = named.name().clone();
                    return Err(Refused::SignatureOfNothing { name, rtype });
                }
            }
            for rrset in named.rrsets() {
                if is_ours(rrset) {
                    left = left.min(self.rrset(rrset, &mut scratch)?);
                } else if rrset.signatures().next().is_some() {
                    let name = named.name().clone();
                    return Err(Refused::SignedNotOurs { name, rtype: rrset.rtype });
                }
            }
        }
        Ok(left)
    }

    fn rrset(&self, rrset: Rrset<'_>, scratch: &mut Vec<u8>) -> Result<i32, Refused> {
        let name = || rrset.named().name().clone();
        let rtype = rrset.rtype;
        if rrset.signatures().nth(MAX_SIGNATURES).is_some() {
            return Err(Refused::TooManySignatures { name: name(), rtype, limit: MAX_SIGNATURES });
        }
        let mut found = Vec::with_capacity(1);
        for entry in rrset.signatures() {
            let rrsig = entry.parse(Rrsig::<&[u8], ParsedName<&[u8]>>::parse)?;
            let algorithm = rrsig.algorithm().to_int();
            let Some(which) = self.keys.find(rrsig.key_tag(), algorithm) else {
                continue;
            };
            self.fields(rrset, entry, &rrsig)?;
            if self.crypto {
                signed(rrset, entry, rrsig.signature().len(), scratch);
                if !self.keys.verifies(which, scratch, rrsig.signature()) {
                    let tag = rrsig.key_tag();
                    return Err(Refused::BadSignature { name: name(), rtype, tag });
                }
            }
            found.push(Found {
                algorithm,
                pinned: self.keys.is_pinned(which),
                inception: rrsig.inception().into_int(),
                expiration: rrsig.expiration().into_int(),
            });
        }
        if found.is_empty() {
            return Err(Refused::Unsigned { name: name(), rtype });
        }
        let mut left = i32::MAX;
        for &algorithm in self.keys.algorithms() {
            let of = found.iter().filter(|found| found.algorithm == algorithm);
            let best = self.best(rrset, of)?;
            left = left.min(best.ok_or_else(|| Refused::AlgorithmMissing {
                name: name(),
                rtype,
                algorithm,
            })?);
        }
        if rtype == Rtype::DNSKEY {
            let pinned = self.best(rrset, found.iter().filter(|found| found.pinned))?;
            left = left.min(pinned.ok_or(Refused::KeysNotSigned)?);
        }
        Ok(left)
    }

    fn fields(
        &self,
        rrset: Rrset<'_>,
        entry: Entry<'_>,
        rrsig: &Rrsig<&[u8], ParsedName<&[u8]>>,
    ) -> Result<(), Refused> {
        let wrong = |field| {
            let name = rrset.named().name().clone();
            Err(Refused::Field { name, rtype: rrset.rtype, field })
        };
        let ttl = rrset.entries().next().map(|entry| entry.ttl());
        if ttl != Some(rrsig.original_ttl().as_secs()) || ttl != Some(entry.ttl()) {
            return wrong(Field::Ttl);
        }
        if rrsig.labels() != rrset.named().name().rrsig_label_count() {
            return wrong(Field::Labels);
        }
        let mut signer = Vec::new();
        let Ok(()) = rrsig.signer_name().compose_canonical(&mut signer);
        if signer != self.apex {
            return wrong(Field::Signer);
        }
        Ok(())
    }

    /// The time left of the signature that lasts longest; an error that tells of that one when it is
    /// not good now. A signer whose key is away may leave an old signature beside a new one.
    fn best<'f>(
        &self,
        rrset: Rrset<'_>,
        found: impl Iterator<Item = &'f Found>,
    ) -> Result<Option<i32>, Refused> {
        let mut good: Option<i32> = None;
        let mut bad: Option<Refused> = None;
        for found in found {
            match found.left(rrset, self.now, self.least) {
                Ok(left) => good = Some(good.map_or(left, |good| good.max(left))),
                Err(refused) => bad = Some(refused),
            }
        }
        match (good, bad) {
            (Some(left), _) => Ok(Some(left)),
            (None, Some(refused)) => Err(refused),
            (None, None) => Ok(None),
        }
    }
}

/// A signature that is right but for its time.
struct Found {
    algorithm: u8,
    pinned: bool,
    inception: u32,
    expiration: u32,
}

impl Found {
    fn left(&self, rrset: Rrset<'_>, now: u32, least: Option<u32>) -> Result<i32, Refused> {
        let (name, rtype) = (|| rrset.named().name().clone(), rrset.rtype);
        // Serial number arithmetic (RFC 4034 section 3.1.5): a difference modulo 2^32, with a sign.
        let left = self.expiration.wrapping_sub(now).cast_signed();
        let age = now.wrapping_sub(self.inception).cast_signed();
        let Some(least) = least else {
            return Ok(left);
        };
        if age < 0 {
            return Err(Refused::NotYetValid { name: name(), rtype, inception: self.inception });
        }
        let Ok(seconds) = u32::try_from(left) else {
            return Err(Refused::Expired { name: name(), rtype, expiration: self.expiration });
        };
        if seconds < least {
            return Err(Refused::EndsSoon { name: name(), rtype, left: seconds, least });
        }
        Ok(left)
    }
}

/// Whether the zone answers for these records itself.
fn is_ours(rrset: Rrset<'_>) -> bool {
    match rrset.named().place() {
        Place::Apex | Place::Inside => true,
        Place::Cut => matches!(rrset.rtype, Rtype::DS | Rtype::NSEC | Rtype::NSEC3),
        Place::Below => false,
    }
}

/// What a signature is made over: the RRSIG without the signature, then the records in canonical
/// form with the original TTL (RFC 4034 section 3.1.8.1), which is their TTL here.
fn signed(rrset: Rrset<'_>, rrsig: Entry<'_>, signature: usize, message: &mut Vec<u8>) {
    message.clear();
    // The signature is what the RDATA ends with.
    let head = rrsig.rdata().len().saturating_sub(signature);
    message.extend_from_slice(&rrsig.rdata()[..head]);
    for entry in rrset.entries() {
        message.extend_from_slice(entry.owner());
        message.extend_from_slice(&entry.fixed(entry.ttl()));
        message.extend_from_slice(entry.rdata());
    }
}
