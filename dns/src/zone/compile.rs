//! From records to a zone: what does not make one is refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use domain::base::Serial;
use domain::base::iana::Class;
use domain::rdata::ZoneRecordData;
use domain::utils::base32;
use hashbrown::HashTable;

use super::denial::{Hash, Label, TooManyIterations};
use super::set::{Draft, Set, wire};
use super::{Denial, Kind, NONE, Node, NodeId, Nsec3, Zone, hash, rtype};
use crate::name;
use crate::record::{Name, Record};

/// Why records are not a zone that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A record has an owner elsewhere.
    #[error("{0} is outside the zone")]
    Outside(String),
    /// A record is not of class IN.
    #[error("{0} is of another class than IN")]
    Class(String),
    /// There is none, or more than one.
    #[error("the zone has {0} SOA records at its apex; it must have one")]
    Soa(usize),
    /// There are no name servers.
    #[error("the zone has no NS record at its apex")]
    Ns,
    /// RFC 1034 section 3.6.2.
    #[error("{0} has a CNAME record beside other records")]
    CnameBeside(String),
    /// RFC 1034 section 3.6.2, RFC 6672 section 2.4.
    #[error("{0} has {1} records of type CNAME or DNAME; it can have one")]
    Several(String, usize),
    /// The RRset does not fit a message.
    #[error("the records of {0} with type {1} are too large for a message")]
    TooLarge(String, u16),
    /// More than the compiled form can point to.
    #[error("the zone is too large")]
    Zone,
    /// The hashes cannot be computed.
    #[error("the NSEC3 records cannot be used: {0}")]
    Nsec3(&'static str),
    /// The hashes cost too much.
    #[error(transparent)]
    Iterations(#[from] TooManyIterations),
}

/// A name while the zone is compiled.
#[derive(Default)]
struct Owner {
    labels: Vec<u8>,
    sets: BTreeMap<u16, Draft>,
}

/// The name of an owner for an error.
fn shown(labels: &[u8], apex: &Name) -> String {
    let mut wire = labels.to_vec();
    wire.extend_from_slice(apex.as_slice());
    Name::from_octets(wire.into()).map_or_else(|_| "a name".into(), |name| name.to_string())
}

impl Zone {
    /// Compiles the zone `apex` from its records. Records that are there twice count once, and all records
    /// of an RRset get its smallest TTL (RFC 2181 section 5.2).
    pub fn compile(apex: &Name, records: &[Record]) -> Result<Self, Invalid> {
        let lower: Box<[u8]> = apex.as_slice().to_ascii_lowercase().into();
        let (owners, hashed) = gather(apex, &lower, records)?;
        let mut zone = Self {
            apex: apex.as_slice().into(),
            labels: crate::name::labels(&lower).count() as u8,
            lower,
            serial: 0,
            nodes: Box::default(),
            sets: Box::default(),
            glue: Box::default(),
            octets: Box::default(),
            index: HashTable::new(),
            negative_soa: Set::default(),
            denial: Denial::Unsigned,
            expires: AtomicU64::new(0),
        };
        let mut octets = Vec::new();
        zone.place(apex, &owners, &mut octets)?;
        zone.cut_and_shade(&owners);
        let soas = &owners.values().next().map(|owner| &owner.sets);
        let soa = soas.and_then(|sets| sets.get(&rtype::SOA)).ok_or(Invalid::Soa(0))?;
        zone.negative_soa = negative(soa, &zone.lower, &mut octets).ok_or(Invalid::Zone)?;
        zone.denial = zone.deny(&owners, &hashed, &mut octets)?;
        zone.octets = octets.into();
        let soa = zone.set(Self::APEX, rtype::SOA).ok_or(Invalid::Soa(0))?;
        // The data ends with five numbers of which the serial is the first (RFC 1035 section 3.3.13).
        let data = soa.only_data(&zone);
        let serial = data.len().checked_sub(20).and_then(|at| data.get(at..at + 4));
        zone.serial =
            serial.map_or(0, |serial| u32::from_be_bytes(serial.try_into().unwrap_or_default()));
        zone.link_glue();
        Ok(zone)
    }

    /// Gives every name its node and every RRset its octets.
    fn place(
        &mut self,
        apex: &Name,
        owners: &BTreeMap<Vec<u8>, Owner>,
        octets: &mut Vec<u8>,
    ) -> Result<(), Invalid> {
        let mut nodes = Vec::with_capacity(owners.len());
        let mut sets = Vec::new();
        for owner in owners.values() {
            let labels_at = u32::try_from(octets.len()).map_err(|_| Invalid::Zone)?;
            octets.extend_from_slice(&owner.labels);
            let sets_at = u32::try_from(sets.len()).map_err(|_| Invalid::Zone)?;
            for (rtype, draft) in &owner.sets {
                let too_large = || Invalid::TooLarge(shown(&owner.labels, apex), *rtype);
                let set = draft.write(*rtype, &self.lower, octets).ok_or_else(too_large)?;
                if set.octets() > MOST_OCTETS {
                    return Err(too_large());
                }
                sets.push(set);
            }
            let at_apex = nodes.is_empty();
            let has = |rtype| owner.sets.get(&rtype).is_some_and(|draft| !draft.data.is_empty());
            let kind = match (has(rtype::NS) && !at_apex, has(rtype::DNAME)) {
                (true, _) => Kind::Delegation,
                (false, true) => Kind::Dname,
                (false, false) => Kind::Plain,
            };
            nodes.push(Node {
                labels_at,
                labels_len: u8::try_from(owner.labels.len()).map_err(|_| Invalid::Zone)?,
                kind,
                sets_len: u16::try_from(owner.sets.len()).map_err(|_| Invalid::Zone)?,
                sets_at,
                cut: NONE,
                wildcard: NONE,
                glue_at: 0,
                glue_len: 0,
            });
        }
        let mut index = HashTable::with_capacity(nodes.len());
        for (id, owner) in (0..).zip(owners.values()) {
            let rehash = |id: &u32| {
                let node = &nodes[*id as usize];
                let labels = &octets[node.labels_at as usize..][..usize::from(node.labels_len)];
                hash(&labels.to_ascii_lowercase())
            };
            index.insert_unique(hash(&owner.labels.to_ascii_lowercase()), id, rehash);
        }
        index.shrink_to_fit(|id| {
            let node = &nodes[*id as usize];
            let labels = &octets[node.labels_at as usize..][..usize::from(node.labels_len)];
            hash(&labels.to_ascii_lowercase())
        });
        self.nodes = nodes.into();
        self.sets = sets.into();
        self.index = index;
        Ok(())
    }

    /// Says of each name whether it is below a cut, and which wildcard is below it. In canonical order a
    /// name follows those above it.
    fn cut_and_shade(&mut self, owners: &BTreeMap<Vec<u8>, Owner>) {
        let mut above: Vec<(usize, usize)> = Vec::new();
        for (at, Owner { labels, .. }) in owners.values().enumerate().skip(1) {
            let depth = name::labels(labels).count();
            let is_wildcard = labels.starts_with(b"\x01*");
            while above.last().is_some_and(|(_, other)| *other >= depth) {
                above.pop();
            }
            let parent = above.last().map_or(0, |(parent, _)| *parent);
            let cut = match self.nodes[parent].kind {
                Kind::Plain => self.nodes[parent].cut,
                Kind::Delegation | Kind::Dname if self.nodes[parent].cut == NONE => parent as u32,
                Kind::Delegation | Kind::Dname => self.nodes[parent].cut,
            };
            self.nodes[at].cut = cut;
            if is_wildcard {
                self.nodes[parent].wildcard = at as u32;
            }
            above.push((at, depth));
        }
    }

    /// Finds for each delegation the names of its servers that have addresses in this zone.
    fn link_glue(&mut self) {
        let mut glue = Vec::new();
        for at in 0..self.nodes.len() {
            let id = NodeId(at as u32);
            if !self.is_delegation(id) {
                continue;
            }
            let begin = glue.len();
            let servers = self.set(id, rtype::NS).map(|set| set.records(self)).unwrap_or_default();
            for record in super::set::split(servers) {
                // A name of this zone ends with a pointer to its apex.
                let Some(labels) = record[super::set::FIXED..].split_last_chunk::<2>() else {
                    continue;
                };
                let (labels, [super::set::POINTER, _]) = labels else { continue };
                let Some(server) = self.get(&labels.to_ascii_lowercase()) else { continue };
                let has_addresses =
                    [rtype::A, rtype::AAAA].iter().any(|rtype| self.set(server, *rtype).is_some());
                if has_addresses && !glue[begin..].contains(&server.0) {
                    glue.push(server.0);
                }
            }
            self.nodes[at].glue_at = begin as u32;
            self.nodes[at].glue_len = (glue.len() - begin) as u16;
        }
        self.glue = glue.into();
    }

    /// The chain that proves what is not there.
    fn deny(
        &self,
        owners: &BTreeMap<Vec<u8>, Owner>,
        hashed: &BTreeMap<Hash, (Label, Draft)>,
        octets: &mut Vec<u8>,
    ) -> Result<Denial, Invalid> {
        let apex = owners.values().next().map(|owner| &owner.sets);
        let parameters = apex.and_then(|sets| sets.get(&rtype::NSEC3PARAM)?.data.first());
        if let (Some(parameters), false) = (parameters, hashed.is_empty()) {
            // RFC 5155 section 4.2: algorithm, flags, iterations, length of the salt and the salt.
            let [1, _, high, low, _, salt @ ..] = &parameters[..] else {
                return Err(Invalid::Nsec3("their algorithm is not SHA-1"));
            };
            let iterations = TooManyIterations::check(u16::from_be_bytes([*high, *low]))?;
            let mut chain = Vec::with_capacity(hashed.len());
            for (hash, (label, draft)) in hashed {
                let set = draft.write(rtype::NSEC3, &self.lower, octets).ok_or(Invalid::Zone)?;
                chain.push((*hash, *label, set));
            }
            let nsec3 = Nsec3 { iterations, salt: salt.into(), chain: chain.into() };
            return Ok(Denial::Nsec3(nsec3));
        }
        if apex.is_none_or(|sets| !sets.contains_key(&rtype::NSEC)) {
            return Ok(Denial::Unsigned);
        }
        let (mut keys, mut chain) = (Vec::new(), Vec::new());
        for (id, (key, owner)) in (0..).zip(owners) {
            if owner.sets.get(&rtype::NSEC).is_some_and(|draft| !draft.data.is_empty()) {
                keys.extend_from_slice(key);
                chain.push((u32::try_from(keys.len()).map_err(|_| Invalid::Zone)?, id));
            }
        }
        Ok(Denial::Nsec { keys: keys.into(), chain: chain.into() })
    }
}

/// What an RRset and its signatures may have, so that a message over a stream holds it with a question,
/// owners and EDNS (RFC 1035 section 4.2.2).
const MOST_OCTETS: usize = 60_000;

/// The SOA with the TTL of negative answers: the smaller of its own and its last field (RFC 2308 section 3).
fn negative(soa: &Draft, apex: &[u8], octets: &mut Vec<u8>) -> Option<Set> {
    let minimum = soa.data.first()?.last_chunk().map(|octets| u32::from_be_bytes(*octets))?;
    let ttl = soa.ttl.min(minimum);
    let negative = Draft {
        ttl,
        data: soa.data.clone(),
        signature_ttl: soa.signature_ttl.min(ttl),
        signatures: soa.signatures.clone(),
    };
    negative.write(rtype::SOA, apex, octets)
}

type Hashed = BTreeMap<Hash, (Label, Draft)>;

/// The records by their owners, in canonical order, with empty non-terminals; and those with hashed owners.
fn gather(
    apex: &Name,
    lower: &[u8],
    records: &[Record],
) -> Result<(BTreeMap<Vec<u8>, Owner>, Hashed), Invalid> {
    let mut owners = BTreeMap::<Vec<u8>, Owner>::new();
    let mut hashed = Hashed::new();
    owners.insert(Vec::new(), Owner::default());
    let mut key = Vec::new();
    for record in records {
        let shown = || record.owner().to_string();
        let wire_owner = record.owner().as_slice();
        let below = name::before(wire_owner, lower).ok_or_else(|| Invalid::Outside(shown()))?;
        let labels = &wire_owner[..below];
        if record.class() != Class::IN {
            return Err(Invalid::Class(shown()));
        }
        let data = wire(record.data());
        let ttl = record.ttl().as_secs();
        let (covered, is_signature) = match record.data() {
            ZoneRecordData::Rrsig(signature) => (signature.type_covered().to_int(), true),
            data => (data_type(data), false),
        };
        let draft = if covered == rtype::NSEC3 {
            let (hash, label) = hash_of(labels).ok_or(Invalid::Nsec3("an owner is not a hash"))?;
            &mut hashed.entry(hash).or_insert_with(|| (label, Draft::default())).1
        } else {
            name::sort_key(labels, &mut key);
            let owner = match owners.get_mut(&key) {
                Some(owner) => owner,
                None => {
                    add_above(labels, &mut owners);
                    owners.entry(key.clone()).or_default()
                }
            };
            // The last one that came says how it is written; an empty non-terminal is written by whom
            // it is above.
            if owner.labels.len() != labels.len() || owner.sets.is_empty() {
                owner.labels = labels.to_vec();
            }
            owner.sets.entry(covered).or_default()
        };
        draft.add(data, ttl, is_signature);
    }
    let apex_sets = owners.values().next().map(|owner| &owner.sets);
    let count = |rtype| {
        apex_sets.and_then(|sets| sets.get(&rtype)).map_or(0, |draft: &Draft| draft.data.len())
    };
    match count(rtype::SOA) {
        1 => {}
        other => return Err(Invalid::Soa(other)),
    }
    if count(rtype::NS) == 0 {
        return Err(Invalid::Ns);
    }
    for owner in owners.values_mut() {
        // Signatures over nothing.
        owner.sets.retain(|_, draft| !draft.data.is_empty());
        owner.check(apex)?;
    }
    hashed.retain(|_, (_, draft)| !draft.data.is_empty());
    Ok((owners, hashed))
}

impl Draft {
    fn add(&mut self, data: bytes::Bytes, ttl: u32, is_signature: bool) {
        let (all, least) = if is_signature {
            (&mut self.signatures, &mut self.signature_ttl)
        } else {
            (&mut self.data, &mut self.ttl)
        };
        *least = if all.is_empty() { ttl } else { ttl.min(*least) };
        if !all.contains(&data) {
            all.push(data);
        }
    }
}

impl Owner {
    fn check(&self, apex: &Name) -> Result<(), Invalid> {
        let count = |rtype| self.sets.get(&rtype).map_or(0, |draft| draft.data.len());
        for rtype in [rtype::CNAME, rtype::DNAME] {
            if count(rtype) > 1 {
                return Err(Invalid::Several(shown(&self.labels, apex), count(rtype)));
            }
        }
        // RFC 4034 section 3 and 4: those of DNSSEC may stand beside it.
        let beside = |rtype: &u16| !matches!(*rtype, rtype::CNAME | rtype::NSEC | rtype::RRSIG);
        let others =
            self.sets.iter().filter(|(rtype, draft)| beside(rtype) && !draft.data.is_empty());
        if count(rtype::CNAME) > 0 && others.count() > 0 {
            return Err(Invalid::CnameBeside(shown(&self.labels, apex)));
        }
        Ok(())
    }
}

/// The names between `labels` and the apex, which exist because of it (RFC 4592 section 2.2.2).
fn add_above(labels: &[u8], owners: &mut BTreeMap<Vec<u8>, Owner>) {
    let mut key = Vec::new();
    let mut rest = labels;
    while let Some((length, below)) = rest.split_first() {
        rest = below.get(usize::from(*length)..).unwrap_or_default();
        name::sort_key(rest, &mut key);
        if owners.contains_key(&key) {
            return;
        }
        owners.insert(key.clone(), Owner { labels: rest.to_vec(), sets: BTreeMap::new() });
    }
}

/// The hash that is the one label of an owner (RFC 5155 section 3).
fn hash_of(labels: &[u8]) -> Option<(Hash, Label)> {
    let label: Label = labels.try_into().ok()?;
    if label[0] != 32 {
        return None;
    }
    let hash: Vec<u8> = base32::decode_hex(std::str::from_utf8(&label[1..]).ok()?).ok()?;
    Some((hash.try_into().ok()?, label))
}

fn data_type(data: &crate::record::Data) -> u16 {
    use domain::base::rdata::RecordData;
    data.rtype().to_int()
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serial = Serial::from(self.serial);
        write!(f, "Zone({}, serial {serial})", String::from_utf8_lossy(&self.apex))
    }
}
