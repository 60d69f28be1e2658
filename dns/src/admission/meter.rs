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

    /// Counts a record that came. After an error the transfer is to be ended.
    pub fn count(&mut self, record: &Record) -> Result<(), Refused> {
        let rdata = match record.data().rdlen(false) {
            Some(octets) => usize::from(octets),
            None => {
                self.scratch.clear();
                // A vector takes what is appended.
                let Ok(()) = record.data().compose_rdata(&mut self.scratch);
                self.scratch.len()
            }
        };
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
