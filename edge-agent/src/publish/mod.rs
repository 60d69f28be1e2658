//! Makes the zones of the owner's file, keeps them on disk, and has the relays serve them.
//!
//! ```text
//!   relays' standings   the mail server's keys   files   updates   wishes        facts
//!            └───────────────┴──────────┬──────────┴────────┴─────────┘
//!                                   zone_task          one for each zone
//!                                      ↓
//!                 make: plan → crate::zone::build → admission → disk
//!                                      ↓
//!               deliver::offered, from which relays and the listener have it
//!                                      ↓
//!                    relays: NOTIFY, and whether it is served
//! ```
//!
//! The records and signatures themselves are [`crate::zone`]'s. A new version never takes the place
//! of the last one before it was signed, verified twice and kept on disk; and what fails leaves the
//! last one in service.

pub mod certificate_keys;
pub mod dkim;
pub mod due;
pub mod facts;
pub mod hex;
pub mod listener;
mod lock;
pub mod mail_key_watch;
pub mod make;
pub mod notice;
pub mod offline;
pub mod owner_files;
pub mod primary;
pub mod relays;
pub mod roll;
pub mod roll_watch;
pub mod store;
pub mod update;
pub mod wishes;
pub mod zone_key_roll;
mod zone_task;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hickory_proto::dnssec::TrustAnchors;
use sealpost_dns::record::Name;
use sealpost_dns::transfer::tsig::TsigKey;
use sealpost_tunnel::{DomainName, MxName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::config::{Dns, Zone};
use crate::deliver::Deliveries;
use crate::metrics::Metrics;
use crate::registration::keys::Keys;
use crate::status::ZoneStatus;
use crate::uplink::{Changed, Uplink};
use mail_key_watch::Glimpse;
use zone_task::{Command, ZoneTask};

pub use wishes::{Published, Wishes};

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The keys of the root zone: those that are built in, or those of the file that `dns` names.
pub fn trust_anchors(dns: Option<&Dns>) -> anyhow::Result<TrustAnchors> {
    let Some(path) = dns.and_then(|dns| dns.trust_anchor.as_ref()) else {
        return Ok(TrustAnchors::default());
    };
    let anchors = TrustAnchors::from_file(path)
        .map_err(|error| anyhow::anyhow!("[dns] trust_anchor {}: {error}", path.display()))?;
    anyhow::ensure!(
        !anchors.is_empty(),
        "[dns] trust_anchor {}: there is no DNSKEY record in it",
        path.display()
    );
    Ok(anchors)
}

/// Commands that wait for a zone's task.
const MAX_COMMANDS: usize = 64;

/// All zones of the owner's file; clones share them.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

/// What all zones share.
pub(super) struct Shared {
    state: PathBuf,
    keys: Arc<Keys>,
    uplinks: Arc<ArcSwap<Vec<Arc<Uplink>>>>,
    changed: Changed,
    deliveries: Arc<Deliveries>,
    metrics: Metrics,
    wishes: Wishes,
    /// What the mail server showed last.
    glimpses: watch::Sender<Option<Glimpse>>,
    /// The keys of `[[dns.key]]` by their names in the file.
    tsig: HashMap<String, Arc<TsigKey>>,
    /// Whose signatures everything rests on.
    anchors: Arc<TrustAnchors>,
    running: Mutex<BTreeMap<DomainName, Running>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A zone whose task runs.
struct Running {
    zone: Zone,
    apex: Name,
    commands: mpsc::Sender<Command>,
    status: ZoneStatus,
    stop: CancellationToken,
}

impl Publisher {
    /// Without zones yet. `dns` names the keys of those who may change something.
    pub fn new(
        state: PathBuf,
        keys: Arc<Keys>,
        uplinks: Arc<ArcSwap<Vec<Arc<Uplink>>>>,
        changed: Changed,
        deliveries: Arc<Deliveries>,
        dns: Option<&Dns>,
    ) -> anyhow::Result<Self> {
        let mut tsig = HashMap::new();
        for key in dns.iter().flat_map(|dns| &dns.keys) {
            let loaded = key.load();
            let loaded =
                loaded.map_err(|error| anyhow::anyhow!("[[dns.key]] {}: {error}", key.name))?;
            tsig.insert(key.name.clone(), Arc::new(loaded));
        }
        let anchors = trust_anchors(dns)?;
        let shared = Arc::new(Shared {
            state,
            keys,
            uplinks,
            changed,
            metrics: deliveries.metrics.clone(),
            deliveries,
            wishes: Wishes::default(),
            glimpses: watch::Sender::default(),
            tsig,
            anchors: Arc::new(anchors),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(roll_watch::watch(shared.clone()));
        shared.tasks.spawn(mail_key_watch::watch(shared.clone()));
        Ok(Self(shared))
    }

    /// What other parts of the agent want zones to say.
    pub fn wishes(&self) -> Wishes {
        self.0.wishes.clone()
    }

    /// Brings what runs in line with the owner's file. A zone that did not change goes on.
    pub fn apply(&self, zones: Vec<Zone>) {
        let mut running = self.0.lock();
        running.retain(|_, old| {
            let stays = zones.contains(&old.zone);
            if !stays {
                info!(zone = %old.zone.name, "zone removed or changed");
                old.stop.cancel();
                // One that changed is served as it was until its next version is there.
                if !zones.iter().any(|zone| zone.name == old.zone.name) {
                    self.0.deliveries.dns.offered().withdraw(&old.apex);
                    self.0.wishes.report(&old.zone.name, Published::default());
                }
            }
            stays
        });
        for zone in zones {
            running.entry(zone.name.clone()).or_insert_with(|| {
                let (commands, received) = mpsc::channel(MAX_COMMANDS);
                let stop = CancellationToken::new();
                let status = ZoneStatus { name: zone.name.to_string(), ..ZoneStatus::default() };
                let task = ZoneTask::new(self.0.clone(), zone.clone());
                self.0.tasks.spawn(task.run(received, stop.clone()));
                Running { apex: zone.apex(), zone, commands, status, stop }
            });
        }
        // What relays hold is looked at by those that stay, too.
        drop(running);
        self.0.changed.tell();
    }

    /// The state of all zones.
    pub fn status(&self) -> Vec<ZoneStatus> {
        self.0.lock().values().map(|running| running.status.clone()).collect()
    }

    /// Ends all tasks. Zones stay at the relays.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        for running in self.0.lock().values() {
            running.stop.cancel();
        }
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DomainName, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the mail exchangers of all zones that are made here.
    fn exchangers(&self) -> Vec<MxName> {
        let domains: Vec<_> = self.lock().keys().cloned().collect();
        let published = domains.iter().filter_map(|domain| self.wishes.published(domain));
        published.flat_map(|published| published.exchangers).collect()
    }

    /// Has a new version made of a zone whose keys on disk are others.
    fn remake(&self, domain: &DomainName) {
        if let Some(running) = self.lock().get(domain) {
            // Where so many commands wait, one of them has it made.
            let _ = running.commands.try_send(Command::Refresh);
        }
    }

    /// The state of a zone, for whoever asks.
    fn show(&self, domain: &DomainName, status: ZoneStatus) {
        if let Some(running) = self.lock().get_mut(domain) {
            running.status = status;
        }
    }

    /// The zone called `apex`, and what takes commands for it.
    fn find(&self, apex: &Name) -> Option<(Zone, mpsc::Sender<Command>)> {
        let running = self.lock();
        let found = running.values().find(|running| running.apex == *apex)?;
        Some((found.zone.clone(), found.commands.clone()))
    }
}
