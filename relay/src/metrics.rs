//! What the relay counts, for Prometheus. No metric has a client, a box or a name as a label.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use sealpost_daemon::metrics::{register, register_build_info};
use sealpost_tunnel::request::RefusalCode;

use crate::ingress::Outcome;
use crate::zones::notices;

/// How a box's connection attempt or connection ended.
pub const TUNNEL_OUTCOMES: [&str; 7] =
    ["connected", "handshake-failed", "greeting-failed", "version", "refused", "ended", "question"];
/// How a look for the proof of a domain ended.
pub const PROOF_OUTCOMES: [&str; 3] = ["found", "absent", "unclear"];
/// What a DNS list of the shield answered.
pub const LIST_OUTCOMES: [&str; 5] = ["listed", "clear", "refused", "nonsense", "failed"];

/// What a ClientHello on a shared address named: a box's name, another, none, no host name, or it
/// could not be read.
pub const NAMED: [&str; 5] = ["match", "unknown", "absent", "bad", "unreadable"];
/// What an address pair said about a sender without a name.
pub const PAIR_OUTCOMES: [&str; 3] = ["hit", "ambiguous", "missed"];
/// How the wait of a ClientHello for its box ended: the box came, it did not, the sender left.
pub const PARKED_OUTCOMES: [&str; 3] = ["came", "gave-up", "left"];

/// From accept to the greeting: a fraction of a millisecond, unless the relay has no time.
const GREETING_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10.,
];
/// From accept to the first byte from home: four round trips of the sender, one of the box, and what
/// the mail server there takes; with time to wait for the box (20 s) and for the mail server (29 s).
const SPLICED_SECONDS: &[f64] =
    &[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1., 1.5, 2.5, 5., 7.5, 10., 20., 30., 60., 300.];
/// The part of it that home takes; postscreen alone takes 6 s for a sender that it does not know.
const HOME_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1., 1.5, 2.5, 5., 7.5, 10., 20., 30.];
/// Sessions of one box.
const BOX_SESSIONS: &[f64] = &[1., 2., 3., 4., 6., 8., 16., 32., 64., 128., 256., 512., 1024.];
/// A box with more sessions than this is loud.
const QUIET_SESSIONS: usize = 4;

