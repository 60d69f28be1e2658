//! What clients did at shared addresses in the last minutes, as far as it says whom they may mean
//! when they come to a second address. Pure, bounded, and where it cannot know it says so.
//!
//! A *visit* begins with a connection to a shared address. One that ends without a stream may send
//! its client to the next mail exchanger, so it is kept: for [`WINDOW`] it may lead there, and for
//! [`GUARD`] it stands in the way of any other guess. Each visit leads to at most one stream. For a
//! wrong guess a client would have to skip the first exchanger of a message, within seconds of
//! failing at that of another one.
//!
//! Some senders do not go on by themselves. After a failure in TLS Exim, OpenSMTPD and others try
//! once more without TLS, and hear 451 to MAIL: Exim then goes to the next exchanger, OpenSMTPD
//! waits. A 421 to EHLO makes OpenSMTPD go on; but Exim keeps away from a host that says it, for
//! all messages and for a quarter of an hour. So it is said only to clients that did not go on.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Part;
use crate::prefix::truncate;

/// Within this time a client that failed at a first address comes to the second: Postfix, Exim and
/// Sendmail take a tenth of a second, OpenSMTPD up to 5 s.
pub const WINDOW: Duration = Duration::from_secs(10);
/// So long a client may take to come to the second address, if the connection there was slow to be
/// made; what it did at the first is as long a reason to doubt. Exim waits 5 minutes for it.
pub const GUARD: Duration = Duration::from_secs(5 * 60);
/// How long it is remembered that a client did not go on by itself. OpenSMTPD comes back after 7
/// minutes, half an hour, an hour.
pub const STUCK: Duration = Duration::from_secs(60 * 60 + 10 * 60);
/// Most visits that are kept.
const CAPACITY: usize = 512;
/// Most of one network, so that it cannot push others out.
const PER_NETWORK: usize = 128;
/// Most of one client.
const PER_CLIENT: usize = 32;
/// A network is what one party has for itself as a rule: a /24, and a /48 of IPv6.
const NETWORK_BITS: (u32, u32) = (24, 48);
/// Of networks of which something was forgotten only a hash is kept.
const BLIND_SPOTS: usize = 1024;

/// Recent visits of clients.
#[derive(Clone)]
pub struct History {
    visits: VecDeque<Visit>,
    next: u64,
    began: Instant,
    /// Until when, in seconds since `began`, too little is known of the networks of this hash.
    blind: Vec<u32>,
    hasher: RandomState,
}

/// Names a visit for as long as it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisitId(u64);

#[derive(Clone)]
struct Visit {
    id: VisitId,
    client: IpAddr,
    address: IpAddr,
    part: Part,
    /// When it came to its state.
    at: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The connection is open.
    Open,
    /// It led nowhere, and the client may come to the second address.
    Over(Over),
    /// The client has come there.
    Spent(Over),
    /// The client has not, and tells nothing by this visit but that it does not go on by itself.
    Stuck,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Over {
    /// The client spoke TLS, and named nobody.
    unnamed: bool,
    /// The client has come back to this address after that: some try once more without TLS.
    returned: bool,
    /// The client has gone on to a second address soon after that.
    went_on: bool,
    /// The client is of a kind that must not be sent on.
    stays: bool,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// With a stream, or at least by naming somebody: it does not need a pair.
    Served,
    /// In TLS without a name.
    Unnamed,
    /// It wanted to send mail without TLS.
    Plain,
    /// It was sent on when it greeted, as [`History::sends_on`] said.
    SentOn,
    /// In any other way: turned away, timed out, gone.
    Otherwise,
}

/// What there is to know about a client that comes to a second address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// The shared addresses from which it may come, each once.
    pub came_from: Vec<CameFrom>,
    /// Whether something that it did may have been forgotten.
    pub blind: bool,
}

