//! The zones of boxes, served to the world as they were signed at home (`sealpost_dns`).
//!
//! A zone is served for the box that has its domain by the registry, and fetched from that box alone.
//! Nobody is asked for zones without having said that there is one: what begins it is a notice of the
//! box ([`notices`]), or a claim that is proved by the zone itself.
//!
//! A domain that is suspended, as its proof is missing, stays served until it is released. The proof
//! stands in the zone: whoever lost it has to publish it again, and could not where nobody served the
//! zone. And what is served is the owner's own word, which a relay that stops serving only takes away
//! from all who ask, for records that have nothing to do with mail too.

pub mod notices;
pub mod settings;

mod named;
mod parents;
mod tunnels;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Registry as Counted;
use sealpost_dns::catalog_zone::producer::Catalog;
use sealpost_dns::handle::Handle;
use sealpost_dns::record::Name;
use sealpost_dns::secondaries::Zone;
use sealpost_dns::server::NameServer;
use sealpost_dns::transfer::attempt::Primary;
use sealpost_dns::trust::Trust;
use sealpost_tunnel::control::OFFERS_ZONES;
use sealpost_tunnel::{DomainName, Fingerprint, MxName, PublicKey};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::boxes::Boxes;
use crate::proof::{Parent, Prover, record};
use crate::registry::{BoxRecord, Registry};
use crate::shield::Buckets;
use named::names_box;
use parents::{Parents, apex_of, domain_of};
use settings::{Policy, Settings};
use tunnels::Tunnels;

/// Those who change which zones are served wait for others with the same number alone.
const TURNS: usize = 64;
/// For the zone of a claim, at most.
const FETCH: Duration = Duration::from_secs(30);

/// What the relay knows of zones.
pub struct Zones {
    server: Handle<Tunnels, Parents>,
    registry: Arc<Registry>,
    boxes: Arc<Boxes>,
    prover: Arc<Prover>,
    policy: Arc<Policy>,
    names: Vec<MxName>,
    catalog: Option<Catalog>,
    addresses: Vec<SocketAddr>,
    turns: [Mutex<()>; TURNS],
    fetched: Buckets,
    claims: dashmap::DashSet<PublicKey>,
    loaded: watch::Sender<bool>,
}

/// A name server that is bound and does not answer yet.
pub struct Bound(NameServer<Tunnels, Parents>);

impl Zones {
    /// Binds all sockets of the name server, which keeps its zones in `state`.
    pub async fn bind(
        settings: Settings,
        state: &Path,
        registry: Arc<Registry>,
        boxes: Arc<Boxes>,
        prover: Arc<Prover>,
        counted: &Counted,
    ) -> anyhow::Result<(Arc<Self>, Bound)> {
        let catalog = settings.catalog();
        let (server, policy, names) = settings.split(state);
        let (tunnels, parents) = (Tunnels(boxes.clone()), Parents(prover.clone()));
        let server = NameServer::bind(server, tunnels, parents, counted).await?;
        let zones = Arc::new(Self {
            server: server.handle(),
            registry,
            boxes,
            prover,
            policy: Arc::new(policy),
            names,
            catalog,
            addresses: server.local_addrs().to_vec(),
            turns: [const { Mutex::const_new(()) }; TURNS],
            fetched: Buckets::new(Instant::now()),
            claims: dashmap::DashSet::new(),
            loaded: watch::Sender::new(false),
        });
        Ok((zones, Bound(server)))
    }

