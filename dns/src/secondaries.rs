//! The zones that come from elsewhere: what is here of each, and what becomes of a new version. It is
//! admitted, compiled, kept on disk and served, in this order, and at the first trouble the old one
//! stays.
//!
//! Zones come and go while all runs. Each has a lock of its own for what is here of it, so that nothing
//! waits for another zone; queries see none of this, but what is `served`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::{DashMap, Entry as Place};
use domain::rdata::ZoneRecordData;
use tokio::sync::{Mutex as Turn, Notify};
use tracing::{info, warn};

use crate::admission::{self, Seal};
use crate::catalog_zone::read::{Members, read};
use crate::catalog_zone::touched::Touched;
use crate::config::Limits;
use crate::engine::Engine;
use crate::record::{Name, Record};
use crate::served::{Change, Entry};
use crate::store::{Kept, Store, StoreError};
use crate::transfer::access::Rule;
use crate::transfer::attempt::{Connect, Keeper, Primary, Secondary};
use crate::transfer::difference::{Difference, between};
use crate::transfer::inbound;
use crate::transfer::journal::Journal;
use crate::transfer::notifier::{self, Outgoing, Recipient};
use crate::transfer::notify::{self, Decision};
use crate::transfer::query;
use crate::transfer::refresh;
use crate::transfer::serve::{Served, Zones};
use crate::transfer::timers::Standing;
use crate::trust::{self, Candidate, Parent, Trust, admit};
use crate::turns::{Owner, Turns};
use crate::unix_time;
use crate::zone::Zone as Compiled;

/// Who takes part in adding and removing waits for others with the same number alone.
const TURNS: usize = 64;

/// A zone that is to be served, as its primaries `P` have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone<P> {
    /// Its name.
    pub name: Name,
    /// Whose it is, in whatever way the program around counts owners: what came for one is not served for
    /// another. `None` where there are no owners.
    pub owner: Option<u64>,
    /// Where it is to be had, in the order in which they are asked.
    pub primaries: Vec<Primary<P>>,
    /// Who may say that it changed, by a message to the sockets of this server.
    pub notices_from: Arc<[Rule]>,
    /// Whose keys sign it.
    pub trust: Trust,
    /// Who may transfer it.
    pub transfer_to: Arc<[Rule]>,
    /// Who is told that it changed.
    pub notify: Vec<Recipient>,
}

/// What becomes of a zone's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Queries are answered from it.
    Serve,
    /// It names other zones (RFC 9432), and nobody else sees it.
    Catalog,
}

/// How a zone is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: Name,
    /// Whether it is served: the version that is here has not expired.
    pub served: bool,
    /// Whether another zone answers for its names all the same: one above it that does not delegate it.
    pub hidden: bool,
    /// The version that is here, served or not; `None` until one came.
    pub version: Option<Here>,
    /// Why the last try to have a newer one failed; `None` when it did not.
    pub error: Option<String>,
}

/// A version that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Its serial.
    pub serial: u32,
    /// When a primary last confirmed it, and when it expires.
    pub standing: Standing,
}

/// How many zones there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// All that are to be here, catalogs too.
    pub all: usize,
    /// Those that are served, and catalogs that are here.
    pub served: usize,
    /// Those of the served ones that are hidden by a zone above them.
    pub hidden: usize,
}

/// All zones that come from elsewhere.
pub(crate) struct Secondaries<C: Connect, P> {
    pub(crate) connect: Arc<C>,
    pub(crate) parent: P,
    engine: Arc<Engine>,
    store: Store,
    limits: Limits,
    zones: DashMap<Name, Arc<Held<C::Peer>>>,
    served: AtomicUsize,
    turns: [Turn<()>; TURNS],
    pub(crate) admissions: Arc<Turns<Option<C::Peer>>>,
    notifier: notifier::Handle,
    refresher: OnceLock<refresh::Handle<C::Peer>>,
    /// Notices for which it had no room.
    unheard: AtomicU64,
    /// A catalog has other members.
    pub(crate) catalogs: Notify,
    pub(crate) touched: Touched,
    /// What is made here and given to those with a key alone.
    private: DashMap<Name, Private>,
}

/// A zone that is made here.
#[derive(Clone)]
struct Private {
    version: Arc<dyn Served>,
    transfer_to: Arc<[Rule]>,
}

