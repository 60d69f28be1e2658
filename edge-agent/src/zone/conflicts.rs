//! Whether the records of a zone agree with each other: the agent's with the owner's own, and all
//! with the rules of DNS. Pure.
//!
//! A zone that breaks them is served differently by each name server, and some refuse to load it.
//! So it is refused here, where the owner reads why, and the last good zone stays in service.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use domain::base::iana::{Class, Rtype};
use domain::base::{Name as AnyName, ToName, Ttl};
use sealpost_dns::record::{Data, Name, Record};

use super::canonical::{self, Standing};
use super::included::Included;

/// The longest time for which the owner's records may be kept, in seconds. The change of a key waits
/// for it, and a mistake stays as long.
pub const MAX_TTL: Ttl = Ttl::from_secs(7 * 24 * 3600);
/// Most octets of a record set without compression: it must fit into one message with its
/// signatures.
pub const MAX_SET: usize = 48 * 1024;

/// Records that do not agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}: {kind}", owner.fmt_with_dot())]
pub struct Conflict {
    /// Whose record it is.
    pub place: Place,
    /// The name at which they meet.
    pub owner: Name,
    /// What is wrong, and what to do.
    pub kind: Kind,
}

/// Where a record comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The owner's file and the line there.
    File(PathBuf, usize),
    /// The agent's own configuration and facts.
    Agent,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, line) => write!(f, "{}:{line}", file.display()),
            Self::Agent => f.write_str("the agent's configuration"),
        }
    }
}

/// How records do not agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    /// It belongs to another zone.
    #[error("the name is not in the zone: names without a final dot get the domain added")]
    Outside,
    /// Class IN is the only one.
    #[error("class {0} is not served: leave the class out")]
    Class(Class),
    /// The agent writes the SOA.
    #[error("a zone has one SOA, and the agent writes it: remove this one")]
    Soa,
    /// What the signer makes.
    #[error("{0} records are made when the zone is signed: remove this one")]
    Signers(Rtype),
    /// Not a type that a zone can have.
    #[error("{0} is not a type for zones")]
    Meta(Rtype),
    /// A type with names in its data that would be signed wrongly.
    #[error("{0} is too old a type to be signed correctly here: remove the record")]
    Legacy(Rtype),
    /// It would take a name from the agent.
    #[error("the agent publishes {}, which these {} records would give away: remove them", .1.fmt_with_dot(), .0)]
    GivesAway(Rtype, Name),
    /// It lives too long.
    #[error("a TTL of {} s is longer than {} s: choose a shorter one", .0.as_secs(), MAX_TTL.as_secs())]
    Ttl(Ttl),
    /// The agent has to be alone in charge of it.
    #[error(
        "the agent keeps the {0} records here: remove this one, or set it in its configuration"
    )]
    Managed(Rtype),
    /// An alias says all there is to say.
    #[error("a CNAME must be alone at its name, also without a second one: keep it or the others")]
    BesideCname,
    /// There is more than one way on.
    #[error("there is more than one DNAME here: keep one")]
    TwoDnames,
    /// A DNAME speaks for all names below it.
    #[error("it is below a DNAME, which answers for it: remove one of them")]
    BelowDname,
    /// Not defined by any standard.
    #[error("a wildcard cannot have {0} records: write the names out")]
    Wildcard(Rtype),
    /// DS belongs beside a delegation.
    #[error("a DS record stands only beside the NS records of a zone below this one: remove it")]
    DsAlone,
    /// It belongs into the other zone.
    #[error("the name is given away by NS records: {0} records belong into that zone")]
    BesideCut(Rtype),
    /// A name server in the zone without an address.
    #[error("the name server {} has no A or AAAA record in this zone: add one", .0.fmt_with_dot())]
    NoAddress(Name),
    /// RFC 2181 section 10.3.
    #[error("{} is an alias (CNAME), which {} records must not name: name where it leads", .1.fmt_with_dot(), .0)]
    Alias(Rtype, Name),
    /// More than one policy where readers expect one.
    #[error(
        "there is more than one text that begins with {0}, and readers then take none: keep one"
    )]
    TwoPolicies(&'static str),
    /// It fits into no message.
    #[error("the {0} records together have more than {MAX_SET} octets: remove some")]
    TooLarge(Rtype),
}