    /// The names of the name servers, for NS records.
    pub fn names(&self) -> &[MxName] {
        &self.names
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves what was kept, then what boxes bring, until `stop`. Those who ask are answered on threads of the
    /// name server; what is fetched through tunnels is on the runtime of this.
    pub async fn run(self: Arc<Self>, Bound(server): Bound, stop: CancellationToken) {
        let gone = Arc::<Lock<Vec<Name>>>::default();
        let wanted = {
            let (registry, policy, gone) =
                (self.registry.clone(), self.policy.clone(), gone.clone());
            move |apex: &Name, owner: Option<u64>| {
                let domain = domain_of(apex);
                let record = domain.and_then(|it| registry.snapshot().by_domain(&it).cloned());
                // The domain may have passed to another box while nobody was here to see it.
                let record = record.filter(|record| owner.is_none_or(|owner| owner == record.id));
                if record.is_none() {
                    gone.lock().unwrap_or_else(PoisonError::into_inner).push(apex.clone());
                }
                record.map(|record| policy.zone(apex, &record))
            }
        };
        let began = Instant::now();
        // Whoever has the catalog forgets what it does not name.
        let mut catalog = self.catalog.clone();
        match server.load(wanted).await {
            Ok(zones) => {
                let duration_ms = began.elapsed().as_millis();
                info!(zones, duration_ms, "zones that were kept are served");
            }
            Err(error) => {
                error!(%error, "the kept zones cannot be read: boxes bring them again, and no catalog is made");
                catalog = None;
            }
        }
        let gone = std::mem::take(&mut *gone.lock().unwrap_or_else(PoisonError::into_inner));
        self.loaded.send_replace(true);
        let forget = async {
            for apex in gone {
                self.forget_apex(&apex).await;
            }
            if let Some(catalog) = catalog {
                self.server.produce(catalog).await;
            }
            // It is `run` that ends.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = server.run(stop) => if let Err(error) = ended {
                error!(%error, "the name server ended");
            },
            () = forget => {}
        }
    }

