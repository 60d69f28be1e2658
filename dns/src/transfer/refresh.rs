//! Keeps all zones that come from elsewhere fresh: one task with one queue of times, however many
//! zones there are, and a bounded number of transfers at once.
//!
//! One primary may have a few of the places only, so that one that is slow holds up its own zones
//! rather than everybody's. Primaries have their turns one after the other, however many zones each has,
//! and a slow transfer gives way to those that wait ([`crowd`](super::crowd)). A zone's expiry is watched
//! apart from its refresh, which may take long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::warn;

use super::attempt::{Connect, Keeper, Outcome, Secondary, refresh};
use super::crowd::Crowd;
use super::frame::Pace;
use super::query::soa_of;
use super::timers::{Bounds, Standing, Timers};
use crate::record::{Name, Record};
use crate::unix_time;

/// Commands that may wait for the task.
const MAX_COMMANDS: usize = 4096;
/// The longest sleep: a clock that was set is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The shortest time between two refreshes of a zone, whatever notices say, in milliseconds.
const BETWEEN_NOTICES: u64 = 1_000;

/// How the task works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For the zones' timers.
    pub bounds: Bounds,
    /// For each answer.
    pub pace: Pace,
    /// How long a connection may take to come up.
    pub connect: Duration,
    /// Zones that are refreshed at the same time.
    pub at_once: usize,
    /// Of these, from one primary.
    pub at_once_of_primary: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bounds: Bounds::default(),
            pace: Pace::default(),
            connect: Duration::from_secs(10),
            at_once: 16,
            at_once_of_primary: 4,
        }
    }
}

enum Command<P> {
    Add(Box<Secondary<P>>, Option<(Record, Standing)>),
    Remove(Name),
    Notified(Name),
}

/// Tells the task what to do.
#[derive(Clone)]
pub struct Handle<P>(mpsc::Sender<Command<P>>);

impl<P> Handle<P> {
    /// A zone is to be had from elsewhere from now on, or from other primaries than before.
    /// `kept` is its SOA record and standing, when it was kept on disk.
    pub async fn add(&self, zone: Secondary<P>, kept: Option<(Record, Standing)>) {
        // The task ends only with the process.
        let _ = self.0.send(Command::Add(Box::new(zone), kept)).await;
    }

    /// A zone is not to be had from elsewhere any more.
    pub async fn remove(&self, apex: Name) {
        let _ = self.0.send(Command::Remove(apex)).await;
    }

    /// Somebody who may say so says that a zone changed. Never waits: `false` if too many say so at
    /// once, and whoever did is to say it again.
    pub fn notified(&self, apex: Name) -> bool {
        self.0.try_send(Command::Notified(apex)).is_ok()
    }
}

/// The task. Ends when all handles are gone.
pub struct Refresher<K, C: Connect> {
    keeper: Arc<K>,
    connect: Arc<C>,
    settings: Settings,
    commands: mpsc::Receiver<Command<C::Peer>>,
    zones: HashMap<Name, Zone<C::Peer>>,
    /// Times in Unix milliseconds, each with the generation of its zone's state. An entry of an
    /// older generation is void.
    queue: BinaryHeap<Reverse<(u64, u64, Name)>>,
    /// The primaries that have zones whose time has come, or that are asked now.
    primaries: HashMap<C::Peer, Places>,
    /// Those of them whose zones may be asked for, in the order of their turns.
    turns: VecDeque<C::Peer>,
    /// How many these are while all places are taken.
    crowd: Arc<Crowd>,
    running: JoinSet<Outcome>,
    jobs: HashMap<Id, Job<C::Peer>>,
    /// When zones expire, in Unix seconds: the one entry of a zone that counts is `Zone::watched`.
    expiries: BinaryHeap<Reverse<(u64, Name)>>,
    next_generation: u64,
}

struct Zone<P> {
    secondary: Arc<Secondary<P>>,
    timers: Timers,
    generation: u64,
    stage: Stage,
    /// When it was last asked for, in Unix milliseconds.
    asked: u64,
    /// A notice came while it was asked for.
    again: bool,
    expired: bool,
    /// The time of its entry among the expiries.
    watched: Option<u64>,
    /// Ends its refresh.
    abort: Option<AbortHandle>,
}

/// A primary's zones. A zone is at the first of its primaries.
#[derive(Default)]
struct Places {
    /// Those whose time has come.
    ready: VecDeque<Name>,
    taken: usize,
    /// Whether it is among the turns.
    in_line: bool,
}

