//! Records as text, for humans and for comparison.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use domain::base::name::{FlattenInto, ToName};
use domain::base::{Name, Record, Rtype};
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

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

/// The records of a master file.
pub(crate) fn records(
    text: &str,
) -> Result<Vec<Record<Name<Bytes>, ZoneRecordData<Bytes, Name<Bytes>>>>> {
    let mut file = Zonefile::from(text).allow_invalid();
    file.set_default_class(domain::base::iana::Class::IN);
    let mut records = Vec::new();
    while let Some(entry) = file.next_entry().with_context(|| format!("parse\n{text}"))? {
        match entry {
            Entry::Record(record) => records.push(record.flatten_into()),
            Entry::Include { .. } => bail!("these files include nothing"),
        }
    }
    Ok(records)
}

/// One record in master format.
pub(crate) fn record(text: &str) -> Result<Shown> {
    let records = records(&format!("{text}\n"))?;
    let [record] = &records[..] else { bail!("not one record: {text}") };
    Ok(Shown::new(record.owner(), record.rtype(), record.ttl().as_secs(), record.data()))
}
