//! What the agent counts, for Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use sealpost_daemon::metrics::{register, register_build_info};
use sealpost_tunnel::ResetCode;

use crate::certificate::Report;
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
    certificate_ends: IntGauge,
    certificate_failing: IntGauge,
    zones: IntGauge,
    zones_failing: IntGauge,
    zones_unserved: IntGauge,
    zones_valid_until: IntGauge,
    zones_signed: IntCounter,
    updates: IntCounterVec,
}

/// What is counted about all zones together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZoneGauges {
    /// Zones of the file.
    pub all: usize,
    /// Those of which the last attempt to make a version failed.
    pub failing: usize,
    /// Those of which a relay does not serve the newest version.
    pub unserved: usize,
    /// When the first signature of them all ends, in seconds since 1970; 0 without zones.
    pub valid_until: u64,
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
        let updates = IntCounterVec::new(
            Opts::new("sealpost_agent_dns_updates_total", "DNS UPDATE messages by result"),
            &["result"],
        )?;
        for result in ["done", "refused"] {
            updates.with_label_values(&[result]);
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
            certificate_ends: gauge(
                "sealpost_agent_certificate_not_after_seconds",
                "When the certificate ends, in seconds since 1970; 0 without one",
            )?,
            certificate_failing: gauge(
                "sealpost_agent_certificate_failing",
                "1 while the last attempt to obtain or install a certificate failed",
            )?,
            zones: gauge("sealpost_agent_zones", "Zones of the configuration")?,
            zones_failing: gauge(
                "sealpost_agent_zones_failing",
                "Zones of which no new version can be made",
            )?,
            zones_unserved: gauge(
                "sealpost_agent_zones_unserved",
                "Zones of which a relay does not serve the newest version",
            )?,
            zones_valid_until: gauge(
                "sealpost_agent_zones_valid_until_seconds",
                "When the first signature of all zones ends, in seconds since 1970",
            )?,
            zones_signed: counter("sealpost_agent_zones_signed_total", "New versions of zones")?,
            updates: register(&registry, updates)?,
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

    /// A new version of a zone was signed.
    pub fn signed(&self) {
        self.zones_signed.inc();
    }

    /// A DNS UPDATE was answered: `done` or `refused`.
    pub fn updated(&self, result: &'static str) {
        self.updates.with_label_values(&[result]).inc();
    }

    /// The state of the gauges about zones.
    pub fn set_zones(&self, zones: ZoneGauges) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.zones.set(number(zones.all));
        self.zones_failing.set(number(zones.failing));
        self.zones_unserved.set(number(zones.unserved));
        self.zones_valid_until.set(i64::try_from(zones.valid_until).unwrap_or(i64::MAX));
    }

    /// The state of the gauges.
    pub fn set_gauges(&self, tunnels_up: usize, services_ready: usize) {
        self.tunnels_up.set(i64::try_from(tunnels_up).unwrap_or(i64::MAX));
        self.services_ready.set(i64::try_from(services_ready).unwrap_or(i64::MAX));
    }
    /// How the certificate is, if there is to be one.
    pub fn set_certificate(&self, report: Option<&Report>) {
        let ends = report.and_then(|report| report.not_after).unwrap_or(0);
        self.certificate_ends.set(i64::try_from(ends).unwrap_or(i64::MAX));
        let failing = report.is_some_and(|report| report.error.is_some());
        self.certificate_failing.set(i64::from(failing));
    }
}
