//! A zone's records in canonical form and order, which is the form that signatures (RFC 4034
//! section 6), ZONEMD (RFC 8976 section 3.3) and the [`super::Seal`] are made over.
//!
//! All octets lie in one arena and all records in one sorted list, so that a zone costs a handful
//! of allocations whatever its size.

use std::ops::Range;

use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::{FlattenInto, ParsedName};
use domain::base::rdata::{ComposeRecordData, ParseRecordData, UnknownRecordData};
use domain::base::{Rtype, ToName};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;

use crate::record::{Data, Name, Record};

use super::meter::FIXED_OCTETS;
use super::order::append_key;
use super::{Limits, Meter, Refused};

/// Types with names in them that are to be lowered (RFC 4034 section 6.2), that `domain` does not
/// know: the octets before the names, and how many names there are.
const LOWERED: [(u16, usize, usize); 4] = [
    (18, 2, 1), // AFSDB
    (21, 2, 1), // RT
    (26, 2, 2), // PX
    (36, 2, 1), // KX
];

/// A record in canonical form.
#[derive(Debug)]
struct Row {
    key: Range<usize>,
    owner: Range<usize>,
    rdata: Range<usize>,
    rtype: Rtype,
    ttl: u32,
    /// Where the record stands in what was given.
    source: usize,
}

/// Where a name stands in the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The zone's own name.
    Apex,
    /// Any other name with authoritative data.
    Inside,
    /// A delegation: its DS and NSEC are authoritative, its NS is not.
    Cut,
    /// Below a delegation: glue, or data that the delegation hides.
    Below,
}

/// A name and where its records stand in the list.
#[derive(Debug)]
struct Node {
    rows: Range<usize>,
    place: Place,
}

/// A whole zone in canonical order.
#[derive(Debug)]
pub(super) struct Content<'r> {
    records: &'r [Record],
    arena: Vec<u8>,
    rows: Vec<Row>,
    nodes: Vec<Node>,
}

impl<'r> Content<'r> {
    /// Sorts the records. Refuses what can be refused by looking at a single record.
    pub(super) fn new(
        apex: &Name,
        records: &'r [Record],
        limits: &Limits,
    ) -> Result<Self, Refused> {
        let mut meter = Meter::new(limits);
        let mut arena = Vec::new();
        let mut rows: Vec<Row> = Vec::with_capacity(records.len().min(limits.records));
        let apex_key = super::order::key(apex.for_slice());
        let mut before: Option<(&Name, Range<usize>, Range<usize>)> = None;
        for (source, record) in records.iter().enumerate() {
            let (name, rtype) = (record.owner(), record.rtype());
            if record.class() != Class::IN {
                return Err(Refused::NotIn { name: name.clone(), class: record.class() });
            }
            if !for_zones(rtype) {
                return Err(Refused::NotForZones { name: name.clone(), rtype });
            }
            let (owner, key) = match &before {
                Some((same, owner, key)) if same.as_slice() == name.as_slice() => {
                    (owner.clone(), key.clone())
                }
                _ => {
                    let owner = appended(&mut arena, |arena| {
                        let Ok(()) = name.compose_canonical(arena);
                    });
                    let key = appended(&mut arena, |arena| append_key(name.for_slice(), arena));
                    before = Some((name, owner.clone(), key.clone()));
                    (owner, key)
                }
            };
            if !arena[key.clone()].starts_with(&apex_key) {
                return Err(Refused::OutsideZone { name: name.clone(), apex: apex.clone() });
            }
            let mut sound = true;
            let rdata = appended(&mut arena, |arena| {
                sound = append_rdata(record.data(), rtype, arena).is_some();
            });
            if !sound || rdata.len() > usize::from(u16::MAX) {
                return Err(Refused::Malformed { name: name.clone(), rtype });
            }
            meter.count_octets(owner.len() + FIXED_OCTETS + rdata.len())?;
            rows.push(Row { key, owner, rdata, rtype, ttl: record.ttl().as_secs(), source });
        }
        rows.sort_unstable_by(|a, b| place_in_order(&arena, a).cmp(&place_in_order(&arena, b)));
        let mut content = Self { records, arena, rows, nodes: Vec::new() };
        content.refuse_twice()?;
        content.find_nodes(apex_key.len());
        Ok(content)
    }

    fn refuse_twice(&self) -> Result<(), Refused> {
        let same = |pair: &[Row]| {
            place_in_order(&self.arena, &pair[0]) == place_in_order(&self.arena, &pair[1])
        };
        match self.rows.windows(2).find(|pair| same(pair)) {
            None => Ok(()),
            // A second SOA that only has another TTL is one too many as well.
            Some(pair) => Err(Refused::Twice {
                name: self.records[pair[0].source].owner().clone(),
                rtype: pair[0].rtype,
            }),
        }
    }

