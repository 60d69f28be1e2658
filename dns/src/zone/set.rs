//! An RRset in the octets in which it is sent, but for its owner: of each record the type, class, TTL,
//! length and data. Names in the data that end with the apex end with a pointer to it, whose place in
//! the question is filled in as it is sent.

use bytes::Bytes;
use domain::base::rdata::ComposeRecordData;

use super::{Zone, rtype};
use crate::name;
use crate::record::Data;

/// Type, class, TTL and length of a record.
pub(crate) const FIXED: usize = 10;
/// The first octet of a pointer (RFC 1035 section 4.1.4).
pub(crate) const POINTER: u8 = 0xc0;

/// Where the octets of an RRset are, and of the signatures behind it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Set {
    rtype: u16,
    count: u16,
    signatures: u16,
    /// Pointers to be filled in: their places, two octets each and from `at`, are behind the signatures.
    pointers: u16,
    at: u32,
    len: u32,
    signatures_len: u32,
}

impl Set {
    pub(crate) fn rtype(&self) -> u16 {
        self.rtype
    }

    /// Records without signatures.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Signatures over it.
    pub(crate) fn signatures(&self) -> u16 {
        self.signatures
    }

    /// Octets of it and of its signatures in a message, each with a short owner.
    pub(super) fn octets(&self) -> usize {
        const OWNER: usize = 2;
        let records = usize::from(self.count) + usize::from(self.signatures);
        self.len as usize + self.signatures_len as usize + records * OWNER
    }

    /// The octets of its records.
    pub(crate) fn records<'z>(&self, zone: &'z Zone) -> &'z [u8] {
        &zone.octets[self.at as usize..][..self.len as usize]
    }

    /// The octets of its signatures.
    pub(crate) fn signature_records<'z>(&self, zone: &'z Zone) -> &'z [u8] {
        &zone.octets[(self.at + self.len) as usize..][..self.signatures_len as usize]
    }

    /// The TTL of its records, in seconds.
    pub(crate) fn ttl(&self, zone: &Zone) -> u32 {
        let octets = self.records(zone).get(4..8).and_then(<[u8]>::first_chunk);
        octets.map_or(0, |octets| u32::from_be_bytes(*octets))
    }

    /// Where in `records` the pointers to the apex are.
    pub(crate) fn pointers<'z>(&self, zone: &'z Zone) -> impl Iterator<Item = usize> + 'z {
        let at = (self.at + self.len + self.signatures_len) as usize;
        zone.octets[at..][..usize::from(self.pointers) * 2]
            .chunks_exact(2)
            .map(|place| usize::from(u16::from_be_bytes([place[0], place[1]])))
    }

    /// The data of its first record, for types that have one record: where names are, they may end with
    /// a pointer to the apex.
    pub(crate) fn only_data<'z>(&self, zone: &'z Zone) -> &'z [u8] {
        split(self.records(zone)).next().map_or(&[], |record| &record[FIXED..])
    }
}

/// The records in `records`.
pub(crate) fn split(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_be_bytes(records.get(8..FIXED)?.try_into().ok()?));
        let (record, rest) = records.split_at_checked(FIXED + length)?;
        records = rest;
        Some(record)
    })
}

/// Records of one owner and type, while a zone is compiled.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) ttl: u32,
    pub(super) data: Vec<Bytes>,
    pub(super) signature_ttl: u32,
    pub(super) signatures: Vec<Bytes>,
}

