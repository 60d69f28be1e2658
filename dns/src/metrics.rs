//! What an operator sees of a name server.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use sealpost_daemon::metrics::register_build_info;

use crate::engine::Counts;
use crate::secondaries::Count;

/// The classes of answers, in the order of [`crate::rate_limit::Class`].
const CLASSES: [&str; 5] = ["answer", "referral", "no-data", "nx-domain", "error"];
/// What carries queries; the last three in the order of [`crate::transport::Carrier`].
const CARRIERS: [&str; 4] = ["udp", "tcp", "tls", "quic"];

/// What is read at each look at the metrics.
pub(crate) struct Reading {
    /// By all threads.
    pub(crate) answers: Counts,
    /// By carrier.
    pub(crate) queries: [u64; 4],
    /// Of threads.
    pub(crate) panics: u64,
    /// Of primaries, which were told to send them again.
    pub(crate) unheard: u64,
    /// All, served and hidden.
    pub(crate) zones: Count,
}

/// The metrics of a name server, which counts by itself and is read when somebody looks.
pub(crate) struct Metrics<R> {
    reading: R,
    answers: IntCounterVec,
    limited: IntCounterVec,
    queries: IntCounterVec,
    zones: IntGaugeVec,
    unheard: IntCounter,
    panics: IntCounter,
}

impl<R: Fn() -> Reading + Send + Sync + 'static> Metrics<R> {
    /// Enters all into `registry`.
    pub(crate) fn register(registry: &Registry, reading: R) -> prometheus::Result<()> {
        register_build_info(registry, "sealpost_dns_build_info", env!("CARGO_PKG_VERSION"))?;
        let vec = |name, help, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        registry.register(Box::new(Self {
            reading,
            answers: vec("sealpost_dns_answers_total", "Answers, by their class", "class")?,
            limited: vec(
                "sealpost_dns_limited_total",
                "Answers over the limit of a network, by what became of them",
                "how",
            )?,
            queries: vec("sealpost_dns_queries_total", "Queries, by what carried them", "carrier")?,
            zones: IntGaugeVec::new(
                Opts::new("sealpost_dns_zones", "Zones, by whether they are served"),
                &["state"],
            )?,
            unheard: IntCounter::new(
                "sealpost_dns_notices_busy_total",
                "Notices of primaries that have to be sent again, as too many came at once",
            )?,
            panics: IntCounter::new("sealpost_dns_panics_total", "Batches lost to a fault inside")?,
        }))
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [&self.answers, &self.limited, &self.queries, &self.zones, &self.unheard, &self.panics]
    }

    /// Brings the counters up to what was counted.
    fn refresh(&self) {
        let Reading { answers, queries, panics, unheard, zones } = (self.reading)();
        let raise = |counter: &IntCounter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        for (class, count) in CLASSES.iter().zip(answers.answered) {
            raise(&self.answers.with_label_values(&[*class]), count);
        }
        raise(&self.limited.with_label_values(&["truncated"]), answers.slipped);
        raise(&self.limited.with_label_values(&["dropped"]), answers.dropped);
        for (carrier, count) in CARRIERS.iter().zip(queries) {
            raise(&self.queries.with_label_values(&[*carrier]), count);
        }
        raise(&self.unheard, unheard);
        raise(&self.panics, panics);
        let set = |state, count: usize| {
            self.zones.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("served", zones.served.saturating_sub(zones.hidden));
        set("hidden", zones.hidden);
        set("missing", zones.all - zones.served);
    }
}

impl<R: Fn() -> Reading + Send + Sync + 'static> Collector for Metrics<R> {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