    fn find_nodes(&mut self, apex_len: usize) {
        let mut nodes = Vec::new();
        let mut cut: Option<&[u8]> = None;
        let mut start = 0;
        for rows in
            self.rows.chunk_by(|a, b| self.arena[a.key.clone()] == self.arena[b.key.clone()])
        {
            let key = &self.arena[rows[0].key.clone()];
            let place = if cut.is_some_and(|cut| key.starts_with(cut)) {
                Place::Below
            } else if key.len() == apex_len {
                Place::Apex
            } else if rows.iter().any(|row| row.rtype == Rtype::NS) {
                cut = Some(key);
                Place::Cut
            } else {
                Place::Inside
            };
            nodes.push(Node { rows: start..start + rows.len(), place });
            start += rows.len();
        }
        self.nodes = nodes;
    }

    /// All names that have records, in canonical order.
    pub(super) fn names(&self) -> impl Iterator<Item = Named<'_>> {
        self.nodes.iter().map(|node| Named { content: self, node })
    }

    /// The apex, when it has records.
    pub(super) fn apex(&self) -> Option<Named<'_>> {
        // Nothing in the zone sorts before its apex.
        self.names().next().filter(|name| name.place() == Place::Apex)
    }

    /// All records in canonical order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.rows.iter().map(|row| Entry { content: self, row })
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// A name of the zone with its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'c> {
    content: &'c Content<'c>,
    node: &'c Node,
}

impl<'c> Named<'c> {
    fn rows(self) -> &'c [Row] {
        &self.content.rows[self.node.rows.clone()]
    }

    fn first(self) -> Entry<'c> {
        Entry { content: self.content, row: &self.rows()[0] }
    }

    /// Where it stands.
    pub(super) fn place(self) -> Place {
        self.node.place
    }

    /// The name as it came.
    pub(super) fn name(self) -> &'c Name {
        self.first().name()
    }

    /// The name's octets in lower case.
    pub(super) fn owner(self) -> &'c [u8] {
        self.first().owner()
    }

    /// The name's key (see `order`).
    pub(super) fn key(self) -> &'c [u8] {
        &self.content.arena[self.rows()[0].key.clone()]
    }

    /// The records of one type; none where there are none.
    pub(super) fn rrset(self, rtype: Rtype) -> Rrset<'c> {
        let rows = self.rows();
        let start = rows.partition_point(|row| row.rtype < rtype);
        let end = rows.partition_point(|row| row.rtype <= rtype);
        Rrset { named: self, rtype, rows: &rows[start..end] }
    }

    /// All its RRsets but the RRSIGs, by ascending type.
    pub(super) fn rrsets(self) -> impl Iterator<Item = Rrset<'c>> {
        self.rows()
            .chunk_by(|a, b| a.rtype == b.rtype)
            .filter(|rows| rows[0].rtype != Rtype::RRSIG)
            .map(move |rows| Rrset { named: self, rtype: rows[0].rtype, rows })
    }

    /// Its RRSIGs as (type covered, RDATA), by ascending type: the type covered is what the RDATA
    /// begins with, so the canonical order has them so.
    pub(super) fn signatures(self) -> impl Iterator<Item = (Rtype, Entry<'c>)> {
        self.rrset(Rtype::RRSIG).entries().map(|entry| (covered(entry.rdata()), entry))
    }
}

/// The records of one name and type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rrset<'c> {
    named: Named<'c>,
    /// Their type.
    pub(super) rtype: Rtype,
    rows: &'c [Row],
}

impl<'c> Rrset<'c> {
    /// The name of the records.
    pub(super) fn named(self) -> Named<'c> {
        self.named
    }

    /// The records in canonical order.
    pub(super) fn entries(self) -> impl Iterator<Item = Entry<'c>> {
        self.rows.iter().map(move |row| Entry { content: self.named.content, row })
    }

    /// How many records there are.
    pub(super) fn len(self) -> usize {
        self.rows.len()
    }

    /// The only record, where there is exactly one.
    pub(super) fn only(self) -> Option<Entry<'c>> {
        self.entries().next().filter(|_| self.len() == 1)
    }

    /// The signatures over these records.
    pub(super) fn signatures(self) -> impl Iterator<Item = Entry<'c>> {
        let all = self.named.rrset(Rtype::RRSIG);
        let arena = &self.named.content.arena;
        let covers = move |row: &Row| covered(&arena[row.rdata.clone()]);
        let start = all.rows.partition_point(|row| covers(row) < self.rtype);
        let end = all.rows.partition_point(|row| covers(row) <= self.rtype);
        Rrset { rows: &all.rows[start..end], ..all }.entries()
    }
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'c> {
    content: &'c Content<'c>,
    row: &'c Row,
}