impl Draft {
    /// Appends the octets to those of a zone with the name `apex` in lower case; none if they are too many.
    pub(super) fn write(&self, rtype: u16, apex: &[u8], octets: &mut Vec<u8>) -> Option<Set> {
        let begin = octets.len();
        let mut pointers = Vec::new();
        for data in &self.data {
            let fixed = octets.len();
            head(rtype, self.ttl, octets);
            octets.extend([0; 2]);
            let shorter = shorten(rtype, data, apex);
            for (part, ends_with_apex) in &shorter {
                octets.extend_from_slice(part);
                if *ends_with_apex {
                    pointers.push(u16::try_from(octets.len() - begin).ok()?);
                    octets.extend([POINTER, 0]);
                }
            }
            let length = u16::try_from(octets.len() - fixed - FIXED).ok()?;
            octets[fixed + 8..fixed + FIXED].copy_from_slice(&length.to_be_bytes());
        }
        let len = octets.len() - begin;
        for data in &self.signatures {
            head(rtype::RRSIG, self.signature_ttl, octets);
            octets.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            octets.extend_from_slice(data);
        }
        let signatures_len = octets.len() - begin - len;
        octets.extend(pointers.iter().flat_map(|place| place.to_be_bytes()));
        Some(Set {
            rtype,
            count: u16::try_from(self.data.len()).ok()?,
            signatures: u16::try_from(self.signatures.len()).ok()?,
            pointers: u16::try_from(pointers.len()).ok()?,
            at: u32::try_from(begin).ok()?,
            len: u32::try_from(len).ok()?,
            signatures_len: u32::try_from(signatures_len).ok()?,
        })
    }
}

fn head(rtype: u16, ttl: u32, octets: &mut Vec<u8>) {
    const IN: u16 = 1;
    octets.extend(rtype.to_be_bytes());
    octets.extend(IN.to_be_bytes());
    octets.extend(ttl.to_be_bytes());
}

/// The data of a record in wire format without compression.
pub(super) fn wire(data: &Data) -> Bytes {
    /// Octets of most data, signatures among them: without them a vector grows five times.
    const MOST: usize = 256;
    let mut wire = Vec::with_capacity(MOST);
    // A vector has always room.
    let Ok(()) = data.compose_rdata(&mut wire);
    Bytes::copy_from_slice(&wire)
}

/// Parts of `data`, each with whether the apex follows and was left out. Names are compressed in the types
/// of RFC 1035 alone (RFC 3597 section 4).
fn shorten<'d>(rtype: u16, data: &'d [u8], apex: &[u8]) -> Vec<(&'d [u8], bool)> {
    // Octets before the names, and how many names there are.
    let (before, names) = match rtype {
        rtype::NS | rtype::CNAME | rtype::PTR => (0, 1),
        rtype::MX => (2, 1),
        rtype::SOA => (0, 2),
        _ => return vec![(data, false)],
    };
    let mut parts = Vec::new();
    let (mut begin, mut at) = (0, before);
    for _ in 0..names {
        let Some(name) = data.get(at..) else { break };
        let labels: usize = name::labels(name).map(|label| label.len() + 1).sum();
        // RDATA that was not made from names (RFC 3597 section 5) may end within one.
        let Some(name) = name.get(..labels + 1) else { break };
        let end = at + labels + 1;
        // Nothing is won by a pointer to the root.
        if let Some(keep) = name::before(name, apex).filter(|_| apex.len() > 2) {
            parts.push((&data[begin..at + keep], true));
            begin = end;
        }
        at = end;
    }
    parts.push((&data[begin..], false));
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APEX: &[u8] = b"\x07example\x00";

    #[test]
    fn names_of_the_zone_are_shortened() {
        let data = b"\x00\x0a\x02mx\x07Example\x00";
        assert_eq!(shorten(rtype::MX, data, APEX), [(&data[..5], true), (&[][..], false)]);
        assert_eq!(shorten(rtype::A, data, APEX), [(&data[..], false)]);
    }

    #[test]
    fn what_is_no_name_stays_as_it_is() {
        for data in [&b""[..], b"\x03", b"\x03ab", b"\x03abc", b"\x00\x00\x02mx", b"\xc0"] {
            for rtype in [rtype::NS, rtype::MX, rtype::SOA] {
                assert_eq!(shorten(rtype, data, APEX), [(data, false)]);
            }
        }
    }

    proptest! {
        #[test]
        fn all_octets_stay(data in prop::collection::vec(prop_oneof![Just(0), Just(7), 0u8..=255], 0..40)) {
            for rtype in [rtype::NS, rtype::MX, rtype::SOA] {
                let parts = shorten(rtype, &data, APEX);
                let whole: Vec<u8> = parts
                    .iter()
                    .flat_map(|(part, short)| [*part, if *short { APEX } else { &[] }].concat())
                    .collect();
                prop_assert!(whole.eq_ignore_ascii_case(&data));
            }
        }
    }
}
