//! What other parts of the agent want a zone to say, and what became of it.
//!
//! Whoever obtains certificates sets what has to stand in the zone and waits until it stands there.
//! Wishes are not kept over a restart: who has them says them again. Nothing here opens a socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealpost_tunnel::{DomainName, MxName};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::zone::plan::{Authority, Challenge, KeyDigest};

/// Counts what was asked of all zones. A later wish has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wish(u64);

/// What is wanted of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What certificate authorities look for now.
    pub challenges: Vec<Challenge>,
    /// Who may issue certificates.
    pub authorities: Vec<Authority>,
    /// Public keys that the mail server may be given next.
    pub next_keys: Vec<KeyDigest>,
}

/// What is known of a zone's publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The newest wish that is in the zone with this serial.
    pub wish: Wish,
    /// The serial of the zone that is signed and on disk; `None` while there is none.
    pub serial: Option<u32>,
    /// The relays that serve the zone, by the names that the owner gave them.
    pub relays: Vec<Serving>,
    /// The names of the domain's mail exchangers; none while they are not known, and where the zone
    /// is made elsewhere.
    pub exchangers: Vec<MxName>,
    /// Why the last attempt to make a new version failed, and what to do.
    pub error: Option<String>,
}

/// A relay that serves a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// What the owner calls it.
    pub relay: String,
    /// The serial that it was last seen to serve.
    pub serial: Option<u32>,
    /// Whether a tunnel to it is up, so that it can have a new version soon.
    pub reachable: bool,
}

/// Why a wish is not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// The owner's file has no such zone.
    #[error("the agent makes no zone {0}: add a [[zone]] with this name to its configuration")]
    NoZone(DomainName),
    /// There is no zone with the wish in it.
    #[error("the zone was not signed anew: {0}")]
    NotSigned(String),
    /// Name servers have an older one.
    #[error("{} still serve an older version of the zone", .0.join(", "))]
    NotServed(Vec<String>),
}

impl Published {
    /// Why the zone with `wish` in it is not yet at all relays that can be reached; `Ok` when it is
    /// at them, and at one at least.
    pub fn fulfils(&self, wish: Wish) -> Result<(), Unpublished> {
        let Some(serial) = self.serial.filter(|_| self.wish >= wish) else {
            let why = self.error.as_deref().unwrap_or("it takes longer than usual");
            return Err(Unpublished::NotSigned(why.into()));
        };
        let has =
            |it: &Serving| it.serial.is_some_and(|it| !crate::zone::serial::is_newer(serial, it));
        let behind = self.relays.iter().filter(|it| it.reachable && !has(it));
        let behind: Vec<_> = behind.map(|it| it.relay.clone()).collect();
        match behind.is_empty() && self.relays.iter().any(has) {
            true => Ok(()),
            false if behind.is_empty() => Err(Unpublished::NotServed(vec!["all relays".into()])),
            false => Err(Unpublished::NotServed(behind)),
        }
    }
}

/// The wishes of all zones; clones share them.
#[derive(Clone, Default)]
pub struct Wishes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    zones: Mutex<HashMap<DomainName, Zone>>,
}

#[derive(Default)]
struct Zone {
    wanted: watch::Sender<(Wish, Wanted)>,
    published: watch::Sender<Published>,
}

impl Wishes {
    /// Challenges that have to stand in the zone now, in place of those before. They may be set
    /// before the zone is there.
    pub fn set_challenges(&self, domain: &DomainName, challenges: Vec<Challenge>) -> Wish {
        self.change(domain, |wanted| wanted.challenges = challenges)
    }

    /// The authorities that may issue certificates, in place of those before; none means that
    /// everybody may, unless the owner's file says otherwise.
    pub fn set_authorities(&self, domain: &DomainName, authorities: Vec<Authority>) -> Wish {
        self.change(domain, |wanted| wanted.authorities = authorities)
    }

    /// Public keys that the mail server may be given next, in place of those before. Their TLSA
    /// records come into the zone beside those of the keys that it shows, and stay until the mail
    /// server shows them or they are taken out here.
    pub fn set_next_keys(&self, domain: &DomainName, keys: Vec<KeyDigest>) -> Wish {
        self.change(domain, |wanted| wanted.next_keys = keys)
    }

    /// What is known now of a zone of the owner's file.
    pub fn published(&self, domain: &DomainName) -> Option<Published> {
        let published = self.with(domain, |zone| zone.published.borrow().clone());
        // Before its first report a zone has neither.
        Some(published).filter(|it| it.serial.is_some() || it.error.is_some())
    }

