//! What a running name server is told and asked, by the program around it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::rdata::Ds;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admission;
use crate::catalog_zone::producer::{self, Catalog};
use crate::catalog_zone::read::Members;
use crate::record::{Name, Record};
use crate::secondaries::{Count, Purpose, Secondaries, Shelf, Status, Zone};
use crate::store::StoreError;
use crate::transfer::attempt::Connect;
use crate::transfer::crowd::{Crowd, GaveWay, Progress};
use crate::transfer::frame::Pace;
use crate::transfer::inbound::Received;
use crate::transfer::pull::{Ask, PullError, Pulled, pull};
use crate::transfer::serve::Server;
use crate::transfer::tsig::Keys;
use crate::trust::{Candidate, NotAdmitted, Parent, Trust, admit};
use crate::unix_time;

/// Zones that are fetched once at the same time; others wait.
const FETCHES: usize = 16;
/// How long a connection for that may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// A running name server. Copies mean the same one.
pub struct Handle<C: Connect, P> {
    zones: Arc<Secondaries<C, P>>,
    server: Arc<Server<Shelf<C, P>>>,
    fetches: Arc<Semaphore>,
    /// Those that wait for one of them.
    crowd: Arc<Crowd>,
}

impl<C: Connect, P> Clone for Handle<C, P> {
    fn clone(&self) -> Self {
        let Self { zones, server, fetches, crowd } = self;
        let (zones, server) = (zones.clone(), server.clone());
        Self { zones, server, fetches: fetches.clone(), crowd: crowd.clone() }
    }
}

/// Why a zone cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Others have all places.
    #[error("{FETCHES} other zones are being fetched, and none of them made room within {0:?}")]
    NoPlace(Duration),
    /// The way there.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// It is no way.
    #[error("cannot connect within {CONNECT:?}")]
    Late,
    /// The transfer.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// It was slow, and others waited.
    #[error("it {0}")]
    GaveWay(#[from] GaveWay),
    /// It took too long altogether.
    #[error("it did not come within {0:?}")]
    Unfinished(Duration),
    /// Others had their turns, or it is large.
    #[error("it came, but {0:?} were over before its signatures could be checked")]
    Unchecked(Duration),
    /// It brought something else than a zone.
    #[error("it brought no whole zone")]
    NoZone,
    /// What came.
    #[error("its zone is refused: {0}")]
    NotAdmitted(#[from] NotAdmitted),
}

impl FetchError {
    /// Whether the same may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoPlace(_) | Self::GaveWay(_) | Self::Unfinished(_) | Self::Unchecked(_) => true,
            Self::Connect(_) | Self::Late | Self::Pull(_) | Self::NoZone | Self::NotAdmitted(_) => {
                false
            }
        }
    }
}

impl<C: Connect, P: Parent> Handle<C, P> {
    pub(crate) fn new(zones: Arc<Secondaries<C, P>>, server: Arc<Server<Shelf<C, P>>>) -> Self {
        let (fetches, crowd) = (Arc::new(Semaphore::new(FETCHES)), Arc::default());
        Self { zones, server, fetches, crowd }
    }

    /// Has a zone from its primaries from now on, and serves it as soon as it came. One of its name that is
    /// there already is changed and asked for at once; its version stays, unless it was another owner's. The same
    /// one again changes nothing.
    pub async fn add(&self, zone: Zone<C::Peer>) {
        self.zones.add(zone, Purpose::Serve).await;
    }

    /// Has a catalog zone (RFC 9432) in the same way: its members are read and no query is answered from
    /// it. What becomes of the zones that it names is up to the program.
    pub async fn add_catalog(&self, zone: Zone<C::Peer>) {
        self.zones.add(zone, Purpose::Catalog).await;
    }

    /// Waits until a catalog has another version than when this returned last. For one caller.
    pub async fn catalog_changed(&self) {
        self.zones.catalogs.notified().await;
    }

    /// The zones that a catalog names; `None` until it came.
    pub fn members(&self, catalog: &Name) -> Option<Arc<Members>> {
        self.zones.members_of(catalog)
    }

    /// Gives all zones of which a version is here as a catalog to others, for as long as it is waited for:
    /// it does not end. To begin once all that was kept is here, as who has the catalog forgets what it
    /// does not name.
    pub async fn produce(&self, catalog: Catalog) {
        producer::run(&self.zones, catalog).await;
    }

    /// Serves a zone no longer, and forgets what is kept of it. The zone is gone even if its file is not.
    pub async fn remove(&self, apex: &Name) -> Result<(), StoreError> {
        self.zones.remove(apex).await
    }

