//! Puts the agent together: bind, run, reload, drain.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use sealpost_daemon::config::LoopbackAddr;
use sealpost_daemon::health::Health;
use sealpost_daemon::signals::{Request, Signals, systemd};
use sealpost_tunnel::PublicKey;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::certificate;
use crate::config::{Config, Fixed, Relay};
use crate::deliver::Deliveries;
use crate::metrics::{Metrics, ZoneGauges};
use crate::publish::Publisher;
use crate::publish::listener::Listener;
use crate::reach::Sockets;
use crate::registration::keys::Keys;
use crate::registration::pins::Pins;
use crate::status::{RelayStatus, ServiceStatus, Status, ZoneStatus};
use crate::uplink::{Changed, Dialer, Uplink};

/// An agent that is bound and not yet running.
pub struct Agent {
    fixed: Fixed,
    shared: Arc<Shared>,
    dialer: Dialer,
    health: Health,
    dns: Option<Listener>,
    config: Config,
}

/// What status and reload look at.
struct Shared {
    keys: Arc<Keys>,
    deliveries: Arc<Deliveries>,
    uplinks: Arc<ArcSwap<Vec<Arc<Uplink>>>>,
    changed: Changed,
    publisher: Publisher,
    certificate: certificate::Running,
}

impl Agent {
    /// Loads the key and opens sockets.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let fixed = config.fixed.clone();
        let keys = Arc::new(Keys::open(&fixed.state)?);
        info!(key = %keys.last(), "box");
        let metrics = Metrics::new()?;
        let limits = &fixed.limits;
        let deliveries = Deliveries::new(metrics.clone(), limits.sessions, limits.idle);
        let (deliveries, uplinks) = (Arc::new(deliveries), Arc::default());
        let changed = Changed::default();
        let publisher = Publisher::new(
            fixed.state.clone(),
            keys.clone(),
            Arc::clone(&uplinks),
            changed.clone(),
            deliveries.clone(),
            fixed.dns.as_ref(),
        )?;
        let dns = match &fixed.dns {
            Some(dns) => Some(Listener::bind(dns, &publisher).await?),
            None => None,
        };
        if let Some(dns) = &dns {
            info!(service = "dns", address = %dns.local_addr()?, "listening");
        }
        let certificate = certificate::Running::new(fixed.state.clone(), publisher.wishes());
        let shared = Arc::new(Shared {
            keys: keys.clone(),
            deliveries,
            uplinks,
            changed,
            publisher,
            certificate,
        });
        let dialer = Dialer::new(Sockets::bind()?, keys, Pins::new(&fixed.state));
        let health = Self::health(fixed.admin, &shared, &metrics).await?;
        info!(service = "admin", address = %health.local_addr()?, "listening");
        Ok(Self { fixed, shared, dialer, health, dns, config })
    }

    async fn health(
        address: LoopbackAddr,
        shared: &Arc<Shared>,
        metrics: &Metrics,
    ) -> anyhow::Result<Health> {
        let (readiness, status, gauges) = (shared.clone(), shared.clone(), shared.clone());
        let counters = metrics.clone();
        let refresh = move || {
            let status = gauges.status();
            let up = status.relays.iter().filter(|relay| relay.up).count();
            let ready = status.services.iter().filter(|service| service.ready()).count();
            counters.set_gauges(up, ready);
            counters.set_zones(zone_gauges(&status.zones));
            counters.set_certificate(status.certificate.as_ref());
        };
        let ready = move || readiness.status().missing();
        let routes = Router::new().route("/status", get(async move || axum::Json(status.status())));
        let health = Health::bind(address, metrics.registry(), refresh, ready).await?;
        Ok(health.merge(routes))
    }

    /// The bound HTTP address for the owner.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// Where programs of this machine see and change the zones, if anywhere.
    pub fn dns_addr(&self) -> Option<SocketAddr> {
        self.dns.as_ref().and_then(|dns| dns.local_addr().ok())
    }

    /// The key that relays must know.
    pub fn key(&self) -> PublicKey {
        self.shared.keys.last()
    }

    /// Serves until told to stop by a signal, then drains. `config_path` is read on SIGHUP.
    pub async fn run(self, mut signals: Signals, config_path: &Path) -> anyhow::Result<()> {
        let Self { fixed, shared, dialer, health, dns, config } = self;
        let uplinks = TaskTracker::new();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = health.run(stop).await {
                    error!(%error, "the health server ended");
                }
            }
        });
        let answering = dns.map(|dns| tokio::spawn(dns.run(stop.clone())));
        if config.relays.is_empty() {
            warn!("no [[relay]] is configured: no mail arrives through this agent");
        }
        shared.apply(config, &dialer, &uplinks);
        systemd::ready();

        while signals.next().await == Request::Reload {
            systemd::reloading();
            reload(&fixed, &shared, &dialer, &uplinks, config_path);
            systemd::ready();
        }
        systemd::stopping();
        let (tasks, limit) = (&shared.deliveries.tasks, fixed.limits.drain);
        info!(sessions = tasks.len(), ?limit, "draining; a second signal ends at once");
        for uplink in shared.uplinks.load().iter() {
            uplink.leave();
        }
        shared.deliveries.leaving.cancel();
        uplinks.close();
        tokio::select! {
            ended = timeout(limit, uplinks.wait()) => if ended.is_err() {
                warn!(sessions = tasks.len(), "sessions were cut as the drain took too long");
            },
            () = signals.stop() => warn!(sessions = tasks.len(), "leaving at once"),
        }
        stop.cancel();
        let _ = serving.await;
        if let Some(answering) = answering {
            let _ = answering.await;
        }
        shared.certificate.stop().await;
        shared.publisher.stop().await;
        dialer.sockets().close("the box leaves").await;
        info!("stopped");
        Ok(())
    }
}