    async fn loaded(&self) {
        // The sender lives in `self`.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Brings what is served to what the registry says of `domains` by now.
    pub async fn settle(&self, domains: &[DomainName]) {
        self.loaded().await;
        for domain in domains {
            if let Some(apex) = apex_of(domain) {
                self.settle_apex(&apex).await;
            }
        }
    }

    /// Whoever comes last with a turn has seen the newest snapshot, so the order of events does not
    /// matter.
    async fn settle_apex(&self, apex: &Name) {
        let _turn = self.turn(apex).lock().await;
        let holder = domain_of(apex).and_then(|domain| self.holder(&domain));
        match holder {
            Some(record) => {
                if self.server.status(apex).is_some() {
                    self.server.add(self.policy.zone(apex, &record)).await;
                }
            }
            None => self.remove(apex).await,
        }
    }

    /// Forgets the file of a zone that is nobody's, or was another box's; one that was brought meanwhile stays.
    async fn forget_apex(&self, apex: &Name) {
        let _turn = self.turn(apex).lock().await;
        if self.server.status(apex).is_none() {
            self.remove(apex).await;
        }
    }

    /// For who has the turn.
    async fn remove(&self, apex: &Name) {
        if let Err(error) = self.server.remove(apex).await {
            warn!(%error, "a zone is not served any more, but its file is still there");
        }
    }

    /// Serves the zone of `domain` for the box with `key`; `false` if the domain is not its own.
    async fn host(&self, domain: &DomainName, key: PublicKey) -> bool {
        let Some(apex) = apex_of(domain) else { return false };
        let _turn = self.turn(&apex).lock().await;
        let Some(record) = self.holder(domain).filter(|record| record.key == key) else {
            return false;
        };
        self.server.add(self.policy.zone(&apex, &record)).await;
        true
    }

    fn holder(&self, domain: &DomainName) -> Option<Arc<BoxRecord>> {
        self.registry.snapshot().by_domain(domain).cloned()
    }

    fn is_of(&self, domain: &DomainName, key: PublicKey) -> bool {
        self.holder(domain).is_some_and(|record| record.key == key)
    }

    fn turn(&self, apex: &Name) -> &Mutex<()> {
        let octets = apex.as_slice().iter().map(|octet| usize::from(octet.to_ascii_lowercase()));
        &self.turns[octets.sum::<usize>() % TURNS]
    }

    /// Whether the zone that the box with `key` has of `domain` proves that it is the box's: the
    /// parent zone vouches for its keys, and it names the box. That is found out before `end`, or not at
    /// all.
    pub async fn prove(
        &self,
        domain: &DomainName,
        key: PublicKey,
        end: Instant,
    ) -> Result<(), NoProof> {
        let offers = |tunnel: crate::boxes::Tunnel| tunnel.capabilities & OFFERS_ZONES != 0;
        if !self.boxes.newest(&key).is_some_and(offers) {
            return Err(NoProof::NoZones);
        }
        let apex = apex_of(domain).ok_or(NoProof::NoZones)?;
        let parent = timeout_at(end.into(), self.prover.parent(domain)).await;
        let parent = parent.map_err(|_| {
            NoProof::NotNow(format!(
                "What the parent zone of {domain} says was not found out in time."
            ))
        })?;
        let ds = match parent {
            Parent::Signed(ds) => ds,
            // Then its name servers are the only proof, and they were asked.
            Parent::Unsigned => return Err(NoProof::NoZones),
            Parent::Unclear(why) => return Err(NoProof::Why(why)),
        };
        let Some(_claim) = Claim::begin(&self.claims, key) else {
            return Err(NoProof::NotNow("Another claim of this box is being looked at.".into()));
        };
        let within = end.saturating_duration_since(Instant::now()).min(FETCH);
        let fetched = self.server.fetch(&apex, &key, ds, within).await;
        let records = fetched.map_err(|error| match error.may_pass() {
            true => NoProof::NotNow(format!("The zone that this box has of {domain}: {error}.")),
            false => NoProof::Why(format!(
                "{domain} has a DS record, but the zone that this box has of it is no proof: {error}."
            )),
        })?;
        if names_box(&records, domain, key.fingerprint()) {
            return Ok(());
        }
        Err(NoProof::Why(format!(
            "The zone that this box has of {domain} has no record {}.{domain}: TXT \"{}\".",
            record::LABEL,
            record::text(key.fingerprint()),
        )))
    }

    /// Serves the zone of a domain that was claimed just now by [`Self::prove`].
    pub async fn begin(&self, domain: &DomainName, key: PublicKey) {
        self.loaded().await;
        self.host(domain, key).await;
    }

    /// Whether the zone of `domain` that is served here still proves what [`Self::prove`] said.
    pub async fn proves(&self, domain: &DomainName, box_key: Fingerprint) -> bool {
        let Some(apex) = apex_of(domain) else { return false };
        // What is not served yet after a restart is not missing.
        self.loaded().await;
        let served = self.server.status(&apex).is_some_and(|status| status.served);
        if !served {
            return false;
        }
        let Parent::Signed(ds) = self.prover.parent(domain).await else { return false };
        let records = self.server.vouched(&apex, ds).await;
        records.is_some_and(|records| names_box(&records, domain, box_key))
    }
}

/// Why a box's zone is no proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoProof {
    /// The box has none, or none that its parent zone vouches for.
    NoZones,
    /// It proves nothing; why, as a sentence.
    Why(String),
    /// The relay could not find it out now; what it waited for, as a sentence. Later it may.
    NotNow(String),
}

/// The one claim of a box whose zone is being fetched.
struct Claim<'a>(&'a dashmap::DashSet<PublicKey>, PublicKey);

impl<'a> Claim<'a> {
    fn begin(all: &'a dashmap::DashSet<PublicKey>, key: PublicKey) -> Option<Self> {
        all.insert(key).then(|| Self(all, key))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.remove(&self.1);
    }
}

impl Policy {
    /// The zone `apex`, from the box of `record`. Its number stays its own, whichever key it has.
    fn zone(&self, apex: &Name, record: &BoxRecord) -> Zone<PublicKey> {
        let (transfer_to, notify) = self.of(apex);
        Zone {
            name: apex.clone(),
            owner: Some(record.id),
            primaries: vec![Primary { peer: record.key, key: None }],
            // They come through the tunnel, which knows who speaks.
            notices_from: Arc::default(),
            trust: Trust::Parent,
            transfer_to,
            notify,
        }
    }
}
