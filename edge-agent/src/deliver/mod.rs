//! From a stream of a relay to a service of this box.
//!
//! [`session`] owns one stream; [`starttls`] and [`proxy`] are the pure parts of what it says to
//! the mail server, [`dialogue`] says it, [`client`], [`self_test`] and [`services`] decide
//! whether it may. [`certificate`] looks at what senders are shown, and as the self-test does, it
//! comes as a `stranger`. Streams that carry DNS go to [`dns_stream`], which has the zones that are
//! [`offered`].

pub mod certificate;
pub mod client;
pub mod dialogue;
pub mod dns_stream;
pub mod offered;
pub mod proxy;
pub mod self_test;
pub mod services;
pub mod session;
pub mod starttls;
mod stranger;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use dns_stream::DnsStreams;
use services::Services;

/// What all deliveries share.
pub struct Deliveries {
    /// Where streams may go.
    pub services: Services,
    /// Where relays have zones from.
    pub dns: DnsStreams,
    /// What is counted.
    pub metrics: Metrics,
    /// The tasks, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// Silence after which a session is cut.
    pub idle: Duration,
    /// The agent leaves, and waits only for sessions in which a sender waits.
    pub leaving: CancellationToken,
    places: Arc<Semaphore>,
}

impl Deliveries {
    /// At most `sessions` at once.
    pub fn new(metrics: Metrics, sessions: usize, idle: Duration) -> Self {
        Self {
            services: Services::default(),
            dns: DnsStreams::new(Arc::default()),
            metrics,
            tasks: TaskTracker::new(),
            idle,
            leaving: CancellationToken::new(),
            places: Arc::new(Semaphore::new(sessions.min(Semaphore::MAX_PERMITS))),
        }
    }
}
