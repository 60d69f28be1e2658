//! Master files (RFC 1035 section 5) for the judges and the bench.

use anyhow::{Context, Result, bail};
use domain::base::name::FlattenInto;
use domain::zonefile::inplace::{Entry, Zonefile};
use sealpost_dns::record::Record;

/// The records of a master file.
pub(crate) fn records(text: &str) -> Result<Vec<Record>> {
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