/// A refresh under way.
struct Job<P> {
    apex: Name,
    peer: P,
    generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Ready,
    Running,
}

impl<K: Keeper, C: Connect> Refresher<K, C> {
    /// A task and what tells it what to do.
    pub fn new(keeper: Arc<K>, connect: C, settings: Settings) -> (Handle<C::Peer>, Self) {
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let task = Self {
            keeper,
            connect: Arc::new(connect),
            settings,
            commands,
            zones: HashMap::new(),
            queue: BinaryHeap::new(),
            primaries: HashMap::new(),
            turns: VecDeque::new(),
            crowd: Arc::default(),
            running: JoinSet::new(),
            jobs: HashMap::new(),
            expiries: BinaryHeap::new(),
            next_generation: 0,
        };
        (Handle(sender), task)
    }

    /// Runs until all handles are gone.
    pub async fn run(mut self) {
        loop {
            self.expire(unix_time::seconds());
            self.wake(unix_time::millis());
            self.start_ready();
            let sleep = self.sleep(unix_time::millis());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn sleep(&self, now: u64) -> Duration {
        let refresh = self.queue.peek().map(|Reverse((due, _, _))| *due);
        let expiry = self.expiries.peek().map(|Reverse((time, _))| time.saturating_mul(1000));
        let due = refresh.into_iter().chain(expiry).min().map(|due| due.saturating_sub(now));
        due.map_or(LONGEST_SLEEP, Duration::from_millis).min(LONGEST_SLEEP)
    }

    fn obey(&mut self, command: Command<C::Peer>) {
        let now = unix_time::millis();
        match command {
            Command::Add(secondary, kept) => self.add(*secondary, kept, now),
            Command::Remove(apex) => {
                if let Some(abort) = self.zones.remove(&apex).and_then(|zone| zone.abort) {
                    abort.abort();
                }
            }
            Command::Notified(apex) => {
                let Some(zone) = self.zones.get_mut(&apex) else { return };
                match zone.stage {
                    Stage::Ready => {}
                    Stage::Running => zone.again = true,
                    Stage::Queued => {
                        let due = now.max(zone.asked + BETWEEN_NOTICES);
                        self.schedule(&apex, due);
                    }
                }
            }
        }
    }

    fn add(&mut self, secondary: Secondary<C::Peer>, kept: Option<(Record, Standing)>, now: u64) {
        let bounds = self.settings.bounds;
        let apex = secondary.apex.clone();
        if let Some(zone) = self.zones.get_mut(&apex) {
            let others = zone.secondary.primaries != secondary.primaries;
            zone.secondary = Arc::new(secondary);
            match zone.stage {
                Stage::Queued => self.schedule(&apex, now),
                Stage::Ready => {}
                Stage::Running => {
                    zone.again = true;
                    // Who is no primary any more shall not bring a version either, however long
                    // its transfer has been under way.
                    if let Some(abort) = zone.abort.as_ref().filter(|_| others) {
                        abort.abort();
                    }
                }
            }
            return;
        }
        let restored = kept.as_ref().and_then(|(soa, standing)| {
            soa_of(soa).map(|soa| Timers::restored(bounds, soa, *standing))
        });
        let timers = restored.unwrap_or_else(|| Timers::fresh(bounds));
        let due = timers.next(now / 1000, rand::random()) * 1000;
        let expired = timers.expired(now / 1000);
        if expired && kept.is_some() {
            self.keeper.expire(&apex);
        }
        let zone = Zone {
            secondary: Arc::new(secondary),
            timers,
            generation: 0,
            stage: Stage::Queued,
            asked: 0,
            again: false,
            expired,
            watched: None,
            abort: None,
        };
        self.zones.insert(apex.clone(), zone);
        self.schedule(&apex, due);
        self.watch(&apex);
    }

    /// Wakes a zone at `due`.
    fn schedule(&mut self, apex: &Name, due: u64) {
        let Some(zone) = self.zones.get_mut(apex) else { return };
        self.next_generation += 1;
        zone.generation = self.next_generation;
        zone.stage = Stage::Queued;
        self.queue.push(Reverse((due, zone.generation, apex.clone())));
        self.compact();
    }

    /// Void entries go when they are the greater part, so that notices cannot make the queue grow,
    /// nor can a primary with an expire that is shorter each time, or zones that come and go.
    fn compact(&mut self) {
        let (zones, most) = (&self.zones, 1024 + 4 * self.zones.len());
        if self.queue.len() > most {
            self.queue.retain(|Reverse((_, generation, apex))| {
                zones.get(apex).is_some_and(|zone| zone.generation == *generation)
            });
        }
        if self.expiries.len() > most {
            self.expiries.retain(|Reverse((time, apex))| {
                zones.get(apex).is_some_and(|zone| zone.watched == Some(*time))
            });
        }
    }

    /// Sees to it that a zone is looked at when it expires, whatever its refresh does meanwhile.
    fn watch(&mut self, apex: &Name) {
        let Some(zone) = self.zones.get_mut(apex).filter(|zone| !zone.expired) else { return };
        let Some(expires) = zone.timers.expires() else { return };
        // A later time than that of the entry is seen when the entry's time comes.
        if zone.watched.is_none_or(|watched| expires < watched) {
            zone.watched = Some(expires);
            self.expiries.push(Reverse((expires, apex.clone())));
            self.compact();
        }
    }

    fn expire(&mut self, now: u64) {
        while let Some(Reverse((time, _))) = self.expiries.peek() {
            if *time > now {
                return;
            }
            let Some(Reverse((time, apex))) = self.expiries.pop() else { return };
            let Some(zone) = self.zones.get_mut(&apex) else { continue };
            if zone.watched != Some(time) {
                continue;
            }
            zone.watched = None;
            if !zone.timers.expired(now) {
                self.watch(&apex);
            } else if !zone.expired {
                zone.expired = true;
                warn!(zone = %apex, "expired: no primary confirmed it in time; not served any more");
                self.keeper.expire(&apex);
            }
        }
    }

    /// Moves the zones whose time has come.
    fn wake(&mut self, now: u64) {
        while let Some(Reverse((due, _, _))) = self.queue.peek() {
            if *due > now {
                return;
            }
            let Some(Reverse((_, generation, apex))) = self.queue.pop() else { return };
            let Some(zone) = self.zones.get_mut(&apex) else { continue };
            if zone.generation != generation || zone.stage != Stage::Queued {
                continue;
            }
            zone.stage = Stage::Ready;
            self.line_up(apex);
        }
    }

    /// Puts a zone whose time has come behind the others of its primary. One without primaries waits
    /// until it is added again, with some.
    fn line_up(&mut self, apex: Name) {
        let Some(zone) = self.zones.get_mut(&apex) else { return };
        let Some(primary) = zone.secondary.primaries.first() else {
            zone.stage = Stage::Queued;
            return;
        };
        let peer = primary.peer.clone();
        self.primaries.entry(peer.clone()).or_default().ready.push_back(apex);
        self.queue_up(peer);
    }

    /// A primary is in line while it has zones to ask for, and a place for one.
    fn queue_up(&mut self, peer: C::Peer) {
        let most = self.settings.at_once_of_primary;
        let Some(places) = self.primaries.get_mut(&peer) else { return };
        if places.in_line {
            return;
        }
        if places.ready.is_empty() && places.taken == 0 {
            self.primaries.remove(&peer);
        } else if !places.ready.is_empty() && places.taken < most {
            places.in_line = true;
            self.turns.push_back(peer);
        }
    }

    /// The next zone, and its primary, which has one place more then.
    fn next_ready(&mut self) -> Option<(Name, C::Peer)> {
        while let Some(peer) = self.turns.pop_front() {
            let Some(places) = self.primaries.get_mut(&peer) else { continue };
            places.in_line = false;
            let mut next = None;
            while let Some(apex) = places.ready.pop_front() {
                let Some(zone) = self.zones.get(&apex) else { continue };
                if zone.stage != Stage::Ready {
                    continue;
                }
                next = Some((
                    zone.secondary.primaries.first().is_some_and(|at| at.peer == peer),
                    apex,
                ));
                break;
            }
            if let Some((true, _)) = next {
                places.taken += 1;
            }
            self.queue_up(peer.clone());
            match next {
                Some((true, apex)) => return Some((apex, peer)),
                // It has other primaries by now.
                Some((false, apex)) => self.line_up(apex),
                None => {}
            }
        }
        None
    }

    fn start_ready(&mut self) {
        while self.running.len() < self.settings.at_once {
            let Some((apex, peer)) = self.next_ready() else { break };
            let Some(zone) = self.zones.get_mut(&apex) else { continue };
            zone.stage = Stage::Running;
            zone.asked = unix_time::millis();
            zone.again = false;
            let job = refresh(
                self.keeper.clone(),
                self.connect.clone(),
                self.settings,
                self.crowd.clone(),
                zone.secondary.clone(),
                zone.timers.clone(),
            );
            let abort = self.running.spawn(job);
            let generation = zone.generation;
            self.jobs.insert(abort.id(), Job { apex, peer, generation });
            zone.abort = Some(abort);
        }
        self.crowd.set(self.turns.len());
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => (error.id(), Outcome::Failed),
            Err(error) => {
                warn!(%error, "a refresh ended by a fault of this program");
                (error.id(), Outcome::Failed)
            }
        };
        let Some(Job { apex, peer, generation }) = self.jobs.remove(&id) else { return };
        self.leave(peer);
        // A zone that was removed and added again is not the one that was asked for.
        let Some(zone) = self.zones.get_mut(&apex).filter(|zone| zone.generation == generation)
        else {
            return;
        };
        zone.abort = None;
        let now = unix_time::millis();
        match outcome {
            Outcome::Transferred(timers) | Outcome::Confirmed(timers) => {
                zone.timers = timers;
                zone.expired = false;
            }
            Outcome::Failed => zone.timers.failed(),
        }
        let due = if zone.again {
            now.max(zone.asked + BETWEEN_NOTICES)
        } else {
            zone.timers.next(now / 1000, rand::random()) * 1000
        };
        self.schedule(&apex, due);
        self.watch(&apex);
    }

    /// A place at a primary is free.
    fn leave(&mut self, peer: C::Peer) {
        if let Some(places) = self.primaries.get_mut(&peer) {
            places.taken = places.taken.saturating_sub(1);
        }
        self.queue_up(peer);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::transfer::access::Rule;
    use crate::transfer::attempt::Primary;
    use crate::transfer::difference::Difference;
    use crate::transfer::fixture::{name, soa, zone};
    use crate::transfer::frame::Reader;
    use crate::transfer::inbound::Limits;
    use crate::transfer::query::{self, serial_of};
    use crate::transfer::serve::{Over, Served, Server, Zones, send};
    use crate::transfer::tsig::Keys;

    /// What is kept, and what happened to it.
    #[derive(Default)]
    struct Shelf {
        zones: Mutex<BTreeMap<String, Vec<Record>>>,
        events: Mutex<Vec<String>>,
        changed: Notify,
        refuse: bool,
    }

    impl Shelf {
        fn tell(&self, event: String) {
            self.events.lock().unwrap().push(event);
            self.changed.notify_one();
        }

        async fn wait_for(&self, event: &str) {
            let until = tokio::time::timeout(Duration::from_secs(20), async {
                while !self.events.lock().unwrap().iter().any(|told| told == event) {
                    self.changed.notified().await;
                }
            });
            until.await.unwrap_or_else(|_| panic!("no {event}: {:?}", self.events.lock().unwrap()));
        }
    }

    impl Keeper for Shelf {
        fn soa(&self, apex: &Name) -> Option<Record> {
            self.zones.lock().unwrap().get(&apex.to_string()).map(|zone| zone[0].clone())
        }
        fn records(&self, apex: &Name) -> Option<Vec<Record>> {
            self.zones.lock().unwrap().get(&apex.to_string()).cloned()
        }
        async fn accept(&self, apex: &Name, zone: Vec<Record>, _: Standing) -> Result<(), String> {
            if self.refuse {
                self.tell(format!("refused {apex}"));
                return Err("not signed".to_string());
            }
            let (serial, count) = (serial_of(&zone[0]), zone.len());
            self.zones.lock().unwrap().insert(apex.to_string(), zone);
            self.tell(format!("{apex} {serial} {count}"));
            Ok(())
        }
        async fn confirm(&self, apex: &Name, _: Standing) {
            self.tell(format!("confirmed {apex}"));
        }
        fn failed(&self, _: &Name, _: String) {}
        fn expire(&self, apex: &Name) {
            self.tell(format!("expired {apex}"));
        }
    }

    struct Version(Vec<Record>, Option<u32>);

    impl Served for Version {
        fn soa(&self) -> Record {
            self.0[0].clone()
        }
        fn records(&self) -> Vec<Record> {
            self.0.clone()
        }
        fn expires_in(&self) -> Option<u32> {
            self.1
        }
        fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
            // Steps from a zone that nobody has: they remove what was never there.
            let (from, to) = (soa(serial), self.soa());
            let removed = zone(1, 900).split_off(1800);
            Some(vec![Arc::new(Difference { from, removed, to, added: Vec::new() })])
        }
    }

    /// A primary of one zone that never listens on a socket.
    #[derive(Clone, Default)]
    struct Fake(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        zone: Mutex<Vec<Record>>,
        open: AtomicUsize,
        connections: AtomicUsize,
        silent: bool,
        /// From this port on all drip: as fast as they have to, and no faster.
        drip: Option<u16>,
        expire: Option<u32>,
    }

    impl Zones for Fake {
        fn find(&self, _: &Name) -> Option<Arc<dyn Served>> {
            Some(Arc::new(Version(self.0.zone.lock().unwrap().clone(), self.0.expire)))
        }
        fn transfer_rules(&self, _: &Name) -> Arc<[Rule]> {
            Arc::new([Rule::From("::/0".parse().unwrap())])
        }
        fn primaries(&self, _: &Name) -> Option<Arc<[Rule]>> {
            None
        }
        fn notified(&self, _: &Name, _: Option<u32>) -> bool {
            true
        }
    }

    impl Connect for Fake {
        type Stream = DuplexStream;
        type Peer = SocketAddr;

        async fn connect(&self, to: &SocketAddr) -> io::Result<DuplexStream> {
            let (near, mut far) = tokio::io::duplex(4096);
            let primary = self.clone();
            let drips = self.0.drip.is_some_and(|from| to.port() >= from);
            tokio::spawn(async move {
                primary.0.open.fetch_add(1, Ordering::SeqCst);
                primary.0.connections.fetch_add(1, Ordering::SeqCst);
                let mut reader = Reader::new(Pace::default());
                while let Ok(Some(query)) = reader.read(&mut far).await {
                    if primary.0.silent {
                        continue;
                    }
                    while drips && far.write_all(&[255; 2_100]).await.is_ok() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    let server = Server::new(primary.clone(), Keys::default());
                    let plain = |body: &[u8], out: &mut Vec<u8>| {
                        let message = domain::base::Message::from_slice(body).unwrap();
                        let rcode = domain::base::iana::Rcode::NOERROR;
                        let mut reply = query::begin_reply(message, rcode);
                        reply.push(&primary.0.zone.lock().unwrap()[0]).unwrap();
                        *out = reply.finish();
                    };
                    let client = "::1".parse().unwrap();
                    let reply = server.handle(&query, client, Over::Stream, 0, plain);
                    if send(&mut far, reply, Pace::default()).await.is_err() {
                        break;
                    }
                }
                primary.0.open.fetch_sub(1, Ordering::SeqCst);
            });
            Ok(near)
        }
    }

    fn secondary(apex: &str) -> Secondary<SocketAddr> {
        let primary = Primary { peer: "[::1]:53".parse().unwrap(), key: None };
        Secondary { apex: name(apex), primaries: vec![primary], limits: Limits::default() }
    }

    fn start(shelf: &Arc<Shelf>, primary: &Fake) -> Handle<SocketAddr> {
        let settings = Settings::default();
        let (handle, task) = Refresher::new(shelf.clone(), primary.clone(), settings);
        tokio::spawn(task.run());
        handle
    }

    #[tokio::test]
    async fn a_zone_comes_follows_notices_and_is_confirmed() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        *primary.0.zone.lock().unwrap() = zone(1, 3);
        let handle = start(&shelf, &primary);
        handle.add(secondary("example.org"), None).await;
        shelf.wait_for("example.org 1 8").await;
        *primary.0.zone.lock().unwrap() = zone(2, 4);
        handle.notified(name("example.org"));
        shelf.wait_for("example.org 2 10").await;
        handle.notified(name("example.org"));
        shelf.wait_for("confirmed example.org").await;
    }