/// Puts the agent's records and the owner's own together, in canonical order, with one TTL for each
/// record set: the shortest.
pub fn merge(apex: &Name, agents: Vec<Record>, own: &[Included]) -> Result<Vec<Record>, Conflict> {
    let managed = managed(apex, &agents);
    for included in own {
        single(apex, included, &managed)?;
        gives_away(apex, included, &agents)?;
    }
    let places = Places::new(own);
    let all = agents.into_iter().chain(own.iter().map(|it| it.record.clone())).collect();
    let mut sorted = canonical::sort(all);
    let zone = View::new(apex, &sorted);
    zone.check().map_err(|(owner, kind)| Conflict { place: places.of(&owner), owner, kind })?;
    equalize(&mut sorted);
    Ok(sorted)
}

/// Where the owner speaks of which name.
struct Places<'a>(HashMap<Vec<u8>, &'a Included>);

impl<'a> Places<'a> {
    fn new(own: &'a [Included]) -> Self {
        // The first of several at a name is the one that stays.
        Self(own.iter().rev().map(|it| (canonical::name(it.record.owner()), it)).collect())
    }

    fn of(&self, owner: &Name) -> Place {
        match self.0.get(&canonical::name(owner)) {
            Some(included) => Place::File(included.file.clone(), included.line),
            None => Place::Agent,
        }
    }
}

/// The record sets of which the agent is alone in charge. Others, such as texts at the domain
/// itself and further MX records, may have the owner's beside them.
fn managed(apex: &Name, agents: &[Record]) -> HashSet<(Vec<u8>, Rtype)> {
    let alone = agents.iter().filter(|record| match record.rtype() {
        Rtype::NS => record.owner().name_eq(apex),
        Rtype::A | Rtype::AAAA | Rtype::TLSA | Rtype::CAA => true,
        _ => false,
    });
    // Addresses of one family would be joined by the owner's of the other.
    let families = |record: &Record| match record.rtype() {
        Rtype::A | Rtype::AAAA => vec![Rtype::A, Rtype::AAAA],
        other => vec![other],
    };
    let keys = alone.flat_map(|record| {
        let name = canonical::name(record.owner());
        families(record).into_iter().map(move |rtype| (name.clone(), rtype))
    });
    keys.collect()
}

/// What can be said of one of the owner's records by itself.
fn single(
    apex: &Name,
    included: &Included,
    managed: &HashSet<(Vec<u8>, Rtype)>,
) -> Result<(), Conflict> {
    let record = &included.record;
    let rtype = record.rtype();
    let kind = if !record.owner().ends_with(apex) {
        Kind::Outside
    } else if record.class() != Class::IN {
        Kind::Class(record.class())
    } else if record.ttl() > MAX_TTL {
        Kind::Ttl(record.ttl())
    } else if rtype == Rtype::SOA {
        Kind::Soa
    } else if is_signers(rtype) {
        Kind::Signers(rtype)
    } else if is_meta(rtype) {
        Kind::Meta(rtype)
    } else if is_legacy(rtype) {
        Kind::Legacy(rtype)
    } else if managed.contains(&(canonical::name(record.owner()), rtype)) {
        Kind::Managed(rtype)
    } else {
        return Ok(());
    };
    let place = Place::File(included.file.clone(), included.line);
    Err(Conflict { place, owner: record.owner().clone(), kind })
}

/// Whether one of the owner's records would answer for names of the agent, or send elsewhere for
/// them.
fn gives_away(apex: &Name, included: &Included, agents: &[Record]) -> Result<(), Conflict> {
    let record = &included.record;
    let (owner, rtype) = (record.owner(), record.rtype());
    let takes = |name: &Name| match rtype {
        Rtype::NS => !owner.name_eq(apex) && name.ends_with(owner),
        Rtype::DNAME => !owner.name_eq(name) && name.ends_with(owner),
        _ => false,
    };
    let Some(taken) = agents.iter().map(Record::owner).find(|name| takes(name)) else {
        return Ok(());
    };
    let kind = Kind::GivesAway(rtype, taken.clone());
    let place = Place::File(included.file.clone(), included.line);
    Err(Conflict { place, owner: owner.clone(), kind })
}

