//! The NSEC3 chain (RFC 5155): the same as NSEC over the hashes of the names, with the empty
//! non-terminals among them, and with delegations that may be left out under opt-out.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use domain::base::Rtype;
use domain::base::iana::Nsec3HashAlgorithm;
use domain::rdata::dnssec::RtypeBitmap;
use domain::rdata::nsec3::{Nsec3, Nsec3param};
use domain::utils::base32;

use crate::record::Name;
use crate::zone::TooManyIterations;

use super::Refused;
use super::content::{Content, Named, Place};
use super::denial::{bitmap, own_types};
use super::order::{labels, shared_labels};

/// Octets of a hash, which is SHA-1: nothing else is defined.
const HASH: usize = 20;
type Hash = [u8; HASH];
/// Names to hash beyond twice the records, so that a zone of few records is not bounded by them.
const SPARE_NAMES: usize = 256;
/// The only flag there is, opt-out (RFC 5155 section 3.1.2).
const OPT_OUT: u8 = 1;

/// Checks the whole chain.
pub(super) fn check(content: &Content<'_>) -> Result<(), Refused> {
    let apex = content.apex().ok_or(Refused::NoSoa)?;
    let parameters = Parameters::read(apex)?;
    let mut links = links(content, apex, &parameters)?;
    links.sort_unstable_by_key(|link| link.hash);
    for (index, link) in links.iter().enumerate() {
        if link.next != links[(index + 1) % links.len()].hash {
            return Err(Refused::NextName { name: link.name.clone(), rtype: Rtype::NSEC3 });
        }
    }
    let mut spoken_for = vec![false; links.len()];
    for expected in expected(content, apex, &parameters)? {
        match links.binary_search_by_key(&expected.hash, |link| link.hash) {
            Ok(index) => {
                if links[index].types != expected.types.as_slice() {
                    let name = expected.name();
                    return Err(Refused::Types { name, rtype: Rtype::NSEC3 });
                }
                spoken_for[index] = true;
            }
            Err(after) => {
                // The link before; the chain is a ring.
                let covering = after.checked_sub(1).map_or(links.last(), |index| links.get(index));
                if !(expected.may_be_left_out && covering.is_some_and(|link| link.opt_out)) {
                    return Err(Refused::Nsec3Missing { name: expected.name() });
                }
            }
        }
    }
    match spoken_for.iter().position(|spoken| !spoken) {
        None => Ok(()),
        Some(index) => Err(Refused::Nsec3Stray { name: links[index].name.clone() }),
    }
}

/// How names are hashed.
struct Parameters {
    iterations: u16,
    salt: Vec<u8>,
}

impl Parameters {
    /// Two chains at once, which RFC 5155 section 7.3 knows while a salt changes, are refused: the
    /// zone held before stays until the change is through.
    fn read(apex: Named<'_>) -> Result<Self, Refused> {
        let entry = apex.rrset(Rtype::NSEC3PARAM).only().ok_or(Refused::Nsec3Param)?;
        let parameters = entry.parse(Nsec3param::<&[u8]>::parse)?;
        let (algorithm, iterations) = (parameters.hash_algorithm(), parameters.iterations());
        if algorithm != Nsec3HashAlgorithm::SHA1 || parameters.flags() != 0 {
            return Err(Refused::Nsec3Param);
        }
        let iterations = TooManyIterations::check(iterations)?;
        Ok(Self { iterations, salt: parameters.salt().as_slice().to_vec() })
    }

    /// RFC 5155 section 5.
    fn hash(&self, owner: &[u8]) -> Hash {
        let mut octets = [owner, &self.salt].concat();
        let mut hash = [0; HASH];
        for _ in 0..=self.iterations {
            hash.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &octets).as_ref());
            octets.clear();
            octets.extend_from_slice(&hash);
            octets.extend_from_slice(&self.salt);
        }
        hash
    }
}

/// An NSEC3 record.
struct Link<'c> {
    hash: Hash,
    next: Hash,
    opt_out: bool,
    types: &'c [u8],
    name: &'c Name,
}

fn links<'c>(
    content: &'c Content<'c>,
    apex: Named<'c>,
    parameters: &Parameters,
) -> Result<Vec<Link<'c>>, Refused> {
    let mut links = Vec::new();
    for named in content.names() {
        let rrset = named.rrset(Rtype::NSEC3);
        let Some(entry) = rrset.entries().next() else {
            continue;
        };
        let name = named.name();
        if rrset.len() > 1 {
            return Err(Refused::DenialTwice { name: name.clone(), rtype: Rtype::NSEC3 });
        }
        let nsec3 = entry.parse(Nsec3::<&[u8]>::parse)?;
        let fields = || Refused::Nsec3Fields { name: name.clone() };
        if nsec3.hash_algorithm() != Nsec3HashAlgorithm::SHA1
            || nsec3.flags() & !OPT_OUT != 0
            || nsec3.iterations() != parameters.iterations
            || nsec3.salt().as_slice() != parameters.salt
            || named.place() == Place::Below
        {
            return Err(fields());
        }
        let next = Hash::try_from(nsec3.next_owner().as_slice()).map_err(|_| fields())?;
        let hash = hash_of_owner(named, apex).ok_or_else(fields)?;
        let opt_out = nsec3.opt_out();
        links.push(Link { hash, next, opt_out, types: types_of(entry.rdata(), &nsec3), name });
    }
    Ok(links)
}

