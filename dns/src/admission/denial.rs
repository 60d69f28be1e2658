//! Which of the two ways to deny what is not there the zone has: NSEC (RFC 4034) or NSEC3
//! (RFC 5155), and exactly one of them.

use domain::base::Rtype;
use domain::rdata::dnssec::RtypeBitmap;

use super::content::{Content, Named};
use super::{Refused, nsec, nsec3};

/// Checks the chain that the zone has.
pub(super) fn check(content: &Content<'_>) -> Result<(), Refused> {
    let has = |rtype| content.entries().any(|entry| entry.rtype() == rtype);
    match (has(Rtype::NSEC), has(Rtype::NSEC3) || has(Rtype::NSEC3PARAM)) {
        (true, false) => nsec::check(content),
        (false, true) => nsec3::check(content),
        (true, true) => Err(Refused::BothDenials),
        (false, false) => Err(Refused::NoDenial),
    }
}

/// A zone without keys must not have what only makes sense with them: an answer with half of
/// DNSSEC's records is worse than one with none.
pub(super) fn nothing_of_dnssec(content: &Content<'_>) -> Result<(), Refused> {
    let of_dnssec =
        |rtype| matches!(rtype, Rtype::RRSIG | Rtype::NSEC | Rtype::NSEC3 | Rtype::NSEC3PARAM);
    match content.entries().find(|entry| of_dnssec(entry.rtype())) {
        None => Ok(()),
        Some(entry) => {
            Err(Refused::WithoutKeys { name: entry.name().clone(), rtype: entry.rtype() })
        }
    }
}

/// The bitmap of some types in the one form that RFC 4034 section 4.1.2 allows.
pub(super) fn bitmap(types: impl Iterator<Item = Rtype>) -> RtypeBitmap<Vec<u8>> {
    let mut bitmap = RtypeBitmap::<Vec<u8>>::builder();
    for rtype in types {
        let Ok(()) = bitmap.add(rtype);
    }
    bitmap.finalize()
}

/// The types of a name that an NSEC3 speaks of: not NSEC3 itself, which stands at the hash.
pub(super) fn own_types(named: Named<'_>) -> impl Iterator<Item = Rtype> {
    named.rrsets().map(|rrset| rrset.rtype).filter(|rtype| *rtype != Rtype::NSEC3)
}
