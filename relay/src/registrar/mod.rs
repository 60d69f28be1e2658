//! Answers what boxes ask of the registry: to join, to claim a domain, to change a key.
//!
//! The key that a connection proved is the whole of who asks. Everything that writes goes to the
//! database and fails closed when that is away; nothing here touches what is routed.

mod connection;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::request::{Answer, ProofMethod, Refusal, RefusalCode, Request, Standing};
use sealpost_tunnel::{AddressPair, DomainName, Handover, MxName, PublicKey};
use tokio::time::{timeout, timeout_at};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::proof::claimable::Claimable;
use crate::proof::{Prover, Verdict};
use crate::registry::{BoxRecord, Database, Registry, RegistryError};
use crate::relay_key::RelayKey;
use crate::zones::{NoProof, Zones};
pub use connection::Desk;

/// How long an answer waits until this relay itself routes by what was written.
const SETTLE: Duration = Duration::from_secs(2);
/// For the proof of a claim. An agent waits a minute for all.
const PROOF: Duration = Duration::from_secs(45);
/// Until a fresh proof is repeated.
const FIRST_CHECK: u64 = 24 * 60 * 60;

/// What answering takes.
pub struct Registrar {
    /// The relay's name, as senders see it.
    pub hostname: MxName,
    /// Where senders find the relay, on addresses that boxes share.
    pub shared: Vec<IpAddr>,
    /// Which names may be claimed.
    pub claimable: Claimable,
    /// What is routed.
    pub registry: Arc<Registry>,
    /// What is written.
    pub database: Arc<Database>,
    /// Looks proofs up.
    pub prover: Arc<Prover>,
    /// The zones of boxes, if the relay serves them.
    pub zones: Option<Arc<Zones>>,
    /// The relay's key and how it came to be.
    pub relay_key: Arc<ArcSwap<RelayKey>>,
    /// What is counted.
    pub metrics: Metrics,
}

const NO_SUCH_KIT: &str = "no box here has this recovery kit: it was replaced by another one, or the \
     relay's operator shut the box out; then ask the operator for a new invite";

