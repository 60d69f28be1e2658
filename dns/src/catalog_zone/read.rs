//! Reads a catalog zone: records in, members out. Pure.
//!
//! Properties that are not known are ignored, as are groups and moves to another catalog (`coo`), of which
//! only the form is looked at. A catalog that is broken in any place is not used at all (section 5.1).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use domain::base::iana::Class;
use domain::rdata::ZoneRecordData;

use super::{COO, VERSION, VERSION_LABEL, ZONES};
use crate::record::{Name, Record};

/// The zones that a catalog names, in lower case, each with the label that it has there. Another label for
/// a zone means that all that is known of it is to be forgotten (section 5.6).
pub type Members = HashMap<Name, Bytes>;

/// Why a catalog is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record of another class (section 3).
    #[error("{0} has a record that is not of class IN")]
    Class(Name),
    /// No version, or several.
    #[error("the catalog must have one TXT record version.{0}, but has {1}")]
    Versions(Name, usize),
    /// A version that is not known.
    #[error("the catalog's version is not \"2\", the one of RFC 9432")]
    Version,
    /// Two PTR records where one must be alone.
    #[error("{0} has more than one PTR record")]
    ManyPtr(Name),
    /// Two members with the same name.
    #[error("the zone {0} is in the catalog twice")]
    Twice(Name),
    /// More members than `limits.catalog_members`.
    #[error("the catalog names more than {0} zones; raise limits.catalog_members if it may")]
    TooMany(usize),
}

/// The members of the catalog `apex`, `most` at most.
pub fn read(apex: &Name, records: &[Record], most: usize) -> Result<Members, Broken> {
    let (mut members, mut single) = (Members::new(), HashSet::new());
    let mut versions = Vec::new();
    let mut alone = |owner| match single.insert(owner) {
        true => Ok(()),
        false => Err(Broken::ManyPtr(Name::clone(owner))),
    };
    for record in records {
        let owner = record.owner();
        if record.class() != Class::IN {
            return Err(Broken::Class(owner.clone()));
        }
        let Some(below) = below(owner, apex) else { continue };
        let is = |at: usize, label: &str| below[at].eq_ignore_ascii_case(label.as_bytes());
        match (below.len(), record.data()) {
            (1, ZoneRecordData::Txt(text)) if is(0, VERSION_LABEL) => {
                versions.push(text.iter().eq([VERSION]));
            }
            (2, ZoneRecordData::Ptr(member)) if is(1, ZONES) => {
                alone(owner)?;
                let zone = lower(member.ptrdname());
                if members.len() == most {
                    return Err(Broken::TooMany(most));
                }
                let label = below[0].to_ascii_lowercase().into();
                if members.insert(zone.clone(), label).is_some() {
                    return Err(Broken::Twice(zone));
                }
            }
            (3, ZoneRecordData::Ptr(_)) if is(0, COO) && is(2, ZONES) => alone(owner)?,
            _ => {}
        }
    }
    match versions[..] {
        [true] => Ok(members),
        [false] => Err(Broken::Version),
        _ => Err(Broken::Versions(apex.clone(), versions.len())),
    }
}

/// The labels of `name` below `apex`, the leftmost first; none for a name that is elsewhere.
fn below<'n>(name: &'n Name, apex: &Name) -> Option<Vec<&'n [u8]>> {
    let before = crate::name::before(name.as_slice(), apex.as_slice())?;
    Some(crate::name::labels(&name.as_slice()[..before]).collect())
}

/// Files of the program have names in lower case too.
fn lower(name: &Name) -> Name {
    let lower = name.as_slice().to_ascii_lowercase();
    // Letters alone changed.
    Name::from_octets(lower.into()).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::fixture::{name, records};

    const HEAD: &str = "@ 0 IN SOA invalid. invalid. 1 3600 600 2147483646 0\n@ 0 IN NS invalid.\n\
                        version 0 IN TXT \"2\"\n";

    fn of(more: &str, most: usize) -> Result<Members, Broken> {
        read(&name("example.org"), &records(&format!("{HEAD}{more}")), most)
    }

    #[test]
    fn members_are_read_and_what_is_not_known_is_ignored() {
        let members = of(
            "A1.zones 0 IN PTR One.Example.\nb2.ZONES 0 IN PTR two.example.\n\
             coo.a1.zones 0 IN PTR other.example.\ngroup.a1.zones 0 IN TXT x\n\
             group.a1.zones 0 IN TXT y\nthing.ext 0 IN TXT z\nthing.ext.b2.zones 0 IN A 192.0.2.1\n\
             a1.zones 0 IN TXT beside\nzones 0 IN PTR not.example.\na.b.zones 0 IN PTR not.example.\n\
             c3.others 0 IN PTR not.example.\n",
            2,
        );
        let wanted = [("one.example", "a1"), ("two.example", "b2")];
        let wanted = wanted.map(|(zone, label)| (name(zone), Bytes::from(label)));
        assert_eq!(members.unwrap(), wanted.into_iter().collect());
        assert_eq!(of("", 0).unwrap(), Members::new());
    }

    #[test]
    fn what_is_broken_is_named() {
        let one = "a.zones 0 IN PTR one.example.\n";
        for (more, error) in [
            ("version 0 IN TXT \"2\" \n", Broken::Versions(name("example.org"), 2)),
            ("a.zones 0 IN PTR two.example.\n", Broken::ManyPtr(name("a.zones.example.org"))),
            ("b.zones 0 IN PTR ONE.example.\n", Broken::Twice(name("one.example"))),
            (
                "b.zones 0 IN PTR two.example.\nc.zones 0 IN PTR three.example.\n",
                Broken::TooMany(2),
            ),
            (
                "coo.a.zones 0 IN PTR x.example.\ncoo.a.zones 0 IN PTR y.example.\n",
                Broken::ManyPtr(name("coo.a.zones.example.org")),
            ),
        ] {
            assert_eq!(of(&format!("{one}{more}"), 2), Err(error), "{more}");
        }
        let apex = name("example.org");
        let version = |text: &str| read(&apex, &records(text), 9);
        assert_eq!(version("@ 0 IN NS invalid.\n"), Err(Broken::Versions(apex.clone(), 0)));
        for other in ["\"1\"", "\"2\" \"\"", "\"\"", "\"22\""] {
            assert_eq!(version(&format!("version 0 IN TXT {other}\n")), Err(Broken::Version));
        }
    }

    proptest! {
        #[test]
        fn labels_of_all_octets_are_read(labels in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 1..9), 0..6,
        ), apex in 0_usize..7) {
            let wire = |labels: &[Vec<u8>]| {
                let label = |label: &Vec<u8>| [&[label.len() as u8][..], label].concat();
                let octets = [labels.iter().flat_map(label).collect(), vec![0]].concat();
                Name::from_octets(Bytes::from(octets)).unwrap()
            };
            let at = apex.min(labels.len());
            let (name, apex) = (wire(&labels), wire(&labels[at..]));
            let found = below(&name, &apex).unwrap();
            prop_assert_eq!(found, labels[..at].iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}