    /// One who may know says that a zone changed, and to which serial. Never waits: `false` if too many say
    /// so at once, and it has to be said again.
    pub fn notified(&self, apex: &Name, serial: Option<u32>) -> bool {
        self.zones.notified(apex, serial)
    }

    /// Answers the octets of a NOTIFY that came from `peer` by another way than the sockets of the name
    /// server. It is believed if the peer is one of the zone's primaries, and answered with NOTAUTH for a zone
    /// that is not here, REFUSED for one that comes from others, SERVFAIL if it has to be sent again. Nothing is answered to what is no query.
    pub fn notify_from(&self, peer: &C::Peer, message: &[u8]) -> Option<Vec<u8>> {
        self.zones.notify_from(peer, message)
    }

    /// Answers a question that came by another way than the sockets of the name server, as they would on a
    /// stream; nothing where there is no answer.
    pub fn answer(&self, query: &[u8]) -> Vec<u8> {
        self.zones.answer(query)
    }

    /// How many zones there are. Costs the same however many.
    pub fn count(&self) -> Count {
        self.zones.count()
    }

    /// How one zone is; `None` for one that was not added.
    pub fn status(&self, apex: &Name) -> Option<Status> {
        self.zones.status(apex)
    }

    /// How all zones are, in no order.
    pub fn list(&self) -> Vec<Status> {
        self.zones.list()
    }

    /// The records of the version of a zone that is here, served or not, if these DS records vouch for its
    /// keys and its signatures hold now, for however long.
    pub async fn vouched(&self, apex: &Name, ds: Vec<Ds<Bytes>>) -> Option<Vec<Record>> {
        let candidate = Arc::new(Candidate {
            apex: apex.clone(),
            records: self.zones.records(apex)?,
            here: None,
            after: None,
            limits: admission::Limits { remaining_lifetime: Some(0), ..self.zones.admission() },
            now: unix_time::seconds(),
            owner: self.zones.owner(apex),
            turns: self.zones.admissions.clone(),
        });
        admit(&candidate, Trust::Ds(ds), &self.zones.parent).await.ok()?;
        Some(Arc::try_unwrap(candidate).map_or_else(|it| it.records.clone(), |it| it.records))
    }

    /// Knows these TSIG keys from now on, and no others.
    pub fn set_keys(&self, keys: Keys) {
        self.server.set_keys(keys);
    }

    /// Transfers a zone once and admits it by these DS records, all `within` that time. Nothing of it is kept
    /// or served. Few are fetched at once; a slow one gives way to others that wait.
    pub async fn fetch(
        &self,
        apex: &Name,
        peer: &C::Peer,
        ds: Vec<Ds<Bytes>>,
        within: Duration,
    ) -> Result<Vec<Record>, FetchError> {
        let end = Instant::now() + within;
        let no_place = |_| FetchError::NoPlace(within);
        let _place = match self.fetches.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                let _waits = self.crowd.enter();
                let place = timeout_at(end, self.fetches.acquire()).await.map_err(no_place)?;
                // It is never closed.
                place.map_err(|_| FetchError::NoPlace(within))?
            }
        };
        let progress = Progress::default();
        let records = tokio::select! {
            pulled = timeout_at(end, self.pull(apex, peer, &progress)) => {
                pulled.map_err(|_| FetchError::Unfinished(within))??
            }
            gave_way = progress.gives_way(&self.crowd) => return Err(gave_way.into()),
        };
        let candidate = Arc::new(Candidate {
            apex: apex.clone(),
            records,
            here: None,
            after: None,
            limits: self.zones.admission(),
            now: unix_time::seconds(),
            owner: Some(peer.clone()),
            turns: self.zones.admissions.clone(),
        });
        let admitted = timeout_at(end, admit(&candidate, Trust::Ds(ds), &self.zones.parent)).await;
        admitted.map_err(|_| FetchError::Unchecked(within))??;
        Ok(Arc::try_unwrap(candidate).map_or_else(|it| it.records.clone(), |it| it.records))
    }

    async fn pull(
        &self,
        apex: &Name,
        peer: &C::Peer,
        progress: &Progress,
    ) -> Result<Vec<Record>, FetchError> {
        let connected = timeout(CONNECT, self.zones.connect.connect(peer)).await;
        let stream = connected.map_err(|_| FetchError::Late)?.map_err(FetchError::Connect)?;
        let (limits, pace) = (self.zones.inbound(), Pace::default());
        let ask = Ask { apex: apex.clone(), key: None, limits, pace };
        let Pulled { received, .. } = pull(&mut progress.count(stream), &ask, None).await?;
        match received {
            Received::Zone(records) => Ok(records),
            Received::Differences(_) | Received::UpToDate(_) => Err(FetchError::NoZone),
        }
    }
}
