//! One new version of a zone: the owner's files are read, everything is put together, signed,
//! verified, and kept on disk. Takes its time, and touches nothing but files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::base::iana::Rtype;
use sealpost_dns::admission::{self, Expect, Trust, admit};
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::PublicKey;

use super::facts::Facts;
use super::roll::RollError;
use super::store::{Store, StoreError};
use super::wishes::Wanted;
use super::{dkim, update};
use crate::config::Zone;
use crate::registration::records;
use crate::zone::content::{self, ContentError};
use crate::zone::included::{self, IncludeError, Included};
use crate::zone::plan::{Authority, Dkim, Host, KeyDigest, Text};
use crate::zone::{BuildError, Built, Plan, Signed, build, conflicts, sign};

/// The largest zone that a relay takes, as far as can be told here: its own limits may be lower.
const LIMITS: fn() -> admission::Limits = admission::Limits::default;

/// What a version is made of.
pub struct Order {
    /// The owner's file.
    pub zone: Zone,
    /// Where the zone is kept.
    pub store: Store,
    /// The last version.
    pub last: Option<Arc<Signed>>,
    /// A newer serial that is served somewhere.
    pub seen: Option<u32>,
    /// What relays hold.
    pub facts: Facts,
    /// The keys that this box proves.
    pub boxes: Vec<PublicKey>,
    /// The keys that the mail server shows.
    pub certificate_keys: Vec<KeyDigest>,
    /// What other parts of the agent want.
    pub wanted: Wanted,
    /// The records that came by updates.
    pub dynamic: Vec<Record>,
    /// Seconds since 1970.
    pub now: u64,
}

/// A version that is on disk.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub zone: Arc<Signed>,
    /// Whether it is another than the last.
    pub changed: bool,
    /// What the parent should say, as the data of DS records.
    pub ds: Vec<String>,
    /// When its first signature ends, in seconds since 1970.
    pub valid_until: Option<u64>,
    /// When the list of keys ends that was signed with the recovery kit, in seconds since 1970.
    pub keys_until: Option<u64>,
}

/// Why there is no new version.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file of the owner's.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The records or signatures.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It was made, and relays would not take it.
    #[error("relays would refuse the zone: {0}")]
    Refused(String),
    /// A key of the zone.
    #[error(transparent)]
    Key(#[from] RollError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug.
    #[error("the attempt ended in a fault of this program: {0}")]
    Fault(String),
}

