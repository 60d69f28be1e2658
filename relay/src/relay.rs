//! Puts the relay together: bind, run, reload, drain.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use sealpost_daemon::config::{ConfigError, LoopbackAddr};
use sealpost_daemon::health::Health;
use sealpost_daemon::open_files;
use sealpost_daemon::signals::{Request, Signals, systemd};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{DomainName, MxName, PublicKey, ResetCode, quic};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::admin::report::Listening;
use crate::admin::{self, AdminSocket, Live, registry_location};
use crate::agents::{AgentListener, Agents};
use crate::boxes::Boxes;
use crate::config::{Config, Fixed, RegistryUrl};
use crate::ingress::{Ingress, Listener};
use crate::metrics::Metrics;
use crate::proof::Prover;
use crate::proof::claimable::Claimable;
use crate::rechecks::Rechecks;
use crate::registrar::{Desk, Registrar, now};
use crate::registry::follow::Follower;
use crate::registry::{Database, Effects, Registry, RegistryError, Snapshot};
use crate::relay_key::RelayKey;
use crate::zones::settings::Settings;
use crate::zones::{Bound, Zones};

/// How long peers may take to acknowledge that the relay is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long requests that are being answered may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long a start waits for a database that is away.
const WAIT_FOR_REGISTRY: Duration = Duration::from_secs(60);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long sessions on a key that was replaced may go on; senders for the new one are held for
/// no less (`[limits] park`).
const LEAVE_TO_ROTATED: Duration = Duration::from_secs(10);
const LOOK_AT_ROTATED: Duration = Duration::from_millis(100);
/// How often the registry hears which boxes were here.
const TELL_SEEN: Duration = Duration::from_secs(60);
const SEEN_AT_ONCE: usize = 500;
/// Open files beside those of sessions: listeners, tunnels' sockets, the registry, look-ups, and
/// sessions that are making room for others.
pub const OTHER_FILES: u64 = 256;

/// A relay that is bound and not yet running.
pub struct Relay {
    fixed: Fixed,
    quic_keys: RestartKeys,
    relay_key: Arc<ArcSwap<RelayKey>>,
    ingress: Arc<Ingress>,
    agents: Arc<Agents>,
    database: Arc<Database>,
    follower: Arc<Follower>,
    rechecks: Rechecks,
    listeners: Vec<Listener>,
    agent_listeners: Vec<AgentListener>,
    zones: Option<Arc<Zones>>,
    name_server: Option<Bound>,
    health: Health,
    socket: AdminSocket,
    live: Arc<Live>,
    requests: TaskTracker,
    stop: CancellationToken,
}

impl Relay {
    /// Loads keys, reads the registry and binds every address of `config`.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let Config { fixed, settings } = config;
        let relay_key = RelayKey::load_or_create(&fixed.state)?;
        // Two relays of one state would take each other's place.
        let socket = AdminSocket::bind(&fixed.socket)?;
        let keys_path = fixed.state.join("quic.keys");
        let quic_keys = RestartKeys::load_or_create(&keys_path)
            .with_context(|| format!("cannot use {}", keys_path.display()))?;
        let hostname = settings.hostname.clone();
        info!(key = %relay_key.identity.public(), hostname = hostname.as_str(), "relay");

