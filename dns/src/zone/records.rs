//! The records of a zone as they came, for transfers.

use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::{FlattenInto, ParsedName};
use domain::base::{ParseRecordData, Rtype, Ttl};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;

use super::set::{FIXED, split};
use super::{Denial, Set, Zone, rtype};
use crate::record::{Data, Name, Record};

impl Zone {
    /// All records, the SOA first; those of a name together.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let apex = Bytes::copy_from_slice(&self.apex);
        if let Some(soa) = self.set(Self::APEX, rtype::SOA) {
            self.expand(&apex, soa, &mut records);
        }
        for at in 0..self.nodes.len() {
            let id = super::NodeId(at as u32);
            let owner: Bytes = [self.labels(id), &self.apex].concat().into();
            let is_first = |set: &&Set| id == Self::APEX && set.rtype() == rtype::SOA;
            for set in self.sets(id).iter().filter(|set| !is_first(set)) {
                self.expand(&owner, set, &mut records);
            }
        }
        if let Denial::Nsec3(nsec3) = &self.denial {
            for (_, label, set) in &nsec3.chain {
                self.expand(&[label, &self.apex[..]].concat().into(), set, &mut records);
            }
        }
        records
    }

    fn expand(&self, owner: &Bytes, set: &Set, records: &mut Vec<Record>) {
        let mut at = 0;
        let mut pointers = set.pointers(self).peekable();
        let all = set.records(self);
        for record in split(all) {
            let mut data = Vec::with_capacity(record.len() + self.apex.len());
            let mut from = at + FIXED;
            at += record.len();
            while let Some(pointer) = pointers.next_if(|pointer| *pointer < at) {
                data.extend_from_slice(&all[from..pointer]);
                data.extend_from_slice(&self.apex);
                from = pointer + 2;
            }
            data.extend_from_slice(&all[from..at]);
            records.extend(parsed(owner, record, data));
        }
        for record in split(set.signature_records(self)) {
            records.extend(parsed(owner, record, record[FIXED..].to_vec()));
        }
    }
}

/// A record of the octets that were made from one.
fn parsed(owner: &Bytes, record: &[u8], data: Vec<u8>) -> Option<Record> {
    let rtype = Rtype::from_int(u16::from_be_bytes(record.first_chunk().copied()?));
    let ttl = u32::from_be_bytes(record.get(4..8)?.try_into().ok()?);
    let owner = Name::from_octets(owner.clone()).ok()?;
    let data = Bytes::from(data);
    let parsed: ZoneRecordData<Bytes, ParsedName<Bytes>> =
        ParseRecordData::parse_rdata(rtype, &mut Parser::from_ref(&data)).ok()??;
    let data: Data = parsed.try_flatten_into().ok()?;
    Some(Record::new(owner, Class::IN, Ttl::from_secs(ttl), data))
}