/// Types that signing makes.
pub fn is_signers(rtype: Rtype) -> bool {
    matches!(
        rtype,
        Rtype::RRSIG
            | Rtype::NSEC
            | Rtype::NSEC3
            | Rtype::NSEC3PARAM
            | Rtype::DNSKEY
            | Rtype::CDS
            | Rtype::CDNSKEY
            | Rtype::ZONEMD
    )
}

/// Types of questions and messages (RFC 6895 section 3.1), and the obsolete NULL.
fn is_meta(rtype: Rtype) -> bool {
    matches!(rtype.to_int(), 0 | 10 | 41 | 128..=255)
}

/// Types whose data holds names that are signed in small letters (RFC 4034 section 6.2), and that
/// are octets to the code here: AFSDB, RT, SIG, PX, NXT, KX and A6.
fn is_legacy(rtype: Rtype) -> bool {
    matches!(rtype.to_int(), 18 | 21 | 24 | 26 | 30 | 36 | 38)
}

/// A zone in canonical order.
struct View<'a> {
    apex: &'a Name,
    sorted: &'a [Record],
    nodes: HashMap<Vec<u8>, &'a [Record]>,
}

type Found = (Name, Kind);

impl<'a> View<'a> {
    fn new(apex: &'a Name, sorted: &'a [Record]) -> Self {
        let nodes = canonical::nodes(sorted).map(|node| (canonical::name(node[0].owner()), node));
        Self { apex, sorted, nodes: nodes.collect() }
    }

    fn check(&self) -> Result<(), Found> {
        let mut dname: Option<&Name> = None;
        for (node, standing) in canonical::standings(self.apex, self.sorted) {
            let owner = node[0].owner();
            let found = |kind| (owner.clone(), kind);
            if dname.is_some_and(|dname| owner.ends_with(dname)) {
                return Err(found(Kind::BelowDname));
            }
            if has(node, Rtype::DNAME) {
                dname = Some(owner);
            }
            self.alone(node).map_err(found)?;
            self.cut(node, standing).map_err(found)?;
            policies(self.apex, node).map_err(found)?;
            for set in canonical::sets(node) {
                self.targets(set).map_err(found)?;
                size(set).map_err(found)?;
            }
        }
        Ok(())
    }

    /// Types that bear no others, or not more than one record.
    fn alone(&self, node: &[Record]) -> Result<(), Kind> {
        if has(node, Rtype::CNAME) && node.len() > 1 {
            return Err(Kind::BesideCname);
        }
        // The apex gets SOA and keys later, which is why a CNAME there shows as not being alone.
        if node.iter().filter(|record| record.rtype() == Rtype::DNAME).count() > 1 {
            return Err(Kind::TwoDnames);
        }
        let wild = node[0].owner().first().is_wildcard();
        match [Rtype::NS, Rtype::DNAME].into_iter().find(|rtype| has(node, *rtype)) {
            Some(rtype) if wild => Err(Kind::Wildcard(rtype)),
            _ => Ok(()),
        }
    }

    /// What stands at and below a delegation.
    fn cut(&self, node: &[Record], standing: Standing) -> Result<(), Kind> {
        let mut types = node.iter().map(Record::rtype);
        let address = |rtype: &Rtype| matches!(*rtype, Rtype::A | Rtype::AAAA);
        let foreign = match standing {
            Standing::Own if has(node, Rtype::DS) => return Err(Kind::DsAlone),
            Standing::Own => None,
            Standing::Cut => types.find(|it| !address(it) && !matches!(*it, Rtype::NS | Rtype::DS)),
            Standing::Below => types.find(|it| !address(it)),
        };
        foreign.map_or(Ok(()), |rtype| Err(Kind::BesideCut(rtype)))
    }

    /// The names that a record set leads to.
    fn targets(&self, set: &[Record]) -> Result<(), Kind> {
        for record in set {
            let (target, needs_address) = match record.data() {
                Data::Ns(ns) => (ns.nsdname(), self.must_be_here(record.owner(), ns.nsdname())),
                Data::Mx(mx) => (mx.exchange(), false),
                Data::Srv(srv) => (srv.target(), false),
                _ => continue,
            };
            let node = self.nodes.get(&canonical::name(target)).copied().unwrap_or_default();
            if has(node, Rtype::CNAME) {
                return Err(Kind::Alias(record.rtype(), target.clone()));
            }
            if needs_address && !has(node, Rtype::A) && !has(node, Rtype::AAAA) {
                return Err(Kind::NoAddress(target.clone()));
            }
        }
        Ok(())
    }

