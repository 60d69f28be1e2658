//! What the relay counts, for Prometheus. No metric has a client, a box or a name as a label.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use sealpost_daemon::metrics::{register, register_build_info};
use sealpost_tunnel::request::RefusalCode;

use crate::ingress::Outcome;

/// How a box's connection attempt or connection ended.
pub const TUNNEL_OUTCOMES: [&str; 7] =
    ["connected", "handshake-failed", "greeting-failed", "version", "refused", "ended", "question"];
/// How a look for the proof of a domain ended.
pub const PROOF_OUTCOMES: [&str; 3] = ["found", "absent", "unclear"];

/// The relay's counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    sessions: IntCounterVec,
    transparent_sessions: IntCounter,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    tunnels: IntCounterVec,
    requests: IntCounterVec,
    proofs: IntCounterVec,
    reloads_failed: IntCounter,
    registry_up: IntGauge,
    registry_boxes: IntGauge,
    registry_revision: IntGauge,
    open_sessions: IntGauge,
    connected_boxes: IntGauge,
}

impl Metrics {
    /// All counters at zero, each outcome named from the start.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            sessions: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_sessions_total", "Sessions from senders by outcome"),
                    &["outcome"],
                )?,
            )?,
            transparent_sessions: register(
                &registry,
                IntCounter::new(
                    "sealpost_relay_transparent_sessions_total",
                    "Sessions from senders that were carried from their first byte",
                )?,
            )?,
            bytes_in: register(
                &registry,
                IntCounter::new("sealpost_relay_bytes_in_total", "Bytes read from senders")?,
            )?,
            bytes_out: register(
                &registry,
                IntCounter::new("sealpost_relay_bytes_out_total", "Bytes written to senders")?,
            )?,
            tunnels: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_tunnels_total", "Connections of boxes by outcome"),
                    &["outcome"],
                )?,
            )?,
            requests: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_requests_total", "Requests of boxes by outcome"),
                    &["outcome"],
                )?,
            )?,
            proofs: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_proofs_total", "Repeated proofs of domains"),
                    &["outcome"],
                )?,
            )?,
            registry_up: register(
                &registry,
                IntGauge::new("sealpost_relay_registry_up", "Whether the registry can be read")?,
            )?,
            registry_boxes: register(
                &registry,
                IntGauge::new("sealpost_relay_registry_boxes", "Boxes that may connect")?,
            )?,
            registry_revision: register(
                &registry,
                IntGauge::new("sealpost_relay_registry_revision", "What this relay routes by")?,
            )?,
            reloads_failed: register(
                &registry,
                IntCounter::new(
                    "sealpost_relay_reloads_failed_total",
                    "Configurations that were refused on reload",
                )?,
            )?,
            open_sessions: register(
                &registry,
                IntGauge::new("sealpost_relay_sessions_open", "Sessions that are open")?,
            )?,
            connected_boxes: register(
                &registry,
                IntGauge::new("sealpost_relay_boxes_connected", "Boxes that have a tunnel")?,
            )?,
            registry,
        };
        register_build_info(
            &metrics.registry,
            "sealpost_relay_build_info",
            env!("CARGO_PKG_VERSION"),
        )?;
        for outcome in Outcome::ALL {
            metrics.sessions.with_label_values(&[outcome.label()]);
        }
        for outcome in TUNNEL_OUTCOMES {
            metrics.tunnels.with_label_values(&[outcome]);
        }
        for outcome in PROOF_OUTCOMES {
            metrics.proofs.with_label_values(&[outcome]);
        }
        for outcome in RefusalCode::ALL.iter().map(|code| code.label()).chain(["done"]) {
            metrics.requests.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    /// What `/metrics` serves.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A session ended.
    pub fn session_ended(&self, outcome: Outcome) {
        self.sessions.with_label_values(&[outcome.label()]).inc();
    }

    /// The same session was one that is carried from its first byte.
    pub fn transparent_session_ended(&self) {
        self.transparent_sessions.inc();
    }

    /// A session carried bytes.
    pub fn carried(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// A box connected, failed to, or left; one of [`TUNNEL_OUTCOMES`].
    pub fn tunnel(&self, outcome: &'static str) {
        self.tunnels.with_label_values(&[outcome]).inc();
    }

    /// A box asked something; a label of [`RefusalCode`] or `done`.
    pub fn request(&self, outcome: &'static str) {
        self.requests.with_label_values(&[outcome]).inc();
    }

    /// A proof was looked for; one of [`PROOF_OUTCOMES`].
    pub fn proof(&self, outcome: &'static str) {
        self.proofs.with_label_values(&[outcome]).inc();
    }

    /// The state of the registry.
    pub fn set_registry(&self, up: bool, boxes: usize, revision: u64) {
        self.registry_up.set(i64::from(up));
        self.registry_boxes.set(i64::try_from(boxes).unwrap_or(i64::MAX));
        self.registry_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// A configuration was refused on reload.
    pub fn reload_failed(&self) {
        self.reloads_failed.inc();
    }

    /// The state of the gauges.
    pub fn set_gauges(&self, open_sessions: usize, connected_boxes: usize) {
        self.open_sessions.set(i64::try_from(open_sessions).unwrap_or(i64::MAX));
        self.connected_boxes.set(i64::try_from(connected_boxes).unwrap_or(i64::MAX));
    }
}