    #[tokio::test]
    async fn a_zone_that_is_refused_does_not_replace_the_old_one_nor_does_an_older_one() {
        let shelf = Arc::new(Shelf { refuse: true, ..Shelf::default() });
        shelf.zones.lock().unwrap().insert("example.org".into(), zone(5, 1));
        let primary = Fake::default();
        *primary.0.zone.lock().unwrap() = zone(6, 3);
        let handle = start(&shelf, &primary);
        handle
            .add(
                secondary("example.org"),
                Some((soa(5), Standing { refreshed: 0, expires: u64::MAX })),
            )
            .await;
        shelf.wait_for("refused example.org").await;
        assert_eq!(shelf.records(&name("example.org")), Some(zone(5, 1)));
    }

    #[tokio::test]
    async fn differences_that_do_not_fit_make_way_for_the_whole_zone() {
        let shelf = Arc::new(Shelf::default());
        shelf.zones.lock().unwrap().insert("example.org".into(), zone(5, 1));
        let primary = Fake::default();
        *primary.0.zone.lock().unwrap() = zone(6, 300);
        let handle = start(&shelf, &primary);
        let standing = Standing { refreshed: 0, expires: u64::MAX };
        handle.add(secondary("example.org"), Some((soa(5), standing))).await;
        shelf.wait_for("example.org 6 602").await;
        assert_eq!(primary.0.connections.load(Ordering::SeqCst), 3, "SOA, IXFR, AXFR");
    }