    /// Whether the address of the name server `target` of `owner` can be learnt only from this
    /// zone: everything below the apex that is not given away to somebody else.
    fn must_be_here(&self, owner: &Name, target: &Name) -> bool {
        if owner.name_eq(self.apex) {
            let mut above = target.iter_suffixes().take_while(|name| !name.name_eq(self.apex));
            let given_away = above.any(|name: AnyName<_>| {
                let name = canonical::name(&name);
                self.nodes.get(&name).is_some_and(|node| has(node, Rtype::NS))
            });
            target.ends_with(self.apex) && !given_away
        } else {
            target.ends_with(owner)
        }
    }
}

fn has(node: &[Record], rtype: Rtype) -> bool {
    node.iter().any(|record| record.rtype() == rtype)
}

/// Texts of which readers expect one at a name.
fn policies(apex: &Name, node: &[Record]) -> Result<(), Kind> {
    let owner = canonical::name(node[0].owner());
    let at = |label: &[u8]| {
        let rest = owner.strip_prefix(label);
        rest.is_some_and(|rest| rest == canonical::name(apex))
    };
    let mut once = vec!["v=spf1"];
    if at(b"\x06_dmarc") {
        once.push("v=DMARC1");
    }
    if at(b"\x08_mta-sts") {
        once.push("v=STSv1");
    }
    if at(b"\x05_smtp\x04_tls") {
        once.push("v=TLSRPTv1");
    }
    let texts: Vec<Vec<u8>> = node
        .iter()
        .filter_map(|record| match record.data() {
            Data::Txt(txt) => Some(txt.text()),
            _ => None,
        })
        .collect();
    let several = |with: &&str| texts.iter().filter(|text| begins(text, with)).count() > 1;
    once.into_iter().find(several).map_or(Ok(()), |with| Err(Kind::TwoPolicies(with)))
}

fn begins(text: &[u8], with: &str) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
}

fn size(set: &[Record]) -> Result<(), Kind> {
    let mut octets = Vec::new();
    set.iter().for_each(|record| canonical::record(record, &mut octets));
    if octets.len() > MAX_SET { Err(Kind::TooLarge(set[0].rtype())) } else { Ok(()) }
}