/// A shared address from which a client may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameFrom {
    /// Which.
    pub address: IpAddr,
    /// Whether it left there within [`WINDOW`].
    pub lately: bool,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(now: Instant) -> Self {
        Self {
            visits: VecDeque::new(),
            next: 0,
            began: now,
            blind: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// `client` has connected to the shared `address`, which plays `part`. `None` when there is no room to keep it;
    /// then nothing is concluded about its network for a while.
    pub fn arrive(
        &mut self,
        client: IpAddr,
        address: IpAddr,
        part: Part,
        now: Instant,
    ) -> Option<VisitId> {
        self.forget(now);
        self.thin_out(client, now);
        let network = network_of(client);
        let of_client = self.visits.iter().filter(|visit| visit.client == client).count();
        let same = |visit: &&Visit| network_of(visit.client) == network;
        let of_network = self.visits.iter().filter(same).count();
        let full = of_client >= PER_CLIENT || of_network >= PER_NETWORK;
        if full || (self.visits.len() >= CAPACITY && !self.make_room(now)) {
            self.be_blind(network, now + GUARD);
            return None;
        }
        if part == Part::Second {
            // Later it would be another attempt, and it may well begin here.
            let lately = |visit: &Visit| now.duration_since(visit.at) < WINDOW;
            for over in self.over_of(client, |visit| visit.address != address && lately(visit)) {
                over.went_on = true;
            }
        }
        let id = VisitId(self.next);
        self.next += 1;
        let state = State::Open;
        self.visits.push_back(Visit { id, client, address, part, at: now, state });
        Some(id)
    }

    /// The visit `id` is over.
    pub fn leave(&mut self, id: VisitId, how: Left, now: Instant) {
        let Ok(index) = self.visits.binary_search_by_key(&id.0, |visit| visit.id.0) else {
            return;
        };
        let Visit { client, address, part, .. } = self.visits[index];
        let ends = match how {
            Left::Served => {
                // Its next visits will name somebody, too, and must not be sent on.
                for over in self.over_of(client, |visit| visit.address == address) {
                    over.stays = true;
                }
                None
            }
            Left::Plain | Left::SentOn if self.returns(client, address, now) => None,
            // Nobody comes from there, and it says nothing of the kind of client.
            Left::Otherwise if part != Part::First => None,
            _ => Some(Over {
                unnamed: matches!(how, Left::Unnamed | Left::SentOn),
                returned: how != Left::Unnamed,
                went_on: false,
                stays: false,
            }),
        };
        match ends {
            Some(over) => {
                self.visits[index].state = State::Over(over);
                self.visits[index].at = now;
            }
            None => _ = self.visits.remove(index),
        }
    }

    /// Whether `client`, which connects to `address`, is to be sent to the next mail exchanger when
    /// it greets: it failed here without a name, came back without TLS, and did not go on.
    pub fn sends_on(&self, client: IpAddr, address: IpAddr, now: Instant) -> bool {
        self.visits.iter().any(|visit| {
            let waits = match visit.state {
                State::Over(over) => over.waits() && now.duration_since(visit.at) >= WINDOW,
                State::Stuck => true,
                State::Open | State::Spent(_) => false,
            };
            waits && visit.client == client && visit.address == address
        })
    }

    /// What there is to know about `client`.
    pub fn past(&self, client: IpAddr, now: Instant) -> Past {
        let mut came_from: Vec<CameFrom> = Vec::new();
        for visit in self.visits.iter().filter(|visit| visit.client == client) {
            let age = now.duration_since(visit.at);
            let lately = match visit.state {
                // It is still there, so it does not come from there; or we have not heard yet.
                State::Open => false,
                State::Over(_) if age < GUARD => age < WINDOW,
                State::Over(_) | State::Spent(_) | State::Stuck => continue,
            };
            let address = visit.address;
            match came_from.iter_mut().find(|from| from.address == address) {
                Some(from) => from.lately |= lately,
                None => came_from.push(CameFrom { address, lately }),
            }
        }
        Past { came_from, blind: self.is_blind(network_of(client), now) }
    }

    /// `client` has been led to a box for its visit to `first`, which counts no more.
    pub fn spend(&mut self, client: IpAddr, first: IpAddr, now: Instant) {
        let visit = self.visits.iter_mut().find(|visit| {
            let fits = visit.client == client && visit.address == first;
            fits && matches!(visit.state, State::Over(_)) && now.duration_since(visit.at) < WINDOW
        });
        if let Some(visit) = visit
            && let State::Over(over) = visit.state
        {
            visit.state = State::Spent(over);
        }
    }

    /// How many visits are kept.
    pub fn len(&self) -> usize {
        self.visits.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.visits.is_empty()
    }

    /// Whether a client that has no TLS here has only come back from the failure of the same
    /// message: then both are one visit, which leads to one stream.
    fn returns(&mut self, client: IpAddr, address: IpAddr, now: Instant) -> bool {
        let earlier = self.visits.iter_mut().find(|visit| {
            let here = visit.client == client && visit.address == address;
            let lately = now.duration_since(visit.at) < WINDOW;
            let failed = visit.state.over().is_some_and(|over| over.unnamed && !over.returned);
            here && lately && failed
        });
        let Some(visit) = earlier else { return false };
        visit.at = now;
        if let Some(over) = visit.state.over_mut() {
            over.returned = true;
        }
        true
    }

    fn over_of(
        &mut self,
        client: IpAddr,
        which: impl Fn(&Visit) -> bool,
    ) -> impl Iterator<Item = &mut Over> {
        let of_client = move |visit: &&mut Visit| visit.client == client && which(visit);
        self.visits.iter_mut().filter(of_client).filter_map(|visit| visit.state.over_mut())
    }

    /// Removes what no longer says anything: the relay keeps no list of who wrote.
    fn forget(&mut self, now: Instant) {
        self.visits.retain_mut(|visit| {
            let age = now.duration_since(visit.at);
            match visit.state {
                State::Open => true,
                State::Over(over) if age >= GUARD && over.waits() => {
                    visit.state = State::Stuck;
                    age < STUCK
                }
                State::Over(_) => age < GUARD,
                State::Spent(_) => age < WINDOW,
                State::Stuck => age < STUCK,
            }
        });
    }

    /// Of visits of `client` to one address that are only reasons to doubt the newest says all, so
    /// that a client which fails often is not one that does too much.
    fn thin_out(&mut self, client: IpAddr, now: Instant) {
        let mut newer: Vec<(IpAddr, bool)> = Vec::new();
        for index in (0..self.visits.len()).rev() {
            let visit = &self.visits[index];
            let State::Over(over) = visit.state else { continue };
            if visit.client != client {
                continue;
            }
            let said = newer.contains(&(visit.address, over.waits()));
            if said && now.duration_since(visit.at) >= WINDOW {
                self.visits.remove(index);
            } else if !said {
                newer.push((visit.address, over.waits()));
            }
        }
    }

    /// Removes the oldest visit that is over, and remembers of it that it is missing.
    fn make_room(&mut self, now: Instant) -> bool {
        let oldest = self.visits.iter().position(|visit| visit.state != State::Open);
        let Some(gone) = oldest.and_then(|index| self.visits.remove(index)) else {
            return false;
        };
        if matches!(gone.state, State::Over(_)) {
            self.be_blind(network_of(gone.client), (gone.at + GUARD).max(now));
        }
        true
    }

    fn be_blind(&mut self, network: IpAddr, until: Instant) {
        self.blind.resize(BLIND_SPOTS, 0);
        let seconds = until.saturating_duration_since(self.began).as_secs() + 1;
        let spot = self.spot(network);
        self.blind[spot] = self.blind[spot].max(u32::try_from(seconds).unwrap_or(u32::MAX));
    }

    fn is_blind(&self, network: IpAddr, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        let until = self.blind.get(self.spot(network)).copied().unwrap_or_default();
        seconds < u64::from(until)
    }

    fn spot(&self, network: IpAddr) -> usize {
        (self.hasher.hash_one(network) % BLIND_SPOTS as u64) as usize
    }
}

impl State {
    fn over(&self) -> Option<&Over> {
        match self {
            Self::Over(over) | Self::Spent(over) => Some(over),
            Self::Open | Self::Stuck => None,
        }
    }

    fn over_mut(&mut self) -> Option<&mut Over> {
        match self {
            Self::Over(over) | Self::Spent(over) => Some(over),
            Self::Open | Self::Stuck => None,
        }
    }
}

impl Over {
    /// Whether the client did what those do that do not go on by themselves.
    fn waits(self) -> bool {
        self.unnamed && self.returned && !self.went_on && !self.stays
    }
}

/// The network that `client` is counted with.
pub fn network_of(client: IpAddr) -> IpAddr {
    truncate(client, NETWORK_BITS.0, NETWORK_BITS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const CLIENT: [u8; 4] = [198, 51, 100, 1];

    fn first() -> IpAddr {
        ip("192.0.2.1")
    }

    /// A client that arrives and ends its visit at once.
    fn visit(history: &mut History, client: IpAddr, address: IpAddr, how: Left, now: Instant) {
        let part = if address == first() { Part::First } else { Part::Second };
        if let Some(id) = history.arrive(client, address, part, now) {
            history.leave(id, how, now);
        }
    }

    #[test]
    fn a_failure_leads_to_one_stream_within_its_window() {
        let now = Instant::now();
        let mut history = History::new(now);
        let client = IpAddr::from(CLIENT);
        visit(&mut history, client, first(), Left::Unnamed, now);
        let lately = |history: &History, after| {
            let past = history.past(client, now + after);
            past.came_from.first().map(|from| from.lately)
        };
        assert_eq!(lately(&history, WINDOW / 2), Some(true));
        assert_eq!(lately(&history, WINDOW), Some(false), "a reason to doubt");
        assert_eq!(lately(&history, GUARD), None);
        history.spend(client, first(), now);
        assert_eq!(lately(&history, Duration::ZERO), None);
    }

    #[test]
    fn a_second_attempt_at_the_same_address_is_the_same_visit() {
        let now = Instant::now();
        let mut history = History::new(now);
        let client = IpAddr::from(CLIENT);
        visit(&mut history, client, first(), Left::Unnamed, now);
        visit(&mut history, client, first(), Left::Plain, now);
        assert_eq!(history.len(), 1);
        // The next one is of another message.
        visit(&mut history, client, first(), Left::Unnamed, now);
        assert_eq!(history.len(), 2);
        history.spend(client, first(), now);
        history.spend(client, first(), now);
        assert!(history.past(client, now).came_from.is_empty());
        visit(&mut history, client, first(), Left::Plain, now);
        assert!(history.past(client, now).came_from.is_empty(), "it came back a little later");
    }

    #[test]
    fn only_who_does_not_go_on_by_itself_is_sent_on() {
        let now = Instant::now();
        let mut history = History::new(now);
        let (waits, goes) = (IpAddr::from(CLIENT), ip("198.51.100.2"));
        for client in [waits, goes] {
            visit(&mut history, client, first(), Left::Unnamed, now);
            visit(&mut history, client, first(), Left::Plain, now);
            assert!(!history.sends_on(client, first(), now + WINDOW / 2));
        }
        let second = ip("192.0.2.2");
        visit(&mut history, goes, second, Left::Served, now);
        let later = now + GUARD * 2;
        for after in [now + WINDOW, later] {
            history.forget(after);
            assert!(history.sends_on(waits, first(), after));
            assert!(!history.sends_on(goes, first(), after));
            assert!(!history.sends_on(waits, second, after));
        }
        visit(&mut history, waits, first(), Left::SentOn, later);
        assert!(history.past(waits, later).came_from[0].lately);
        history.spend(waits, first(), later);
        assert!(history.sends_on(waits, first(), later), "the next message, too");
        // Another attempt may begin at the second exchanger, and being sent on is not going on.
        visit(&mut history, waits, second, Left::Unnamed, later);
        assert!(history.sends_on(waits, first(), later + WINDOW));
        history.forget(now + STUCK);
        assert!(history.is_empty());
    }

    #[test]
    fn who_named_somebody_is_not_sent_on() {
        let now = Instant::now();
        let mut history = History::new(now);
        let client = IpAddr::from(CLIENT);
        visit(&mut history, client, first(), Left::Unnamed, now);
        visit(&mut history, client, first(), Left::Plain, now);
        visit(&mut history, client, first(), Left::Served, now);
        assert!(!history.sends_on(client, first(), now + WINDOW));
        assert_eq!(history.past(client, now).came_from.len(), 1, "and is remembered");
    }

    #[test]
    fn an_open_visit_is_a_reason_to_doubt_and_leads_nowhere() {
        let now = Instant::now();
        let mut history = History::new(now);
        let client = IpAddr::from(CLIENT);
        history.arrive(client, first(), Part::First, now).unwrap();
        let open = CameFrom { address: first(), lately: false };
        assert_eq!(history.past(client, now + GUARD * 2).came_from, [open]);
    }

    #[test]
    fn a_client_that_fails_often_is_still_led() {
        let now = Instant::now();
        let mut history = History::new(now);
        let client = IpAddr::from(CLIENT);
        let second = ip("192.0.2.2");
        // As while the relay is full, every 5 s for 10 minutes.
        let mut later = now;
        for _ in 0..120 {
            later += WINDOW / 2;
            visit(&mut history, client, first(), Left::Otherwise, later);
            visit(&mut history, client, second, Left::Otherwise, later);
            visit(&mut history, client, second, Left::Unnamed, later);
        }
        assert!(history.len() < 10, "{} visits", history.len());
        let past = history.past(client, later);
        let lately = |from: &CameFrom| from.address == first() && from.lately;
        assert!(!past.blind && past.came_from.iter().any(lately));
    }

    #[test]
    fn a_client_that_does_too_much_is_not_concluded_about_and_others_are() {
        let now = Instant::now();
        let mut history = History::new(now);
        let (client, other) = (IpAddr::from(CLIENT), ip("203.0.113.1"));
        visit(&mut history, other, first(), Left::Unnamed, now);
        for _ in 0..=PER_CLIENT {
            visit(&mut history, client, first(), Left::Unnamed, now);
        }
        assert!(history.past(client, now).blind);
        assert!(history.past(client, now + GUARD).blind);
        assert!(!history.past(client, now + GUARD * 2).blind);
        let past = history.past(other, now);
        // One of 1024 networks has the spot of another.
        assert!(past.came_from[0].lately);
    }

    #[test]
    fn a_network_fills_its_own_share_alone() {
        let now = Instant::now();
        let mut history = History::new(now);
        let victim = ip("203.0.113.1");
        visit(&mut history, victim, first(), Left::Unnamed, now);
        for host in 0..u16::MAX {
            let [high, low] = host.to_be_bytes();
            let client = ip(&format!("2001:db8:66:{high:x}::{low:x}"));
            visit(&mut history, client, first(), Left::Unnamed, now);
        }
        assert_eq!(history.len(), PER_NETWORK + 1);
        assert!(history.past(victim, now).came_from[0].lately);
    }

    #[test]
    fn what_is_pushed_out_leaves_doubt_behind() {
        let now = Instant::now();
        let mut history = History::new(now);
        let victim = ip("203.0.113.1");
        visit(&mut history, victim, first(), Left::Unnamed, now);
        for net in 0..u32::try_from(CAPACITY).unwrap() {
            let client = IpAddr::from((net << 8).to_be_bytes());
            visit(&mut history, client, first(), Left::Unnamed, now);
        }
        assert_eq!(history.len(), CAPACITY);
        let past = history.past(victim, now);
        assert!(past.came_from.is_empty() && past.blind);
    }
}
