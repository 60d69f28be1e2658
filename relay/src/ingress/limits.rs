//! Who may have how many connections, counted before anything is read from them; and who makes
//! room when all places are taken.
//!
//! A connection is *fresh* until its ClientHello led to a box: that far it cost its peer next to
//! nothing, and to cut it loses nothing, as the sender still has its message. So a newcomer takes
//! the place of the oldest fresh one. Whoever wants to keep senders out must then open as many
//! connections as there are places within the time that a sender needs (some tenths of a second),
//! rather than once a minute. A connection that is no longer fresh keeps its place to its end.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::outcome::Outcome;
use super::patience::patience;
use crate::prefix::truncate;

/// Bits of an IPv6 address that one network has for itself; within it addresses are free.
const IPV6_PREFIX: u32 = 64;
/// Bits of an IPv4 address that count as one neighbourhood.
const IPV4_PREFIX: u32 = 24;
/// What a fresh connection had if it lived so long: most senders are done by then. While the
/// oldest is younger, the places go round faster than senders can use them, and the network with
/// the most fresh connections pays.
const CHANCE: Duration = Duration::from_secs(1);
/// Most fresh connections that one newcomer ends because their time is over. More than one, so
/// that they become fewer.
const OVERDUE_AT_ONCE: usize = 2;

/// What the limits are when a connection comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections in all.
    pub(crate) places: usize,
    /// Connections of one network.
    pub(crate) per_prefix: usize,
    /// How long a connection may be fresh while there are places.
    pub(crate) patience: Duration,
}

/// How many connections are open, in all and by network, and which of them are fresh. Every event
/// costs a time that grows with the logarithm of their number, whoever they are.
#[derive(Default)]
pub(crate) struct Limits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: usize,
    /// Of these, those that were told to make room and are about to end.
    leaving: usize,
    networks: HashMap<IpAddr, Network>,
    /// By number, and so the oldest first.
    fresh: BTreeMap<u64, Fresh>,
    /// The networks with fresh connections, those with the most last; among equals the one with
    /// the oldest.
    crowds: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    next: u64,
    /// When a newcomer last found all places taken.
    full: Option<Instant>,
}

#[derive(Default)]
struct Network {
    open: usize,
    fresh: BTreeSet<u64>,
}

struct Fresh {
    network: IpAddr,
    since: Instant,
    leave: oneshot::Sender<()>,
}

/// One connection that was let in; ends when dropped.
pub(crate) struct Permit {
    limits: Arc<Limits>,
    network: IpAddr,
    number: u64,
    settled: bool,
}

/// Tells a connection that it has to make room.
pub(crate) struct Evicted(Option<oneshot::Receiver<()>>);