impl<'c> Entry<'c> {
    /// The owner as it came.
    pub(super) fn name(self) -> &'c Name {
        self.content.records[self.row.source].owner()
    }

    /// The owner in lower case.
    pub(super) fn owner(self) -> &'c [u8] {
        &self.content.arena[self.row.owner.clone()]
    }

    /// The owner's key (see `order`).
    pub(super) fn key(self) -> &'c [u8] {
        &self.content.arena[self.row.key.clone()]
    }

    /// What an RRSIG covers; `None` for other types.
    pub(super) fn covers(self) -> Option<Rtype> {
        (self.row.rtype == Rtype::RRSIG).then(|| covered(self.rdata()))
    }

    /// The type.
    pub(super) fn rtype(self) -> Rtype {
        self.row.rtype
    }

    /// The TTL in seconds.
    pub(super) fn ttl(self) -> u32 {
        self.row.ttl
    }

    /// The RDATA in canonical form.
    pub(super) fn rdata(self) -> &'c [u8] {
        &self.content.arena[self.row.rdata.clone()]
    }

    /// Octets in uncompressed wire form.
    pub(super) fn octets(self) -> usize {
        self.row.owner.len() + FIXED_OCTETS + self.row.rdata.len()
    }

    /// The octets between the owner and the RDATA with a TTL of one's choice.
    pub(super) fn fixed(self, ttl: u32) -> [u8; FIXED_OCTETS] {
        let [t0, t1] = self.row.rtype.to_int().to_be_bytes();
        let [c0, c1] = Class::IN.to_int().to_be_bytes();
        let [s0, s1, s2, s3] = ttl.to_be_bytes();
        // The length was checked when the record was taken.
        let length = u16::try_from(self.row.rdata.len()).unwrap_or(u16::MAX);
        let [l0, l1] = length.to_be_bytes();
        [t0, t1, c0, c1, s0, s1, s2, s3, l0, l1]
    }

    /// Reads the RDATA with one of `domain`'s parsers. `append_rdata` has seen to it that the RDATA
    /// is well-formed, so an error here is not to be expected; it is a refusal all the same.
    pub(super) fn parse<T>(
        self,
        parse: impl FnOnce(&mut Parser<'c, [u8]>) -> Result<T, domain::base::wire::ParseError>,
    ) -> Result<T, Refused> {
        let mut parser = Parser::from_ref(self.rdata());
        parse(&mut parser).map_err(|_| self.malformed())
    }

    /// That the RDATA cannot be read.
    pub(super) fn malformed(self) -> Refused {
        Refused::Malformed { name: self.name().clone(), rtype: self.row.rtype }
    }
}

fn covered(rrsig: &[u8]) -> Rtype {
    Rtype::from_int(match *rrsig {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 0,
    })
}

fn place_in_order<'a>(arena: &'a [u8], row: &Row) -> (&'a [u8], Rtype, &'a [u8]) {
    (&arena[row.key.clone()], row.rtype, &arena[row.rdata.clone()])
}

fn appended(arena: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = arena.len();
    append(arena);
    start..arena.len()
}

/// Whether a type may stand in a zone: not 0, OPT, nor those kept for queries and meta-records
/// (RFC 6895 section 3.1).
fn for_zones(rtype: Rtype) -> bool {
    !matches!(rtype.to_int(), 0 | 41 | 128..=255)
}

/// Appends the RDATA in canonical form; `None` when it is not what its type allows.
///
/// RDATA of a known type may come uninterpreted (RFC 3597 section 5 allows to write it so). It is
/// read again then, as its names would keep their case otherwise.
fn append_rdata(data: &Data, rtype: Rtype, arena: &mut Vec<u8>) -> Option<()> {
    let Data::Unknown(unknown) = data else {
        let Ok(()) = data.compose_canonical_rdata(arena);
        return Some(());
    };
    if let Some(&(_, fixed, names)) = LOWERED.iter().find(|(known, ..)| *known == rtype.to_int()) {
        return append_lowered(unknown.data(), fixed, names, arena);
    }
    let known = read_known(unknown)?;
    let start = arena.len();
    let Ok(()) = known.compose_canonical_rdata(arena);
    // A compression pointer has no place in RDATA that stands alone; it shows in the length.
    (arena.len() - start == unknown.data().len()).then_some(())
}

fn read_known(unknown: &UnknownRecordData<Bytes>) -> Option<Data> {
    let mut parser = Parser::from_ref(unknown.data());
    let data: ZoneRecordData<Bytes, ParsedName<Bytes>> =
        ZoneRecordData::parse_rdata(unknown.rtype(), &mut parser).ok()??;
    if parser.remaining() != 0 {
        return None;
    }
    data.try_flatten_into().ok()
}

fn append_lowered(rdata: &[u8], fixed: usize, names: usize, arena: &mut Vec<u8>) -> Option<()> {
    let (head, mut rest) = rdata.split_at_checked(fixed)?;
    arena.extend_from_slice(head);
    for _ in 0..names {
        let mut parser = Parser::from_ref(rest);
        let name = domain::base::Name::<&[u8]>::parse(&mut parser).ok()?;
        let Ok(()) = name.compose_canonical(arena);
        rest = rest.get(name.len()..)?;
    }
    rest.is_empty().then_some(())
}
