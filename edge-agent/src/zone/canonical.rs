//! The canonical order and form of a zone's records (RFC 4034 section 6), on which signatures, the
//! chain of names and the digest of the zone all rest. Pure.
//!
//! Records are ordered by their octets rather than field by field: an order that differs from the
//! octets for one rare type would give signatures that verify nowhere.

use std::cmp::Ordering;

use domain::base::iana::Rtype;
use domain::base::name::ToName;
use domain::base::rdata::ComposeRecordData;
use sealpost_dns::record::{Name, Record};

/// The canonical form of a record's data: uncompressed, names of the old types in small letters.
pub fn data(record: &Record) -> Vec<u8> {
    let mut octets = Vec::new();
    let Ok(()) = record.data().compose_canonical_rdata(&mut octets);
    octets
}

/// The canonical form of a whole record.
pub fn record(record: &Record, into: &mut Vec<u8>) {
    let Ok(()) = record.compose_canonical(into);
}

/// A name in small letters, in wire format: what names are looked up by.
pub fn name(name: &Name) -> Vec<u8> {
    let mut octets = Vec::with_capacity(name.len());
    let Ok(()) = name.compose_canonical(&mut octets);
    octets
}

/// Brings records into canonical order and drops those that are there twice (RFC 2181 section 5).
pub fn sort(records: Vec<Record>) -> Vec<Record> {
    let mut keyed: Vec<_> = records.into_iter().map(|record| (data(&record), record)).collect();
    keyed.sort_by(|(a, left), (b, right)| place(left, right).then_with(|| a.cmp(b)));
    keyed.dedup_by(|(a, left), (b, right)| place(left, right).is_eq() && a == b);
    keyed.into_iter().map(|(_, record)| record).collect()
}

/// The order of owners and types.
fn place(left: &Record, right: &Record) -> Ordering {
    left.owner().name_cmp(right.owner()).then_with(|| left.rtype().cmp(&right.rtype()))
}

/// The record sets of records in canonical order. All signatures of a name are one set.
pub fn sets(sorted: &[Record]) -> impl Iterator<Item = &[Record]> {
    sorted.chunk_by(|left, right| place(left, right).is_eq())
}

/// What stands at each name of records in canonical order.
pub fn nodes(sorted: &[Record]) -> impl Iterator<Item = &[Record]> {
    sorted.chunk_by(|left, right| left.owner().name_eq(right.owner()))
}

/// What a zone is to say about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// All of it is the zone's own.
    Own,
    /// Another zone begins here: only its DS and the proof of what is here are this zone's own
    /// (RFC 4035 section 2.2).
    Cut,
    /// Below such a name: addresses that help to find the other zone, and nothing else.
    Below,
}

impl Standing {
    /// Whether a record set of `rtype` is signed.
    pub fn signs(self, rtype: Rtype) -> bool {
        match self {
            _ if rtype == Rtype::RRSIG => false,
            Self::Own => true,
            Self::Cut => matches!(rtype, Rtype::DS | Rtype::NSEC),
            Self::Below => false,
        }
    }

    /// Whether a chain of names tells of `rtype` here (RFC 4034 section 4.1.2).
    pub fn tells(self, rtype: Rtype) -> bool {
        match self {
            Self::Own => true,
            Self::Cut => matches!(rtype, Rtype::NS | Rtype::DS),
            Self::Below => false,
        }
    }
}

/// What stands at each name of a zone in canonical order, and how. Everything below a cut comes
/// right behind it in this order.
pub fn standings<'a>(
    apex: &'a Name,
    sorted: &'a [Record],
) -> impl Iterator<Item = (&'a [Record], Standing)> {
    let mut cut: Option<&Name> = None;
    nodes(sorted).map(move |node| {
        let owner = node[0].owner();
        if cut.is_some_and(|cut| owner.ends_with(cut)) {
            return (node, Standing::Below);
        }
        let delegates = node.iter().any(|record| record.rtype() == Rtype::NS);
        if delegates && !owner.name_eq(apex) {
            cut = Some(owner);
            return (node, Standing::Cut);
        }
        (node, Standing::Own)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::zone::included;

    /// The records of a zone file's text, without any check.
    pub(crate) fn records(apex: &str, text: &str) -> Vec<Record> {
        let apex = apex.parse().unwrap();
        let own = included::parse(text.as_bytes(), "test".as_ref(), &apex).unwrap();
        own.into_iter().map(|own| own.record).collect()
    }

    #[test]
    fn names_are_in_the_order_of_the_rfc() {
        // RFC 4034 section 6.1, with the letters' case.
        let order = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            "\\001.z.example.",
            "*.z.example.",
            "\\200.z.example.",
        ];
        let text: String =
            order.iter().rev().map(|name| format!("{name} 60 IN A 192.0.2.1\n")).collect();
        let sorted = sort(records("example.", &text));
        let names: Vec<_> = sorted.iter().map(|it| it.owner().fmt_with_dot().to_string()).collect();
        assert_eq!(names, order);
    }

    #[test]
    fn the_same_record_is_there_once_and_texts_are_ordered_by_their_octets() {
        let sorted = sort(records(
            "example.",
            "a 60 IN TXT \"b\"\nA 60 IN TXT \"b\"\na 60 IN TXT \"aa\"\na 60 IN MX 1 B.example.\n\
             a 60 IN MX 1 b.example.\n",
        ));
        let data: Vec<_> = sorted.iter().map(data).collect();
        assert_eq!(data[1..], [b"\x01b".to_vec(), b"\x02aa".to_vec()]);
        assert_eq!(sets(&sorted).map(<[_]>::len).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_below_a_cut_is_not_the_zones_own() {
        let sorted = sort(records(
            "example.",
            "@ 60 IN NS ns.example.\nns 60 IN A 192.0.2.1\nsub 60 IN NS ns.sub\n\
             sub 60 IN DS 1 13 2 0000000000000000000000000000000000000000000000000000000000000000\n\
             ns.sub 60 IN A 192.0.2.2\nsubway 60 IN A 192.0.2.3\n",
        ));
        let apex = "example.".parse().unwrap();
        let standings: Vec<_> = standings(&apex, &sorted).map(|(_, standing)| standing).collect();
        use Standing::{Below, Cut, Own};
        assert_eq!(standings, [Own, Own, Cut, Below, Own]);
        assert!(Cut.signs(Rtype::DS) && !Cut.signs(Rtype::NS) && Cut.tells(Rtype::NS));
    }
}