    #[tokio::test]
    async fn a_primary_that_is_behind_changes_nothing() {
        let shelf = Arc::new(Shelf::default());
        shelf.zones.lock().unwrap().insert("example.org".into(), zone(5, 1));
        let primary = Fake::default();
        *primary.0.zone.lock().unwrap() = zone(4, 3);
        let handle = start(&shelf, &primary);
        let standing = Standing { refreshed: 0, expires: u64::MAX };
        handle.add(secondary("example.org"), Some((soa(5), standing))).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(primary.0.connections.load(Ordering::SeqCst), 1, "SOA alone");
        assert!(shelf.events.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_zone_that_expired_may_begin_anew() {
        let shelf = Arc::new(Shelf::default());
        shelf.zones.lock().unwrap().insert("example.org".into(), zone(5, 1));
        let primary = Fake::default();
        *primary.0.zone.lock().unwrap() = zone(4, 3);
        let handle = start(&shelf, &primary);
        let standing = Standing { refreshed: 0, expires: unix_time::seconds() };
        handle.add(secondary("example.org"), Some((soa(5), standing))).await;
        shelf.wait_for("expired example.org").await;
        shelf.wait_for("example.org 4 8").await;
        assert_eq!(primary.0.connections.load(Ordering::SeqCst), 2, "SOA, AXFR");
    }

    #[tokio::test]
    async fn what_was_asked_of_a_former_primary_is_given_up() {
        let shelf = Arc::new(Shelf::default());
        let primary = Fake(Arc::new(Inner { silent: true, ..Inner::default() }));
        let handle = start(&shelf, &primary);
        handle.add(secondary("example.org"), None).await;
        let open = async |number| {
            let reached = async {
                while primary.0.open.load(Ordering::SeqCst) != number {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
        };
        open(1).await;
        let peer = "[::1]:54".parse().unwrap();
        let primaries = vec![Primary { peer, key: None }];
        handle.add(Secondary { primaries, ..secondary("example.org") }, None).await;
        open(0).await;
    }

    #[test]
    fn a_notice_for_which_there_is_no_room_is_not_taken_note_of() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        let (handle, _task) = Refresher::new(shelf, primary, Settings::default());
        for _ in 0..MAX_COMMANDS {
            assert!(handle.notified(name("example.org")));
        }
        assert!(!handle.notified(name("example.org")));
    }

    #[test]
    fn times_of_expiry_do_not_heap_up() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        let (_handle, mut task) = Refresher::new(shelf, primary, Settings::default());
        let far = unix_time::seconds() + 1_000_000;
        for earlier in 0..10_000 {
            let standing = Standing { refreshed: 0, expires: far - earlier };
            let apex = name("example.org");
            task.zones.remove(&apex);
            task.add(secondary("example.org"), Some((soa(5), standing)), unix_time::millis());
        }
        assert!(task.expiries.len() < 2_000, "{}", task.expiries.len());
        task.expire(far);
        assert!(task.zones[&name("example.org")].expired);
    }

    #[tokio::test]
    async fn a_zone_expires_in_time_though_its_primary_is_silent() {
        let shelf = Arc::new(Shelf::default());
        shelf.zones.lock().unwrap().insert("example.org".into(), zone(5, 1));
        let primary = Fake(Arc::new(Inner { silent: true, ..Inner::default() }));
        let handle = start(&shelf, &primary);
        let expires = unix_time::seconds() + 2;
        let standing = Standing { refreshed: 0, expires };
        handle.add(secondary("example.org"), Some((soa(5), standing))).await;
        shelf.wait_for("expired example.org").await;
        assert!(unix_time::seconds() >= expires);
    }

    #[tokio::test]
    async fn a_zone_that_comes_expired_is_not_served() {
        let shelf = Arc::new(Shelf::default());
        let primary = Fake(Arc::new(Inner { expire: Some(0), ..Inner::default() }));
        *primary.0.zone.lock().unwrap() = zone(1, 3);
        let handle = start(&shelf, &primary);
        handle.add(secondary("example.org"), None).await;
        shelf.wait_for("expired example.org").await;
    }

    #[tokio::test]
    async fn a_primary_has_a_few_places_only() {
        let shelf = Arc::new(Shelf::default());
        let primary = Fake(Arc::new(Inner { silent: true, ..Inner::default() }));
        let handle = start(&shelf, &primary);
        for number in 0..40 {
            handle.add(secondary(&format!("z{number}.example")), None).await;
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let most = Settings::default().at_once_of_primary;
        assert_eq!(primary.0.open.load(Ordering::SeqCst), most);
        // One that goes makes room for another.
        for number in 0..40 {
            handle.remove(name(&format!("z{number}.example"))).await;
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(primary.0.open.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn zones_that_go_while_they_wait_hold_up_nobody() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        *primary.0.zone.lock().unwrap() = zone(1, 50);
        let handle = start(&shelf, &primary);
        for number in 0..40 {
            handle.add(secondary(&format!("z{number}.example")), None).await;
        }
        handle.add(secondary("example.org"), None).await;
        for number in 0..40 {
            handle.remove(name(&format!("z{number}.example"))).await;
        }
        shelf.wait_for("example.org 1 102").await;
    }

    fn from_port(apex: &str, port: u16) -> Secondary<SocketAddr> {
        let peer = SocketAddr::new("::1".parse().unwrap(), port);
        Secondary { primaries: vec![Primary { peer, key: None }], ..secondary(apex) }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_drip_hold_up_nobody_for_long() {
        let shelf = Arc::new(Shelf::default());
        let primary = Fake(Arc::new(Inner { drip: Some(1000), ..Inner::default() }));
        *primary.0.zone.lock().unwrap() = zone(1, 50);
        let handle = start(&shelf, &primary);
        let Settings { at_once, at_once_of_primary: most, .. } = Settings::default();
        // Each has more zones than places, and all together have all places.
        for port in 1000.. {
            for number in 0..2 * most {
                handle.add(from_port(&format!("z{number}.p{port}.example"), port), None).await;
            }
            if usize::from(port - 1000) * most >= at_once {
                break;
            }
        }
        while primary.0.open.load(Ordering::SeqCst) < at_once {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let began = tokio::time::Instant::now();
        handle.add(from_port("example.org", 53), None).await;
        while shelf.zones.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < Duration::from_secs(20), "held up");
        }
    }

    #[test]
    fn primaries_have_their_turns_whichever_has_how_many_zones() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        let (_handle, mut task) = Refresher::new(shelf, primary, Settings::default());
        let names = ["a", "b", "c"].map(|zone| format!("{zone}.example"));
        for (apex, port) in names.iter().zip([1, 1, 2]) {
            task.add(from_port(apex, port), None, 0);
        }
        task.wake(unix_time::millis());
        let mut next = || task.next_ready().map(|(apex, peer)| (apex.to_string(), peer.port()));
        assert_eq!(next(), Some(("a.example".into(), 1)));
        assert_eq!(next(), Some(("c.example".into(), 2)));
        assert_eq!(next(), Some(("b.example".into(), 1)));
        assert_eq!(next(), None);
        task.leave(SocketAddr::new("::1".parse().unwrap(), 2));
        assert_eq!(task.primaries.len(), 1);
    }

    #[tokio::test]
    async fn all_zones_of_a_primary_get_their_turn() {
        let (shelf, primary) = (Arc::new(Shelf::default()), Fake::default());
        // For all but the last zone the answer is another zone's, and so none.
        *primary.0.zone.lock().unwrap() = zone(1, 50);
        let handle = start(&shelf, &primary);
        for number in 0..40 {
            handle.add(secondary(&format!("z{number}.example")), None).await;
        }
        handle.add(secondary("example.org"), None).await;
        shelf.wait_for("example.org 1 102").await;
    }
}
