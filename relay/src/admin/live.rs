//! What a running relay can tell about itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use sealpost_daemon::config::ConfigError;

use super::report::{
    ConnectedBox, ConnectedBoxes, Listening, MOST, Mishap, OpenSession, OpenSessions,
    RegistryStatus, Status,
};
use crate::ingress::Ingress;
use crate::registry::follow::Follower;
use crate::relay_key::RelayKey;

/// A running relay, to look at.
pub struct Live {
    ingress: Arc<Ingress>,
    follower: Arc<Follower>,
    relay_key: Arc<ArcSwap<RelayKey>>,
    registry: (&'static str, String),
    listening: Vec<Listening>,
    began: Instant,
    reload_refused: Mutex<Option<(Instant, String)>>,
}

impl Live {
    /// A relay that begins now. `registry` is the kind of its registry and where it is.
    pub fn new(
        ingress: Arc<Ingress>,
        follower: Arc<Follower>,
        relay_key: Arc<ArcSwap<RelayKey>>,
        registry: (&'static str, String),
        listening: Vec<Listening>,
    ) -> Self {
        Self {
            ingress,
            follower,
            relay_key,
            registry,
            listening,
            began: Instant::now(),
            reload_refused: Mutex::default(),
        }
    }

    /// Notes what became of a reload.
    pub fn reloaded(&self, refused: Option<&ConfigError>) {
        // The first line says what is wrong and where; the second is the line of the file itself,
        // which may hold a password.
        let reason =
            |error: &ConfigError| error.to_string().lines().next().unwrap_or_default().to_owned();
        let refused = refused.map(|error| (Instant::now(), reason(error)));
        *self.reload_refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let known = self.ingress.registry.snapshot();
        let away = self.follower.trouble().map(|trouble| mishap(trouble.since, trouble.reason));
        let reload_refused = self
            .reload_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map(|(when, reason)| mishap(when, reason));
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            hostname: self.ingress.settings.load().hostname.to_string(),
            key: self.relay_key.load().identity.public(),
            uptime_seconds: self.began.elapsed().as_secs(),
            listening: self.listening.clone(),
            boxes_connected: self.ingress.boxes.connected(),
            sessions_open: self.ingress.open_sessions(),
            trouble: self.trouble(away.as_ref(), reload_refused.as_ref()),
            registry: RegistryStatus {
                kind: self.registry.0.into(),
                location: self.registry.1.clone(),
                revision: known.revision(),
                boxes: known.len(),
                away,
            },
            reload_refused,
        }
    }

    fn trouble(&self, away: Option<&Mishap>, reload: Option<&Mishap>) -> Vec<String> {
        let away = away.map(|away| {
            format!(
                "the registry is away; known boxes are routed as before, and nobody can join or be \
                 revoked: {}",
                away.reason
            )
        });
        let reload = reload.map(|reload| {
            format!(
                "the last reload was refused, the former configuration stays: {}",
                reload.reason
            )
        });
        let full = self.ingress.was_full().then(|| {
            format!(
                "it is full: all {} places for sessions were taken within the last minute, and \
                 connections without a ClientHello make room for new ones",
                self.ingress.places()
            )
        });
        let draining = self.ingress.draining.is_cancelled();
        let draining = draining.then(|| "it is draining, and takes nothing new".to_owned());
        [away, reload, full, draining].into_iter().flatten().collect()
    }

    /// The boxes that are connected.
    pub fn boxes(&self) -> ConnectedBoxes {
        let privacy = self.ingress.privacy;
        let boxes = self.ingress.boxes.all().take(MOST).map(|connected| ConnectedBox {
            key: connected.key,
            since_seconds: connected.newest.since.elapsed().as_secs(),
            tunnels: connected.tunnels,
            sessions: connected.sessions,
            address: privacy.shown(connected.newest.connection.remote_address().ip()),
            software: connected.newest.software.to_string(),
        });
        let boxes: Vec<_> = boxes.collect();
        ConnectedBoxes { connected: self.ingress.boxes.connected().max(boxes.len()), boxes }
    }

    /// The sessions that are open, told as far as the log may tell of them.
    pub fn sessions(&self) -> OpenSessions {
        let privacy = self.ingress.privacy;
        let sessions = self.ingress.sessions.all().take(MOST).map(|open| OpenSession {
            session: open.id.to_string(),
            client: privacy.shown(open.client.ip()),
            seconds: open.began.elapsed().as_secs(),
            phase: open.phase(),
            r#box: privacy.named(open.box_name()).flatten().map(Into::into),
            sni: privacy.named(open.sni()).flatten().map(Into::into),
            local: privacy.named(open.local),
        });
        let sessions: Vec<_> = sessions.collect();
        OpenSessions {
            open: self.ingress.open_sessions().max(sessions.len()),
            named: privacy.named(()).is_some(),
            sessions,
        }
    }
}

fn mishap(since: Instant, reason: String) -> Mishap {
    Mishap { seconds_ago: since.elapsed().as_secs(), reason }
}
