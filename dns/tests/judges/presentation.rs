//! Records as text, for humans and for comparison.

use anyhow::{Result, bail};
use domain::base::Rtype;
use domain::base::name::ToName;
use domain::rdata::ZoneRecordData;

use crate::master_file::records;

/// One record as the judges compare it. Names are compared without regard to case (RFC 4343), and
/// some servers fold the case of what they serve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    /// In lower case, with the final dot.
    pub(crate) owner: String,
    pub(crate) rtype: Rtype,
    pub(crate) ttl: u32,
    data: String,
}

impl Shown {
    pub(crate) fn new<O, D>(
        owner: &impl ToName,
        rtype: Rtype,
        ttl: u32,
        data: &ZoneRecordData<O, D>,
    ) -> Self
    where
        ZoneRecordData<O, D>: std::fmt::Display,
    {
        let mut data = data.to_string();
        if rtype != Rtype::TXT {
            data.make_ascii_lowercase();
        }
        let owner = owner.to_vec().fmt_with_dot().to_string().to_ascii_lowercase();
        Shown { owner, rtype, ttl, data }
    }

    /// What remains when nobody looks at the TTL.
    pub(crate) fn without_ttl(&self) -> String {
        format!("{} {} {}", self.owner, self.rtype, self.data)
    }

    /// All of it.
    pub(crate) fn with_ttl(&self) -> String {
        format!("{} {} {} {}", self.owner, self.ttl, self.rtype, self.data)
    }

    /// Whether the record is of that type or the signature over such records.
    pub(crate) fn is_or_covers(&self, rtype: Rtype) -> bool {
        let covers =
            || self.data.split(' ').next() == Some(&rtype.to_string().to_ascii_lowercase());
        self.rtype == rtype || (self.rtype == Rtype::RRSIG && covers())
    }
}

/// One record in master format.
pub(crate) fn record(text: &str) -> Result<Shown> {
    let records = records(&format!("{text}\n"))?;
    let [record] = &records[..] else { bail!("not one record: {text}") };
    Ok(Shown::new(record.owner(), record.rtype(), record.ttl().as_secs(), record.data()))
}
