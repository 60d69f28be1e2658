//! The boxes that are connected: where `ingress` and `agents` meet.
//!
//! Each box has a place of its own, so that nothing that happens to one box costs another
//! anything; the map from keys to places is sharded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use quinn::Connection;
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::{PublicKey, ResetCode};
use tokio::sync::watch;

/// Tunnels that a box may have at a relay at once: the one in use, its successor while an agent
/// hands over or changes networks, and what a lost network has not noticed yet.
const TUNNELS_PER_BOX: usize = 4;

/// All boxes that are connected or waited for.
#[derive(Default)]
pub struct Boxes {
    places: DashMap<PublicKey, Arc<Place>>,
    next_id: AtomicU64,
    connected: AtomicUsize,
}

/// One box: its tunnels, newest first, and how many sessions it has.
pub struct Place {
    events: watch::Sender<Events>,
    sessions: AtomicUsize,
}

/// What those who wait at a place wait for.
#[derive(Default)]
struct Events {
    tunnels: Vec<Tunnel>,
    /// Counts changes in the registry that the box should hear of.
    news: u64,
}

/// What a tunnel hears of at its place.
pub enum Event {
    /// There is a newer tunnel.
    Newer(Tunnel),
    /// The registry holds something else about the box; how often that happened.
    News(u64),
}

/// One connection of a box.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Tells tunnels of one box apart, so that a late goodbye cannot remove a successor.
    pub id: u64,
    /// The connection.
    pub connection: Connection,
    /// Since when it is there.
    pub since: Instant,
    /// What the agent calls itself.
    pub software: Arc<str>,
    /// What the agent can do and what the box's owner chose, as bits of [`Hello::capabilities`].
    pub capabilities: u64,
}

/// A box that has a tunnel, as the operator sees it.
pub struct Connected {
    /// Who it is.
    pub key: PublicKey,
    /// Its newest tunnel.
    pub newest: Tunnel,
    /// How many it has.
    pub tunnels: usize,
    /// Its open sessions.
    pub sessions: usize,
}

/// One session of a box; ends when dropped.
pub struct SessionPermit(Arc<Place>);

impl Boxes {
    /// The place of the box with `key`.
    pub fn place(&self, key: PublicKey) -> Arc<Place> {
        self.places.entry(key).or_default().clone()
    }

    /// Adds a tunnel of the box with `key`, whose agent said `hello`, from now on the preferred one;
    /// returns its id.
    pub fn connect(&self, key: PublicKey, connection: Connection, hello: &Hello) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.place(key).events.send_modify(|Events { tunnels, .. }| {
            if tunnels.is_empty() {
                self.connected.fetch_add(1, Ordering::Relaxed);
            }
            let tunnel = Tunnel {
                id,
                connection,
                since: Instant::now(),
                software: hello.software.as_str().into(),
                capabilities: hello.capabilities,
            };
            tunnels.insert(0, tunnel);
            for old in tunnels.drain(TUNNELS_PER_BOX.min(tunnels.len())..) {
                old.connection.close(ResetCode::Replaced.into(), b"too many tunnels of this box");
            }
        });
        id
    }

    /// Removes the tunnel `id`; its open streams are not touched.
    pub fn disconnect(&self, key: PublicKey, id: u64) {
        let Some(place) = self.places.get(&key).map(|entry| entry.clone()) else {
            return;
        };
        place.events.send_if_modified(|Events { tunnels, .. }| {
            let before = tunnels.len();
            tunnels.retain(|tunnel| tunnel.id != id);
            if before > 0 && tunnels.is_empty() {
                self.connected.fetch_sub(1, Ordering::Relaxed);
            }
            before != tunnels.len()
        });
        // The map's own reference and ours: nobody waits, so the place can go.
        drop(place);
        self.places.remove_if(&key, |_, place| {
            Arc::strong_count(place) == 1 && place.events.borrow().tunnels.is_empty()
        });
    }

    /// Cuts every tunnel of a box that is no longer known.
    pub fn revoke(&self, key: PublicKey) {
        let Some(place) = self.places.get(&key).map(|entry| entry.clone()) else {
            return;
        };
        for tunnel in &place.events.borrow().tunnels {
            tunnel.connection.close(ResetCode::Revoked.into(), b"this box is no longer known here");
        }
    }

    /// Tells a box, if it is connected, that the registry holds something else about it.
    pub fn tell(&self, key: PublicKey) {
        if let Some(place) = self.places.get(&key).map(|entry| entry.clone()) {
            place.events.send_modify(|events| events.news += 1);
        }
    }

    /// The newest tunnel of the box with `key` that is alive, if one is there.
    pub fn newest(&self, key: &PublicKey) -> Option<Tunnel> {
        self.places.get(key)?.newest()
    }

    /// All boxes that have a tunnel, in no order.
    pub fn all(&self) -> impl Iterator<Item = Connected> {
        self.places.iter().filter_map(|entry| {
            let events = entry.events.borrow();
            let newest = events.tunnels.first()?.clone();
            let (tunnels, sessions) = (events.tunnels.len(), entry.sessions());
            Some(Connected { key: *entry.key(), newest, tunnels, sessions })
        })
    }

    /// How many sessions the box with `key` has.
    pub fn sessions(&self, key: PublicKey) -> usize {
        self.places.get(&key).map_or(0, |place| place.sessions())
    }

    /// How many boxes have a tunnel.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self { events: watch::Sender::default(), sessions: AtomicUsize::new(0) }
    }
}

