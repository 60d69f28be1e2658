//! The streams that boxes open: one request and one answer each, or one notice of a zone, and not too
//! many at once.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use quinn::{Connection, RecvStream, SendStream};
use sealpost_tunnel::ask::{Asked, read_asked, write_answer};
use sealpost_tunnel::names::SessionId;
use sealpost_tunnel::quic::AGENT_STREAMS;
use sealpost_tunnel::request::{Answer, Refusal, RefusalCode, Request};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{PublicKey, ResetCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::Registrar;
use crate::zones::notices::Outcome;

/// Requests that are answered at once, of all boxes.
const AT_ONCE: usize = 256;
/// The same of those that are no boxes: anybody can be a stranger, as often as he likes.
const STRANGERS_AT_ONCE: usize = 32;
/// Requests that are answered at once, of one box: so that none keeps the others waiting.
const AT_ONCE_PER_KEY: usize = 2;
/// Notices of zones that are heard at once, of all boxes.
const NOTICES: usize = 1024;
/// The same of one box. Its others wait for these, and not for what other boxes do.
const NOTICES_PER_KEY: usize = 4;
/// All that one box may have, with those that wait: as many streams as it may open on a tunnel.
const NOTICES_WAITING_PER_KEY: usize = AGENT_STREAMS as usize;
/// How long they wait.
const NOTICE_TURN: Duration = Duration::from_secs(3);
/// Connections to ask on, of one box.
const CONNECTIONS_PER_KEY: usize = 4;
/// Connections to ask on, of all that are no boxes.
const STRANGERS_CONNECTED: usize = 512;
/// Streams of one connection that is there to ask.
const STREAMS: usize = 64;
/// A connection that is there to ask ends after this.
const LIFETIME: Duration = Duration::from_secs(60);
/// For writing an answer.
const TRANSFER: Duration = Duration::from_secs(10);

/// Takes requests from streams to the [`Registrar`].
pub struct Desk {
    registrar: Registrar,
    requests: Arc<DashMap<PublicKey, usize>>,
    notices: Arc<DashMap<PublicKey, usize>>,
    lanes: Arc<Lanes>,
    connections: Arc<DashMap<PublicKey, usize>>,
    places: Semaphore,
    notice_places: Semaphore,
    strangers: Semaphore,
    strangers_connected: Semaphore,
    streams: TaskTracker,
}

/// One of the few of a key.
struct Turn {
    among: Arc<DashMap<PublicKey, usize>>,
    key: PublicKey,
}

impl Desk {
    /// A desk where `registrar` answers; its tasks run in `streams`.
    pub fn new(registrar: Registrar, streams: TaskTracker) -> Self {
        Self {
            registrar,
            requests: Arc::default(),
            notices: Arc::default(),
            lanes: Arc::default(),
            connections: Arc::default(),
            places: Semaphore::new(AT_ONCE),
            notice_places: Semaphore::new(NOTICES),
            strangers: Semaphore::new(STRANGERS_AT_ONCE),
            strangers_connected: Semaphore::new(STRANGERS_CONNECTED),
            streams,
        }
    }

    /// Serves a connection that is there to ask.
    pub async fn serve(self: &Arc<Self>, connection: &Connection, key: PublicKey) {
        let stranger = self.is_stranger(key);
        let place = stranger.then(|| self.strangers_connected.try_acquire()).transpose();
        let turn = Turn::take(&self.connections, key, CONNECTIONS_PER_KEY);
        // Both are held as long as the connection is served.
        let (Ok(_place), Some(_turn)) = (place, turn) else {
            connection.close(ResetCode::Busy.into(), b"too many ask at once; try again soon");
            return;
        };
        let asking = async {
            for _ in 0..STREAMS {
                let Ok((send, recv)) = connection.accept_bi().await else { return };
                self.take(key, send, recv);
            }
            // What was taken shall still be answered.
            connection.closed().await;
        };
        if timeout(LIFETIME, asking).await.is_err() {
            connection.close(ResetCode::Idle.into(), b"this connection is for short questions");
        }
    }

    fn is_stranger(&self, key: PublicKey) -> bool {
        self.registrar.registry.snapshot().by_key(&key).is_none()
    }

    /// Hears and answers on one stream, in a task of its own.
    pub fn take(self: &Arc<Self>, key: PublicKey, send: SendStream, recv: RecvStream) {
        let desk = self.clone();
        self.streams.spawn(async move { desk.one(key, send, recv).await });
    }

    async fn one(&self, key: PublicKey, send: SendStream, mut recv: RecvStream) {
        match read_asked(&mut recv).await {
            Ok(Asked::Request(request)) => self.answer(key, request, send).await,
            Ok(Asked::Dns(session)) => {
                self.hear(key, session, TunnelStream::new(send, recv)).await;
            }
            Err(error) => {
                debug!(%error, "what a box asks could not be read");
                TunnelStream::new(send, recv).abort(ResetCode::Protocol);
            }
        }
    }

    /// What a box says about its zones.
    async fn hear(&self, key: PublicKey, session: SessionId, stream: TunnelStream) {
        let Some(zones) = &self.registrar.zones else {
            return stream.abort(ResetCode::ServiceUnknown);
        };
        let outcome = match self.notice_place(key).await {
            Some(_place) => zones.notice(key, stream).await,
            None => {
                stream.abort(ResetCode::Busy);
                Outcome::TooMany
            }
        };
        self.registrar.metrics.notice(outcome);
        debug!(%session, outcome = outcome.label(), "a box told of a zone");
    }

    /// Room for a notice of this box, until dropped.
    async fn notice_place(&self, key: PublicKey) -> Option<impl Sized> {
        // Those that are no boxes have no domains, and no places either.
        if self.is_stranger(key) {
            return None;
        }
        let turn = Turn::take(&self.notices, key, NOTICES_WAITING_PER_KEY)?;
        let lane = Lane::take(&self.lanes, key, NOTICES_PER_KEY).await?;
        let place = self.notice_places.try_acquire().ok()?;
        Some((place, lane, turn))
    }

    async fn answer(&self, key: PublicKey, request: Request, mut send: SendStream) {
        let places = if self.is_stranger(key) { &self.strangers } else { &self.places };
        let turn = Turn::take(&self.requests, key, AT_ONCE_PER_KEY);
        let answer = match (turn, places.try_acquire()) {
            (Some(_turn), Ok(_place)) => self.registrar.answer(key, request).await,
            _ => Answer::Refused(Refusal {
                code: RefusalCode::Busy,
                message: "too many requests at once; try again in a few seconds".into(),
            }),
        };
        let written = timeout(TRANSFER, write_answer(&mut send, &answer)).await;
        if !matches!(written, Ok(Ok(()))) {
            debug!("an answer could not be written");
            let _ = send.reset(ResetCode::Aborted.into());
        }
    }
}

/// The places of keys that have or want some.
type Lanes = DashMap<PublicKey, Arc<Semaphore>>;

/// One of the few places of a key, for which its others wait.
struct Lane {
    among: Arc<Lanes>,
    key: PublicKey,
    place: Option<OwnedSemaphorePermit>,
}

impl Lane {
    async fn take(among: &Arc<Lanes>, key: PublicKey, limit: usize) -> Option<Self> {
        let places = among.entry(key).or_insert_with(|| Semaphore::new(limit).into()).clone();
        let mut lane = Self { among: among.clone(), key, place: None };
        lane.place = timeout(NOTICE_TURN, places.acquire_owned()).await.ok()?.ok();
        lane.place.is_some().then_some(lane)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.place = None;
        // Whoever else has or wants one has the places too.
        self.among.remove_if(&self.key, |_, places| Arc::strong_count(places) == 1);
    }
}

impl Turn {
    fn take(among: &Arc<DashMap<PublicKey, usize>>, key: PublicKey, limit: usize) -> Option<Self> {
        let mut count = among.entry(key).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Self { among: among.clone(), key })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(mut count) = self.among.get_mut(&self.key) {
            *count -= 1;
        }
        self.among.remove_if(&self.key, |_, count| *count == 0);
    }
}

#[cfg(test)]
mod tests {
    use sealpost_tunnel::Identity;

    use super::*;

    #[tokio::test]
    async fn a_key_waits_for_its_own_places_alone() {
        let lanes = Arc::<Lanes>::default();
        let (one, other) = (Identity::ephemeral().public(), Identity::ephemeral().public());
        let first = Lane::take(&lanes, one, 1).await.unwrap();
        let mut waits = Box::pin(Lane::take(&lanes, one, 1));
        let free = tokio::select! {
            biased;
            _ = &mut waits => panic!("there is one place"),
            free = Lane::take(&lanes, other, 1) => free,
        };
        assert!(free.is_some());
        drop((first, free));
        drop(waits.await.unwrap());
        assert!(lanes.is_empty(), "nothing is kept of who has no place");
    }
}
