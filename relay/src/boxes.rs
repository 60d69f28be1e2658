//! The boxes that are connected: where `ingress` and `agents` meet.
//!
//! Each box has a place of its own, so that nothing that happens to one box costs another
//! anything; the map from keys to places is sharded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use quinn::Connection;
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
    tunnels: watch::Sender<Vec<Tunnel>>,
    sessions: AtomicUsize,
}

/// One connection of a box.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Tells tunnels of one box apart, so that a late goodbye cannot remove a successor.
    pub id: u64,
    /// The connection.
    pub connection: Connection,
}

/// One session of a box; ends when dropped.
pub struct SessionPermit(Arc<Place>);

impl Boxes {
    /// The place of the box with `key`.
    pub fn place(&self, key: PublicKey) -> Arc<Place> {
        self.places.entry(key).or_default().clone()
    }

    /// Adds a tunnel of the box with `key`, from now on the preferred one; returns its id.
    pub fn connect(&self, key: PublicKey, connection: Connection) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.place(key).tunnels.send_modify(|tunnels| {
            if tunnels.is_empty() {
                self.connected.fetch_add(1, Ordering::Relaxed);
            }
            tunnels.insert(0, Tunnel { id, connection });
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
        place.tunnels.send_if_modified(|tunnels| {
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
            Arc::strong_count(place) == 1 && place.tunnels.borrow().is_empty()
        });
    }

    /// Cuts every tunnel of a box that is no longer known.
    pub fn revoke(&self, key: PublicKey) {
        let Some(place) = self.places.get(&key).map(|entry| entry.clone()) else {
            return;
        };
        for tunnel in place.tunnels.borrow().iter() {
            tunnel.connection.close(ResetCode::Revoked.into(), b"this box is no longer known here");
        }
    }

    /// How many boxes have a tunnel.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self { tunnels: watch::Sender::new(Vec::new()), sessions: AtomicUsize::new(0) }
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

    async fn tunnel_where(&self, wanted: impl Fn(&Tunnel) -> bool) -> Tunnel {
        let mut tunnels = self.tunnels.subscribe();
        loop {
            let found = tunnels
                .borrow_and_update()
                .iter()
                .find(|tunnel| wanted(tunnel) && tunnel.connection.close_reason().is_none())
                .cloned();
            if let Some(tunnel) = found {
                return tunnel;
            }
            if tunnels.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
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