/// The bitmap's octets, which are what ends the RDATA.
fn types_of<'c>(rdata: &'c [u8], nsec3: &Nsec3<&[u8]>) -> &'c [u8] {
    &rdata[rdata.len().saturating_sub(nsec3.types().as_slice().len())..]
}

/// The hash in an owner's first label, where the owner is one label below the apex.
fn hash_of_owner(named: Named<'_>, apex: Named<'_>) -> Option<Hash> {
    let (&length, rest) = named.owner().split_first()?;
    let (label, parent) = rest.split_at_checked(usize::from(length))?;
    if parent != apex.owner() {
        return None;
    }
    let hash: Vec<u8> = base32::decode_hex(std::str::from_utf8(label).ok()?).ok()?;
    Hash::try_from(hash).ok()
}

/// What the chain must say of a name.
struct Expected<'c> {
    hash: Hash,
    types: RtypeBitmap<Vec<u8>>,
    /// An insecure delegation, or an empty non-terminal that leads to such only (RFC 5155
    /// section 7.1).
    may_be_left_out: bool,
    named: Named<'c>,
    /// The labels of `named` that are the name, counted from the root.
    labels: usize,
}

impl Expected<'_> {
    fn name(&self) -> Name {
        let name = self.named.name();
        name.iter_suffixes()
            .find(|suffix| suffix.label_count() == self.labels + 1)
            .unwrap_or_else(|| name.clone())
    }
}

/// The names that the zone answers for and the empty non-terminals above these.
fn expected<'c>(
    content: &'c Content<'c>,
    apex: Named<'c>,
    parameters: &Parameters,
) -> Result<Vec<Expected<'c>>, Refused> {
    let limit = content.len().saturating_mul(2).saturating_add(SPARE_NAMES);
    let mut all: Vec<Expected<'c>> = Vec::new();
    // The empty non-terminals above the present name that are still open to more names below.
    let mut open: Vec<usize> = Vec::new();
    let mut before = apex.key();
    let in_chain = content
        .names()
        .filter(|named| named.place() != Place::Below && own_types(*named).next().is_some());
    for named in in_chain {
        let insecure = named.place() == Place::Cut && named.rrset(Rtype::DS).len() == 0;
        // A name above `named` that has records sorted before it, and was the last one or above the
        // last one. So what is not shared with the last one is empty.
        let (shared, count) = (shared_labels(before, named.key()), labels(named.key()));
        before = named.key();
        while open.last().is_some_and(|index| all[*index].labels > shared) {
            open.pop();
        }
        if !insecure {
            for index in &open {
                all[*index].may_be_left_out = false;
            }
        }
        for empty in shared + 1..count {
            open.push(all.len());
            all.push(Expected {
                hash: parameters.hash(suffix(named.owner(), count - empty)),
                types: bitmap(std::iter::empty()),
                may_be_left_out: insecure,
                named,
                labels: empty,
            });
            if all.len() > limit {
                return Err(Refused::TooManyNames { limit });
            }
        }
        all.push(Expected {
            hash: parameters.hash(named.owner()),
            types: types(named, insecure),
            may_be_left_out: insecure,
            named,
            labels: count,
        });
    }
    Ok(all)
}

fn types(named: Named<'_>, insecure: bool) -> RtypeBitmap<Vec<u8>> {
    let at_cut = named.place() == Place::Cut;
    let types = own_types(named).filter(|rtype| !at_cut || matches!(*rtype, Rtype::NS | Rtype::DS));
    // All that is authoritative is signed; at an insecure delegation nothing is.
    bitmap(types.chain((!insecure).then_some(Rtype::RRSIG)))
}

/// The name without its first labels.
fn suffix(mut owner: &[u8], skip: usize) -> &[u8] {
    for _ in 0..skip {
        let Some((&length, rest)) = owner.split_first() else {
            break;
        };
        owner = rest.get(usize::from(length)..).unwrap_or_default();
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5155 appendix A.
    #[test]
    fn hashes_as_the_rfc_says() {
        let parameters = Parameters { iterations: 12, salt: vec![0xaa, 0xbb, 0xcc, 0xdd] };
        let hash = |owner: &[u8]| base32::encode_string_hex(&parameters.hash(owner));
        assert_eq!(hash(b"\x07example\0").to_lowercase(), "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom");
        assert_eq!(hash(b"\x01a\x07example\0").to_lowercase(), "35mthgpgcu1qg68fab165klnsnk3dpvl");
    }
}