/// Why a file of the owner's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A zone file.
    #[error(transparent)]
    Include(#[from] IncludeError),
    /// A DKIM key.
    #[error(transparent)]
    Dkim(#[from] dkim::DkimError),
}

impl MakeError {
    /// Whether the records do not go together, which an update may be the cause of.
    pub fn is_about_records(&self) -> bool {
        matches!(self, Self::Build(BuildError::Conflict(_) | BuildError::Content(_)))
    }
}

/// Makes the version.
pub fn make(order: &Order) -> Result<Made, MakeError> {
    let Tried { built, valid_until, keys_until } = try_to(order)?;
    let ds = built.ds.iter().map(ToString::to_string).collect();
    let zone = match order.last.clone().filter(|_| !built.changed) {
        Some(last) => last,
        None => {
            order.store.save_zone(&built.zone.records)?;
            Arc::new(built.zone)
        }
    };
    Ok(Made { zone, changed: built.changed, ds, valid_until, keys_until })
}

/// A version that is not kept.
#[derive(Debug)]
pub struct Tried {
    /// It.
    pub built: Built,
    /// As of [`Made`].
    pub valid_until: Option<u64>,
    /// As of [`Made`].
    pub keys_until: Option<u64>,
}

/// Makes the version and verifies it, and keeps nothing.
pub fn try_to(order: &Order) -> Result<Tried, MakeError> {
    let plan = plan(order)?;
    let keys = order.store.keys(order.zone.keys)?;
    let (policy, last) = (order.zone.policy(), order.last.as_deref());
    let built = build(&plan, &keys, &policy, last, order.seen, order.now)?;
    let records = &built.zone.records;
    let valid_until = admissible(&plan.apex, records, order.now).map_err(MakeError::Refused)?;
    let keys_until = sign::endorsement_ends(&keys, order.now);
    Ok(Tried { built, valid_until, keys_until })
}

/// Whether a relay would take the zone, by the code that relays ask; when its first signature ends.
pub fn admissible(apex: &Name, records: &[Record], now: u64) -> Result<Option<u64>, String> {
    let keys = records.iter().filter_map(|record| match record.data() {
        Data::Dnskey(key) if record.owner() == apex => Some(key.clone()),
        _ => None,
    });
    let trust = Trust::Keys(keys.collect());
    let expect = Expect { trust, previous_serial: None, seal: None, limits: LIMITS() };
    let admitted = admit(apex, records, &expect, now).map_err(|error| error.to_string())?;
    Ok(admitted.valid_until)
}

/// Whether the files of a zone can be read and their records go together; why not, with file and
/// line.
pub fn check(zone: &Zone) -> Result<(), String> {
    let mut plan = configured(zone).map_err(|error| error.to_string())?;
    // What relays will tell cannot be known here.
    let name = "name-server.invalid.".parse().expect("a constant name");
    plan.name_servers.push(Host { name, addresses: Vec::new() });
    let agents = content::records(&plan, 0).map_err(|error| error.to_string())?;
    conflicts::merge(&plan.apex, agents, &plan.own).map_err(|error| error.to_string())?;
    Ok(())
}

fn plan(order: &Order) -> Result<Plan, MakeError> {
    let mut plan = configured(&order.zone)?;
    let apex = plan.apex.clone();
    plan.name_servers.splice(0..0, order.facts.name_servers.iter().cloned());
    plan.exchangers = order.facts.exchangers.clone();
    plan.certificate_keys = order.certificate_keys.clone();
    for wanted in &order.wanted.authorities {
        if !plan.authorities.contains(wanted) {
            plan.authorities.push(wanted.clone());
        }
    }
    let challenges = order.wanted.challenges.iter();
    plan.challenges = challenges.filter(|it| it.name.ends_with(&apex)).cloned().collect();
    let proof = content::below(&[records::PROOF_LABEL], &apex).map_err(BuildError::from)?;
    plan.texts.extend(
        order
            .boxes
            .iter()
            .map(|key| Text { name: proof.clone(), text: records::proof_text(key.fingerprint()) }),
    );
    let updates = order.dynamic.iter().enumerate();
    plan.own.extend(updates.map(|(place, record)| Included {
        record: record.clone(),
        file: Path::new(update::SOURCE).into(),
        line: place + 1,
    }));
    Ok(plan)
}

/// What the owner's files alone say.
fn configured(zone: &Zone) -> Result<Plan, InputError> {
    let mut plan = Plan::new(zone.apex());
    plan.contact = zone.contact();
    plan.spf = zone.spf.clone();
    plan.dmarc = zone.dmarc.clone();
    plan.tls_reports = zone.tls_reports.clone();
    plan.authorities = zone
        .certificate_authorities
        .iter()
        .map(|domain| Authority { domain: domain.clone(), account: None })
        .collect();
    let servers = zone.name_servers.iter().filter_map(super::facts::wire);
    plan.name_servers = servers.map(|name| Host { name, addresses: Vec::new() }).collect();
    for key in &zone.dkim {
        let text = dkim::parse(&read(&key.file, dkim::MAX_FILE)?, &key.file, &plan.apex)?;
        plan.dkim.push(Dkim { selector: key.selector.clone(), text });
    }
    for file in &zone.include {
        let content = read(file, included::MAX_FILE)?;
        plan.own.extend(included::parse(&content, file, &plan.apex)?);
    }
    Ok(plan)
}

/// A file, of which not more is read than tells that it is too large.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, InputError> {
    use std::io::Read;
    let error = |source| InputError::File { path: path.into(), source };
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut content).map_err(error)?;
    Ok(content)
}

impl From<ContentError> for MakeError {
    fn from(error: ContentError) -> Self {
        Self::Build(error.into())
    }
}