impl Limits {
    /// Lets a connection from `client` in, or says which limit is reached. Others may have to go
    /// for it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        client: IpAddr,
        bounds: Bounds,
        now: Instant,
    ) -> Result<(Permit, Evicted), Outcome> {
        let network = prefix_of(client);
        let mut state = self.lock();
        if state.networks.get(&network).map_or(0, |known| known.open) >= bounds.per_prefix {
            return Err(Outcome::BusyPrefix);
        }
        if state.taken() >= bounds.places {
            state.full = Some(now);
            if !state.make_room(network, now) {
                return Err(Outcome::Busy);
            }
        }
        let (leave, evicted) = oneshot::channel();
        let number = state.enter(network, Fresh { network, since: now, leave });
        let patience = patience(state.taken(), bounds.places, bounds.patience);
        for _ in 0..OVERDUE_AT_ONCE {
            state.end_overdue(patience, now);
        }
        let permit = Permit { limits: self.clone(), network, number, settled: false };
        Ok((permit, Evicted(Some(evicted))))
    }

    /// Ends the oldest fresh connection; whether there was one. For a system that has no room.
    pub(crate) fn evict_oldest(&self) -> bool {
        let mut state = self.lock();
        let oldest = state.oldest().map(|(number, _)| number);
        oldest.is_some_and(|number| state.evict(number))
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    /// When a newcomer last found all places taken.
    pub(crate) fn full(&self) -> Option<Instant> {
        self.lock().full
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Places that are taken; those who leave have given theirs to others.
    fn taken(&self) -> usize {
        self.open - self.leaving
    }

    fn oldest(&self) -> Option<(u64, Instant)> {
        self.fresh.first_key_value().map(|(&number, fresh)| (number, fresh.since))
    }

    /// Ends a fresh connection, so that one from `network` has a place. Not if `network` itself
    /// is the one to pay: to turn a newcomer away is cheaper than to end another for it.
    fn make_room(&mut self, network: IpAddr, now: Instant) -> bool {
        let Some((oldest, since)) = self.oldest() else {
            return false;
        };
        if now.saturating_duration_since(since) >= CHANCE {
            return self.evict(oldest);
        }
        let Some(&(most, Reverse(number), _)) = self.crowds.last() else {
            return false;
        };
        let own = self.networks.get(&network).map_or(0, |known| known.fresh.len());
        own < most && self.evict(number)
    }

    fn end_overdue(&mut self, patience: Duration, now: Instant) {
        if let Some((oldest, since)) = self.oldest()
            && now.saturating_duration_since(since) > patience
        {
            self.evict(oldest);
        }
    }

    fn enter(&mut self, network: IpAddr, fresh: Fresh) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open += 1;
        self.networks.entry(network).or_default().open += 1;
        self.change(network, |of| of.insert(number));
        self.fresh.insert(number, fresh);
        number
    }

    /// Tells the fresh connection `number` to make room; whether it was still fresh.
    fn evict(&mut self, number: u64) -> bool {
        let Some(fresh) = self.settle(number) else {
            return false;
        };
        self.leaving += 1;
        // Fails when its task has ended, and then it has left already.
        let _ = fresh.leave.send(());
        true
    }

    /// The connection `number` is no longer fresh; nothing if it was not.
    fn settle(&mut self, number: u64) -> Option<Fresh> {
        let Entry::Occupied(entry) = self.fresh.entry(number) else {
            return None;
        };
        let fresh = entry.remove();
        self.change(fresh.network, |of| of.remove(&number));
        Some(fresh)
    }

    /// Changes which connections of `network` are fresh, and so its place among the crowds.
    fn change(&mut self, network: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let Some(known) = self.networks.get_mut(&network) else {
            return;
        };
        let key =
            |of: &BTreeSet<u64>| of.first().map(|&oldest| (of.len(), Reverse(oldest), network));
        let before = key(&known.fresh);
        change(&mut known.fresh);
        let after = key(&known.fresh);
        if let Some(before) = before {
            self.crowds.remove(&before);
        }
        self.crowds.extend(after);
    }

    fn leave(&mut self, permit: &Permit) {
        if !permit.settled && self.settle(permit.number).is_none() {
            self.leaving -= 1;
        }
        self.open -= 1;
        if let Some(known) = self.networks.get_mut(&permit.network) {
            known.open -= 1;
            if known.open == 0 {
                self.networks.remove(&permit.network);
            }
        }
    }
}