/// The relay's counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    sessions: Family,
    transparent_sessions: IntCounter,
    hellos: Family,
    pairs: Family,
    parked: Family,
    parked_now: IntGauge,
    greeting_seconds: Histogram,
    spliced_seconds: Histogram,
    quiet_home_seconds: Histogram,
    loud_home_seconds: Histogram,
    box_sessions: Histogram,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    tunnels: IntCounterVec,
    requests: IntCounterVec,
    proofs: IntCounterVec,
    lists: IntCounterVec,
    notices: IntCounterVec,
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
        let family = |name, help, label, values: &[&'static str]| {
            Family::new(&registry, Opts::new(name, help), label, values)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, Histogram::with_opts(options)?)
        };
        let home_seconds = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "sealpost_relay_home_seconds",
                    "From the offer to a box to the first byte from its mail server",
                )
                .buckets(HOME_SECONDS.to_vec()),
                &["load"],
            )?,
        )?;
        let outcomes: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
        let metrics = Self {
            sessions: family(
                "sealpost_relay_sessions_total",
                "Sessions from senders by outcome",
                "outcome",
                &outcomes,
            )?,
            hellos: family(
                "sealpost_relay_client_hellos_total",
                "ClientHellos on shared addresses by what they named",
                "named",
                &NAMED,
            )?,
            pairs: family(
                "sealpost_relay_pairs_total",
                "Senders without a name that came to the second address of a pair",
                "outcome",
                &PAIR_OUTCOMES,
            )?,
            parked: family(
                "sealpost_relay_parked_total",
                "ClientHellos that waited for a box, by how that ended",
                "outcome",
                &PARKED_OUTCOMES,
            )?,
            parked_now: register(
                &registry,
                IntGauge::new("sealpost_relay_parked", "ClientHellos that wait for a box now")?,
            )?,
            greeting_seconds: histogram(
                "sealpost_relay_greeting_seconds",
                "From accept to the greeting",
                GREETING_SECONDS,
            )?,
            spliced_seconds: histogram(
                "sealpost_relay_spliced_seconds",
                "From accept to the first byte from home",
                SPLICED_SECONDS,
            )?,
            quiet_home_seconds: home_seconds.with_label_values(&["quiet"]),
            loud_home_seconds: home_seconds.with_label_values(&["loud"]),
            box_sessions: histogram(
                "sealpost_relay_box_sessions",
                "Sessions of a box when one begins, this one included",
                BOX_SESSIONS,
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
            lists: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_lists_total", "Answers of DNS lists of senders"),
                    &["outcome"],
                )?,
            )?,
            notices: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("sealpost_relay_zone_notices_total", "Notices of boxes' zones"),
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
        for outcome in TUNNEL_OUTCOMES {
            metrics.tunnels.with_label_values(&[outcome]);
        }
        for outcome in PROOF_OUTCOMES {
            metrics.proofs.with_label_values(&[outcome]);
        }
        for outcome in LIST_OUTCOMES {
            metrics.lists.with_label_values(&[outcome]);
        }
        for outcome in notices::Outcome::ALL {
            metrics.notices.with_label_values(&[outcome.label()]);
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
        self.sessions.inc(outcome.label());
    }

    /// A ClientHello on a shared address named something; one of [`NAMED`].
    pub fn client_hello(&self, named: &'static str) {
        self.hellos.inc(named);
    }

    /// An address pair was looked at for a sender without a name; one of [`PAIR_OUTCOMES`].
    pub fn pair(&self, outcome: &'static str) {
        self.pairs.inc(outcome);
    }

    /// A ClientHello begins to wait for its box.
    pub fn park(&self) -> Parked {
        self.parked_now.inc();
        Parked { metrics: self.clone(), outcome: "left" }
    }

    /// A sender was greeted so long after its connection was accepted.
    pub fn greeted(&self, after: Duration) {
        self.greeting_seconds.observe(after.as_secs_f64());
    }

    /// A session for a box begins, its `sessions`th.
    pub fn box_has(&self, sessions: usize) {
        self.box_sessions.observe(as_f64(sessions));
    }

    /// The first byte came from home so long after the connection was accepted, and so long after it
    /// was offered to a box that had so many `sessions`.
    pub fn spliced(&self, after: Duration, home: Duration, sessions: usize) {
        self.spliced_seconds.observe(after.as_secs_f64());
        let quiet = sessions <= QUIET_SESSIONS;
        let seconds = if quiet { &self.quiet_home_seconds } else { &self.loud_home_seconds };
        seconds.observe(home.as_secs_f64());
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

    /// A box told of a zone.
    pub fn notice(&self, outcome: notices::Outcome) {
        self.notices.with_label_values(&[outcome.label()]).inc();
    }

    /// A list was asked about a sender; one of [`LIST_OUTCOMES`].
    pub fn list_asked(&self, outcome: &'static str) {
        self.lists.with_label_values(&[outcome]).inc();
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

/// A ClientHello that waits for its box; counted when dropped, as one whose sender left unless told
/// otherwise.
pub struct Parked {
    metrics: Metrics,
    outcome: &'static str,
}

impl Parked {
    /// The box came in time, or did not.
    pub fn ended(&mut self, came: bool) {
        self.outcome = if came { "came" } else { "gave-up" };
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.metrics.parked_now.dec();
        self.metrics.parked.inc(self.outcome);
    }
}

/// A counter with one label whose values are all known. Each is there from the start, at zero, and
/// counting takes no lock.
#[derive(Clone)]
struct Family(Arc<[(&'static str, IntCounter)]>);

impl Family {
    fn new(
        registry: &Registry,
        options: Opts,
        label: &str,
        values: &[&'static str],
    ) -> prometheus::Result<Self> {
        let vec = register(registry, IntCounterVec::new(options, &[label])?)?;
        Ok(Self(values.iter().map(|value| (*value, vec.with_label_values(&[*value]))).collect()))
    }

    fn inc(&self, value: &'static str) {
        match self.0.iter().find(|(known, _)| *known == value) {
            Some((_, counter)) => counter.inc(),
            None => debug_assert!(false, "no counter is called {value}"),
        }
    }
}

/// Counts here are far below the 52 bits that a float keeps exactly.
fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &Metrics, line: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.registry().gather());
        let text = text.unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }

    #[test]
    fn every_label_is_there_before_anything_happened() {
        let metrics = Metrics::new().unwrap();
        for named in NAMED {
            let line = format!("sealpost_relay_client_hellos_total{{named=\"{named}\"}}");
            assert_eq!(value(&metrics, &line), Some(0.0));
            metrics.client_hello(named);
            assert_eq!(value(&metrics, &line), Some(1.0));
        }
        for outcome in PAIR_OUTCOMES {
            let line = format!("sealpost_relay_pairs_total{{outcome=\"{outcome}\"}}");
            assert_eq!(value(&metrics, &line), Some(0.0));
            metrics.pair(outcome);
            assert_eq!(value(&metrics, &line), Some(1.0));
        }
        for outcome in Outcome::ALL {
            metrics.session_ended(*outcome);
            let line = format!("sealpost_relay_sessions_total{{outcome=\"{}\"}}", outcome.label());
            assert_eq!(value(&metrics, &line), Some(1.0));
        }
    }

    #[test]
    fn who_waits_for_a_box_is_counted_while_and_after() {
        let metrics = Metrics::new().unwrap();
        let count = |outcome: &str| {
            let line = format!("sealpost_relay_parked_total{{outcome=\"{outcome}\"}}");
            (value(&metrics, "sealpost_relay_parked "), value(&metrics, &line))
        };
        let (mut came, mut gave_up, left) = (metrics.park(), metrics.park(), metrics.park());
        assert_eq!(count("came"), (Some(3.0), Some(0.0)));
        came.ended(true);
        drop(came);
        gave_up.ended(false);
        drop(gave_up);
        drop(left);
        for outcome in PARKED_OUTCOMES {
            assert_eq!(count(outcome), (Some(0.0), Some(1.0)), "{outcome}");
        }
    }

    #[test]
    fn quiet_boxes_are_told_from_loud_ones() {
        let metrics = Metrics::new().unwrap();
        let home = Duration::from_millis(40);
        metrics.spliced(Duration::from_secs(1), home, QUIET_SESSIONS);
        metrics.spliced(Duration::from_secs(1), home, QUIET_SESSIONS + 1);
        metrics.spliced(Duration::from_secs(1), home, 100);
        for (load, count) in [("quiet", 1.0), ("loud", 2.0)] {
            let line = format!("sealpost_relay_home_seconds_count{{load=\"{load}\"}}");
            assert_eq!(value(&metrics, &line), Some(count));
        }
        assert_eq!(value(&metrics, "sealpost_relay_spliced_seconds_count"), Some(3.0));
    }
}
