//! Whether a domain belongs to who claims it: its own zone must name the key of the claiming box.
//!
//! [`Prover`] asks; [`verdict`] judges what it hears, [`life`] what that means for a claim, and
//! [`claimable`] which names may be claimed at all.

pub mod claimable;
pub mod life;
pub mod parent;
pub mod record;
pub mod verdict;
pub mod witness;

mod answer;
mod international;
mod lookup;
mod reason;
mod servers;
mod validated;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use sealpost_tunnel::{DomainName, Fingerprint};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use claimable::{Claimable, NotClaimable};
pub use parent::Parent;
pub use verdict::Verdict;

use lookup::Lookup;

/// Checks that run at once; each has some dozen sockets.
const MAX_CHECKS: usize = 64;
/// How long a check waits for its turn.
const TURN: Duration = Duration::from_secs(20);
/// More resolvers add no certainty, only questions.
const MAX_RESOLVERS: usize = 8;
const DNS_PORT: u16 = 53;
const BUSY: &str = "The relay is busy with other domains. Try again in a minute.";

/// How proofs are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProofSettings {
    /// The resolvers to ask; none means those of the system (`/etc/resolv.conf`). They must pass
    /// on signatures (DNSSEC). Three by different operators are best.
    pub resolvers: Vec<SocketAddr>,
    /// A file with the DNSKEY records of the root zone, instead of those that are built in.
    pub trust_anchor: Option<PathBuf>,
    /// Whether name servers at private addresses are asked too, as for a trial on one network.
    pub private_servers: bool,
}

/// Why proofs cannot be looked up with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// The file is not readable, or not one.
    #[error(
        "cannot use the trust anchor {path}: {cause}; it must hold the DNSKEY records of the root \
         zone, one a line"
    )]
    TrustAnchor {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Too many.
    #[error("{0} resolvers are configured; name at most {MAX_RESOLVERS}")]
    TooManyResolvers(usize),
}

/// Looks up whether domains name boxes.
pub struct Prover {
    resolvers: Vec<SocketAddr>,
    anchors: Arc<TrustAnchors>,
    private_servers: bool,
    turns: Semaphore,
}

impl Prover {
    /// Reads the trust anchor. Whether the system has resolvers is seen at each check: a relay that
    /// starts before its network is up still has mail to carry.
    pub fn new(settings: &ProofSettings) -> Result<Self, ProverError> {
        if settings.resolvers.len() > MAX_RESOLVERS {
            return Err(ProverError::TooManyResolvers(settings.resolvers.len()));
        }
        Ok(Self {
            resolvers: settings.resolvers.clone(),
            anchors: Arc::new(anchors(settings)?),
            private_servers: settings.private_servers,
            turns: Semaphore::new(MAX_CHECKS),
        })
    }

    /// Whether `domain` names the box with this key, for a claim that exists already. Asks
    /// everybody, as only what they all say together may end a claim.
    pub async fn check(&self, domain: &DomainName, box_key: Fingerprint) -> Verdict {
        self.ask(domain, box_key, false).await
    }

    /// Whether `domain` names the box with this key, for a new claim: [`Verdict::Found`], or
    /// [`Verdict::Unclear`] with what the owner has to do. If the domain's own name servers do not
    /// have the record, resolvers are not asked for it: they would remember that there was none and
    /// spoil the next attempt too, for an hour or more.
    pub async fn check_claim(&self, domain: &DomainName, box_key: Fingerprint) -> Verdict {
        self.ask(domain, box_key, true).await
    }

    /// Which keys the parent zone of `domain` vouches for, by signatures up to the root.
    pub async fn parent(&self, domain: &DomainName) -> Parent {
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else {
            return Parent::Unclear(BUSY.into());
        };
        let resolvers = match self.current_resolvers() {
            Ok(resolvers) => resolvers,
            Err(error) => return Parent::Unclear(no_resolver(&error)),
        };
        let Ok(name) = Name::from_ascii(format!("{domain}.")) else {
            return Parent::Unclear(format!("{domain} is no name that can be asked for."));
        };
        parent::judge(domain, &lookup::at_parent(&name, &resolvers, &self.anchors).await)
    }