impl Permit {
    /// From now on the connection keeps its place to its end, unless it has been told to make room
    /// already.
    pub(crate) fn settle(&mut self) {
        if !self.settled {
            self.settled = self.limits.lock().settle(self.number).is_some();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.lock().leave(self);
    }
}

impl Evicted {
    /// Resolves once, when the connection has to make room; never when it need not.
    pub(crate) async fn happened(&mut self) {
        if let Some(told) = &mut self.0 {
            let told = told.await;
            self.0 = None;
            if told.is_ok() {
                return;
            }
        }
        pending().await
    }
}

/// The network that `client` is counted with.
pub(crate) fn prefix_of(client: IpAddr) -> IpAddr {
    truncate(client, IPV4_PREFIX, IPV6_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The address `host` in one of many networks.
    fn of(network: u8, host: u8) -> IpAddr {
        IpAddr::from([198, 51, network, host])
    }

    struct Held {
        permit: Permit,
        evicted: oneshot::Receiver<()>,
    }

    impl Held {
        fn is_evicted(&mut self) -> bool {
            self.evicted.try_recv().is_ok()
        }
    }

    struct Door {
        limits: Arc<Limits>,
        bounds: Bounds,
        now: Instant,
    }

    impl Door {
        fn new(places: usize, per_prefix: usize) -> Self {
            let bounds = Bounds { places, per_prefix, patience: Duration::from_secs(70) };
            Self { limits: Arc::default(), bounds, now: Instant::now() }
        }

        fn admit(&self, client: IpAddr) -> Result<Held, Outcome> {
            let admitted = self.limits.admit(client, self.bounds, self.now);
            admitted.map(|(permit, evicted)| Held { permit, evicted: evicted.0.unwrap() })
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn a_network_is_counted_as_one_and_its_places_come_back() {
        let door = Door::new(3, 2);
        let mut first = door.admit(ip("2001:db8::1")).unwrap();
        let mut second = door.admit(ip("2001:db8::2")).unwrap();
        assert_eq!(door.admit(ip("2001:db8::3")).err(), Some(Outcome::BusyPrefix));
        let mut other = door.admit(ip("192.0.2.1")).unwrap();
        for held in [&mut first, &mut second, &mut other] {
            held.permit.settle();
        }
        assert_eq!(door.admit(ip("198.51.100.1")).err(), Some(Outcome::Busy));
        drop(first);
        assert!(door.admit(ip("2001:db8::3")).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_clients_that_left() {
        let door = Door::new(10, 10);
        for last in 0..=255 {
            drop(door.admit(ip(&format!("192.0.{last}.1"))));
        }
        // A refusal leaves nothing behind either.
        let closed = Door { limits: door.limits.clone(), ..Door::new(10, 0) };
        assert!(closed.admit(ip("192.0.2.1")).is_err());
        let state = door.limits.lock();
        assert_eq!((state.open, state.leaving), (0, 0));
        assert!(state.networks.is_empty() && state.fresh.is_empty() && state.crowds.is_empty());
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_that_had_its_chance() {
        let mut door = Door::new(3, 10);
        let mut held: Vec<_> = (0..3).map(|at| door.admit(of(at, 1)).unwrap()).collect();
        held[0].permit.settle();
        door.pass(CHANCE);
        let _fourth = door.admit(of(3, 1)).unwrap();
        let evicted: Vec<_> = held.iter_mut().map(Held::is_evicted).collect();
        assert_eq!(evicted, [false, true, false]);
        // Its place is taken, although it is not gone yet.
        assert_eq!((door.limits.open(), door.limits.lock().taken()), (4, 3));
        // Too late to settle.
        held[1].permit.settle();
        held.remove(1);
        assert_eq!((door.limits.open(), door.limits.lock().taken()), (3, 3));
        assert_eq!(door.limits.full(), Some(door.now));
    }

    #[test]
    fn when_places_go_round_too_fast_the_crowd_pays() {
        let door = Door::new(6, 10);
        let mut lone = door.admit(of(0, 1)).unwrap();
        let mut crowd: Vec<_> = (0..5).map(|at| door.admit(of(1, at)).unwrap()).collect();
        let mut held: Vec<_> = (0..2).map(|at| door.admit(of(2, at)).unwrap()).collect();
        assert!(!lone.is_evicted());
        let evicted: Vec<_> = crowd.iter_mut().map(Held::is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        // The crowd gets no further place, others do.
        assert_eq!(door.admit(of(1, 9)).err(), Some(Outcome::Busy));
        held.push(door.admit(of(3, 1)).unwrap());
        assert!(!lone.is_evicted() && !held.iter_mut().any(Held::is_evicted));
    }

    #[test]
    fn a_flood_from_everywhere_takes_the_oldest() {
        let door = Door::new(3, 10);
        let mut held: Vec<_> = (0..5).map(|at| door.admit(of(at, 1)).unwrap()).collect();
        let evicted: Vec<_> = held.iter_mut().map(Held::is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
    }

    #[test]
    fn when_places_run_out_those_who_had_their_time_go_before_all_are_taken() {
        let mut door = Door::new(10, 10);
        let mut old: Vec<_> = (0..5).map(|at| door.admit(of(at, 1)).unwrap()).collect();
        door.pass(Duration::from_secs(60));
        let _sixth = door.admit(of(6, 1)).unwrap();
        // 57 s are left of 70 s when one of the last five places is taken.
        let evicted: Vec<_> = old.iter_mut().map(Held::is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        assert_eq!(door.limits.full(), None);
    }

    #[tokio::test]
    async fn a_connection_hears_once_that_it_must_leave_and_never_when_it_settled() {
        let limits = Arc::new(Limits::default());
        let door = Door::new(10, 10);
        let (_permit, mut evicted) = limits.admit(of(0, 1), door.bounds, door.now).unwrap();
        let (mut settled, mut never) = limits.admit(of(1, 1), door.bounds, door.now).unwrap();
        settled.settle();
        assert!(limits.evict_oldest());
        assert!(!limits.evict_oldest());
        evicted.happened().await;
        for quiet in [&mut evicted, &mut never] {
            for _ in 0..2 {
                let waited = tokio::time::timeout(Duration::from_millis(1), quiet.happened());
                assert!(waited.await.is_err());
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Event {
        Admit(u8),
        Settle(prop::sample::Index),
        End(prop::sample::Index),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0u8..6).prop_map(Event::Admit),
            1 => any::<prop::sample::Index>().prop_map(Event::Settle),
            1 => any::<prop::sample::Index>().prop_map(Event::End),
            1 => (0u64..20_000).prop_map(Event::Pass),
        ]
    }

    proptest! {
        /// Against the same rules over a plain list.
        #[test]
        fn places_are_never_more_than_there_are_and_the_settled_keep_theirs(
            events in proptest::collection::vec(event(), 0..120),
            places in 1usize..12,
            per_prefix in 1usize..6,
        ) {
            let mut door = Door::new(places, per_prefix);
            // Network, whether fresh, and the connection.
            let mut held: Vec<(u8, bool, Held)> = Vec::new();
            for event in events {
                match event {
                    Event::Admit(network) => {
                        let own = held.iter().filter(|one| one.0 == network).count();
                        let full = held.len() == places;
                        let fresh = held.iter().filter(|one| one.1).count();
                        match door.admit(of(network, 1)) {
                            Ok(one) => {
                                prop_assert!(own < per_prefix && (!full || fresh > 0));
                                held.push((network, true, one));
                            }
                            Err(Outcome::BusyPrefix) => prop_assert_eq!(own, per_prefix),
                            Err(_) => prop_assert!(full),
                        }
                        let mut gone = 0;
                        held.retain_mut(|one| {
                            let evicted = one.2.is_evicted();
                            assert!(!evicted || one.1, "a settled connection was evicted");
                            gone += usize::from(evicted);
                            !evicted
                        });
                        prop_assert!(gone <= 1 + OVERDUE_AT_ONCE);
                    }
                    Event::Settle(at) if !held.is_empty() => {
                        let one = at.index(held.len());
                        held[one].1 = false;
                        held[one].2.permit.settle();
                    }
                    Event::End(at) if !held.is_empty() => _ = held.remove(at.index(held.len())),
                    Event::Pass(time) => door.pass(Duration::from_millis(time)),
                    _ => {}
                }
                let state = door.limits.lock();
                prop_assert!(state.taken() <= places);
                prop_assert_eq!((state.open, state.leaving), (held.len(), 0));
                prop_assert_eq!(state.fresh.len(), held.iter().filter(|one| one.1).count());
                let crowded: usize = state.crowds.iter().map(|crowd| crowd.0).sum();
                prop_assert_eq!(crowded, state.fresh.len());
            }
            held.clear();
            let state = door.limits.lock();
            prop_assert!(state.networks.is_empty() && state.crowds.is_empty());
        }
    }
}
