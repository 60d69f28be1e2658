//! Every order of events at address pairs that is possible within bounds: whatever else happens, no
//! stream reaches a box that its sender did not mean, and a sender that is alone gets through.
//!
//! The senders are as real ones are: a message goes to the first mail exchanger of its box, maybe
//! once more without TLS, and then to the second one, at any time within what the slowest wait for
//! a connection. One client also does what none should.
#![expect(clippy::unwrap_used, reason = "a test's own helpers")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sealpost_relay::pairs::history::{GUARD, History, Left, Past, WINDOW};
use sealpost_relay::pairs::{PairRoles, Part};
use sealpost_relay::registry::{BoxRecord, Changed, Changes, Snapshot};
use sealpost_relay::route::{NoRoute, RouteKey, Routed, Sni, route};
use sealpost_tunnel::{AddressPair, Identity};

/// Unless `SEALPOST_EVENTS` says otherwise.
const EVENTS: usize = 4;
const CLIENTS: usize = 3;
const BOXES: usize = 3;
/// Does what no mail server does: goes to a second exchanger without having been at the first.
const HOSTILE: usize = 2;
/// Before an event: as real senders do it, and too late. After [`GUARD`] nothing is left of what was,
/// which is where each world begins.
const GAPS: [Duration; 2] =
    [Duration::from_millis(100), WINDOW.saturating_add(Duration::from_secs(1))];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    client: usize,
    r#box: usize,
    /// It may still try without TLS at the first exchanger.
    may_return: bool,
    failed: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A new message fails in TLS at its first exchanger.
    Fails { client: usize, r#box: usize },
    /// A new message is turned away there before TLS, as when the relay is full.
    TurnedAway { client: usize, r#box: usize },
    /// The message tries once more without TLS.
    Returns(usize),
    /// The message comes to its second exchanger.
    Comes(usize),
    /// A client comes to the second exchanger of a box out of nowhere.
    Skips { client: usize, r#box: usize },
}

#[derive(Clone)]
struct World {
    history: History,
    messages: Vec<Message>,
    now: Instant,
    /// When each client did something last.
    last: [Option<Instant>; CLIENTS],
}

struct Model {
    snapshot: Snapshot,
    pairs: [AddressPair; BOXES],
    states: u64,
    delivered: u64,
    refused: u64,
    alone: u64,
}

fn client(index: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 10 + u8::try_from(index).unwrap()])
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

impl Model {
    /// Boxes of which each has one of the pairs, written as the last octets of the addresses.
    fn of(pairs: [(u8, u8); BOXES]) -> Self {
        let pairs =
            pairs.map(|(first, second)| AddressPair { first: ip(first), second: ip(second) });
        let roles =
            PairRoles { first: vec![ip(11), ip(12), ip(13)], second: vec![ip(21), ip(22), ip(23)] };
        let boxes = pairs.iter().zip(1..).map(|(pair, id)| {
            Changed::Active(BoxRecord {
                id,
                name: format!("box{}", id - 1),
                key: Identity::ephemeral().public(),
                mx: vec![],
                domains: vec![],
                addresses: vec![],
                pairs: vec![*pair],
            })
        });
        let changes = Changes { revision: 1, boxes: boxes.collect(), ..Changes::default() };
        let (snapshot, effects) = Snapshot::empty(None, None, roles).after(changes);
        assert!(effects.conflicts.is_empty());
        Self { snapshot, pairs, states: 0, delivered: 0, refused: 0, alone: 0 }
    }

    fn route<'a>(&'a self, local: IpAddr, past: Past) -> Result<Routed<'a>, NoRoute> {
        route(&self.snapshot, &RouteKey { local, sni: Sni::Absent, past })
    }

    /// A client comes to the second exchanger of a box; the box that it is led to.
    fn comes(&self, world: &mut World, sender: usize, r#box: usize) -> Option<String> {
        let (sender, pair) = (client(sender), self.pairs[r#box]);
        let visit = world.history.arrive(sender, pair.second, Part::Second, world.now);
        let past = world.history.past(sender, world.now);
        let led = self.route(pair.second, past).ok().map(|routed| {
            let sealpost_relay::route::By::Pair(pair) = routed.by else {
                panic!("not by its pair")
            };
            (routed.record.name.clone(), pair.first)
        });
        if let Some((_, first)) = &led {
            world.history.spend(sender, *first, world.now);
        }
        let how = if led.is_some() { Left::Served } else { Left::Unnamed };
        world.history.leave(visit.unwrap(), how, world.now);
        led.map(|(name, _)| name)
    }

    /// A client is at the first exchanger of a box.
    fn is_at_first(&self, world: &mut World, sender: usize, r#box: usize, how: Left) {
        let (sender, first) = (client(sender), self.pairs[r#box].first);
        let sent_on = world.history.sends_on(sender, first, world.now);
        let visit = world.history.arrive(sender, first, Part::First, world.now).unwrap();
        // As the relay does it: who is turned away did not greet yet.
        let how = if sent_on && how != Left::Otherwise { Left::SentOn } else { how };
        world.history.leave(visit, how, world.now);
    }

    fn happens(&mut self, world: &mut World, event: Event) {
        let actor = match event {
            Event::Fails { client, .. }
            | Event::TurnedAway { client, .. }
            | Event::Skips { client, .. } => client,
            Event::Returns(index) | Event::Comes(index) => world.messages[index].client,
        };
        world.last[actor] = Some(world.now);
        let failed = world.now;
        match event {
            Event::Fails { client, r#box } => {
                self.is_at_first(world, client, r#box, Left::Unnamed);
                world.messages.push(Message { client, r#box, may_return: true, failed });
            }
            Event::TurnedAway { client, r#box } => {
                self.is_at_first(world, client, r#box, Left::Otherwise);
                world.messages.push(Message { client, r#box, may_return: false, failed });
            }
            Event::Returns(index) => {
                let Message { client, r#box, .. } = world.messages[index];
                self.is_at_first(world, client, r#box, Left::Plain);
                world.messages[index].may_return = false;
            }
            Event::Comes(index) => {
                let Message { client, r#box, .. } = world.messages.remove(index);
                match self.comes(world, client, r#box) {
                    Some(reached) => {
                        assert_eq!(reached, format!("box{box}"), "a stream reached the wrong box");
                        self.delivered += 1;
                    }
                    None => self.refused += 1,
                }
            }
            Event::Skips { client, r#box } => _ = self.comes(world, client, r#box),
        }
    }

    fn possible(&self, world: &World) -> Vec<Event> {
        let mut events = Vec::new();
        // Clients differ in nothing but what they did: the first one that did nothing stands for
        // all of those. The hostile one is different.
        let honest = (0..HOSTILE).take_while(|&c| c == 0 || world.last[c - 1].is_some());
        for client in honest.chain([HOSTILE]) {
            for r#box in 0..BOXES {
                events.push(Event::Fails { client, r#box });
                events.push(match client {
                    HOSTILE => Event::Skips { client, r#box },
                    _ => Event::TurnedAway { client, r#box },
                });
            }
        }
        for (index, message) in world.messages.iter().enumerate() {
            // What the hostile one sends is its own affair.
            if message.client == HOSTILE || world.now.duration_since(message.failed) >= GUARD {
                continue;
            }
            if message.may_return {
                events.push(Event::Returns(index));
            }
            events.push(Event::Comes(index));
        }
        events
    }

    fn explore(&mut self, world: &World, left: usize) {
        self.states += 1;
        if left == 0 {
            return;
        }
        self.expect_way_for_who_is_alone(world);
        for gap in GAPS {
            let mut later = world.clone();
            later.now += gap;
            for event in self.possible(&later) {
                let mut next = later.clone();
                self.happens(&mut next, event);
                self.explore(&next, left - 1);
            }
        }
    }

    /// Whatever others did: who did nothing of late gets through by the second exchanger.
    fn expect_way_for_who_is_alone(&mut self, world: &World) {
        let quiet =
            |last: Option<Instant>| last.is_none_or(|last| world.now.duration_since(last) >= GUARD);
        for client in (0..CLIENTS).filter(|&client| quiet(world.last[client])) {
            for r#box in 0..BOXES {
                for (returns, pause) in [(false, GAPS[0]), (true, WINDOW / 2)] {
                    let mut world = world.clone();
                    self.is_at_first(&mut world, client, r#box, Left::Unnamed);
                    if returns {
                        world.now += GAPS[0];
                        self.is_at_first(&mut world, client, r#box, Left::Plain);
                    }
                    world.now += pause;
                    let reached = self.comes(&mut world, client, r#box);
                    assert_eq!(reached, Some(format!("box{box}")), "a lone sender was refused");
                    self.alone += 1;
                }
            }
        }
    }
}

#[test]
fn no_order_of_events_brings_a_stream_to_a_box_that_its_sender_did_not_mean() {
    let events = std::env::var("SEALPOST_EVENTS").ok().map_or(EVENTS, |n| n.parse().unwrap());
    // Boxes that share first and second addresses in turn, second ones, first ones.
    let worlds = [
        [(11, 21), (12, 21), (11, 22)],
        [(11, 21), (12, 21), (13, 21)],
        [(11, 21), (11, 22), (11, 23)],
    ];
    let mut sum = [0; 4];
    for pairs in worlds {
        let now = Instant::now();
        let mut model = Model::of(pairs);
        let world =
            World { history: History::new(now), messages: vec![], now, last: [None; CLIENTS] };
        model.explore(&world, events);
        let Model { states, delivered, refused, alone, .. } = model;
        for (sum, count) in sum.iter_mut().zip([states, delivered, refused, alone]) {
            *sum += count;
        }
    }
    let [states, delivered, refused, alone] = sum;
    println!(
        "{states} states; {delivered} streams to the box that was meant, {refused} refused; {alone} \
         times a sender alone got through"
    );
    assert!(delivered > 10_000 && refused > 10_000);
}