impl Place {
    /// The newest tunnel that is alive, waiting for one.
    pub async fn tunnel(&self) -> Tunnel {
        self.tunnel_where(|_| true).await
    }

    /// A tunnel that came after `id`, waiting for one.
    pub async fn tunnel_after(&self, id: u64) -> Tunnel {
        self.tunnel_where(|tunnel| tunnel.id > id).await
    }

    /// What the box's owner chose, by the newest tunnel that is alive, as bits of
    /// [`Hello::capabilities`]; nothing while the box is away.
    pub fn capabilities(&self) -> u64 {
        self.events.borrow().alive().next().map_or(0, |tunnel| tunnel.capabilities)
    }

    /// The newest tunnel that is alive, if one is there.
    pub fn newest(&self) -> Option<Tunnel> {
        self.events.borrow().alive().next().cloned()
    }

    /// How many news there were until now.
    pub fn news(&self) -> u64 {
        self.events.borrow().news
    }

    /// What happened since the tunnel `id` came and `news` were heard, waiting for something.
    pub async fn event_after(&self, id: u64, news: u64) -> Event {
        self.wait(|events| {
            if events.news > news {
                return Some(Event::News(events.news));
            }
            events.alive().find(|tunnel| tunnel.id > id).cloned().map(Event::Newer)
        })
        .await
    }

    async fn tunnel_where(&self, wanted: impl Fn(&Tunnel) -> bool) -> Tunnel {
        self.wait(|events| events.alive().find(|tunnel| wanted(tunnel)).cloned()).await
    }

    async fn wait<T>(&self, look: impl Fn(&Events) -> Option<T>) -> T {
        let mut events = self.events.subscribe();
        loop {
            if let Some(found) = look(&events.borrow_and_update()) {
                return found;
            }
            if events.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How many sessions the box has.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// A place among the at most `limit` sessions of the box.
    pub fn session(self: &Arc<Self>, limit: usize) -> Option<SessionPermit> {
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < limit).then_some(now + 1)
            })
            .ok()?;
        Some(SessionPermit(self.clone()))
    }
}

impl Events {
    fn alive(&self) -> impl Iterator<Item = &Tunnel> {
        self.tunnels.iter().filter(|tunnel| tunnel.connection.close_reason().is_none())
    }
}

impl SessionPermit {
    /// The box.
    pub fn place(&self) -> &Arc<Place> {
        &self.0
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
