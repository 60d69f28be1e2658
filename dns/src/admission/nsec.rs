//! The NSEC chain: each name that the zone answers for has one NSEC, which lists exactly its types
//! and leads to the next such name; the last leads to the apex (RFC 4035 section 2.3).

use domain::base::Rtype;
use domain::base::name::ParsedName;
use domain::rdata::Nsec;

use super::Refused;
use super::content::{Content, Named, Place};
use super::denial::bitmap;
use super::order::key;

/// Checks the whole chain.
pub(super) fn check(content: &Content<'_>) -> Result<(), Refused> {
    let ours = || content.names().filter(|named| named.place() != Place::Below);
    // Looked for before the chain, so that the refusal names who lacks one and not who is before it.
    if let Some(named) = ours().find(|named| named.rrset(Rtype::NSEC).len() == 0) {
        return Err(Refused::NsecMissing { name: named.name().clone() });
    }
    let mut names = ours().peekable();
    let Some(&apex) = names.peek() else {
        return Err(Refused::NoSoa);
    };
    while let Some(named) = names.next() {
        speaks_for(named, *names.peek().unwrap_or(&apex))?;
    }
    let hidden = content.names().filter(|named| named.place() == Place::Below);
    for named in hidden {
        if named.rrset(Rtype::NSEC).len() != 0 {
            return Err(Refused::NsecNotOurs { name: named.name().clone() });
        }
    }
    Ok(())
}

fn speaks_for(named: Named<'_>, next: Named<'_>) -> Result<(), Refused> {
    let name = || named.name().clone();
    let Some(entry) = named.rrset(Rtype::NSEC).only() else {
        return Err(Refused::DenialTwice { name: name(), rtype: Rtype::NSEC });
    };
    let nsec = entry.parse(Nsec::<&[u8], ParsedName<&[u8]>>::parse)?;
    let next_name: domain::base::Name<Vec<u8>> = domain::base::ToName::to_name(nsec.next_name());
    if key(next_name.for_slice()) != next.key() {
        return Err(Refused::NextName { name: name(), rtype: Rtype::NSEC });
    }
    let types = named.rrsets().map(|rrset| rrset.rtype).filter(|rtype| {
        named.place() != Place::Cut || matches!(*rtype, Rtype::NS | Rtype::DS | Rtype::NSEC)
    });
    if nsec.types().as_slice() != bitmap(types.chain([Rtype::RRSIG])).as_slice() {
        return Err(Refused::Types { name: name(), rtype: Rtype::NSEC });
    }
    Ok(())
}
