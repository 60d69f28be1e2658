//! Which box a zone names: the record that proves a domain, read in the zone itself. Pure.

use domain::base::name::ToName;
use domain::rdata::ZoneRecordData;
use sealpost_dns::record::{Name, Record};
use sealpost_tunnel::{DomainName, Fingerprint};

use crate::proof::record::{self, LABEL, Reading};

/// Whether a zone with these records names the box with this key. A wildcard names none, and neither
/// does what stands beneath a delegation.
pub(super) fn names_box(records: &[Record], domain: &DomainName, box_key: Fingerprint) -> bool {
    let Ok(name) = format!("{LABEL}.{domain}").parse::<Name>() else { return false };
    let cut = |record: &&Record| {
        matches!(record.data(), ZoneRecordData::Ns(_)) && record.owner().name_eq(&name)
    };
    let names = |record: &Record| match record.data() {
        ZoneRecordData::Txt(text) if record.owner().name_eq(&name) => {
            let strings: Vec<&[u8]> = text.iter().collect();
            record::read(&strings) == Reading::Box(box_key)
        }
        _ => false,
    };
    !records.iter().any(|record| cut(&record)) && records.iter().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::name::FlattenInto;
    use domain::zonefile::inplace::{Entry, Zonefile};
    use sealpost_tunnel::Identity;

    fn zone(text: &str) -> Vec<Record> {
        let mut file = Zonefile::from(text);
        let mut records: Vec<Record> = Vec::new();
        while let Some(Entry::Record(record)) = file.next_entry().unwrap() {
            records.push(record.flatten_into());
        }
        records
    }

    #[test]
    fn only_its_own_record_in_its_own_place_names_a_box() {
        let domain: DomainName = "home.example".parse().unwrap();
        let (mine, other) = (Identity::ephemeral().public(), Identity::ephemeral().public());
        let text = record::text(mine.fingerprint());
        let (one, two) = text.split_at(20);
        let names = |text: &str, key: sealpost_tunnel::PublicKey| {
            names_box(&zone(text), &domain, key.fingerprint())
        };
        for good in [
            format!("_sealpost.home.example. 300 IN TXT \"{text}\"\n"),
            format!("_Sealpost.HOME.example. 300 IN TXT \"{one}\" \"{two}\"\n"),
            format!(
                "_sealpost.home.example. 300 IN TXT \"other\"\n_sealpost.home.example. 300 IN TXT \"{text}\"\n"
            ),
        ] {
            assert!(names(&good, mine), "{good}");
            assert!(!names(&good, other), "{good}");
        }
        for bad in [
            String::new(),
            format!("home.example. 300 IN TXT \"{text}\"\n"),
            format!("*.home.example. 300 IN TXT \"{text}\"\n"),
            format!("_sealpost.www.home.example. 300 IN TXT \"{text}\"\n"),
            format!("_sealpost.home.example. 300 IN TXT \"{one}\"\n"),
            format!(
                "_sealpost.home.example. 300 IN NS ns.home.example.\n_sealpost.home.example. 300 IN TXT \"{text}\"\n"
            ),
        ] {
            assert!(!names(&bad, mine), "{bad}");
        }
    }
}
