//! What an operator sees of a name server.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use sealpost_daemon::metrics::{register, register_build_info};

use crate::engine::Counts;

/// The classes of answers, in the order of [`crate::rate_limit::Class`].
const CLASSES: [&str; 5] = ["answer", "referral", "no-data", "nx-domain", "error"];
/// What carries queries; the last three in the order of [`crate::transport::Carrier`].
const CARRIERS: [&str; 4] = ["udp", "tcp", "tls", "quic"];

/// The metrics of a process.
pub(crate) struct Metrics {
    answers: IntCounterVec,
    limited: IntCounterVec,
    queries: IntCounterVec,
    zones: IntGaugeVec,
    panics: IntCounter,
}

impl Metrics {
    /// Enters all into `registry`.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        register_build_info(registry, "sealpost_dns_build_info", env!("CARGO_PKG_VERSION"))?;
        let vec = |name, help, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        Ok(Self {
            answers: vec("sealpost_dns_answers_total", "Answers, by their class", "class")?,
            limited: vec(
                "sealpost_dns_limited_total",
                "Answers over the limit of a network, by what became of them",
                "how",
            )?,
            queries: vec("sealpost_dns_queries_total", "Queries, by what carried them", "carrier")?,
            zones: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("sealpost_dns_zones", "Zones, by whether they are served"),
                    &["state"],
                )?,
            )?,
            panics: register(
                registry,
                IntCounter::new("sealpost_dns_panics_total", "Batches lost to a fault inside")?,
            )?,
        })
    }

    /// Brings the counters up to what the threads counted.
    pub(crate) fn refresh(&self, answered: &Counts, queries: [u64; 4], panics: u64) {
        let raise = |counter: &IntCounter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        for (class, count) in CLASSES.iter().zip(answered.answered) {
            raise(&self.answers.with_label_values(&[*class]), count);
        }
        raise(&self.limited.with_label_values(&["truncated"]), answered.slipped);
        raise(&self.limited.with_label_values(&["dropped"]), answered.dropped);
        for (carrier, count) in CARRIERS.iter().zip(queries) {
            raise(&self.queries.with_label_values(&[*carrier]), count);
        }
        raise(&self.panics, panics);
    }

    /// How many zones there are, and how many of them are served.
    pub(crate) fn zones(&self, all: usize, served: usize) {
        let set = |state, count: usize| {
            self.zones.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("served", served);
        set("missing", all - served);
    }
}