/// Gives all records of a set the shortest TTL among them (RFC 2181 section 5.2).
fn equalize(sorted: &mut [Record]) {
    let shortest: Vec<_> = canonical::sets(sorted)
        .flat_map(|set| {
            let ttl = set.iter().map(Record::ttl).min().unwrap_or(Ttl::ZERO);
            std::iter::repeat_n(ttl, set.len())
        })
        .collect();
    sorted.iter_mut().zip(shortest).for_each(|(record, ttl)| record.set_ttl(ttl));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::plan::{Authority, Exchanger, Host, Plan};
    use crate::zone::{content, included};
    use std::path::Path;

    fn plan() -> Plan {
        let host = |name: &str, address: &str| Host {
            name: name.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
        };
        let mut plan = Plan::new("a.example.".parse().unwrap());
        plan.name_servers =
            vec![host("ns1.a.example.", "192.0.2.1"), host("ns.b.example.", "192.0.2.9")];
        plan.exchangers =
            vec![Exchanger { preference: 10, host: host("mx.a.example.", "192.0.2.2") }];
        plan.certificate_keys = vec![[1; 32]];
        plan.spf = Some("v=spf1 mx -all".into());
        plan.dmarc = Some("v=DMARC1; p=reject".into());
        plan.authorities = vec![Authority { domain: "letsencrypt.org".into(), account: None }];
        plan
    }

    fn merged(own: &str) -> Result<Vec<Record>, Conflict> {
        let plan = plan();
        let own = included::parse(own.as_bytes(), Path::new("own.zone"), &plan.apex).unwrap();
        merge(&plan.apex, content::records(&plan, 1).unwrap(), &own)
    }

    #[test]
    fn what_agrees_is_taken() {
        let zone = merged(
            "@ MX 20 backup.elsewhere.\n@ 600 TXT \"hello\"\nwww CNAME @\n*.w A 192.0.2.7\n\
             sub NS ns.sub\nsub NS ns.b.example.\nns.sub A 192.0.2.8\n\
             sub DS 1 13 2 00000000000000000000000000000000000000000000000000000000000000aa\n\
             old DNAME new\nx TYPE65280 \\# 2 0102\nwww.y CAA 0 issue \"other.example\"\n",
        )
        .unwrap();
        let texts: Vec<_> = zone
            .iter()
            .filter(|it| it.rtype() == Rtype::TXT && it.owner().label_count() == 3)
            .map(|it| it.ttl().as_secs())
            .collect();
        assert_eq!(texts, [600, 600], "one TTL for both");
    }

    #[test]
    fn what_does_not_agree_is_named_with_file_and_line() {
        let long = format!("@ TXT {}\n", "\"x\" ".repeat(10)).repeat(1);
        assert!(merged(&long).is_ok());
        for (own, words) in [
            ("x.other. A 192.0.2.1", "not in the zone"),
            ("a.exampl.e. A 192.0.2.1", "not in the zone"),
            ("@ SOA a b 1 2 3 4 5", "one SOA"),
            ("x DNSKEY 256 3 13 AAAA", "DNSKEY records are made"),
            ("x CDS 0 0 0 00", "CDS records are made"),
            ("x NSEC y A", "NSEC records are made"),
            ("x 9999999 A 192.0.2.1", "TTL of 9999999 s"),
            ("x TYPE36 \\# 3 000100", "too old"),
            ("x TYPE255 \\# 0", "not a type"),
            ("mx A 192.0.2.1", "keeps the A records"),
            ("mx AAAA ::1", "keeps the AAAA records"),
            ("@ NS ns.b.example.", "keeps the NS records"),
            ("@ CAA 0 issue \"x.example\"", "keeps the CAA records"),
            ("_25._tcp.mx TLSA 3 1 1 00", "keeps the TLSA records"),
            ("@ CNAME b", "CNAME must be alone"),
            ("x CNAME a\nX CNAME b", "CNAME must be alone"),
            ("x CNAME a\nx TXT b", "CNAME must be alone"),
            ("x DNAME a\nx DNAME b", "more than one DNAME"),
            ("x DNAME a\ny.x TXT b", "below a DNAME"),
            ("@ DNAME b.example.", "publishes ns1.a.example., which these DNAME"),
            ("mx NS b.example.", "publishes mx.a.example., which these NS"),
            ("_tcp.mx DNAME b.example.", "publishes _25._tcp.mx.a.example., which these DNAME"),
            ("*.x NS b.example.", "wildcard cannot have NS"),
            ("*.x DNAME b.example.", "wildcard cannot have DNAME"),
            ("x DS 1 13 2 00", "beside the NS"),
            ("@ DS 1 13 2 00", "beside the NS"),
            ("x NS b.example.\nx TXT y", "given away by NS records: TXT"),
            ("x NS b.example.\ny.x TXT y", "given away by NS records: TXT"),
            ("x NS ns.x", "ns.x.a.example. has no A or AAAA"),
            ("x MX 1 y\ny CNAME z", "y.a.example. is an alias"),
            ("@ TXT \"v=spf1 -all\"", "begins with v=spf1"),
            ("_DMARC TXT \"v=dmarc1; p=none\"", "begins with v=DMARC1"),
        ] {
            let error = merged(own).expect_err(own).to_string();
            assert!(error.contains(words), "{own}: {error}");
            assert!(error.starts_with("own.zone:"), "{error}");
        }
    }

    #[test]
    fn a_set_that_fits_into_no_message_is_refused() {
        let line = |n| format!("x TXT \"{n:0>250}\"\n");
        let few: String = (0..100).map(line).collect();
        assert!(merged(&few).is_ok());
        let many: String = (0..300).map(line).collect();
        assert!(matches!(merged(&many).unwrap_err().kind, Kind::TooLarge(Rtype::TXT)));
    }

    #[test]
    fn a_name_server_in_the_zone_needs_an_address() {
        let mut plan = plan();
        plan.name_servers[0].addresses.clear();
        let agents = content::records(&plan, 1).unwrap();
        let conflict = merge(&plan.apex, agents, &[]).unwrap_err();
        assert!(matches!(conflict.kind, Kind::NoAddress(_)) && conflict.place == Place::Agent);
    }
}
