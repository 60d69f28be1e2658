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
mod patience;
pub mod preamble;
mod refusal;
mod session;
mod shielded;
mod transparent;
mod visits;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
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

/// How long the operator is told that all places were taken.
const JUST_NOW: Duration = Duration::from_secs(60);

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
    large_hellos: Arc<Semaphore>,
    /// Most sessions that this process has open files for.
    room: usize,
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
        room: usize,
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
            large_hellos: Arc::new(Semaphore::new(greet::LARGE_HELLOS)),
            room,
        }
    }

    /// A client that has connected to an address which boxes share.
    fn visit(&self, client: IpAddr, address: IpAddr) -> Option<visits::Visit> {
        let snapshot = self.registry.snapshot();
        let shared = snapshot.by_address(address).is_none();
        let part = || snapshot.pair_roles().part(address.to_canonical());
        shared.then(|| self.visits.arrive(client, address, part()))
    }

    /// Sessions that are open.
    pub fn open_sessions(&self) -> usize {
        self.limits.open()
    }

    /// Sessions that may be open.
    pub fn places(&self) -> usize {
        self.settings.load().limits.sessions.min(self.room)
    }

    /// Whether all places were taken just now, so that connections that were not far yet had to go
    /// for others.
    pub fn was_full(&self) -> bool {
        self.limits.full().is_some_and(|at| at.elapsed() < JUST_NOW)
    }
}