/// What mail through relays needs and the zone of another name server lacks, a sentence each.
pub fn lacking(apex: &Name, records: &[Record], facts: &Facts, boxes: &[PublicKey]) -> Vec<String> {
    let mut lacking = Vec::new();
    let texts: Vec<_> = records.iter().filter(|it| it.rtype() == Rtype::TXT).collect();
    let proof = content::below(&[records::PROOF_LABEL], apex).ok();
    for key in boxes {
        let wanted = records::proof_text(key.fingerprint());
        let says = |record: &&&Record| match record.data() {
            Data::Txt(txt) => txt.iter().flatten().copied().eq(wanted.bytes()),
            _ => false,
        };
        let found =
            texts.iter().filter(|it| Some(it.owner()) == proof.as_ref()).any(|it| says(&it));
        if !found {
            let domain = apex.to_string();
            lacking.push(format!(
                "relays cannot see that this box may have the domain: add {}",
                records::proof(&domain, key.fingerprint())
            ));
        }
    }
    for exchanger in &facts.exchangers {
        let leads = |record: &Record| match record.data() {
            Data::Mx(mx) => *mx.exchange() == exchanger.host.name,
            _ => false,
        };
        if !records.iter().any(leads) {
            lacking.push(format!(
                "no MX record names {}: see sealpost-agent dns {apex}",
                exchanger.host.name
            ));
        }
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_daemon::config::Source;
    use sealpost_tunnel::Identity;

    fn zone(more: &str) -> Zone {
        let text = format!("state = \"/x\"\n[[zone]]\nname = \"a.example\"\n{more}\n");
        let source = Source::from_text("agent.toml", &text);
        crate::config::Config::from_source(&source).unwrap().zones.remove(0)
    }

    fn order(dir: &Path, zone: Zone) -> Order {
        let store = Store::new(dir, &zone.name);
        let name = "ns.r.example.".parse().unwrap();
        let facts =
            Facts { name_servers: vec![Host { name, addresses: vec![] }], ..Facts::default() };
        Order {
            zone,
            store,
            last: None,
            seen: None,
            facts,
            boxes: vec![Identity::ephemeral().public()],
            certificate_keys: vec![],
            wanted: Wanted::default(),
            dynamic: vec![],
            now: 1_790_000_000,
        }
    }

    #[test]
    fn a_version_is_on_disk_when_it_is_made_and_the_same_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut order = order(dir.path(), zone("spf = \"v=spf1 mx -all\""));
        let made = make(&order).unwrap();
        assert!(made.changed && made.valid_until.unwrap() > order.now + 9 * 24 * 3600);
        let kept = order.store.zone(&order.zone.apex()).unwrap().unwrap();
        assert_eq!(crate::zone::recall(kept).unwrap(), *made.zone);
        let proof = records::proof_text(order.boxes[0].fingerprint());
        assert!(made.zone.records.iter().any(|it| it.to_string().contains(&proof)));
        order.last = Some(made.zone);
        assert!(!make(&order).unwrap().changed);
    }

    #[test]
    fn what_is_wrong_in_a_file_of_the_owners_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.zone");
        let zone = zone(&format!("include = [{path:?}]"));
        assert!(check(&zone).unwrap_err().contains("own.zone: "));
        for (text, wanted) in [
            ("www A 192.0.2.1\nwww A 192.0.2\n", "own.zone:2: "),
            ("\n\n@ SOA a b 1 2 3 4 5\n", "own.zone:3: a.example.: a zone has one SOA"),
            ("www CNAME x\nwww A 192.0.2.1\n", "own.zone:1: "),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = check(&zone).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        std::fs::write(&path, "www A 192.0.2.1\n").unwrap();
        check(&zone).unwrap();
    }

    #[test]
    fn a_zone_from_elsewhere_is_told_what_it_lacks() {
        let apex: Name = "a.example.".parse().unwrap();
        let key = Identity::ephemeral().public();
        let exchanger = crate::zone::plan::Exchanger {
            preference: 10,
            host: Host { name: "mx.a.example.".parse().unwrap(), addresses: vec![] },
        };
        let facts = Facts { exchangers: vec![exchanger], ..Facts::default() };
        assert_eq!(lacking(&apex, &[], &facts, &[key]).len(), 2);
        let text = format!("{}\n@ MX 5 mx\n", records::proof("a.example", key.fingerprint()));
        let found = crate::zone::canonical::tests::records("a.example.", &text);
        assert_eq!(lacking(&apex, &found, &facts, &[key]), [""; 0]);
    }
}
