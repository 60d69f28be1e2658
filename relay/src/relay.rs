//! Puts the relay together: bind, run, reload, drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use sealpost_daemon::config::LoopbackAddr;
use sealpost_daemon::health::Health;
use sealpost_daemon::signals::{Request, Signals, systemd};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::{Identity, PublicKey, ResetCode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::agents::{AgentListener, Agents};
use crate::boxes::Boxes;
use crate::config::{Config, Fixed};
use crate::ingress::{Ingress, Listener};
use crate::metrics::Metrics;
use crate::registry::{BoxRecord, Registry, Snapshot};

/// How long peers may take to acknowledge that the relay is gone.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// A relay that is bound and not yet running.
pub struct Relay {
    key: PublicKey,
    fixed: Fixed,
    ingress: Arc<Ingress>,
    agents: Arc<Agents>,
    listeners: Vec<Listener>,
    agent_listeners: Vec<AgentListener>,
    health: Health,
    stop: CancellationToken,
}

/// The file with the relay's identity.
pub fn key_path(state: &Path) -> PathBuf {
    state.join("relay.key")
}

impl Relay {
    /// Loads keys and binds every address of `config`.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let Config { fixed, settings, boxes } = config;
        let identity = Identity::load_or_create(&key_path(&fixed.state))?;
        let keys_path = fixed.state.join("quic.keys");
        let keys = RestartKeys::load_or_create(&keys_path)
            .with_context(|| format!("cannot use {}", keys_path.display()))?;
        info!(key = %identity.public(), hostname = settings.hostname, "relay");

        let registry = Arc::new(Registry::new(boxes));
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
        ));
        let agents = Arc::new(Agents {
            registry: registry.clone(),
            boxes,
            metrics,
            draining,
            privacy: fixed.privacy,
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
            let listener = AgentListener::bind(address, &identity, &keys, registry.clone())
                .with_context(|| format!("cannot listen on {address} (UDP, for boxes)"))?;
            info!(service = "tunnel", address = %listener.local_addr()?, "listening");
            agent_listeners.push(listener);
        }
        let health = Self::health(fixed.admin, &ingress).await?;
        info!(service = "admin", address = %health.local_addr()?, "listening");
        let (key, stop) = (identity.public(), CancellationToken::new());
        Ok(Self { key, fixed, ingress, agents, listeners, agent_listeners, health, stop })
    }

    async fn health(address: LoopbackAddr, ingress: &Arc<Ingress>) -> anyhow::Result<Health> {
        let ready = {
            let ingress = ingress.clone();
            move || {
                let draining = ingress.draining.is_cancelled();
                draining.then(|| "draining".to_owned()).into_iter().collect()
            }
        };
        let ingress = ingress.clone();
        let registry = ingress.metrics.registry();
        let refresh = move || {
            ingress.metrics.set_gauges(ingress.open_sessions(), ingress.boxes.connected());
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

    /// The bound HTTP address for the operator.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// The key that boxes pin.
    pub fn key(&self) -> PublicKey {
        self.key
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
        background.spawn({
            let stop = self.stop.clone();
            async move {
                if let Err(error) = self.health.run(stop).await {
                    error!(%error, "the health server ended");
                }
            }
        });
        systemd::ready();

        while signals.next().await == Request::Reload {
            systemd::reloading();
            reload(&self.fixed, &self.ingress, config_path);
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
        self.stop.cancel();
        for endpoint in &endpoints {
            endpoint.close(ResetCode::Draining.into(), b"the relay is shutting down");
        }
        for endpoint in endpoints {
            let _ = timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
        info!("stopped");
        Ok(())
    }
}

/// Reads the configuration again; keeps the old one when the new one cannot be used.
fn reload(fixed: &Fixed, ingress: &Ingress, path: &Path) {
    let Config { fixed: new_fixed, settings, boxes } = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            ingress.metrics.reload_failed();
            error!(%error, "reload refused; the old configuration stays");
            return;
        }
    };
    if new_fixed != *fixed {
        warn!("changes of state, [smtp], [tunnel], [admin] and [log] need a restart");
    }
    let old = ingress.settings.swap(Arc::new(settings));
    if *old != **ingress.settings.load() {
        info!(before = ?old, after = ?ingress.settings.load(), "settings changed");
    }
    let before = ingress.registry.snapshot();
    let gone = ingress.registry.replace(boxes);
    let now = ingress.registry.snapshot();
    let count = |from: &Snapshot, test: &dyn Fn(&BoxRecord) -> bool| {
        from.boxes().filter(|record| test(record)).count()
    };
    let added = count(&now, &|b| before.by_key(&b.key).is_none());
    let changed = count(&now, &|b| before.by_key(&b.key).is_some_and(|old| **old != *b));
    for key in &gone {
        ingress.boxes.revoke(*key);
    }
    info!(boxes = now.boxes().count(), added, changed, removed = gone.len(), "reloaded");
}
