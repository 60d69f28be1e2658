//! What holds in every zone, signed or not: one SOA, an NS, aliases that stand alone, RRsets of one
//! TTL that fit into an answer.

use domain::base::Rtype;
use domain::rdata::Soa;

use crate::record::Name;

use super::content::{Content, Named, Place, Rrset};
use super::{Limits, Refused};

/// How a wildcard begins in wire format (RFC 4592 section 2.1.1).
const WILDCARD: &[u8] = b"\x01*";

/// Checks the shape of the zone and gives its serial.
pub(super) fn check(content: &Content<'_>, limits: &Limits) -> Result<u32, Refused> {
    let apex = content.apex().ok_or(Refused::NoSoa)?;
    let serial = serial(apex)?;
    if apex.rrset(Rtype::NS).len() == 0 {
        return Err(Refused::NoNs);
    }
    if apex.rrset(Rtype::DS).len() != 0 {
        return Err(Refused::DsAtApex);
    }
    let mut dname: Option<Named<'_>> = None;
    for named in content.names() {
        if named.place() != Place::Apex && named.rrset(Rtype::SOA).len() != 0 {
            return Err(Refused::SoaBelowApex { name: named.name().clone() });
        }
        if let Some(above) = dname.filter(|above| named.key().starts_with(above.key())) {
            below_dname(named, above.name())?;
        }
        aliases(named)?;
        if named.place() == Place::Cut && named.owner().starts_with(WILDCARD) {
            return Err(Refused::WildcardCut { name: named.name().clone() });
        }
        // What a delegation hides cannot hide more.
        if matches!(named.place(), Place::Apex | Place::Inside)
            && named.rrset(Rtype::DNAME).len() != 0
        {
            dname = Some(named);
        }
        for rrset in named.rrsets() {
            one_ttl(rrset)?;
            fits(rrset, limits)?;
        }
    }
    Ok(serial)
}

fn serial(apex: Named<'_>) -> Result<u32, Refused> {
    let soa = apex.rrset(Rtype::SOA);
    match soa.len() {
        0 => Err(Refused::NoSoa),
        1 => {
            let soa = soa.only().ok_or(Refused::NoSoa)?.parse(Soa::parse)?;
            Ok(soa.serial().into_int())
        }
        _ => Err(Refused::ManySoa),
    }
}

/// NSEC3 records are named by hashes below the apex, also where the apex has a DNAME; RFC 6672
/// section 2.4 means data that the DNAME would hide.
fn below_dname(named: Named<'_>, dname: &Name) -> Result<(), Refused> {
    if named.rrsets().all(|rrset| rrset.rtype == Rtype::NSEC3) {
        return Ok(());
    }
    Err(Refused::BelowDname { name: named.name().clone(), dname: dname.clone() })
}

fn aliases(named: Named<'_>) -> Result<(), Refused> {
    let name = || named.name().clone();
    for rtype in [Rtype::CNAME, Rtype::DNAME] {
        if named.rrset(rtype).len() > 1 {
            return Err(Refused::ManyAliases { name: name(), rtype });
        }
    }
    if named.rrset(Rtype::CNAME).len() != 0 {
        // NSEC3 is left out of the list of what may stand beside, as it would speak of another name.
        let beside = named
            .rrsets()
            .map(|rrset| rrset.rtype)
            .find(|rtype| !matches!(*rtype, Rtype::CNAME | Rtype::NSEC | Rtype::KEY));
        if let Some(rtype) = beside {
            return Err(Refused::CnameBeside { name: name(), rtype });
        }
    }
    if named.place() == Place::Cut && named.rrset(Rtype::DNAME).len() != 0 {
        return Err(Refused::DnameAtCut { name: name() });
    }
    Ok(())
}

/// RFC 2181 section 5.2 lets a server take the lowest TTL. Here the zone is refused: a signed one
/// has the TTL under its signature, and the server never changes what its owner sent.
fn one_ttl(rrset: Rrset<'_>) -> Result<(), Refused> {
    let mut ttls = rrset.entries().map(|entry| entry.ttl());
    let first = ttls.next();
    if ttls.all(|ttl| Some(ttl) == first) {
        return Ok(());
    }
    Err(Refused::Ttls { name: rrset.named().name().clone(), rtype: rrset.rtype })
}

fn fits(rrset: Rrset<'_>, limits: &Limits) -> Result<(), Refused> {
    let octets: usize = rrset.entries().chain(rrset.signatures()).map(|e| e.octets()).sum();
    let limit = limits.rrset_octets.min(super::RRSET_OCTETS);
    if octets <= limit {
        return Ok(());
    }
    let name = rrset.named().name().clone();
    Err(Refused::RrsetTooLarge { name, rtype: rrset.rtype, octets, limit })
}