/// A zone, and what is here of it.
struct Held<P> {
    zone: ArcSwap<Zone<P>>,
    purpose: Purpose,
    state: Mutex<State>,
    /// Whoever writes the zone's file. Taken before `state`.
    disk: Mutex<()>,
}

#[derive(Default)]
struct State {
    here: Option<Arc<Version>>,
    /// Whether the engine has it so.
    served: bool,
    /// It was removed: nothing is published any more.
    gone: bool,
    error: Option<String>,
    /// Of a catalog.
    members: Option<Arc<Members>>,
}

/// A version of a zone.
struct Version {
    zone: Arc<Compiled>,
    soa: Record,
    standing: Standing,
    /// Of one that was admitted by this process.
    seal: Option<Seal>,
    journal: Arc<Journal>,
}

impl<P> Held<P> {
    fn new(zone: Zone<P>, purpose: Purpose, here: Option<Version>) -> Self {
        let (zone, here) = (ArcSwap::from_pointee(zone), here.map(Arc::new));
        let state = Mutex::new(State { here, ..State::default() });
        Self { zone, purpose, state, disk: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> Option<Arc<Version>> {
        self.state().here.clone()
    }

    fn status(&self, hidden: bool) -> Status {
        let state = self.state();
        let here =
            |version: &Arc<Version>| Here { serial: version.serial(), standing: version.standing };
        Status {
            name: self.zone.load().name.clone(),
            served: state.served,
            hidden,
            version: state.here.as_ref().map(here),
            error: state.error.clone(),
        }
    }
}

impl<P: Clone> Zone<P> {
    /// Whether both have an owner, and not the same.
    fn is_of_other_than(&self, zone: &Self) -> bool {
        self.owner.zip(zone.owner).is_some_and(|(before, now)| before != now)
    }

    fn secondary(&self, limits: inbound::Limits) -> Secondary<P> {
        Secondary { apex: self.name.clone(), primaries: self.primaries.clone(), limits }
    }
}

/// A name as it is in `served`: names compare without case, and these are written alike too.
fn lower(apex: &Name) -> Vec<u8> {
    apex.as_slice().to_ascii_lowercase()
}

/// Records and octets of a catalog with that many members: each has its record and a few properties.
fn catalog_size(members: usize) -> (usize, usize) {
    const RECORDS: usize = 4;
    const OCTETS: usize = 1024;
    let members = members.saturating_add(64);
    (members.saturating_mul(RECORDS), members.saturating_mul(OCTETS))
}

/// Whose turn it takes to check a zone.
fn owner<P: Clone>(zone: &Zone<P>) -> Option<P> {
    zone.primaries.first().map(|first| first.peer.clone())
}

/// Where a zone comes from of which there is a version.
fn origin<P: std::fmt::Display>(held: &Held<P>) -> Option<String> {
    if held.purpose == Purpose::Catalog || held.here().is_none() {
        return None;
    }
    Some(held.zone.load().primaries.first().map(|first| first.peer.to_string()).unwrap_or_default())
}

impl<C: Connect, P: Parent> Secondaries<C, P> {
    /// Without zones yet.
    pub(crate) fn new(
        connect: Arc<C>,
        parent: P,
        engine: Arc<Engine>,
        store: Store,
        limits: Limits,
        notifier: notifier::Handle,
    ) -> Self {
        Self {
            connect,
            parent,
            engine,
            store,
            limits,
            zones: DashMap::new(),
            served: AtomicUsize::new(0),
            turns: std::array::from_fn(|_| Turn::default()),
            admissions: trust::turns(),
            notifier,
            refresher: OnceLock::new(),
            unheard: AtomicU64::new(0),
            catalogs: Notify::new(),
            touched: Touched::default(),
            private: DashMap::new(),
        }
    }

    /// Hands all zones from now on to who keeps them fresh. Before the first zone.
    pub(crate) fn follow_with(&self, refresher: refresh::Handle<C::Peer>) {
        let _ = self.refresher.set(refresher);
    }

    /// Reads what was kept on disk, and serves what has not expired. `wanted` hears of each zone there and of
    /// whose it was, if that is known, and says whether that is still to be served, and as what; the others
    /// are left alone.
    pub(crate) async fn load<W>(
        self: &Arc<Self>,
        threads: usize,
        wanted: W,
    ) -> anyhow::Result<usize>
    where
        W: Fn(&Name, Option<u64>) -> Option<Zone<C::Peer>> + Send + Sync + 'static,
    {
        let all = self.clone();
        let work = move || all.restore_all(threads, wanted);
        let restored = tokio::task::spawn_blocking(work).await??;
        for held in &restored {
            self.follow(held).await;
        }
        Ok(restored.len())
    }

    fn restore_all<W>(
        &self,
        threads: usize,
        wanted: W,
    ) -> Result<Vec<Arc<Held<C::Peer>>>, StoreError>
    where
        W: Fn(&Name, Option<u64>) -> Option<Zone<C::Peer>> + Send + Sync,
    {
        let restored = Mutex::new(Vec::new());
        self.store.load_all(threads, |kept| {
            let kept = match kept {
                Ok(kept) => kept,
                Err(error) => return warn!(%error, "a zone that was kept cannot be read"),
            };
            let Some(zone) = wanted(&kept.apex, kept.owner) else { return };
            let held = self.restore(zone, Purpose::Serve, kept);
            restored.lock().unwrap_or_else(PoisonError::into_inner).extend(held);
        })?;
        Ok(restored.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what was kept of one catalog; its members if it was.
    pub(crate) async fn load_catalog(
        self: &Arc<Self>,
        zone: Zone<C::Peer>,
    ) -> anyhow::Result<Option<Arc<Members>>> {
        let all = self.clone();
        let work = move || {
            let kept = all.store.load(&zone.name).unwrap_or_else(|error| {
                warn!(%error, "a catalog that was kept cannot be read");
                None
            });
            all.restore(zone, Purpose::Catalog, kept?)
        };
        let Some(held) = tokio::task::spawn_blocking(work).await? else { return Ok(None) };
        self.follow(&held).await;
        let members = held.state().members.clone();
        Ok(members)
    }

    fn restore(
        &self,
        zone: Zone<C::Peer>,
        purpose: Purpose,
        kept: Kept,
    ) -> Option<Arc<Held<C::Peer>>> {
        let members = match purpose {
            Purpose::Serve => None,
            Purpose::Catalog => {
                let read = self.members(&kept.apex, &kept.records);
                let warn =
                    |error: &String| warn!(zone = %kept.apex, error, "a catalog is not used");
                Some(read.inspect_err(warn).ok()?)
            }
        };
        let compiled = Compiled::compile(&kept.apex, &kept.records);
        let compiled = compiled.inspect_err(|error| {
            warn!(zone = %kept.apex, %error, "a zone that was kept cannot be served");
        });
        let (standing, journal) = (kept.standing, Arc::default());
        let soa = kept.records.into_iter().next()?;
        let version =
            Version { zone: Arc::new(compiled.ok()?), soa, standing, seal: None, journal };
        let name = zone.name.clone();
        let held = Arc::new(Held::new(zone, purpose, Some(version)));
        match self.zones.entry(name) {
            // It was added meanwhile, and will be transferred.
            Place::Occupied(_) => return None,
            Place::Vacant(place) => place.insert(held.clone()),
        };
        let mut state = held.state();
        state.members = members;
        self.publish(&held, &mut state, unix_time::seconds() < standing.expires);
        drop(state);
        Some(held)
    }

    /// Has the catalog say of a zone what its state says.
    fn publish(&self, held: &Held<C::Peer>, state: &mut State, serve: bool) {
        let entry = match &state.here {
            Some(version) if serve => Entry::Serving(version.zone.clone()),
            // Nobody else's view of it is right either.
            here => {
                let last = here.as_ref().map(|version| version.zone.clone());
                Entry::Expired(lower(&held.zone.load().name).into(), last)
            }
        };
        if let Entry::Serving(zone) = &entry {
            zone.set_expires(state.here.as_ref().map_or(0, |here| here.standing.expires));
        }
        let served = matches!(entry, Entry::Serving(_));
        if held.purpose == Purpose::Serve {
            let changes = self.engine.served.insert(entry);
            self.turned(&held.zone.load().name, changes);
        }
        self.mark(state, served);
    }

    /// Zones are answered from or not, as something changed with the zone `by`.
    fn turned(&self, by: &Name, changes: Vec<Change>) {
        for hidden in [true, false] {
            let of = changes.iter().filter(|change| change.hidden == hidden);
            let names =
                of.filter_map(|it| Name::from_octets(Bytes::copy_from_slice(&it.name)).ok());
            let names: Vec<Name> = names.collect();
            let Some(first) = names.first() else { continue };
            names.iter().for_each(|name| self.touched.add(name));
            let zones = names.len();
            if hidden {
                warn!(%first, zones, %by, "not answered from: a zone above is here and does not delegate it");
            } else {
                info!(%first, zones, %by, "answered from again: no zone above keeps its names");
            }
        }
    }

    fn mark(&self, state: &mut State, served: bool) {
        match (state.served, served) {
            (false, true) => drop(self.served.fetch_add(1, Relaxed)),
            (true, false) => drop(self.served.fetch_sub(1, Relaxed)),
            _ => {}
        }
        state.served = served;
    }

    async fn follow(&self, held: &Held<C::Peer>) {
        let Some(refresher) = self.refresher.get() else { return };
        let kept = held.here().map(|version| (version.soa.clone(), version.standing));
        let secondary = held.zone.load().secondary(self.inbound_for(held.purpose));
        refresher.add(secondary, kept).await;
    }

    /// How much may come in one transfer.
    pub(crate) fn inbound(&self) -> inbound::Limits {
        inbound::Limits {
            records: self.limits.zone_records,
            octets: self.limits.zone_octets,
            ..inbound::Limits::default()
        }
    }

    fn inbound_for(&self, purpose: Purpose) -> inbound::Limits {
        let inbound = self.inbound();
        match purpose {
            Purpose::Serve => inbound,
            Purpose::Catalog => {
                let (records, octets) = catalog_size(self.limits.catalog_members);
                inbound::Limits { records, octets, messages: records }
            }
        }
    }

    fn admission_for(&self, purpose: Purpose) -> admission::Limits {
        let admission = self.admission();
        match purpose {
            Purpose::Serve => admission,
            Purpose::Catalog => {
                let (records, octets) = catalog_size(self.limits.catalog_members);
                admission::Limits { records, octets, ..admission }
            }
        }
    }

    fn members(&self, apex: &Name, records: &[Record]) -> Result<Arc<Members>, String> {
        let members = read(apex, records, self.limits.catalog_members);
        members.map(Arc::new).map_err(|error| error.to_string())
    }

    /// What a zone may cost.
    pub(crate) fn admission(&self) -> admission::Limits {
        admission::Limits {
            records: self.limits.zone_records,
            octets: self.limits.zone_octets,
            ..admission::Limits::default()
        }
    }

    fn turn(&self, apex: &Name) -> &Turn<()> {
        use std::hash::BuildHasher;
        let hash = self.zones.hasher().hash_one(apex);
        &self.turns[hash as usize % TURNS]
    }

    /// Serves a zone from now on, as soon as it came; changes one that is there, whose version stays unless
    /// it was another owner's.
    pub(crate) async fn add(&self, zone: Zone<C::Peer>, purpose: Purpose) {
        let _turn = self.turn(&zone.name).lock().await;
        let mut known = self.zones.get(&zone.name).map(|held| held.value().clone());
        if known.as_ref().is_some_and(|held| held.zone.load().is_of_other_than(&zone)) {
            if let Err(error) = self.forget(&zone.name).await {
                warn!(zone = %zone.name, %error, "the file of the owner before is still there");
            }
            known = None;
        }
        let held = match known {
            Some(held) if **held.zone.load() == zone => return,
            Some(held) => {
                let before = held.zone.swap(Arc::new(zone));
                if held.zone.load().primaries != before.primaries {
                    self.touched.add(&before.name);
                }
                held
            }
            None => {
                let name = zone.name.clone();
                let held = Arc::new(Held::new(zone, purpose, None));
                self.zones.insert(name, held.clone());
                self.publish(&held, &mut held.state(), false);
                held
            }
        };
        self.follow(&held).await;
    }

    /// Serves a zone no longer, and forgets what was kept of it, also of one that was not served.
    pub(crate) async fn remove(&self, apex: &Name) -> Result<(), StoreError> {
        let _turn = self.turn(apex).lock().await;
        self.forget(apex).await
    }

    /// For who has the turn.
    async fn forget(&self, apex: &Name) -> Result<(), StoreError> {
        let held = self.zones.remove(apex).map(|(_, held)| held);
        if let Some(held) = &held {
            let mut state = held.state();
            state.gone = true;
            self.mark(&mut state, false);
            if held.purpose == Purpose::Serve {
                let changes = self.engine.served.remove(&lower(apex));
                self.turned(apex, changes);
                self.touched.add(apex);
            }
        }
        if let Some(refresher) = self.refresher.get() {
            refresher.remove(apex.clone()).await;
        }
        let (store, apex) = (self.store.clone(), apex.clone());
        let forget = move || {
            // A version that is being written comes first.
            let _disk = held.as_ref().map(|held| held.disk.lock());
            store.remove(&apex)
        };
        tokio::task::spawn_blocking(forget).await.unwrap_or(Ok(()))
    }

    pub(crate) fn count(&self) -> Count {
        let all = self.zones.len();
        // Both change while they are read.
        let served = self.served.load(Relaxed).min(all);
        Count { all, served, hidden: self.engine.served.hidden().min(served) }
    }

    pub(crate) fn status(&self, apex: &Name) -> Option<Status> {
        self.held(apex).map(|held| held.status(self.is_hidden(apex)))
    }

    /// The members of a catalog of which a version is here.
    pub(crate) fn members_of(&self, catalog: &Name) -> Option<Arc<Members>> {
        self.held(catalog)?.state().members.clone()
    }

    /// Where a zone comes from that is served, or was; none for one of which no version came yet, or that is
    /// hidden: others, who may not look at zones above it, are not to answer for its names either.
    pub(crate) fn origin(&self, apex: &Name) -> Option<String> {
        let origin = origin(&*self.held(apex)?)?;
        (!self.is_hidden(apex)).then_some(origin)
    }

    /// All zones of which there is a version, and where they come from.
    pub(crate) fn origins(&self) -> Vec<(Name, Option<String>)> {
        let named = self.zones.iter().map(|held| (held.key().clone(), origin(&**held)));
        let named = named.filter(|(apex, origin)| origin.is_some() && !self.is_hidden(apex));
        named.collect()
    }

    fn is_hidden(&self, apex: &Name) -> bool {
        self.engine.served.is_hidden(&lower(apex))
    }

    /// Gives a zone that was made here to those of these rules, and tells `notify` of it. No plain query is
    /// answered from it.
    pub(crate) async fn give(
        &self,
        apex: &Name,
        version: Arc<dyn Served>,
        transfer_to: Arc<[Rule]>,
        notify: &[Recipient],
    ) {
        let soa = version.soa();
        self.private.insert(apex.clone(), Private { version, transfer_to });
        self.tell(apex, &soa, notify).await;
    }

    async fn tell(&self, apex: &Name, soa: &Record, notify: &[Recipient]) {
        for Recipient { address, key } in notify {
            let (to, key) = (*address, key.clone());
            let notice = Outgoing { apex: apex.clone(), soa: soa.clone(), to, key };
            self.notifier.send(notice).await;
        }
    }

    fn private(&self, apex: &Name) -> Option<Private> {
        self.private.get(apex).map(|private| private.clone())
    }

    /// Whose turn it takes to check a zone.
    pub(crate) fn owner(&self, apex: &Name) -> Option<C::Peer> {
        owner(&self.held(apex)?.zone.load())
    }

    /// All records of the version that is here.
    pub(crate) fn records(&self, apex: &Name) -> Option<Vec<Record>> {
        Some(self.held(apex)?.here()?.zone.records())
    }

    pub(crate) fn list(&self) -> Vec<Status> {
        self.zones.iter().map(|held| held.status(self.is_hidden(held.key()))).collect()
    }

    fn held(&self, apex: &Name) -> Option<Arc<Held<C::Peer>>> {
        self.zones.get(apex).map(|held| held.value().clone())
    }

    /// A primary says that a zone changed. The serial is a hint that nobody vouches for. `false` if it
    /// has to say so again.
    pub(crate) fn notified(&self, apex: &Name, serial: Option<u32>) -> bool {
        let Some(held) = self.held(apex) else { return true };
        let state = held.state();
        let same = state.here.as_ref().is_some_and(|here| Some(here.serial()) == serial);
        // Where all is well there is nothing to ask for.
        if same && state.served && state.error.is_none() {
            return true;
        }
        let heard = self.refresher.get().is_none_or(|refresher| refresher.notified(apex.clone()));
        if !heard {
            self.unheard.fetch_add(1, Relaxed);
        }
        heard
    }

    /// Notices that could not be taken note of.
    pub(crate) fn unheard(&self) -> u64 {
        self.unheard.load(Relaxed)
    }

    /// Answers a question as it would be answered on a stream.
    pub(crate) fn answer(&self, query: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        self.engine.answer_stream(query, &mut answer);
        answer
    }

    /// Answers a NOTIFY that came from `peer` by another way than the sockets of this server; nothing
    /// where there is nobody to answer.
    pub(crate) fn notify_from(&self, peer: &C::Peer, message: &[u8]) -> Option<Vec<u8>> {
        use domain::base::iana::Rcode;
        let notice = match notify::parse(message) {
            Ok(notice) => notice,
            Err(notify::NoticeError::Other) => return query::error_reply(message, Rcode::NOTIMP),
            Err(_) => return query::error_reply(message, Rcode::FORMERR),
        };
        let decision = match self.held(&notice.apex) {
            None => Decision::NotAuth,
            Some(held) if held.zone.load().primaries.iter().any(|at| at.peer == *peer) => {
                match self.notified(&notice.apex, notice.serial) {
                    true => Decision::Refresh,
                    false => Decision::Busy,
                }
            }
            Some(_) => Decision::Refused,
        };
        notify::reply(message, decision)
    }

    /// Admits, compiles, keeps and serves a new version.
    async fn take(
        self: &Arc<Self>,
        held: Arc<Held<C::Peer>>,
        records: Vec<Record>,
        standing: Standing,
    ) -> Result<Record, String> {
        let zone = held.zone.load_full();
        let before = held.here();
        // What expired may be begun anew.
        let valid = before.as_ref().filter(|here| standing.refreshed < here.standing.expires);
        let candidate = Arc::new(Candidate {
            apex: zone.name.clone(),
            records,
            here: before.as_ref().map(|here| (here.zone.clone(), here.seal)),
            after: valid.map(|here| here.serial()),
            limits: self.admission_for(held.purpose),
            now: standing.refreshed,
            owner: owner(&zone),
            turns: self.admissions.clone(),
        });
        let admitted = admit(&candidate, zone.trust.clone(), &self.parent).await;
        let seal = Some(admitted.map_err(|error| error.to_string())?.seal);
        let all = self.clone();
        let work = move || {
            let read = || all.members(&candidate.apex, &candidate.records);
            let members = (held.purpose == Purpose::Catalog).then(read).transpose();
            let members = members.map_err(anyhow::Error::msg)?;
            // Nobody has steps of a catalog from here.
            let before = before.filter(|_| held.purpose == Purpose::Serve);
            let version = Version::new(&candidate, standing, seal, before.as_deref())?;
            let soa = version.soa.clone();
            all.keep(&held, &candidate, version, members)?;
            Ok::<_, anyhow::Error>(soa)
        };
        let kept = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        kept.map_err(|error| format!("{error:#}"))
    }

    /// Keeps a version on disk and serves it. Blocks.
    fn keep(
        &self,
        held: &Held<C::Peer>,
        candidate: &Candidate<impl Owner>,
        version: Version,
        members: Option<Arc<Members>>,
    ) -> anyhow::Result<()> {
        let _disk = held.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if held.state().gone {
            anyhow::bail!("the zone is not to be served any more");
        }
        let owner = held.zone.load().owner;
        self.store.save(&candidate.apex, &candidate.records, version.standing, owner)?;
        let mut state = held.state();
        state.error = None;
        if state.here.replace(Arc::new(version)).is_none() && held.purpose == Purpose::Serve {
            self.touched.add(&candidate.apex);
        }
        if members.is_some() {
            state.members = members;
            self.catalogs.notify_one();
        }
        // Whoever removes it waits for the file, and takes it out of what is served.
        if !state.gone {
            self.publish(held, &mut state, true);
        }
        Ok(())
    }
}

impl Version {
    /// Compiles what was admitted. Takes time.
    fn new(
        candidate: &Candidate<impl Owner>,
        standing: Standing,
        seal: Option<Seal>,
        before: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let records = &candidate.records;
        let zone = Arc::new(Compiled::compile(&candidate.apex, records)?);
        let is_soa = |record: &&Record| matches!(record.data(), ZoneRecordData::Soa(_));
        let soa = records.iter().find(is_soa).cloned();
        let soa = soa.ok_or_else(|| anyhow::anyhow!("the zone has no SOA"))?;
        let journal = before.map_or_else(Arc::default, |before| {
            let mut journal = Journal::clone(&before.journal);
            match between(&before.zone.records(), records) {
                Ok(step) => journal.push(step),
                Err(_) => journal.clear(),
            }
            Arc::new(journal)
        });
        Ok(Self { zone, soa, standing, seal, journal })
    }

    fn serial(&self) -> u32 {
        self.zone.serial()
    }
}

/// As the tasks of transfers know them.
pub(crate) struct Shelf<C: Connect, P>(pub(crate) Arc<Secondaries<C, P>>);

impl<C: Connect, P: Parent> Keeper for Shelf<C, P> {
    fn soa(&self, apex: &Name) -> Option<Record> {
        Some(self.0.held(apex)?.here()?.soa.clone())
    }

    fn records(&self, apex: &Name) -> Option<Vec<Record>> {
        Some(self.0.held(apex)?.here()?.zone.records())
    }

    async fn accept(
        &self,
        apex: &Name,
        records: Vec<Record>,
        standing: Standing,
    ) -> Result<(), String> {
        let held = self.0.held(apex).ok_or("the zone is not to be served any more")?;
        let zone = held.zone.load_full();
        let soa = self.0.take(held, records, standing).await.inspect_err(|error| {
            warn!(zone = %apex, error, "a new version is refused, the old one stays");
        })?;
        self.0.tell(apex, &soa, &zone.notify).await;
        Ok(())
    }

    async fn confirm(&self, apex: &Name, standing: Standing) {
        let Some(held) = self.0.held(apex) else { return };
        let all = self.0.clone();
        let write = move || {
            let _disk = held.disk.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = held.state();
            let Some(here) = state.here.clone().filter(|_| !state.gone) else { return Ok(()) };
            state.here = Some(Arc::new(here.until(standing)));
            state.error = None;
            if state.served {
                here.zone.set_expires(standing.expires);
            } else {
                all.publish(&held, &mut state, true);
            }
            drop(state);
            all.store.confirm(&held.zone.load().name, standing)
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            warn!(zone = %apex, %error, "cannot keep when the zone was confirmed");
        }
    }

    fn failed(&self, apex: &Name, why: String) {
        if let Some(held) = self.0.held(apex) {
            held.state().error = Some(why);
        }
    }

    fn expire(&self, apex: &Name) {
        let Some(held) = self.0.held(apex) else { return };
        let mut state = held.state();
        let now = unix_time::seconds();
        // A version that came just now may not have been heard of where times are kept.
        let valid = state.here.as_ref().is_some_and(|here| now < here.standing.expires);
        if !state.gone && !valid {
            self.0.publish(&held, &mut state, false);
        }
    }
}

impl<C: Connect, P: Parent> Zones for Shelf<C, P> {
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
        if let Some(private) = self.0.private(apex) {
            return Some(private.version);
        }
        let version = self.0.held(apex)?.here()?;
        (unix_time::seconds() < version.standing.expires).then_some(version as Arc<dyn Served>)
    }

    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
        if let Some(private) = self.0.private(apex) {
            return private.transfer_to;
        }
        self.0.held(apex).map(|held| held.zone.load().transfer_to.clone()).unwrap_or_default()
    }

    fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>> {
        self.0.held(apex).map(|held| held.zone.load().notices_from.clone())
    }

    fn notified(&self, apex: &Name, serial: Option<u32>) -> bool {
        self.0.notified(apex, serial)
    }

    fn private_soa(&self, apex: &Name) -> Option<Record> {
        self.0.private(apex).map(|private| private.version.soa())
    }
}

impl Version {
    fn until(&self, standing: Standing) -> Self {
        Self {
            zone: self.zone.clone(),
            soa: self.soa.clone(),
            standing,
            seal: self.seal,
            journal: self.journal.clone(),
        }
    }
}

impl Served for Version {
    fn soa(&self) -> Record {
        self.soa.clone()
    }

    fn records(&self) -> Vec<Record> {
        self.zone.records()
    }

    fn expires_in(&self) -> Option<u32> {
        self.zone.expires_in(unix_time::seconds())
    }

    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        self.journal.since(serial)
    }
}
