//! Port 25: from a sender's connection to a stream to a box.
//!
//! `listener` accepts, `session` owns one connection from its first to its last byte, and
//! `greet` is its dialogue before TLS, unless `transparent` carries it whole; [`preamble`] and
//! [`client_hello`] are the pure parts that decide about its bytes, and `offer` finds the tunnel for
//! it. `shielded` is what it meets at a box that wants it.

mod alert;
pub mod client_hello;
mod greet;
mod limits;
mod listener;
mod offer;
mod open;
pub mod outcome;
pub mod preamble;
mod refusal;
mod session;
mod shielded;
mod transparent;
mod visits;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

pub use listener::Listener;
pub use open::{OpenSession, OpenSessions, Phase};
pub use outcome::Outcome;

use crate::boxes::Boxes;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::privacy::Privacy;
use crate::registry::Registry;
use crate::shield::Shield;

/// What all sessions share.
pub struct Ingress {
    /// What may change while the relay runs.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Who may have what.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub boxes: Arc<Boxes>,
    /// What is counted.
    pub metrics: Metrics,
    /// No new sessions are wanted, and those that did not come to STARTTLS end.
    pub draining: CancellationToken,
    /// What log lines may tell.
    pub privacy: Privacy,
    /// The sessions that are open.
    pub sessions: Arc<OpenSessions>,
    /// What stands before boxes whose owners want it.
    pub shield: Shield,
    limits: Arc<limits::Limits>,
    visits: Arc<visits::Visits>,
}

impl Ingress {
    /// Ingress with no session yet.
    pub fn new(
        settings: Arc<ArcSwap<Settings>>,
        registry: Arc<Registry>,
        boxes: Arc<Boxes>,
        metrics: Metrics,
        draining: CancellationToken,
        privacy: Privacy,
    ) -> Self {
        let shield = Shield::new(&settings.load().shield, metrics.clone());
        Self {
            settings,
            registry,
            boxes,
            metrics,
            draining,
            privacy,
            sessions: Arc::default(),
            shield,
            limits: Arc::default(),
            visits: Arc::default(),
        }
    }

    /// A client that has connected to an address which boxes share.
    fn visit(&self, client: IpAddr, address: IpAddr) -> Option<visits::Visit> {
        let shared = self.registry.snapshot().by_address(address).is_none();
        shared.then(|| self.visits.arrive(client, address))
    }

    /// Sessions that are open.
    pub fn open_sessions(&self) -> usize {
        self.limits.open()
    }
}