impl Shared {
    /// Brings relays and services in line with `config`: a relay that did not change keeps its
    /// tunnel, every service is tested anew.
    fn apply(&self, config: Config, dialer: &Dialer, tasks: &TaskTracker) {
        let services = config.services.clone();
        self.deliveries.services.replace(config.services);
        let before = self.uplinks.load_full();
        let kept = |relay: &Relay| before.iter().find(|uplink| *uplink.relay == *relay).cloned();
        let now: Vec<_> = config
            .relays
            .into_iter()
            .map(|relay| {
                kept(&relay).unwrap_or_else(|| {
                    let uplink = Arc::new(Uplink::new(relay, self.changed.clone()));
                    let (running, dialer) = (uplink.clone(), dialer.clone());
                    let deliveries = self.deliveries.clone();
                    tasks.spawn(async move { running.keep_up(dialer, deliveries).await });
                    uplink
                })
            })
            .collect();
        for old in before.iter().filter(|old| !now.iter().any(|new| Arc::ptr_eq(old, new))) {
            info!(relay = old.relay.name, "relay removed or changed");
            old.leave();
        }
        info!(relays = now.len(), services = self.deliveries.services.all().len(), "configured");
        self.uplinks.store(Arc::new(now));
        // What comes from the owner's own primary cannot be given a challenge here.
        let made_here = config.zones.iter().filter(|zone| zone.primary.is_none());
        let zones = made_here.map(|zone| zone.name.clone()).collect();
        self.certificate.apply(config.acme, zones, services);
        self.publisher.apply(config.zones);
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            key: self.keys.last().to_string(),
            relays: {
                let kit = self.keys.kit();
                self.uplinks.load().iter().map(|uplink| RelayStatus::of(uplink, kit)).collect()
            },
            services: self.deliveries.services.all().iter().map(|s| ServiceStatus::of(s)).collect(),
            certificate: self.certificate.report(),
            zones: self.publisher.status(),
        }
    }
}

fn zone_gauges(zones: &[ZoneStatus]) -> ZoneGauges {
    let ends = zones.iter().filter_map(|zone| zone.valid_until);
    ZoneGauges {
        all: zones.len(),
        failing: zones.iter().filter(|zone| zone.error.is_some()).count(),
        unserved: zones.iter().filter(|zone| !zone.served()).count(),
        valid_until: ends.min().unwrap_or_default(),
    }
}

/// Reads the configuration again; keeps the old one when the new one cannot be used.
fn reload(fixed: &Fixed, shared: &Shared, dialer: &Dialer, tasks: &TaskTracker, path: &Path) {
    match Config::load(path) {
        Ok(config) => {
            if config.fixed != *fixed {
                warn!("changes of state, [admin], [dns], [limits] and [log] need a restart");
            }
            shared.apply(config, dialer, tasks);
        }
        Err(error) => {
            shared.deliveries.metrics.reload_failed();
            error!(%error, "reload refused; the old configuration stays");
        }
    }
}
