//! Counts a zone while it arrives, so that one of ten million records is stopped at the first that
//! is too many, and not after all of them are held in memory.

use domain::base::rdata::ComposeRecordData;

use crate::record::Record;

use super::{Limits, Refused};

/// Type, class, TTL and length of the RDATA (RFC 1035 section 3.2.1).
pub(super) const FIXED_OCTETS: usize = 10;

/// What has come of a zone so far.
#[derive(Debug)]
pub struct Meter {
    limits: (usize, usize),
    records: usize,
    octets: usize,
    scratch: Vec<u8>,
}

impl Meter {
    /// A meter for one transfer.
    pub fn new(limits: &Limits) -> Self {
        Self { limits: (limits.records, limits.octets), records: 0, octets: 0, scratch: Vec::new() }
    }

    /// Counts a record that came, before anything else is done with it: a record that is let through
    /// can be composed. After an error the transfer is to be ended.
    pub fn count(&mut self, record: &Record) -> Result<(), Refused> {
        // `rdlen` would do without the copy, but panics on RDATA that is too long once its names are
        // whole: a signer's name may come compressed before a signature of 65,000 octets.
        self.scratch.clear();
        let Ok(()) = record.data().compose_rdata(&mut self.scratch);
        let rdata = self.scratch.len();
        if rdata > usize::from(u16::MAX) {
            let name = record.owner().clone();
            return Err(Refused::Malformed { name, rtype: record.rtype() });
        }
        self.count_octets(record.owner().len() + FIXED_OCTETS + rdata)
    }

    /// Counts one record by its uncompressed length in octets.
    pub(super) fn count_octets(&mut self, octets: usize) -> Result<(), Refused> {
        self.records += 1;
        self.octets = self.octets.saturating_add(octets);
        let (records, octets) = self.limits;
        if self.records > records {
            return Err(Refused::TooManyRecords { limit: records });
        }
        if self.octets > octets {
            return Err(Refused::TooManyOctets { limit: octets });
        }
        Ok(())
    }
}