        let (database, registry, follower) = registry_of(&fixed).await?;
        let boxes = Arc::new(Boxes::default());
        let metrics = Metrics::new()?;
        let draining = CancellationToken::new();
        let ingress = Arc::new(Ingress::new(
            Arc::new(ArcSwap::from_pointee(settings)),
            registry.clone(),
            boxes.clone(),
            metrics.clone(),
            draining.clone(),
            fixed.privacy,
            open_files::raise().map_or(usize::MAX, |files| room(files, &fixed)),
        ));
        warn_of_few_files(&ingress);
        let prover = Arc::new(Prover::new(&fixed.proof)?);
        let (zones, name_server) = match fixed.dns.clone() {
            None => (None, None),
            Some(dns) => {
                let (registry, boxes) = (registry.clone(), boxes.clone());
                let (prover, counted) = (prover.clone(), metrics.registry());
                let bound = Zones::bind(dns, &fixed.state, registry, boxes, prover, &counted);
                let (zones, bound) = bound.await.context("[dns]")?;
                (Some(zones), Some(bound))
            }
        };
        let relay_key = Arc::new(ArcSwap::from_pointee(relay_key));
        let registrar = Registrar {
            claimable: Claimable::new(own_names(&hostname, fixed.box_domain.as_ref())),
            hostname,
            shared: fixed.shared.clone(),
            registry: registry.clone(),
            database: database.clone(),
            prover: prover.clone(),
            zones: zones.clone(),
            relay_key: relay_key.clone(),
            metrics: metrics.clone(),
        };
        let requests = TaskTracker::new();
        let rechecks = Rechecks {
            database: database.clone(),
            prover,
            zones: zones.clone(),
            metrics: metrics.clone(),
            every: fixed.proof_every,
        };
        let agents = Arc::new(Agents {
            registry,
            boxes,
            metrics,
            draining,
            privacy: fixed.privacy,
            serves_zones: zones.is_some(),
            desk: Arc::new(Desk::new(registrar, requests.clone())),
            seen: Mutex::default(),
        });

        let mut listeners = Vec::new();
        for &address in &fixed.smtp {
            let listener = Listener::bind(address)
                .with_context(|| format!("cannot listen on {address} (TCP, for senders)"))?;
            info!(service = "smtp", address = %listener.local_addr()?, "listening");
            listeners.push(listener);
        }
        let mut agent_listeners = Vec::new();
        for &address in &fixed.tunnel {
            let listener = AgentListener::bind(address, &relay_key.load().identity, &quic_keys)
                .with_context(|| format!("cannot listen on {address} (UDP, for boxes)"))?;
            info!(service = "tunnel", address = %listener.local_addr()?, "listening");
            agent_listeners.push(listener);
        }
        let health = Self::health(fixed.admin, &ingress, &follower).await?;
        info!(service = "admin", address = %health.local_addr()?, "listening");
        let mut listening = vec![told("admin", health.local_addr()?)];
        for listener in &listeners {
            listening.push(told("smtp", listener.local_addr()?));
        }
        for listener in &agent_listeners {
            listening.push(told("tunnel", listener.local_addr()?));
        }
        for &address in zones.iter().flat_map(|zones| zones.addresses()) {
            listening.push(told("dns", address));
        }
        let live = Arc::new(Live::new(
            ingress.clone(),
            follower.clone(),
            relay_key.clone(),
            registry_location(&fixed),
            listening,
        ));
        Ok(Self {
            fixed,
            quic_keys,
            relay_key,
            ingress,
            agents,
            database,
            follower,
            rechecks,
            listeners,
            agent_listeners,
            zones,
            name_server,
            health,
            socket,
            live,
            requests,
            stop: CancellationToken::new(),
        })
    }

    async fn health(
        address: LoopbackAddr,
        ingress: &Arc<Ingress>,
        follower: &Arc<Follower>,
    ) -> anyhow::Result<Health> {
        let ready = {
            let ingress = ingress.clone();
            move || {
                let draining = ingress.draining.is_cancelled();
                draining.then(|| "draining".to_owned()).into_iter().collect()
            }
        };
        let (ingress, follower) = (ingress.clone(), follower.clone());
        let registry = ingress.metrics.registry();
        let refresh = move || {
            let known = ingress.registry.snapshot();
            ingress.metrics.set_gauges(ingress.open_sessions(), ingress.boxes.connected());
            let up = follower.trouble().is_none();
            ingress.metrics.set_registry(up, known.len(), known.revision());
        };
        Health::bind(address, registry, refresh, ready).await
    }

    /// The bound TCP addresses for senders.
    pub fn smtp_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// The bound UDP addresses for boxes.
    pub fn tunnel_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.agent_listeners.iter().map(AgentListener::local_addr).collect()
    }

    /// The bound addresses of the name server.
    pub fn dns_addrs(&self) -> Vec<SocketAddr> {
        self.zones.as_ref().map(|zones| zones.addresses().to_vec()).unwrap_or_default()
    }

    /// The bound HTTP address for the operator.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// The key that boxes pin.
    pub fn key(&self) -> PublicKey {
        self.relay_key.load().identity.public()
    }

    /// The database of the registry.
    pub fn database(&self) -> Arc<Database> {
        self.database.clone()
    }

    /// Serves until told to stop by a signal, then drains. `config_path` is read on SIGHUP.
    pub async fn run(self, mut signals: Signals, config_path: &Path) -> anyhow::Result<()> {
        let sessions = TaskTracker::new();
        let background = TaskTracker::new();
        let endpoints: Vec<_> = self.agent_listeners.iter().map(AgentListener::endpoint).collect();
        for listener in self.listeners {
            background.spawn(listener.run(self.ingress.clone(), sessions.clone()));
        }
        for listener in self.agent_listeners {
            background.spawn(listener.run(self.agents.clone(), background.clone()));
        }
        let name_server = match (self.zones.clone(), self.name_server) {
            (Some(zones), Some(bound)) => {
                Some(background.spawn(zones.run(bound, self.stop.clone())))
            }
            _ => None,
        };
        background.spawn({
            let stop = self.stop.clone();
            async move {
                if let Err(error) = self.health.run(stop).await {
                    error!(%error, "the health server ended");
                }
            }
        });
        background.spawn(admin::serve(self.socket, self.live.clone(), self.stop.clone()));
        background.spawn({
            let (follower, agents) = (self.follower.clone(), self.agents.clone());
            let (stop, tasks, zones) = (self.stop.clone(), background.clone(), self.zones);
            let concern = move |effects: &Effects| {
                concern(&agents, &tasks, effects);
                if let Some(zones) = zones.clone().filter(|_| !effects.moved.is_empty()) {
                    let moved = effects.moved.clone();
                    tasks.spawn(async move { zones.settle(&moved).await });
                }
            };
            async move { follower.run(stop, concern).await }
        });
        background.spawn(self.rechecks.run(self.stop.clone()));
        background.spawn(tell_seen(self.agents.clone(), self.database, self.stop.clone()));
        systemd::ready();

        while signals.next().await == Request::Reload {
            systemd::reloading();
            self.live.reloaded(reload(&self.fixed, &self.ingress, config_path).err().as_ref());
            reload_key(&self.fixed, &self.relay_key, &self.quic_keys, &endpoints);
            systemd::ready();
        }
        systemd::stopping();
        let limit = self.ingress.settings.load().limits.drain;
        info!(sessions = sessions.len(), ?limit, "draining; a second signal ends at once");
        self.ingress.draining.cancel();
        sessions.close();
        tokio::select! {
            ended = timeout(limit, sessions.wait()) => if ended.is_err() {
                warn!(sessions = sessions.len(), "sessions were cut as the drain took too long");
            },
            () = signals.stop() => warn!(sessions = sessions.len(), "leaving at once"),
        }
        self.requests.close();
        let _ = timeout(LAST_ANSWERS, self.requests.wait()).await;
        self.stop.cancel();
        for endpoint in &endpoints {
            endpoint.close(ResetCode::Draining.into(), b"the relay is shutting down");
        }
        for endpoint in endpoints {
            let _ = timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
        if let Some(name_server) = name_server {
            // Transfers to secondaries may go on for long, and are begun anew by them.
            let _ = timeout(LAST_WORDS, name_server).await;
        }
        info!("stopped");
        Ok(())
    }
}

