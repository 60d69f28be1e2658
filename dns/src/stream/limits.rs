//! Who may have how many connections, and who makes room when all places are taken: the one that has
//! kept us waiting longest. Whoever wants to keep others out must so keep asking on all places.
//!
//! Every event costs a time that grows with the logarithm of the connections.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::prefix::Prefix;

/// The places for connections.
pub(super) struct Limits {
    places: usize,
    per_prefix: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: HashMap<u64, Member>,
    prefixes: HashMap<Prefix, usize>,
    /// Those that wait for their clients, by turn: who has waited longest is first.
    waiting: BTreeMap<u64, u64>,
    next: u64,
}

struct Member {
    prefix: Prefix,
    /// Its place among those that wait, if it is held by nothing.
    turn: u64,
    /// What it is busy with.
    holds: usize,
    leave: Arc<Notify>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The client's network has all that it may have.
    Prefix,
    /// All are taken and busy.
    Places,
}

/// A place; free when dropped.
pub(super) struct Permit {
    limits: Arc<Limits>,
    number: u64,
    leave: Arc<Notify>,
}

/// While this lives, the place cannot be taken away.
pub(super) struct Hold<'a>(&'a Permit);

impl Limits {
    pub(super) fn new(places: usize, per_prefix: usize) -> Self {
        Self { places, per_prefix, state: Mutex::default() }
    }

    /// A place for a connection of `client`, which begins by waiting. The flag says whether another
    /// connection has to go for it.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<(Permit, bool), Full> {
        let prefix = Prefix::of(client);
        let mut state = self.lock();
        if state.prefixes.get(&prefix).is_some_and(|&open| open >= self.per_prefix) {
            return Err(Full::Prefix);
        }
        let full = state.members.len() >= self.places;
        if full && !state.evict() {
            return Err(Full::Places);
        }
        let number = state.turn();
        let leave = Arc::new(Notify::new());
        let member = Member { prefix, turn: number, holds: 0, leave: leave.clone() };
        state.members.insert(number, member);
        state.waiting.insert(number, number);
        *state.prefixes.entry(prefix).or_default() += 1;
        Ok((Permit { limits: self.clone(), number, leave }, full))
    }

    /// Connections that have a place.
    pub(super) fn open(&self) -> usize {
        self.lock().members.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes the place of whoever has waited longest; whether there was one.
    fn evict(&mut self) -> bool {
        let Some((_, number)) = self.waiting.pop_first() else {
            return false;
        };
        if let Some(member) = self.remove(number) {
            member.leave.notify_one();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Member> {
        let member = self.members.remove(&number)?;
        self.waiting.remove(&member.turn);
        if let Entry::Occupied(mut open) = self.prefixes.entry(member.prefix) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        Some(member)
    }
}

impl Permit {
    /// Resolves when the connection has to make room; never, if it need not.
    pub(super) async fn evicted(&self) {
        self.leave.notified().await;
    }

    /// Keeps the place while there is something to do; `None` when it is lost already. Afterwards the
    /// connection is the one that has waited least.
    pub(super) fn hold(&self) -> Option<Hold<'_>> {
        let mut state = self.limits.lock();
        let member = state.members.get_mut(&self.number)?;
        member.holds += 1;
        let turn = member.turn;
        state.waiting.remove(&turn);
        Some(Hold(self))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.limits.lock();
        let turn = state.turn();
        // It is there: what is held is not taken.
        if let Some(member) = state.members.get_mut(&self.0.number) {
            member.holds -= 1;
            member.turn = turn;
            if member.holds == 0 {
                state.waiting.insert(turn, self.0.number);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::{Duration, timeout};

    fn of(network: u8) -> IpAddr {
        IpAddr::from([192, 0, network, 1])
    }

    async fn is_evicted(permit: &Permit) -> bool {
        timeout(Duration::from_millis(1), permit.evicted()).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_waited_longest_goes() {
        let limits = Arc::new(Limits::new(3, 3));
        let permits: Vec<_> = (0..3).map(|net| limits.admit(of(net)).unwrap().0).collect();
        // The first has asked something since.
        drop(permits[0].hold().unwrap());
        let (_fourth, evicts) = limits.admit(of(3)).unwrap();
        assert!(evicts && is_evicted(&permits[1]).await);
        assert!(!is_evicted(&permits[0]).await && !is_evicted(&permits[2]).await);
        assert!(permits[1].hold().is_none());
        assert_eq!(limits.open(), 3);
        drop(permits);
        assert_eq!(limits.open(), 1);
    }

    #[test]
    fn who_is_busy_keeps_its_place_and_a_network_its_bounds() {
        let limits = Arc::new(Limits::new(3, 2));
        let (first, _) = limits.admit(of(1)).unwrap();
        let (second, _) = limits.admit(of(1)).unwrap();
        assert_eq!(limits.admit(of(1)).err(), Some(Full::Prefix));
        let (third, _) = limits.admit(of(2)).unwrap();
        let held = (first.hold(), first.hold(), second.hold(), third.hold());
        assert_eq!(limits.admit(of(3)).err(), Some(Full::Places));
        drop(held.0);
        assert_eq!(limits.admit(of(3)).err(), Some(Full::Places));
        drop(held.1);
        assert!(limits.admit(of(3)).is_ok());
    }

    proptest! {
        #[test]
        fn places_are_counted_right(
            events in proptest::collection::vec((0u8..4, 0u8..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let limits = Arc::new(Limits::new(5, 3));
            let mut permits: Vec<Permit> = Vec::new();
            for (event, network, at) in events {
                match event {
                    0 | 1 => permits.extend(limits.admit(of(network)).ok().map(|(permit, _)| permit)),
                    2 if !permits.is_empty() => drop(permits.swap_remove(at.index(permits.len()))),
                    3 if !permits.is_empty() => drop(permits[at.index(permits.len())].hold()),
                    _ => {}
                }
                let state = limits.lock();
                prop_assert!(state.members.len() <= 5);
                prop_assert_eq!(state.waiting.len(), state.members.len());
                prop_assert!(state.prefixes.values().all(|&open| (1..=3).contains(&open)));
                prop_assert_eq!(state.prefixes.values().sum::<usize>(), state.members.len());
            }
            drop(permits);
            let state = limits.lock();
            prop_assert!(state.members.is_empty() && state.prefixes.is_empty());
            prop_assert!(state.waiting.is_empty());
        }
    }
}
