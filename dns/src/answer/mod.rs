//! Answers: what an authoritative server says to a question about one of its zones (RFC 1034 section
//! 4.3.2, RFC 4035 section 3.1, RFC 4592, RFC 5155 section 7.2, RFC 6672). Pure: a zone and a question
//! in, a message out.

mod proof;
mod writer;

use crate::name::{Lower, MAX_OCTETS};
use crate::query::Query;
use crate::rate_limit::Class;
use crate::zone::{Found, NodeId, Set, Zone, rtype};

pub use writer::{Flags, Rcode, finish, plain, truncate};
use writer::{Full, Owner, Section, Writer};

/// Names that an answer follows by CNAME and DNAME. A resolver asks for the rest itself.
const MAX_HOPS: usize = 16;

/// Room that one answer after the other uses.
#[derive(Default)]
pub struct Scratch {
    /// What the authority section has to prove, behind the SOA: each once.
    proofs: Vec<(proof::Owned, Set)>,
    /// By which a name is looked for in the chain.
    key: Vec<u8>,
}

/// Writes to `out` what `zone` says to `query`, at most `most` octets, and gives the class of the answer.
/// The header's flags are set, and [`finish`] adds EDNS.
pub fn answer(
    zone: &Zone,
    query: &Query<'_>,
    most: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Class {
    scratch.proofs.clear();
    out.clear();
    out.extend_from_slice(query.head);
    let apex_at = query.head.len() - 4 - zone.apex().len();
    let mut answer = Answer {
        zone,
        dnssec: query.dnssec(),
        rtype: query.rtype,
        writer: Writer::new(out, most, apex_at),
        authoritative: true,
        scratch,
    };
    let result = answer.sections(query);
    let authoritative = answer.authoritative;
    let Ok((rcode, class)) = result else {
        // A resolver asks again by TCP and needs nothing of this.
        answer.writer.empty(query.head.len());
        writer::set_flags(out, Flags { authoritative, truncated: true, rcode: Rcode::NoError });
        return Class::Answer;
    };
    answer.writer.write_counts();
    writer::set_flags(out, Flags { authoritative, truncated: false, rcode });
    class
}

struct Answer<'z, 'o> {
    zone: &'z Zone,
    dnssec: bool,
    rtype: u16,
    writer: Writer<'o>,
    authoritative: bool,
    scratch: &'o mut Scratch,
}

impl<'z> Answer<'z, '_> {
    fn sections(&mut self, query: &Query<'_>) -> Result<(Rcode, Class), Full> {
        let zone = self.zone;
        // The name and how it is written, once it is not that of the question any more.
        let mut followed: Option<(Lower, Vec<u8>)> = None;
        let mut seen: Vec<Box<[u8]>> = Vec::new();
        let mut renamed = Vec::new();
        for hop in 0..MAX_HOPS {
            let answered = if hop == 0 { Class::NoData } else { Class::Answer };
            let (name, owner) = match &followed {
                None => (&query.name, Owner::Question),
                Some((name, written)) => {
                    (name, Owner::Below(&written[..written.len() - zone.apex().len()]))
                }
            };
            let (node, encloser) = match zone.find(name, self.rtype == rtype::DS) {
                Found::Delegated(cut) => {
                    self.authoritative = hop > 0;
                    self.refer(cut, name)?;
                    let class = if hop > 0 { Class::Answer } else { Class::Referral };
                    return Ok((Rcode::NoError, class));
                }
                Found::Missing { encloser } => {
                    self.prove_no_name(name, zone.count_labels(encloser));
                    self.deny()?;
                    return Ok((Rcode::NxDomain, Class::NxDomain));
                }
                Found::Renamed(at) => {
                    let Some(dname) = zone.set(at, rtype::DNAME) else { break };
                    let target = dname.only_data(zone);
                    let keep = name.labels() - zone.count_labels(at);
                    let prefix = match &followed {
                        None => &query.head[crate::query::HEADER..],
                        Some((_, written)) => &written[..],
                    };
                    let prefix = first_labels(prefix, keep);
                    let next = [prefix, target].concat();
                    // A name that the same DNAME makes longer and longer has no end.
                    if renamed.last() == Some(&at) && next.len() >= name.as_wire().len() {
                        break;
                    }
                    // An RRset is in an answer once, though it may be used again.
                    if !renamed.contains(&at) {
                        self.put(Section::Answer, Owner::Below(zone.labels(at)), dname)?;
                    }
                    renamed.push(at);
                    if next.len() > MAX_OCTETS {
                        self.finish_proofs()?;
                        return Ok((Rcode::YxDomain, Class::Error));
                    }
                    self.writer.put_cname(owner, dname.ttl(zone), &next)?;
                    let asked_for = matches!(self.rtype, rtype::CNAME | rtype::ANY);
                    followed = self.follow(name, next, &mut seen);
                    if asked_for || followed.is_none() {
                        self.finish_proofs()?;
                        return Ok((Rcode::NoError, Class::Answer));
                    }
                    continue;
                }
                Found::Exact(node) => (node, None),
                Found::Wildcard { at, encloser } => (at, Some(zone.count_labels(encloser))),
            };
            if let Some(encloser) = encloser {
                self.prove_no_closer(name, encloser);
            }
            let own = [rtype::CNAME, rtype::ANY, rtype::RRSIG, rtype::NSEC].contains(&self.rtype);
            if let (Some(cname), false) = (zone.set(node, rtype::CNAME), own) {
                self.put(Section::Answer, owner, cname)?;
                renamed.push(node);
                let next = expand(cname.only_data(zone), zone.apex());
                followed = self.follow(name, next, &mut seen);
                if followed.is_some() {
                    continue;
                }
                self.finish_proofs()?;
                return Ok((Rcode::NoError, Class::Answer));
            }
            if self.put_asked(owner, node)? {
                self.finish_proofs()?;
                return Ok((Rcode::NoError, Class::Answer));
            }
            self.prove_no_type(name, node, encloser);
            self.deny()?;
            return Ok((Rcode::NoError, answered));
        }
        self.finish_proofs()?;
        Ok((Rcode::NoError, Class::Answer))
    }

    /// The name to go on with, and how it is written; none if it is elsewhere, or was there before.
    fn follow(
        &self,
        name: &Lower,
        next: Vec<u8>,
        seen: &mut Vec<Box<[u8]>>,
    ) -> Option<(Lower, Vec<u8>)> {
        let lower = Lower::read(&next)?;
        seen.push(name.as_wire().into());
        let here = lower.is_within(self.zone.apex_lower(), self.zone.apex_labels());
        let new = seen.iter().all(|one| **one != *lower.as_wire());
        (here && new).then_some((lower, next))
    }

    /// The RRsets that were asked for; whether there are any.
    fn put_asked(&mut self, owner: Owner<'_>, node: NodeId) -> Result<bool, Full> {
        let sets = self.zone.sets(node);
        match self.rtype {
            // One RRset is enough (RFC 8482 section 4.1), and no reason to send such a query to somebody.
            rtype::ANY => match sets.first() {
                Some(set) => self.put(Section::Answer, owner, set)?,
                None => return Ok(false),
            },
            rtype::RRSIG => match sets.iter().find(|set| set.signatures() > 0) {
                Some(set) => self.writer.put_signatures(Section::Answer, self.zone, owner, set)?,
                None => return Ok(false),
            },
            rtype => match self.zone.set(node, rtype) {
                Some(set) => self.put(Section::Answer, owner, set)?,
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// An RRset, with its signatures if they are wanted.
    fn put(&mut self, section: Section, owner: Owner<'_>, set: &Set) -> Result<(), Full> {
        self.writer.put(section, self.zone, owner, set, self.dnssec)
    }

    /// To the servers of another zone (RFC 1034 section 4.3.2, 3b; RFC 4035 section 3.1.4).
    fn refer(&mut self, cut: NodeId, name: &Lower) -> Result<(), Full> {
        let zone = self.zone;
        let owner = Owner::Below(zone.labels(cut));
        if let Some(servers) = zone.set(cut, rtype::NS) {
            self.writer.put(Section::Authority, zone, owner, servers, false)?;
        }
        if self.dnssec {
            match zone.set(cut, rtype::DS) {
                Some(ds) => self.put(Section::Authority, owner, ds)?,
                None => self.prove_unsigned(name, zone.count_labels(cut), cut),
            }
        }
        self.finish_proofs()?;
        for server in zone.glue(cut) {
            let owner = Owner::Below(zone.labels(server));
            for rtype in [rtype::A, rtype::AAAA] {
                let Some(addresses) = zone.set(server, rtype) else { continue };
                match self.put(Section::Additional, owner, addresses) {
                    // Without the addresses of servers below the cut nobody finds them (RFC 9471).
                    Err(full) if zone.is_below(server, cut) => return Err(full),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// That there is nothing: the SOA, and the proofs.
    fn deny(&mut self) -> Result<(), Full> {
        let soa = self.zone.negative_soa();
        self.put(Section::Authority, Owner::Below(&[]), soa)?;
        self.finish_proofs()
    }
}

/// The octets of the first `count` labels.
fn first_labels(wire: &[u8], count: usize) -> &[u8] {
    let octets: usize = crate::name::labels(wire).take(count).map(|label| label.len() + 1).sum();
    &wire[..octets]
}

/// A name at the beginning of `data`, which ends with the root or a pointer to the apex.
fn expand(data: &[u8], apex: &[u8]) -> Vec<u8> {
    let labels: usize = crate::name::labels(data).map(|label| label.len() + 1).sum();
    let end: &[u8] = if data.get(labels) == Some(&0) { &[0] } else { apex };
    [&data[..labels], end].concat()
}