/// This moment by the relay's clock, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Registrar {
    /// Answers `request` of who proved `key`.
    pub async fn answer(&self, key: PublicKey, request: Request) -> Answer {
        let what = name_of(&request);
        let answer = match self.decide(key, request).await {
            Ok(answer) => answer,
            Err(Refused::Registry(error)) => {
                if let RegistryError::Unavailable(_) | RegistryError::Content(_) = error {
                    warn!(request = what, %error, "a request of a box failed");
                }
                Answer::Refused(error.refusal())
            }
            Err(Refused::Here(refusal)) => Answer::Refused(refusal),
        };
        let outcome = match &answer {
            Answer::Refused(refusal) => refusal.code.label(),
            _ => "done",
        };
        self.metrics.request(outcome);
        answer
    }

    async fn decide(&self, key: PublicKey, request: Request) -> Result<Answer, Refused> {
        let snapshot = self.registry.snapshot();
        let stranger = matches!(
            request,
            Request::Join { .. }
                | Request::Rotate { .. }
                | Request::Recover { .. }
                | Request::Succession { .. }
        );
        if snapshot.is_retired(&key) && !matches!(request, Request::Succession { .. }) {
            return Err(RegistryError::KeyRevoked.into());
        }
        if !stranger && snapshot.by_key(&key).is_none() {
            return Err(RegistryError::UnknownBox.into());
        }
        match request {
            Request::Succession { from } => {
                let chain = self.relay_key.load().succession(from);
                return Ok(Answer::Succession { chain });
            }
            Request::Standing => {}
            Request::Join { secret, recovery } => {
                self.database.join(&secret, key, recovery, now()).await?;
                self.settle().await;
                info!(r#box = self.name(key), "a box joined");
            }
            Request::Claim { domain, mx } => self.claim(key, &domain, mx).await?,
            Request::Release { domain } => {
                self.database.release(key, &domain, now()).await?;
                info!(r#box = self.name(key), domain = domain.as_str(), "a domain was released");
            }
            Request::Rotate { handover } => {
                self.check(&handover, Purpose::BoxKey, key)?;
                self.database.rotate(handover.from, key, now()).await?;
                self.settle().await;
                info!(r#box = self.name(key), "a box has a new key");
            }
            Request::Recover { handover } => {
                self.check(&handover, Purpose::Recovery, key)?;
                let recovered = self.database.recover(handover.from, key, now()).await;
                recovered.map_err(|error| match error {
                    RegistryError::UnknownBox => refused(RefusalCode::UnknownBox, NO_SUCH_KIT),
                    error => error.into(),
                })?;
                self.settle().await;
                info!(r#box = self.name(key), "a box was recovered, its former key shut out");
            }
            Request::SetRecovery { recovery, by } => {
                if let Some(handover) = &by {
                    self.check(handover, Purpose::RecoveryKey, recovery)?;
                }
                let replaces = by.map(|handover| handover.from);
                self.database.set_recovery(key, recovery, replaces).await?;
            }
            Request::Leave => {
                let name = self.name(key);
                self.database.leave(key, now()).await?;
                info!(r#box = name, "a box left for good");
                return Ok(Answer::Left);
            }
        }
        self.settle().await;
        self.standing(key).await
    }

    /// Waits until this relay routes by what was written.
    async fn settle(&self) {
        let made = *self.database.made().borrow();
        let _ = timeout(SETTLE, self.registry.reached(made)).await;
    }

    /// A handover must be signed for this relay, and name the key that the asker proved or, for
    /// a recovery key, the one it wants noted.
    fn check(&self, handover: &Handover, purpose: Purpose, to: PublicKey) -> Result<(), Refused> {
        let relay = self.relay_key.load().identity.public();
        if handover.to == to && handover.verify(purpose, Some(relay)) {
            Ok(())
        } else {
            Err(RegistryError::BadSignature.into())
        }
    }

    async fn claim(
        &self,
        key: PublicKey,
        domain: &DomainName,
        mut mx: Vec<MxName>,
    ) -> Result<(), Refused> {
        self.claimable.check(domain).map_err(|error| refused(RefusalCode::NameRefused, error))?;
        if mx.is_empty() {
            let name = format!("mx.{domain}");
            mx.push(name.parse().map_err(|error| refused(RefusalCode::NameRefused, error))?);
        }
        mx.sort();
        mx.dedup();
        if let Some(own) = mx.iter().find(|mx| self.claimable.is_own(mx)) {
            let message = format!("{own} belongs to this relay; choose another name for the box");
            return Err(refused(RefusalCode::NameRefused, message));
        }
        let method = self.proof(key, domain).await?;
        let now = now();
        self.database.claim(key, domain, &mx, method, now, now + FIRST_CHECK).await?;
        info!(r#box = self.name(key), domain = domain.as_str(), "a domain was proved");
        if method == ProofMethod::Ds {
            // Until it is served nobody finds the record in it.
            self.settle().await;
            if let Some(zones) = &self.zones {
                zones.begin(domain, key).await;
            }
        }
        Ok(())
    }

    /// How `domain` is proved: by the record that all can see; or, as nobody can before the zone is
    /// served, by the zone itself and its keys' digest in the parent zone.
    async fn proof(&self, key: PublicKey, domain: &DomainName) -> Result<ProofMethod, Refused> {
        let end = Instant::now() + PROOF;
        let checked = self.prover.check_claim(domain, key.fingerprint());
        let checked = timeout_at(end.into(), checked).await;
        let verdict = checked.map_err(|_| {
            not_now(&format!("Whether {domain} names this box was not found out in time."))
        })?;
        let reason = match verdict {
            Verdict::Found => return Ok(ProofMethod::Txt),
            Verdict::Absent(reason) | Verdict::Unclear(reason) => reason,
        };
        let Some(zones) = &self.zones else {
            return Err(refused(RefusalCode::NotProved, reason));
        };
        match zones.prove(domain, key, end).await {
            Ok(()) => Ok(ProofMethod::Ds),
            Err(NoProof::NoZones) => Err(refused(RefusalCode::NotProved, reason)),
            Err(NoProof::Why(also)) => {
                Err(refused(RefusalCode::NotProved, format!("{reason} {also}")))
            }
            Err(NoProof::NotNow(also)) => Err(not_now(&format!("{reason} {also}"))),
        }
    }

    async fn standing(&self, key: PublicKey) -> Result<Answer, Refused> {
        // It was known a moment ago.
        let entry = self.database.box_by_key(key).await?.ok_or(RegistryError::KeyRevoked)?;
        let name = entry.name.parse().map_err(|_| RegistryError::KeyRevoked)?;
        let snapshot = self.registry.snapshot();
        let record = snapshot.by_key(&key);
        let standing = Standing {
            own_name: snapshot.own_name(&entry.name),
            name,
            key,
            hostname: self.hostname.clone(),
            addresses: record.map(|record| snapshot.addresses(record)).unwrap_or_default(),
            shared: self.shared.clone(),
            pair: self.pair(key, record).await,
            name_servers: self.zones.as_ref().map(|it| it.names().to_vec()).unwrap_or_default(),
            domains_allowed: entry.domains_allowed,
            domains: self.database.domains_of(key).await?,
            recovery: entry.recovery,
        };
        Ok(Answer::Standing(standing.into()))
    }

    /// The address pair of a box here. A box that has none gets one when it first asks, as it does
    /// when it connects; without the database it has to do without for now.
    async fn pair(&self, key: PublicKey, record: Option<&Arc<BoxRecord>>) -> Option<AddressPair> {
        let snapshot = self.registry.snapshot();
        let pair = record.and_then(|record| snapshot.pair_of(record));
        if pair.is_some() || !snapshot.has_free_pair() {
            return pair;
        }
        self.database.give_pair(key, snapshot.pair_roles(), now()).await.unwrap_or_else(|error| {
            warn!(%error, "a box got no address pair");
            None
        })
    }

    fn name(&self, key: PublicKey) -> String {
        let snapshot = self.registry.snapshot();
        snapshot.by_key(&key).map(|record: &Arc<BoxRecord>| record.name.clone()).unwrap_or_default()
    }
}

/// Why a request is not granted.
enum Refused {
    Registry(RegistryError),
    Here(Refusal),
}

impl From<RegistryError> for Refused {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

fn refused(code: RefusalCode, message: impl ToString) -> Refused {
    Refused::Here(Refusal { code, message: message.to_string() })
}

fn not_now(what: &str) -> Refused {
    refused(RefusalCode::Busy, format!("{what} Try again in a minute."))
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Join { .. } => "join",
        Request::Standing => "standing",
        Request::Claim { .. } => "claim",
        Request::Release { .. } => "release",
        Request::Rotate { .. } => "rotate",
        Request::Recover { .. } => "recover",
        Request::SetRecovery { .. } => "set-recovery",
        Request::Leave => "leave",
        Request::Succession { .. } => "succession",
    }
}