/// How many sessions a process of this configuration may have that may have `files` open files.
pub fn room(files: u64, fixed: &Fixed) -> usize {
    let others = OTHER_FILES + fixed.dns.as_ref().map_or(0, Settings::files);
    usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX).max(1)
}

fn warn_of_few_files(ingress: &Ingress) {
    let (wanted, places) = (ingress.settings.load().limits.sessions, ingress.places());
    if places < wanted {
        warn!(
            wanted,
            places, "the limit of open files allows fewer sessions than [limits] sessions"
        );
    }
}

/// Opens the registry and reads it whole. A relay that does not know its boxes must not answer
/// for them, so it waits for a database that is away, and gives up after a while.
async fn registry_of(
    fixed: &Fixed,
) -> anyhow::Result<(Arc<Database>, Arc<Registry>, Arc<Follower>)> {
    let began = Instant::now();
    loop {
        let opened = async {
            let url = fixed.registry.as_ref().map(RegistryUrl::as_str);
            let database = Arc::new(Database::open(url, &fixed.state).await?);
            let empty =
                Snapshot::empty(fixed.own_prefix, fixed.box_domain.clone(), fixed.pairs.clone());
            let empty = if fixed.dns.is_some() { empty.with_domains() } else { empty };
            let registry = Arc::new(Registry::new(empty));
            let follower = Follower::start(database.clone(), registry.clone()).await?;
            Ok((database, registry, Arc::new(follower)))
        };
        match opened.await {
            Ok(opened) => {
                let boxes = opened.1.snapshot().len();
                let duration_ms = began.elapsed().as_millis();
                info!(boxes, duration_ms, "registry read");
                return Ok(opened);
            }
            Err(error @ RegistryError::Unavailable(_)) if began.elapsed() < WAIT_FOR_REGISTRY => {
                warn!(%error, "waiting for the registry");
                sleep(TRY_AGAIN).await;
            }
            Err(error) => return Err(error).context("the relay needs its registry to start"),
        }
    }
}

