//! One zone of the owner's file, from the facts to the relays that serve it.
//!
//! One task owns all that changes; what takes time is done beside it, one new version at a time, and
//! comes back as a thing that is done. It acts on events: facts that changed, a wish, an update, a notice,
//! and the time, of which [`super::due`] keeps account.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rcode;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::query::soa_of;
use sealpost_dns::transfer::serve::Served;
use sealpost_tunnel::{MxName, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::due::Due;
use super::facts::{self, Facts, facts};
use super::mail_key_watch::Glimpse;
use super::make::{self, Made, MakeError, Order, make};
use super::primary::{self, Fetched};
use super::relays::Relays;
use super::store::{Heard, Memory, Stamp, Store};
use super::update::{self, Request};
use super::wishes::{Published, Serving, Wanted, Wish};
use super::{Shared, certificate_keys, hex, now, owner_files};
use crate::config::Zone;
use crate::config::dns::Update;
use crate::deliver::certificate::shown;
use crate::deliver::offered::{NotServable, Offered, Ready};
use crate::status::{ZoneAtRelay, ZoneStatus};
use crate::uplink::Uplink;
use crate::zone::endorsement::{Urgency, urgency, warning};
use crate::zone::plan::KeyDigest;
use crate::zone::{Signed, recall, serial};

/// Facts that come together make one version.
const GATHER: Duration = Duration::from_millis(500);
/// Somebody waits for a wish.
const GATHER_WISHES: Duration = Duration::from_millis(50);
/// How long an update waits for the relays before it is answered: those who send one wait for 10 s,
/// and ask a certificate authority then.
const ACKNOWLEDGED: Duration = Duration::from_secs(8);
/// Updates that wait.
const MAX_WAITING: usize = 64;
/// By how much a serial that a relay serves may be ahead to be believed: farther than dates in
/// serials are ahead of seconds, and far from where serials turn around.
const MAX_AHEAD: u32 = 1 << 29;
/// Between two serials that are believed so.
const OVERTAKE_AGAIN: u64 = 24 * 3600;

/// What a zone's task is asked to do.
pub(super) enum Command {
    /// Change records, by whoever may do so much.
    Update(Request, Update, oneshot::Sender<Rcode>),
    /// Ask the primary.
    Refresh,
}

/// What was done beside the task.
enum Done {
    Made(Attempt, Result<Box<Fresh>, Unmade>),
    Looked(Result<Vec<KeyDigest>, String>),
    Stamped(Vec<owner_files::Stamp>),
    Fetched(Result<Box<(Option<Taken>, Duration)>, String>),
    Saved(Result<(), String>),
}

/// For whom a version is made.
struct Attempt {
    wish: Wish,
    /// Who waits for it.
    update: Option<oneshot::Sender<Rcode>>,
    /// When a version was due, had this one not been begun.
    due: Instant,
}

/// What came of it.
struct Fresh {
    made: Made,
    /// The records that came by updates, this one's with them.
    dynamic: Vec<Record>,
    /// The version, where it is to take the place of the one that is served.
    ready: Option<Result<Ready, NotServable>>,
}

/// Why nothing came of it.
enum Unmade {
    /// The update may not be made.
    Update(Rcode),
    /// The version cannot be made.
    Version(MakeError),
}

impl<E: Into<MakeError>> From<E> for Unmade {
    fn from(error: E) -> Self {
        Self::Version(error.into())
    }
}

/// A version of a primary's that was verified and kept.
struct Taken {
    zone: Arc<Signed>,
    valid_until: Option<u64>,
    ready: Result<Ready, NotServable>,
}

/// An update that waits until relays serve it.
struct Waiting {
    serial: u32,
    until: Instant,
    reply: oneshot::Sender<Rcode>,
}

pub(super) struct ZoneTask {
    shared: Arc<Shared>,
    zone: Zone,
    apex: Name,
    store: Store,
    memory: Memory,
    facts: Facts,
    dynamic: Vec<Record>,
    /// Why those are not known. Without them nothing is made: they would leave the zone, for ever.
    unread: Option<String>,
    last: Option<Arc<Signed>>,
    /// The keys on disk when a version was begun last.
    keys: Vec<Option<Stamp>>,
    valid_until: Option<u64>,
    keys_until: Option<u64>,
    /// How urgent that was when it was logged last.
    keys_warned: Option<Urgency>,
    ds: Vec<String>,
    /// What mail needs and the zone of a primary does not have.
    lacking: Vec<String>,
    seen: Option<u32>,
    wanted: (Wish, Wanted),
    wish: Wish,
    error: Option<String>,
    unasked: Option<String>,
    relays: Relays,
    doing: JoinSet<Done>,
    /// A new version is being made or fetched.
    busy: bool,
    looking: bool,
    /// The owner's files are being looked at.
    stamping: bool,
    saving: bool,
    unsaved: bool,
    looked_for: Vec<MxName>,
    /// The files that the zone is made of, and how they were.
    files: Arc<[PathBuf]>,
    files_seen: owner_files::Seen,
    due: Due,
    failures: u32,
    waiting: Vec<Waiting>,
}

impl ZoneTask {
    pub(super) fn new(shared: Arc<Shared>, zone: Zone) -> Self {
        let store = Store::new(&shared.state, &zone.name);
        let dkim = zone.dkim.iter().map(|key| key.file.clone());
        let files = match zone.primary {
            None => zone.include.iter().cloned().chain(dkim).chain(store.key_files()).collect(),
            Some(_) => Vec::new(),
        };
        Self {
            apex: zone.apex(),
            shared,
            zone,
            store,
            memory: Memory::default(),
            facts: Facts::default(),
            dynamic: Vec::new(),
            unread: None,
            last: None,
            keys: Vec::new(),
            valid_until: None,
            keys_until: None,
            keys_warned: None,
            ds: Vec::new(),
            lacking: Vec::new(),
            seen: None,
            wanted: Default::default(),
            wish: Wish::default(),
            error: None,
            unasked: None,
            relays: Relays::default(),
            doing: JoinSet::new(),
            busy: false,
            looking: false,
            stamping: false,
            saving: false,
            unsaved: false,
            looked_for: Vec::new(),
            files: files.into(),
            files_seen: owner_files::Seen::default(),
            due: Due::new(Instant::now(), now()),
            failures: 0,
            waiting: Vec::new(),
        }
    }

    /// Makes, keeps and publishes the zone until told to stop.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        let mut changed = self.shared.changed.hear();
        let mut wanted = self.shared.wishes.wanted(&self.zone.name);
        self.wanted = wanted.borrow_and_update().clone();
        let mut glimpses = self.shared.glimpses.subscribe();
        self.load().await;
        self.hear();
        self.due = Due::new(Instant::now(), now());
        while !stop.is_cancelled() {
            if self.unread.is_some() && self.due.is_version(Instant::now()) {
                self.load().await;
            }
            self.glance();
            self.begin();
            self.relays.pursue(&self.shared.uplinks.load(), &self.apex, self.soa().as_ref());
            self.answer_waiting();
            self.report();
            let next = self.next_timer();
            tokio::select! {
                // First, so that nothing is offered behind the end.
                biased;
                () = stop.cancelled() => break,
                _ = changed.changed() => self.due.relay_spoke(Instant::now()),
                _ = glimpses.changed() => {
                    let glimpse = glimpses.borrow_and_update().clone();
                    glimpse.iter().for_each(|glimpse| self.glimpsed(glimpse));
                }
                _ = wanted.changed() => {
                    let before = std::mem::replace(
                        &mut self.wanted,
                        wanted.borrow_and_update().clone(),
                    );
                    if before.1.next_keys != self.wanted.1.next_keys {
                        // One of them may just have come into use.
                        self.due.look_now(Instant::now());
                    }
                    self.within(GATHER_WISHES);
                }
                Some(command) = commands.recv(), if !self.busy => self.obey(command),
                Some(told) = self.relays.told() => self.told(told),
                Some(done) = self.doing.join_next(), if !self.doing.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => self.faulted(error.to_string()),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    /// What was kept is served again, before anything new is made.
    async fn load(&mut self) {
        let (store, apex) = (self.store.clone(), self.apex.clone());
        let (offered, primary) = (self.offered(), self.zone.primary);
        // Signatures are verified, which takes its time.
        let load = move || {
            let zone = store.zone(&apex).map(|records| records.and_then(recall));
            let last = zone.as_ref().ok().and_then(Option::as_ref);
            let valid = last.and_then(|last| make::admissible(&apex, &last.records, now()).ok());
            let ready = last.map(|last| {
                let expires = primary.map(|_| std::time::Instant::now() + expire(&last.records));
                offered.prepare(&apex, &last.records, expires)
            });
            (store.memory(), store.updates(&apex), zone, valid.flatten(), ready)
        };
        let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return };
        let (memory, updates, zone, valid_until, ready) = loaded;
        (self.memory, self.valid_until) = (memory, valid_until);
        match updates {
            Ok(updates) => (self.dynamic, self.unread) = (updates, None),
            Err(error) => {
                let fix = "repair the file, or move it away to go on without its records";
                self.unread = Some(format!("{error}; {fix}"));
            }
        }
        match zone {
            Ok(last) => self.last = last.map(Arc::new),
            Err(error) => {
                warn!(zone = %self.zone.name, %error, "the last version is lost; a new one is made");
            }
        }
        if let Some(ready) = ready {
            self.serve(ready);
        }
    }

    fn offered(&self) -> Arc<Offered> {
        self.shared.deliveries.dns.offered().clone()
    }

    /// What was put together elsewhere is served from here, so that nothing is behind the end.
    fn serve(&mut self, ready: Result<Ready, NotServable>) {
        match ready {
            Ok(ready) => self.offered().serve(ready),
            Err(error) => self.failed(error.to_string()),
        }
    }

    /// Takes note of what relays hold.
    fn hear(&mut self) {
        let uplinks = self.shared.uplinks.load_full();
        let mut news = self.remember(&uplinks);
        let relays: Vec<_> = uplinks
            .iter()
            .map(|uplink| facts::Relay {
                name: uplink.relay.name.clone(),
                private_addresses: uplink.relay.private_senders,
                standing: self.memory.relays.get(&uplink.relay.name).map(|it| it.standing.clone()),
            })
            .collect();
        let facts = facts(&self.zone.name, &self.zone.mx, &relays);
        news |= facts != self.facts;
        if facts.mx_names != self.looked_for {
            self.due.look_now(Instant::now());
        }
        self.facts = facts;
        self.look_for_gaps();
        if news {
            self.due.heard_news(Instant::now());
            self.save();
            if self.zone.primary.is_none() {
                self.within(GATHER);
            }
        }
    }

    /// What relays said last is kept, for when they are away. A relay is forgotten when the owner
    /// takes it out of the file.
    fn remember(&mut self, uplinks: &[Arc<Uplink>]) -> bool {
        let memory = &mut self.memory.relays;
        let count = memory.len();
        memory.retain(|name, _| uplinks.iter().any(|uplink| uplink.relay.name == *name));
        let mut news = memory.len() != count;
        for uplink in uplinks {
            let Some((mut standing, heard)) = uplink.standing() else { continue };
            // Other domains have zones and memories of their own.
            standing.domains.retain(|claim| claim.domain == self.zone.name);
            let at = now().saturating_sub(heard.elapsed().as_secs());
            let known = memory.get(&uplink.relay.name);
            news |= known.is_none_or(|known| known.standing != standing);
            memory.insert(uplink.relay.name.clone(), Heard { standing, at });
        }
        news
    }

    /// A new version is due within `wait`.
    fn within(&mut self, wait: Duration) {
        self.due.version_within(Instant::now(), wait);
    }

    /// What was due while the machine slept is done now.
    fn glance(&mut self) {
        if let Some(seconds) = self.due.glance(Instant::now(), now()) {
            info!(zone = %self.zone.name, seconds, "the date jumped: all that may be due is looked at");
        }
        let begun = self.zone.primary.is_none() && !self.keys.is_empty();
        if begun && !self.busy && self.keys != self.store.keys_stamp() {
            self.within(Duration::ZERO);
        }
    }

    fn next_timer(&self) -> Instant {
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let relays = self.relays.next().map(Instant::from_std);
        waiting.chain(relays).fold(self.due.next(self.busy, self.looking), Instant::min)
    }

    /// Begins what is due.
    fn begin(&mut self) {
        if self.due.takes_hear(Instant::now()) {
            self.hear();
            self.relays.hurry();
        }
        if !self.looking && self.due.takes_look(Instant::now()) {
            self.look();
        }
        if !self.stamping && !self.files.is_empty() && self.due.takes_files(Instant::now()) {
            self.stamp();
        }
        if !self.busy && self.due.is_version(Instant::now()) {
            match (self.zone.primary, self.unread.clone()) {
                (None, None) => self.make(None),
                (None, Some(why)) => {
                    self.due.version_begun(Instant::now());
                    self.failed(why);
                }
                (Some(_), _) => self.fetch(),
            }
        }
        if self.unsaved && !self.saving {
            (self.saving, self.unsaved) = (true, false);
            let (store, memory) = (self.store.clone(), self.memory.clone());
            self.doing.spawn(async move {
                let saved = tokio::task::spawn_blocking(move || store.save_memory(&memory)).await;
                let saved = saved.map_err(|error| error.to_string());
                Done::Saved(saved.and_then(|saved| saved.map_err(|error| error.to_string())))
            });
        }
    }

    fn save(&mut self) {
        self.unsaved = true;
    }

    /// Looks at what the mail server shows.
    fn look(&mut self) {
        self.looked_for = self.facts.mx_names.clone();
        if self.zone.primary.is_some() {
            return;
        }
        let service = self.shared.deliveries.services.by_name(&ServiceName::smtp());
        let Some(service) = service.filter(|_| !self.looked_for.is_empty()) else {
            let unknown = !self.looked_for.is_empty();
            self.unasked = unknown.then(|| "no [[service]] is named \"smtp\"".into());
            self.due.version_soon(Instant::now());
            return;
        };
        self.looking = true;
        let names = self.looked_for.clone();
        self.doing.spawn(async move {
            let found = shown(&service.config, names).await;
            let keys = found.map(|found| found.into_values().flatten().collect::<Vec<_>>());
            Done::Looked(
                keys.map(|keys| keys.iter().filter_map(|it| hex::parse(&it.key)).collect()),
            )
        });
    }

    /// Looks at the files that the zone is made of. A disk may be slow.
    fn stamp(&mut self) {
        self.stamping = true;
        let files = self.files.clone();
        self.doing.spawn(async move {
            let look = tokio::task::spawn_blocking(move || owner_files::look(&files));
            Done::Stamped(look.await.unwrap_or_default())
        });
    }

    /// The mail server showed a key to one sender. All that it shows is looked at where this is news.
    fn glimpsed(&mut self, glimpse: &Glimpse) {
        let known = |it: &certificate_keys::Shown| it.key == glimpse.key && it.gone_since.is_none();
        let ours = self.looked_for.contains(&glimpse.name);
        if ours && !self.looking && !self.memory.shown.iter().any(known) {
            info!(zone = %self.zone.name, name = %glimpse.name, "the mail server shows another key");
            self.due.look_now(Instant::now());
        }
    }

    /// Makes a version, by way of an update if there is one. All that may take long is done beside the
    /// task, on which the mail waits too.
    fn make(&mut self, change: Option<(Request, Update, oneshot::Sender<Rcode>)>) {
        self.busy = true;
        let due = self.due.version_begun(Instant::now());
        // Before they are read: what changes meanwhile is seen afterwards.
        self.keys = self.store.keys_stamp();
        let (wish, wanted) = self.wanted.clone();
        let before = self.memory.planned.clone();
        certificate_keys::note(&mut self.memory.planned, &wanted.next_keys, now());
        if self.memory.planned != before {
            self.save();
        }
        let (change, update) = change.map(|(request, may, reply)| ((request, may), reply)).unzip();
        let attempt = Attempt { wish, update, due };
        let keys = certificate_keys::to_publish(&self.memory.shown, &self.memory.planned);
        let mut order = Order {
            zone: self.zone.clone(),
            store: self.store.clone(),
            last: self.last.clone(),
            seen: self.seen,
            facts: self.facts.clone(),
            boxes: self.shared.keys.all(),
            certificate_keys: keys,
            wanted,
            dynamic: self.dynamic.clone(),
            now: now(),
        };
        let offered = self.offered();
        let work = move || {
            if let Some((request, may)) = change {
                let zone = order.last.as_ref().map_or(&[][..], |last| last.records.as_slice());
                let after = update::apply(zone, &order.dynamic, &request, may);
                let before = std::mem::replace(&mut order.dynamic, after.map_err(Unmade::Update)?);
                let made = make(&order)?;
                if before != order.dynamic {
                    order.store.save_updates(&order.dynamic)?;
                }
                return Ok(fresh(&offered, order, made));
            }
            let made = make(&order)?;
            Ok(fresh(&offered, order, made))
        };
        self.doing.spawn(async move {
            let made = tokio::task::spawn_blocking(work).await;
            Done::Made(
                attempt,
                made.unwrap_or_else(|error| Err(MakeError::Fault(error.to_string()).into())),
            )
        });
    }

    fn fetch(&mut self) {
        let Some(address) = self.zone.primary else { return };
        self.busy = true;
        let key = self.zone.primary_key.as_ref().and_then(|key| self.shared.tsig.get(key)).cloned();
        let (have, offered) = (self.last.clone(), self.offered());
        let (apex, store) = (self.apex.clone(), self.store.clone());
        self.doing.spawn(async move {
            let fetched = primary::fetch(address, key, apex.clone(), have).await;
            let taken = match fetched {
                Ok(fetched) => take(apex, store, offered, fetched).await,
                Err(error) => Err(error),
            };
            Done::Fetched(taken.map(Box::new))
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Made(attempt, made) => self.made(attempt, made),
            Done::Looked(Ok(keys)) => {
                (self.looking, self.unasked) = (false, None);
                let before = self.memory.shown.clone();
                certificate_keys::note(&mut self.memory.shown, &keys, now());
                if self.memory.shown != before {
                    self.save();
                }
                self.within(GATHER);
            }
            Done::Looked(Err(error)) => {
                self.looking = false;
                if self.unasked.as_ref() != Some(&error) {
                    warn!(zone = %self.zone.name, error, "the mail server's keys are not known; the last ones stay");
                }
                self.unasked = Some(error);
                self.due.look_again(Instant::now());
                self.within(GATHER);
            }
            Done::Stamped(stamps) => {
                self.stamping = false;
                if self.files_seen.note(stamps) {
                    info!(zone = %self.zone.name, "a file that the zone is made of changed");
                    self.within(GATHER);
                }
            }
            Done::Fetched(fetched) => self.fetched(fetched.map(|fetched| *fetched)),
            Done::Saved(saved) => {
                self.saving = false;
                if let Err(error) = saved {
                    warn!(zone = %self.zone.name, error, "what was learned of relays and keys is not kept");
                }
            }
        }
    }

    fn made(&mut self, attempt: Attempt, made: Result<Box<Fresh>, Unmade>) {
        self.busy = false;
        let Fresh { made, dynamic, ready } = match made {
            Ok(fresh) => *fresh,
            Err(unmade) => return self.unmade(attempt, unmade),
        };
        if made.changed {
            let serial = made.zone.serial;
            info!(zone = %self.zone.name, serial, records = made.zone.records.len(), "the zone was signed");
            self.shared.metrics.signed();
        }
        (self.error, self.seen, self.failures) = (None, None, 0);
        (self.dynamic, self.wish) = (dynamic, attempt.wish);
        (self.ds, self.valid_until) = (made.ds, made.valid_until);
        self.keys_until = made.keys_until;
        self.warn_of_keys();
        let serial = made.zone.serial;
        if let Some(ready) = ready {
            self.serve(ready);
        }
        self.last = Some(made.zone);
        if let Some(reply) = attempt.update {
            let until = Instant::now() + ACKNOWLEDGED;
            self.waiting.push(Waiting { serial, until, reply });
        }
    }

    /// What one update would break, it alone is refused for.
    fn unmade(&mut self, attempt: Attempt, unmade: Unmade) {
        let (rcode, error) = match (&unmade, &attempt.update) {
            (Unmade::Update(rcode), _) => (*rcode, rcode.to_string()),
            (Unmade::Version(error), None) => return self.failed(error.to_string()),
            (Unmade::Version(error), Some(_)) if error.is_about_records() => {
                (Rcode::REFUSED, error.to_string())
            }
            (Unmade::Version(error), Some(_)) => (Rcode::SERVFAIL, error.to_string()),
        };
        info!(zone = %self.zone.name, error, "an update was refused");
        self.shared.metrics.updated("refused");
        if let Some(update) = attempt.update {
            let _ = update.send(rcode);
        }
        self.due.version_as_before(attempt.due);
        if let Unmade::Version(_) = unmade {
            // It may be that the zone cannot be made without it either.
            self.within(GATHER);
        }
    }

    /// Once at each stage.
    fn warn_of_keys(&mut self) {
        let urgency = self.keys_until.and_then(|ends| urgency(ends, now()));
        let told = std::mem::replace(&mut self.keys_warned, urgency);
        let warning =
            self.keys_until.and_then(|ends| warning(self.zone.name.as_str(), ends, now()));
        if let Some(warning) = warning.filter(|_| urgency > told) {
            warn!(zone = %self.zone.name, "{warning}");
        }
    }

    fn fetched(&mut self, fetched: Result<(Option<Taken>, Duration), String>) {
        self.busy = false;
        match fetched {
            Ok((Some(Taken { zone, valid_until, ready }), _)) => {
                (self.error, self.failures) = (None, 0);
                info!(zone = %self.zone.name, serial = zone.serial, "the zone was taken from its primary");
                self.valid_until = valid_until;
                self.last = Some(zone);
                self.look_for_gaps();
                self.serve(ready);
            }
            Ok((None, expire)) => {
                let expires = Some(std::time::Instant::now() + expire);
                match self.offered().prolong(&self.apex, expires) {
                    true => (self.error, self.failures) = (None, 0),
                    false => self.failed("the version of the primary cannot be served".into()),
                }
            }
            Err(error) => self.failed(error),
        }
        let records = self.last.as_ref().map(|last| last.records.as_slice());
        let pause = primary::pause(records, self.failures);
        self.due.version_after(Instant::now(), pause);
    }

    fn look_for_gaps(&mut self) {
        if let (Some(_), Some(last)) = (self.zone.primary, &self.last) {
            let boxes = self.shared.keys.all();
            self.lacking = make::lacking(&self.apex, &last.records, &self.facts, &boxes);
        }
    }

    /// The last version stays.
    fn failed(&mut self, error: String) {
        self.failures = self.failures.saturating_add(1);
        if self.error.as_ref() != Some(&error) {
            warn!(zone = %self.zone.name, error, "no new version of the zone; the last one stays");
        }
        self.error = Some(error);
        self.due.version_again(Instant::now());
    }

    /// What was done ended in a fault of this program. It is not known what it was, so all is begun
    /// again when it is due.
    fn faulted(&mut self, error: String) {
        (self.busy, self.looking, self.stamping, self.saving) = (false, false, false, false);
        self.failed(format!("a fault of this program: {error}"));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Refresh => self.within(Duration::ZERO),
            Command::Update(_, _, reply)
                if self.waiting.len() >= MAX_WAITING || self.unread.is_some() =>
            {
                let _ = reply.send(Rcode::SERVFAIL);
            }
            Command::Update(_, _, reply) if self.zone.primary.is_some() => {
                let _ = reply.send(Rcode::REFUSED);
            }
            Command::Update(request, may, reply) => self.make(Some((request, may, reply))),
        }
    }

    fn told(&mut self, told: super::relays::Told) {
        let newer = self.relays.note(&self.apex, told);
        let Some((theirs, last)) = newer.zip(self.last.as_ref()) else { return };
        let spared = |at: u64| (at..at.saturating_add(OVERTAKE_AGAIN)).contains(&now());
        let again = !self.memory.overtook_at.is_some_and(spared);
        let ahead =
            serial::is_newer(theirs, last.serial) && theirs.wrapping_sub(last.serial) <= MAX_AHEAD;
        if !ahead || !again || self.zone.primary.is_some() {
            return;
        }
        // A restored backup; or the zone was served elsewhere before.
        info!(zone = %self.zone.name, serial = theirs, "a relay serves a newer version, which is overtaken");
        self.memory.overtook_at = Some(now());
        self.seen = Some(theirs);
        self.save();
        self.within(Duration::ZERO);
    }

    fn serving(&self) -> Vec<Serving> {
        let one = |relay: &String| {
            let view = self.relays.view(relay);
            Serving { relay: relay.clone(), serial: view.served, reachable: view.reachable }
        };
        self.facts.serving.iter().map(one).collect()
    }

    /// Answers updates that are served, or that were waited for long enough, or that nobody can be
    /// told of.
    fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let reachable: Vec<_> = self.serving().into_iter().filter(|it| it.reachable).collect();
        let served = |wanted: u32| {
            reachable.iter().all(|it| it.serial.is_some_and(|it| !serial::is_newer(wanted, it)))
        };
        for waiting in std::mem::take(&mut self.waiting) {
            if served(waiting.serial) || Instant::now() >= waiting.until {
                self.shared.metrics.updated("done");
                let _ = waiting.reply.send(Rcode::NOERROR);
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// When a relay last said what it holds.
    fn heard_at(&self, uplink: &Uplink) -> Option<u64> {
        let live =
            uplink.standing().map(|(_, heard)| now().saturating_sub(heard.elapsed().as_secs()));
        live.or_else(|| self.memory.relays.get(&uplink.relay.name).map(|it| it.at))
    }

    fn soa(&self) -> Option<Record> {
        let version = self.shared.deliveries.dns.offered().version(&self.apex)?;
        Some(version.soa())
    }

    fn report(&self) {
        let serial = self.last.as_ref().map(|last| last.serial);
        self.shared.wishes.report(
            &self.zone.name,
            Published {
                wish: self.wish,
                serial,
                relays: self.serving(),
                exchangers: match self.zone.primary {
                    None => self.facts.mx_names.clone(),
                    Some(_) => Vec::new(),
                },
                error: self.error.clone().or_else(|| {
                    let primary = self.zone.primary?;
                    Some(format!("the zone is made by {primary}, and can be changed only there"))
                }),
            },
        );
        let relays = self.shared.uplinks.load();
        let relays = relays.iter().map(|uplink| {
            let relay = uplink.relay.name.clone();
            let view = self.relays.view(&relay);
            ZoneAtRelay {
                listed: self.facts.serving.contains(&relay),
                up_to_date: serial
                    .zip(view.served)
                    .is_some_and(|(ours, theirs)| !serial::is_newer(ours, theirs)),
                serial: view.served,
                heard_at: self.heard_at(uplink),
                error: view.error,
                relay,
            }
        });
        let mut notes = self.facts.notes.clone();
        notes.extend(self.unasked.iter().map(|why| format!("the mail server's key: {why}")));
        if self.zone.primary.is_some() {
            notes = self.lacking.clone();
        }
        let status = ZoneStatus {
            name: self.zone.name.to_string(),
            serial,
            signed_at: self.last.as_ref().map(|last| last.signed_at),
            valid_until: self.valid_until,
            keys_until: self.keys_until,
            primary: self.zone.primary.map(|primary| primary.to_string()),
            relays: relays.collect(),
            ds: self.ds.clone(),
            notes,
            error: self.error.clone(),
        };
        self.shared.show(&self.zone.name, status);
    }
}

/// For how long a zone may be served without its primary.
fn expire(records: &[Record]) -> Duration {
    let soa = records.iter().find_map(soa_of).map(|soa| soa.expire().as_secs());
    Duration::from_secs(soa.unwrap_or_default().into())
}

/// A version that was made, put together for those who ask where it is another.
fn fresh(offered: &Offered, order: Order, made: Made) -> Box<Fresh> {
    let apex = order.zone.apex();
    let served = offered.version(&apex).is_some();
    let ready = (made.changed || !served).then(|| offered.prepare(&apex, &made.zone.records, None));
    Box::new(Fresh { made, dynamic: order.dynamic, ready })
}

/// Verifies and keeps what a primary has.
async fn take(
    apex: Name,
    store: Store,
    offered: Arc<Offered>,
    fetched: Fetched,
) -> Result<(Option<Taken>, Duration), String> {
    let Fetched { records, expire } = fetched;
    let Some(records) = records else { return Ok((None, expire)) };
    let kept = tokio::task::spawn_blocking(move || {
        let valid_until = make::admissible(&apex, &records, now());
        let valid_until =
            valid_until.map_err(|error| format!("the primary's zone is refused: {error}"))?;
        store.save_zone(&records).map_err(|error| error.to_string())?;
        let zone = recall(records).ok_or("the primary's zone has no SOA record")?;
        let zone = Arc::new(Signed { signed_at: now(), ..zone });
        let expires = Some(std::time::Instant::now() + expire);
        let ready = offered.prepare(&apex, &zone.records, expires);
        Ok::<_, String>(Taken { zone, valid_until, ready })
    });
    let taken = kept.await.map_err(|error| error.to_string())??;
    Ok((Some(taken), expire))
}