    /// Waits, at most for `patience`, until the zone with `wish` in it is signed, on disk, and served
    /// by every relay that can be reached.
    pub async fn settled(
        &self,
        domain: &DomainName,
        wish: Wish,
        patience: Duration,
    ) -> Result<Published, Unpublished> {
        let mut published = self.with(domain, |zone| zone.published.subscribe());
        let fulfilled = published.wait_for(|it| it.fulfils(wish).is_ok());
        if let Ok(Ok(published)) = timeout(patience, fulfilled).await {
            return Ok(published.clone());
        }
        let Some(last) = self.published(domain) else {
            return Err(Unpublished::NoZone(domain.clone()));
        };
        last.fulfils(wish).map(|()| last)
    }

    /// For the publisher: what is wanted, from now on.
    pub fn wanted(&self, domain: &DomainName) -> watch::Receiver<(Wish, Wanted)> {
        self.with(domain, |zone| zone.wanted.subscribe())
    }

    /// For the publisher: what is known.
    pub fn report(&self, domain: &DomainName, published: Published) {
        self.with(domain, |zone| {
            zone.published.send_if_modified(|last| {
                let news = *last != published;
                *last = published;
                news
            });
        });
    }

    fn change(&self, domain: &DomainName, set: impl FnOnce(&mut Wanted)) -> Wish {
        self.with(domain, |zone| {
            let mut now = Wish::default();
            zone.wanted.send_if_modified(|(wish, wanted)| {
                let before = wanted.clone();
                set(wanted);
                let news = *wanted != before;
                wish.0 += u64::from(news);
                now = *wish;
                news
            });
            now
        })
    }

    fn with<T>(&self, domain: &DomainName, look: impl FnOnce(&mut Zone) -> T) -> T {
        let mut zones = self.0.zones.lock().unwrap_or_else(PoisonError::into_inner);
        look(zones.entry(domain.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn domain() -> DomainName {
        "a.example".parse().unwrap()
    }

    fn serving(relay: &str, serial: Option<u32>, reachable: bool) -> Serving {
        Serving { relay: relay.into(), serial, reachable }
    }

    fn at(wish: Wish, serial: u32, relays: Vec<Serving>) -> Published {
        Published { wish, serial: Some(serial), relays, ..Published::default() }
    }

    #[test]
    fn what_does_not_change_is_the_same_wish() {
        let wishes = Wishes::default();
        let first = wishes.set_next_keys(&domain(), vec![[1; 32]]);
        assert_eq!(wishes.set_next_keys(&domain(), vec![[1; 32]]), first);
        assert!(wishes.set_next_keys(&domain(), vec![]) > first);
        assert!(wishes.published(&domain()).is_none());
    }

    #[test]
    fn a_wish_is_fulfilled_where_all_that_can_be_reached_serve_it() {
        let wish = Wish(3);
        let both = |second| at(wish, 7, vec![serving("r1", Some(7), true), second]);
        assert!(both(serving("r2", Some(9), true)).fulfils(wish).is_ok());
        assert!(both(serving("r2", None, false)).fulfils(wish).is_ok());
        let behind = both(serving("r2", Some(6), true)).fulfils(wish);
        assert_eq!(behind, Err(Unpublished::NotServed(vec!["r2".into()])));
        assert!(at(wish, 7, vec![]).fulfils(wish).is_err());
        assert!(matches!(
            both(serving("r2", Some(7), true)).fulfils(Wish(4)),
            Err(Unpublished::NotSigned(_))
        ));
    }

    #[tokio::test]
    async fn who_waits_hears_of_it_or_why_not() {
        let wishes = Wishes::default();
        let wish = wishes.set_challenges(&domain(), vec![]);
        let none = wishes.settled(&domain(), Wish(1), SOON).await;
        assert_eq!(none, Err(Unpublished::NoZone(domain())));
        let error = Some("no relay".to_owned());
        wishes.report(&domain(), Published { error, ..Published::default() });
        let why = wishes.settled(&domain(), Wish(1), SOON).await;
        assert_eq!(why, Err(Unpublished::NotSigned("no relay".into())));
        wishes.report(&domain(), at(wish, 7, vec![serving("r1", Some(7), true)]));
        assert_eq!(wishes.settled(&domain(), wish, SOON).await.unwrap().serial, Some(7));
    }
}