    async fn ask(&self, domain: &DomainName, box_key: Fingerprint, claim: bool) -> Verdict {
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else {
            return Verdict::Unclear(BUSY.into());
        };
        let resolvers = match self.current_resolvers() {
            Ok(resolvers) => resolvers,
            Err(error) => return Verdict::Unclear(no_resolver(&error)),
        };
        let Some(lookup) = Lookup::new(domain, resolvers, self.private_servers) else {
            return Verdict::Unclear(format!(
                "{domain} is too long for a record in front of it. Use a shorter name."
            ));
        };
        let mut statements = lookup.at_servers().await;
        if claim && let Some(reason) = verdict::hopeless(domain, box_key, &statements) {
            return Verdict::Unclear(reason);
        }
        if !statements.iter().any(witness::Statement::is_server) {
            return verdict::judge(domain, box_key, &statements);
        }
        statements.extend(lookup.at_resolvers(&self.anchors).await);
        verdict::judge(domain, box_key, &statements)
    }

    /// The system's may change while the relay runs.
    fn current_resolvers(&self) -> io::Result<Vec<SocketAddr>> {
        if !self.resolvers.is_empty() {
            return Ok(self.resolvers.clone());
        }
        let (system, _) = read_system_conf().map_err(io::Error::other)?;
        let mut resolvers = Vec::new();
        for server in system.name_servers() {
            let address = SocketAddr::new(server.ip, DNS_PORT);
            if !resolvers.contains(&address) && resolvers.len() < MAX_RESOLVERS {
                resolvers.push(address);
            }
        }
        Ok(resolvers)
    }
}

fn no_resolver(error: &io::Error) -> String {
    format!("The relay knows no resolver ({error}). Its operator must name some.")
}

fn anchors(settings: &ProofSettings) -> Result<TrustAnchors, ProverError> {
    let Some(path) = &settings.trust_anchor else { return Ok(TrustAnchors::default()) };
    let failed = |cause: String| ProverError::TrustAnchor { path: path.clone(), cause };
    let anchors = TrustAnchors::from_file(path).map_err(|error| failed(error.to_string()))?;
    if anchors.is_empty() { Err(failed("no such record".into())) } else { Ok(anchors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's `dns-root-data` has it, comments included.
    const ROOT_KEY: &str = ".\t172800\tIN\tDNSKEY\t257 3 8 AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3+/4RgWOq7HrxRixHlFlExOLAJr5emLvN7SWXgnLh4+B5xQlNVz8Og8kvArMtNROxVQuCaSnIDdD5LKyWbRd2n9WGe2R8PzgCmr3EgVLrjyBxWezF0jLHwVN8efS3rCj/EWgvIWgb9tarpVUDK/b58Da+sqqls3eNbuv7pr+eoZG+SrDK6nWeL3c6H5Apxz7LjVc1uTIdsIXxuOLYA4/ilBmSVIzuDWfdRUfhHdY6+cn8HFRm+2hM8AnXGXws9555KrUB5qihylGa8subX2Nn6UwNR1AkUTV74bU= ;{id = 20326 (ksk), size = 2048b} ;;state=2 [  VALID  ]\n";

    fn settings(anchor: &str) -> (ProofSettings, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, anchor).unwrap();
        let trust_anchor = Some(file.path().to_owned());
        let resolvers = vec![([192, 0, 2, 1], 53).into()];
        (ProofSettings { resolvers, trust_anchor, private_servers: false }, file)
    }

    #[test]
    fn a_trust_anchor_is_read_or_said_to_be_none() {
        let (gone, file) = settings(ROOT_KEY);
        drop(file);
        assert!(Prover::new(&gone).is_err());
        let (good, _file) = settings(ROOT_KEY);
        assert!(Prover::new(&good).is_ok());
        for bad in ["", "; nothing\n", "nonsense", "example.org. IN DNSKEY 257 3 13 x"] {
            let (bad, _file) = settings(bad);
            let error = Prover::new(&bad).err().unwrap().to_string();
            assert!(error.contains("DNSKEY records of the root zone"), "{error}");
        }
    }

    #[test]
    fn there_are_never_too_many_resolvers() {
        let resolvers = vec![([192, 0, 2, 1], 53).into(); MAX_RESOLVERS + 1];
        let settings = ProofSettings { resolvers, ..ProofSettings::default() };
        assert!(matches!(Prover::new(&settings), Err(ProverError::TooManyResolvers(9))));
    }
}
