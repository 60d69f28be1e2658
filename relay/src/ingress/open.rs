//! The sessions that are open, for the operator who asks; each holds a place of [`super::limits`],
//! so there are no more than those.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dashmap::DashMap;
use sealpost_tunnel::{MxName, SessionId};
use serde::{Deserialize, Serialize};

use crate::registry::BoxRecord;

/// All sessions that are open. Sharded: a session touches it twice, when it begins and ends.
#[derive(Default)]
pub struct OpenSessions {
    by_id: DashMap<SessionId, Arc<OpenSession>>,
}

/// One session, and what is known of it so far.
pub struct OpenSession {
    /// Its name in the logs of both ends.
    pub id: SessionId,
    /// The sender.
    pub client: SocketAddr,
    /// The relay's address that it came to.
    pub local: SocketAddr,
    /// When it began.
    pub began: Instant,
    sni: OnceLock<MxName>,
    found: OnceLock<Arc<BoxRecord>>,
    carried: AtomicBool,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The dialogue before TLS.
    Greeting,
    /// The ClientHello is offered to the box.
    Offered,
    /// Bytes pass between the sender and the mail server at home.
    Carried,
}

impl Phase {
    /// In one word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Offered => "offered",
            Self::Carried => "carried",
        }
    }
}

/// A place in the list; given back when dropped.
pub(super) struct Listed {
    sessions: Arc<OpenSessions>,
    session: Arc<OpenSession>,
}

impl OpenSessions {
    /// Enters a session that begins now.
    pub(super) fn enter(self: &Arc<Self>, client: SocketAddr, local: SocketAddr) -> Listed {
        let session = Arc::new(OpenSession {
            id: SessionId::random(),
            client,
            local,
            began: Instant::now(),
            sni: OnceLock::new(),
            found: OnceLock::new(),
            carried: AtomicBool::new(false),
        });
        self.by_id.insert(session.id, session.clone());
        Listed { sessions: self.clone(), session }
    }

    /// All sessions, in no order.
    pub fn all(&self) -> impl Iterator<Item = Arc<OpenSession>> {
        self.by_id.iter().map(|entry| entry.value().clone())
    }
}

impl OpenSession {
    /// The box that it is for, once that is known.
    pub fn box_name(&self) -> Option<&str> {
        self.found.get().map(|found| found.name.as_str())
    }

    /// The name that the sender asked for.
    pub fn sni(&self) -> Option<&str> {
        self.sni.get().map(MxName::as_str)
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        match (self.carried.load(Ordering::Relaxed), self.found.get()) {
            (true, _) => Phase::Carried,
            (false, Some(_)) => Phase::Offered,
            (false, None) => Phase::Greeting,
        }
    }

    /// The sender asked for `sni`.
    pub(super) fn asked_for(&self, sni: MxName) {
        // A session has one ClientHello, so nothing is lost where there is one already.
        let _ = self.sni.set(sni);
    }

    /// It is for the box `found`.
    pub(super) fn is_for(&self, found: Arc<BoxRecord>) {
        let _ = self.found.set(found);
    }

    /// The box took it.
    pub(super) fn is_carried(&self) {
        self.carried.store(true, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Listed {
    type Target = OpenSession;

    fn deref(&self) -> &OpenSession {
        &self.session
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sessions.by_id.remove(&self.session.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_listed_while_it_lives() {
        let sessions = Arc::new(OpenSessions::default());
        let client: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let listed = sessions.enter(client, "198.51.100.1:25".parse().unwrap());
        assert_eq!(listed.phase(), Phase::Greeting);
        listed.asked_for("mx.home.example".parse().unwrap());
        listed.is_carried();
        let seen: Vec<_> = sessions.all().collect();
        assert_eq!((seen.len(), seen[0].client, seen[0].phase()), (1, client, Phase::Carried));
        assert_eq!((seen[0].sni(), seen[0].box_name()), (Some("mx.home.example"), None));
        drop(listed);
        assert_eq!(sessions.all().count(), 0);
    }
}
