//! What the agent counts, for Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use sealpost_daemon::metrics::{register, register_build_info};
use sealpost_tunnel::ResetCode;

use crate::deliver::session;

/// The agent's counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    sessions: IntCounterVec,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    reloads_failed: IntCounter,
    tunnels_up: IntGauge,
    services_ready: IntGauge,
}

impl Metrics {
    /// All counters at zero, each outcome named from the start.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let sessions = IntCounterVec::new(
            Opts::new("sealpost_agent_sessions_total", "Streams from relays by outcome"),
            &["outcome"],
        )?;
        let outcomes = ResetCode::ALL.iter().map(|code| code.label());
        for outcome in outcomes.chain(session::OUTCOMES) {
            sessions.with_label_values(&[outcome]);
        }
        register_build_info(&registry, "sealpost_agent_build_info", env!("CARGO_PKG_VERSION"))?;
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        Ok(Self {
            sessions: register(&registry, sessions)?,
            bytes_in: counter("sealpost_agent_bytes_in_total", "Bytes given to services")?,
            bytes_out: counter("sealpost_agent_bytes_out_total", "Bytes taken from services")?,
            reloads_failed: counter(
                "sealpost_agent_reloads_failed_total",
                "Configurations that were refused on reload",
            )?,
            tunnels_up: gauge("sealpost_agent_tunnels_up", "Relays that a tunnel is up to")?,
            services_ready: gauge(
                "sealpost_agent_services_ready",
                "Services that passed the open-relay self-test",
            )?,
            registry,
        })
    }

    /// What `/metrics` serves.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A stream ended.
    pub fn session_ended(&self, outcome: &'static str) {
        self.sessions.with_label_values(&[outcome]).inc();
    }

    /// A stream carried bytes.
    pub fn carried(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// A configuration was refused on reload.
    pub fn reload_failed(&self) {
        self.reloads_failed.inc();
    }

    /// The state of the gauges.
    pub fn set_gauges(&self, tunnels_up: usize, services_ready: usize) {
        self.tunnels_up.set(i64::try_from(tunnels_up).unwrap_or(i64::MAX));
        self.services_ready.set(i64::try_from(services_ready).unwrap_or(i64::MAX));
    }
}