fn told(service: &str, address: SocketAddr) -> Listening {
    Listening { service: service.into(), address }
}

/// The names that the relay itself goes by, which no box may claim.
fn own_names(hostname: &MxName, box_domain: Option<&DomainName>) -> Vec<DomainName> {
    let hostname = hostname.as_str().parse().ok();
    hostname.into_iter().chain(box_domain.cloned()).collect()
}

/// What a change of the registry means for boxes that are connected.
fn concern(agents: &Arc<Agents>, tasks: &TaskTracker, effects: &Effects) {
    for key in &effects.gone {
        agents.boxes.revoke(*key);
    }
    for &key in &effects.rotated {
        let agents = agents.clone();
        tasks.spawn(async move {
            // New senders wait for the new key meanwhile, those that are here may finish.
            let idle = async {
                while agents.boxes.place(key).sessions() > 0 {
                    sleep(LOOK_AT_ROTATED).await;
                }
            };
            let _ = timeout(LEAVE_TO_ROTATED, idle).await;
            agents.boxes.revoke(key);
        });
    }
    for key in &effects.changed {
        agents.boxes.tell(*key);
    }
}

/// Tells the registry now and then which boxes were here today; a day is all that it keeps.
async fn tell_seen(agents: Arc<Agents>, database: Arc<Database>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(TELL_SEEN)).await.is_some() {
        let seen = std::mem::take(&mut *agents.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let seen: Vec<_> = seen.into_iter().collect();
        for some in seen.chunks(SEEN_AT_ONCE) {
            if let Err(error) = database.seen(some, now()).await {
                debug!(%error, "the days on which boxes were seen are not noted");
                break;
            }
        }
    }
}

/// Reads the relay's key again. Tunnels that are up stay; what is dialled from now on meets the
/// new key.
fn reload_key(
    fixed: &Fixed,
    relay_key: &ArcSwap<RelayKey>,
    quic_keys: &RestartKeys,
    endpoints: &[quinn::Endpoint],
) {
    let before = relay_key.load().identity.public();
    match RelayKey::load_or_create(&fixed.state) {
        Ok(next) if next.identity.public() == before => {}
        Ok(next) => {
            for endpoint in endpoints {
                let config = quic::relay_server_config(&next.identity, quic_keys);
                endpoint.set_server_config(Some(config));
            }
            info!(%before, after = %next.identity.public(), "the relay has a new key");
            relay_key.store(Arc::new(next));
        }
        Err(error) => error!(%error, "the key cannot be read again; the old one stays in use"),
    }
}

/// Reads the configuration again; keeps the old one when the new one cannot be used.
fn reload(fixed: &Fixed, ingress: &Ingress, path: &Path) -> Result<(), ConfigError> {
    let Config { fixed: new_fixed, settings } = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            ingress.metrics.reload_failed();
            error!(%error, "reload refused; the old configuration stays");
            return Err(error);
        }
    };
    if new_fixed != *fixed {
        warn!("only hostname, [limits] and [shield] change by a reload; the rest needs a restart");
    }
    ingress.shield.apply(&settings.shield);
    let old = ingress.settings.swap(Arc::new(settings));
    if *old != **ingress.settings.load() {
        info!(before = ?old, after = ?ingress.settings.load(), "settings changed");
        warn_of_few_files(ingress);
    }
    info!("reloaded");
    Ok(())
}
