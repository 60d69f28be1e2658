//! Changes of a zone's keys from beginning to end, before a real validator (hickory's) whose caches are
//! as old as may be.
//!
//! The clock, the name servers and the caches are a model; what makes the zone, what decides each step
//! and what is on disk in between is the agent's own, and so are the signatures. A name server follows
//! late, a cache keeps each set of records for up to its TTL and for its own time, and whatever it has
//! must lead from the parent's DS to the records at every moment.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::Rtype;
use domain::base::{ToName, Ttl};
use domain::rdata::Ds;
use hickory_resolver::net::NetError;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::{RuntimeProvider, Time, TokioRuntimeProvider, TokioTime};
use hickory_resolver::net::xfer::{DnsHandle, DnsResponseStream, FirstAnswer};
use hickory_resolver::proto::dnssec::{Algorithm, Proof, PublicKeyBuf, TrustAnchors};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Message, OpCode, Query,
};
use hickory_resolver::proto::rr::{Name as OtherName, Record as OtherRecord, RecordType};
use hickory_resolver::proto::serialize::binary::BinDecodable;
use proptest::prelude::*;
use sealpost_agent::config::zone::KeyLayout;
use sealpost_agent::publish::roll::Seen;
use sealpost_agent::publish::store::Store;
use sealpost_agent::publish::zone_key_roll::version;
use sealpost_agent::zone::plan::Host;
use sealpost_agent::zone::zone_key::{PublicKey, Role};
use sealpost_agent::zone::{Keys, Plan, Policy, Signed, ZoneKey, build, included};
use sealpost_dns::record::{Data, Name, Record};

const NOW: u64 = 1_790_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The longest TTL that an owner may write.
const LONGEST: u64 = 7 * DAY;
const LIST: u64 = HOUR;
const ZONE: &str = "a.example.";
const PARENT: &str = "example.";
/// What is looked up.
const ASKED: [(&str, RecordType); 2] =
    [("long.a.example.", RecordType::TXT), ("www.a.example.", RecordType::A)];

thread_local! {
    /// The time that the validator believes.
    static TIME: Cell<u64> = const { Cell::new(NOW) };
}

/// Versions of a zone: since when the first name server has each, and since when all have it.
#[derive(Default)]
struct Versions(Vec<(u64, u64, Arc<Vec<Record>>)>);

impl Versions {
    /// What a name server answers from: one of the first, or one of the last to follow.
    fn at(&self, time: u64, late: bool) -> &Arc<Vec<Record>> {
        let has = |(first, all, _): &&(u64, u64, _)| time >= if late { *all } else { *first };
        let found = self.0.iter().rev().find(has).unwrap_or(&self.0[0]);
        &found.2
    }
}

/// A box, its name servers, and its parent zone.
struct World {
    _directory: tempfile::TempDir,
    store: Store,
    apex: Name,
    plan: Plan,
    last: Option<Signed>,
    made_at: u64,
    zones: Versions,
    parents: Versions,
    parent_key: String,
    anchors: Arc<TrustAnchors>,
    /// How long the last name server takes to follow, of zone and parent.
    spread: u64,
    ds_ttl: u64,
    /// The longest TTL in the zone.
    longest: u64,
}

impl World {
    fn new(layout: KeyLayout, spread: u64, ds_ttl: u64, longest: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), &"a.example".parse().unwrap());
        store.keys(layout).unwrap();
        let apex: Name = ZONE.parse().unwrap();
        let mut plan = Plan::new(apex.clone());
        plan.name_servers.push(server());
        let own = format!("long {longest} TXT x\nwww 300 A 192.0.2.1\n");
        plan.own = included::parse(own.as_bytes(), Path::new("own"), &apex).unwrap();
        let parent_key = ZoneKey::generate(Role::Entry).unwrap();
        let mut anchors = TrustAnchors::empty();
        let public = parent_key.public().dnskey().public_key().to_vec();
        let public = PublicKeyBuf::new(public, Algorithm::ECDSAP256SHA256);
        anchors.insert_with_name(&public, OtherName::from_ascii(PARENT).unwrap().into());
        let mut world = Self {
            _directory: directory,
            store,
            apex,
            plan,
            last: None,
            made_at: 0,
            zones: Versions::default(),
            parents: Versions::default(),
            parent_key: parent_key.to_text().unwrap(),
            anchors: Arc::new(anchors),
            spread,
            ds_ttl,
            longest,
        };
        world.make(NOW);
        world.delegate(world.asked_of_parent(NOW), NOW);
        world
    }

    fn keys(&self) -> Keys {
        self.store.keys(KeyLayout::Combined).unwrap()
    }

    /// As the running agent does, which verifies what it makes.
    fn make(&mut self, now: u64) {
        let keys = self.keys();
        let last = self.last.as_ref();
        let built = build(&self.plan, &keys, &Policy::default(), last, None, now).unwrap();
        self.made_at = now;
        if built.changed {
            let records = Arc::new(built.zone.records.clone());
            self.zones.0.push((now, now + self.spread, records));
            self.last = Some(built.zone);
        }
    }

    /// The parent zone with these DS records from now on.
    fn delegate(&mut self, ds: Vec<Ds<Bytes>>, now: u64) {
        let mut plan = Plan::new(PARENT.parse().unwrap());
        plan.name_servers.push(server());
        let lines: String = ds.iter().map(|ds| format!("a {} DS {ds}\n", self.ds_ttl)).collect();
        let own = format!("a NS ns.b.test.\n{lines}");
        plan.own = included::parse(own.as_bytes(), Path::new("own"), &plan.apex).unwrap();
        let key = ZoneKey::from_text(&self.parent_key, Role::Entry).unwrap();
        let policy = Policy { validity: Duration::from_secs(35 * DAY), ..Policy::default() };
        let zone = build(&plan, &Keys::combined(key), &policy, None, None, NOW).unwrap().zone;
        self.parents.0.push((now, now + self.spread, Arc::new(zone.records)));
    }

    /// What the first name server asks the parent for (CDS).
    fn asked_of_parent(&self, now: u64) -> Vec<Ds<Bytes>> {
        let asked = self.zones.at(now, false).iter().filter_map(|record| match record.data() {
            Data::Cds(cds) => {
                let digest = cds.digest().clone();
                Ds::new(cds.key_tag(), cds.algorithm(), cds.digest_type(), digest).ok()
            }
            _ => None,
        });
        asked.collect()
    }

    fn ds(&self, now: u64, late: bool) -> Vec<Ds<Bytes>> {
        let records = self.parents.at(now, late).iter();
        let ds = records.filter_map(|record| match record.data() {
            Data::Ds(ds) => Some(ds.clone()),
            _ => None,
        });
        ds.collect()
    }

    fn all_show(&self, now: u64, keys: &[&PublicKey]) -> bool {
        [false, true].iter().all(|late| {
            let records = self.zones.at(now, *late);
            keys.iter().all(|key| {
                let shown = Data::from(key.dnskey().clone());
                records.iter().any(|record| *record.data() == shown)
            })
        })
    }

    /// One look of the agent at a change of the entry key. Whether it has ended.
    fn look(&self, now: u64) -> bool {
        let Some(roll) = self.store.roll().unwrap() else { return true };
        let pair = self.store.roll_pair(&roll).unwrap().unwrap();
        let (early, late) = (self.ds(now, false), self.ds(now, true));
        let seen = Seen {
            both_served: Some(self.all_show(now, &[&pair.stays, &pair.goes])),
            ds: (early == late).then_some(early),
            ds_ttl: self.ds_ttl.try_into().unwrap(),
            unproved: None,
        };
        self.store.advance_roll(&roll, &pair, &seen, &self.apex, now).unwrap().unwrap().1
    }

    /// The same for the key of the records.
    fn look_at_zone_key(&self, now: u64) -> bool {
        let Some(roll) = self.store.zone_roll().unwrap() else { return true };
        let next = ZoneKey::load(&self.store.next_zone_key(), Role::Zone).unwrap().unwrap();
        let last = self.last.as_ref().unwrap();
        let newest = |late| **self.zones.at(now, late) == last.records;
        let served = newest(false) && newest(true);
        let seen = version(&self.apex, &last.records, next.public(), served);
        self.store.advance_zone_roll(&roll, seen, now).unwrap().unwrap().1
    }

    /// When anything changed.
    fn events(&self) -> Vec<u64> {
        let versions = self.zones.0.iter().chain(&self.parents.0);
        versions.flat_map(|(first, all, _)| [*first, *all]).collect()
    }

    /// What a validator with this cache makes of all that is asked at `now`.
    fn validate(&self, now: u64, cache: Cache) -> Result<(), String> {
        TIME.set(now);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (name, rtype) in ASKED {
            let ttl = if rtype == RecordType::TXT { self.longest } else { 300 };
            let taken =
                |(age, late): (f64, bool), ttl: u64| (now - (ttl as f64 * age) as u64, late);
            let (ds, list, rest) =
                (taken(cache[0], self.ds_ttl), taken(cache[1], LIST), taken(cache[2], ttl));
            let upstream = Kept {
                ds: Arc::clone(self.parents.at(ds.0, ds.1)),
                list: Arc::clone(self.zones.at(list.0, list.1)),
                rest: Arc::clone(self.zones.at(rest.0, rest.1)),
            };
            let validator = DnssecDnsHandle::with_trust_anchor(upstream, Arc::clone(&self.anchors));
            let query = Query::query(OtherName::from_ascii(name).unwrap(), rtype);
            let answer = validator.lookup(query, DnsRequestOptions::default()).first_answer();
            let answer = runtime.block_on(answer).map_err(|error| format!("{name}: {error}"))?;
            let mut ours = answer.answers.iter().filter(|it| it.record_type() == rtype).peekable();
            if ours.peek().is_none() || !ours.all(|record| record.proof == Proof::Secure) {
                return Err(format!("{name} {rtype} is not secure at {}", now - NOW));
            }
        }
        Ok(())
    }
}

fn server() -> Host {
    Host { name: "ns.b.test.".parse().unwrap(), addresses: Vec::new() }
}

/// How old a cache's DS, list of keys and records are, as parts of their TTL, and whether they are from a
/// server that follows late.
type Cache = [(f64, bool); 3];

/// What a resolver has kept, each set from its own time.
#[derive(Clone)]
struct Kept {
    ds: Arc<Vec<Record>>,
    list: Arc<Vec<Record>>,
    rest: Arc<Vec<Record>>,
}

impl Kept {
    fn answer(&self, query: &Query) -> Message {
        let name: Name = query.name().to_string().parse().unwrap();
        let rtype = Rtype::from_int(query.query_type().into());
        let parent: Name = PARENT.parse().unwrap();
        let records = match rtype {
            _ if name == parent => &self.ds,
            Rtype::DS => &self.ds,
            Rtype::DNSKEY => &self.list,
            _ => &self.rest,
        };
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(query.clone());
        let wanted = records.iter().filter(|record| {
            let covers = match record.data() {
                Data::Rrsig(rrsig) => rrsig.type_covered(),
                _ => record.rtype(),
            };
            record.owner().name_eq(&name) && covers == rtype
        });
        for record in wanted {
            let mut octets = Vec::new();
            record.compose(&mut octets).unwrap();
            message.add_answer(OtherRecord::from_bytes(&octets).unwrap());
        }
        message
    }
}

impl DnsHandle for Kept {
    type Response = DnsResponseStream;
    type Runtime = Elsewhen;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        let message = self.answer(&request.queries[0]);
        let answer = DnsResponse::from_message(message).map_err(NetError::from);
        Box::pin(std::future::ready(answer)).into()
    }
}

/// Tokio at the time of [`TIME`].
#[derive(Clone)]
struct Elsewhen(TokioRuntimeProvider);

impl RuntimeProvider for Elsewhen {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = ElsewhenTime;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = Result<Self::Tcp, io::Error>>>> {
        self.0.connect_tcp(server, bind, timeout)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = Result<Self::Udp, io::Error>>>> {
        self.0.bind_udp(local, server)
    }
}

struct ElsewhenTime;

impl Time for ElsewhenTime {
    fn delay_for<'a>(duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        TokioTime::delay_for(duration)
    }

    fn timeout<'a, F>(
        duration: Duration,
        future: F,
    ) -> Pin<Box<dyn Future<Output = Result<F::Output, io::Error>> + Send + 'a>>
    where
        F: 'static + Future + Send + 'a,
    {
        TokioTime::timeout(duration, future)
    }

    fn current_time() -> u64 {
        TIME.get()
    }
}

/// What the parent does when it is asked for another key.
#[derive(Debug, Clone, Copy)]
enum Parent {
    /// It follows after so many seconds.
    Follows(u64),
    /// The owner adds the new one beside the old as soon as it is known, long before it is asked for, and
    /// takes the old one out so many seconds after that.
    Early(u64),
    Never,
}

#[derive(Debug, Clone, Copy)]
struct Story {
    layout: KeyLayout,
    spread: u64,
    ds_ttl: u64,
    longest: u64,
    /// Between two looks of the agent.
    look: u64,
    parent: Parent,
    /// The owner gives up, so many seconds after the beginning.
    given_up: Option<u64>,
}

/// Plays a change of the entry key to its end; the world and the time at which nothing happens any more.
fn play(story: Story) -> (World, u64, bool) {
    let mut world = World::new(story.layout, story.spread, story.ds_ttl, story.longest);
    let begin = NOW + DAY;
    let (mut now, mut asked, mut ended) = (NOW, None, None);
    let (mut begun, mut given_up, mut added) = (false, false, false);
    let mut stamp = world.store.keys_stamp();
    while now < NOW + 30 * DAY {
        if now >= begin && !begun {
            let records = world.last.as_ref().unwrap().records.clone();
            world.store.begin_roll(&records, now).unwrap();
            begun = true;
        }
        if begun && !given_up && story.given_up.is_some_and(|after| now >= begin + after) {
            world.store.abort_roll().unwrap();
            given_up = true;
        }
        let present = world.store.keys_stamp();
        if present != stamp || now >= world.made_at + DAY {
            stamp = present;
            world.make(now);
        }
        if begun && ended.is_none() && world.look(now) {
            ended = Some(now);
        }
        // The registrar, or an owner who reads what the command says.
        if let (Parent::Early(_), false, Some(roll)) =
            (story.parent, added, world.store.roll().unwrap())
        {
            let pair = world.store.roll_pair(&roll).unwrap().unwrap();
            let ds = [pair.goes.ds(&world.apex), pair.stays.ds(&world.apex)];
            world.delegate(ds.to_vec(), now);
            added = true;
        }
        let wanted = world.asked_of_parent(now);
        if wanted == world.ds(now, false) || wanted.is_empty() {
            asked = None;
        } else {
            let since = *asked.get_or_insert(now);
            let announced = world.store.roll().unwrap().is_none_or(|roll| roll.announced);
            match story.parent {
                Parent::Follows(after) | Parent::Early(after)
                    if announced && now >= since + after =>
                {
                    world.delegate(wanted, now);
                }
                _ => {}
            }
        }
        if ended.is_some_and(|ended| now > ended + LONGEST + story.ds_ttl + story.spread) {
            break;
        }
        now += story.look;
    }
    (world, now, ended.is_some())
}

fn layouts() -> impl Strategy<Value = KeyLayout> {
    prop_oneof![Just(KeyLayout::Combined), Just(KeyLayout::Split)]
}

fn stories() -> impl Strategy<Value = Story> {
    let parent = prop_oneof![
        (0..6 * DAY).prop_map(Parent::Follows),
        Just(Parent::Follows(0)),
        (0..4 * DAY).prop_map(Parent::Early),
        Just(Parent::Never),
    ];
    let given_up = prop_oneof![3 => Just(None), 1 => (0..12 * DAY).prop_map(Some)];
    let longest = prop_oneof![LIST..DAY, Just(LONGEST)];
    let world = (layouts(), 0..12 * HOUR, 300..2 * DAY, longest);
    (world, 900..3 * HOUR, parent, given_up).prop_map(
        |((layout, spread, ds_ttl, longest), look, parent, given_up)| Story {
            layout,
            spread,
            ds_ttl,
            longest,
            look,
            parent,
            given_up,
        },
    )
}

/// A moment, some time after an event, and what a cache has then.
type Moment = (prop::sample::Index, f64, Cache);

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let age = prop_oneof![Just(0.0), Just(0.9999), 0.0..1.0f64];
    let after = prop_oneof![Just(0.0), Just(0.999), 0.0..1.0f64, 0.0..0.1f64];
    let cache = prop::array::uniform3((age, any::<bool>()));
    prop::collection::vec((any::<prop::sample::Index>(), after, cache), 120)
}

fn judge(world: &World, end: u64, moments: Vec<Moment>) -> Result<(), TestCaseError> {
    let events = world.events();
    for (event, after, cache) in moments {
        let now = event.get(&events) + ((LONGEST + DAY) as f64 * after) as u64;
        let now = now.min(end);
        let said = world.validate(now, cache);
        prop_assert!(said.is_ok(), "{} s after the beginning, {cache:?}: {said:?}", now - NOW);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Whatever the parent does and when, whichever server is asked, and whatever is still remembered.
    #[test]
    fn a_change_of_the_entry_key_is_valid_at_every_moment(story in stories(), moments in moments()) {
        let (world, end, ended) = play(story);
        let never = matches!(story.parent, Parent::Never);
        if never && story.given_up.is_none() {
            prop_assert!(!ended, "the old key stays for as long as the parent names it");
            prop_assert!(world.store.entry_key().exists() && world.store.next_entry_key().exists());
        }
        judge(&world, end, moments)?;
    }

    /// From one key for everything to one that is in a safe, and then another key for the records.
    #[test]
    fn the_way_into_the_safe_is_valid_at_every_moment(
        (spread, look) in (0..12 * HOUR, 900..3 * HOUR),
        moments in moments(),
    ) {
        let mut world = World::new(KeyLayout::Combined, spread, DAY, LONGEST);
        let year = Duration::from_secs(365 * DAY);
        let kit = world.store.entry_for_kit().unwrap();
        let (mut now, mut away, mut changed) = (NOW + DAY, None, None);
        let mut stamp = world.store.keys_stamp();
        while now < NOW + 30 * DAY {
            let records = world.last.as_ref().unwrap().records.clone();
            if away.is_none() && world.store.split(&records, now).unwrap() {
                world.store.take_offline(&world.apex, &kit, year, now).unwrap();
                away = Some(now);
            }
            // The owner comes again, changes the key of the records, and once more when that is done.
            let apart = away.is_some_and(|away| now >= away + DAY);
            if apart && changed.is_none() {
                world.store.sign_keys(&world.apex, &kit, year, Some(&records), now).unwrap();
                changed = Some(now);
            }
            if world.look_at_zone_key(now) && changed.is_some_and(|changed| now > changed) {
                world.store.sign_keys(&world.apex, &kit, year, None, now).unwrap();
                world.make(now);
                now += look;
                break;
            }
            let present = world.store.keys_stamp();
            if present != stamp || now >= world.made_at + DAY {
                stamp = present;
                world.make(now);
            }
            now += look;
        }
        let list = world.zones.0.last().unwrap().2.iter();
        let keys = list.filter(|record| record.rtype() == Rtype::DNSKEY).count();
        prop_assert!(world.store.is_offline() && keys == 2, "it ended: {keys}");
        judge(&world, now + LONGEST, moments)?;
    }
}

/// Every corner: each event, all that was remembered fresh or as old as may be, from early and late servers.
#[test]
fn the_corners_of_a_change_of_the_entry_key_are_valid() {
    for longest in [2 * HOUR, LONGEST] {
        let story = Story {
            layout: KeyLayout::Combined,
            spread: 2 * HOUR,
            ds_ttl: DAY,
            longest,
            look: 1800,
            parent: Parent::Follows(0),
            given_up: None,
        };
        let (world, end, ended) = play(story);
        assert!(ended);
        for event in world.events() {
            for now in [event, event + LIST - 1, event + DAY - 1].map(|now| now.min(end)) {
                for corner in 0..64u32 {
                    let bit = |place: u32| corner & (1 << place) != 0;
                    let kept =
                        |place: u32| (if bit(place) { 0.99999 } else { 0.0 }, bit(place + 3));
                    let cache = [kept(0), kept(1), kept(2)];
                    world.validate(now, cache).unwrap();
                }
            }
        }
    }
}

/// The model is worth something: what is done too early is noticed.
#[test]
fn a_key_that_is_exchanged_at_once_is_noticed() {
    let mut world = World::new(KeyLayout::Combined, 0, DAY, LONGEST);
    let now = NOW + DAY;
    let file = world.store.entry_key();
    std::fs::remove_file(&file).unwrap();
    ZoneKey::create(&file, Role::Entry).unwrap();
    world.make(now);
    world.delegate(world.asked_of_parent(now), now);
    let fresh = [(0.0, false); 3];
    world.validate(now, fresh).unwrap();
    for old in 0..3 {
        let mut cache = fresh;
        cache[old].0 = 0.9;
        assert!(world.validate(now, cache).is_err(), "{old}");
    }
    assert!(world.validate(now, [(0.9, false); 3]).is_ok(), "all of it is old");
    // Signatures end for the model, too.
    assert!(world.validate(now + 60 * DAY, fresh).is_err());
}

#[test]
fn what_is_asked_is_kept_as_long_as_it_says() {
    let world = World::new(KeyLayout::Split, 0, DAY, LONGEST);
    let ttl = |name: &str, rtype| {
        let name: Name = name.parse().unwrap();
        let records = world.zones.at(NOW, false).iter();
        let mut found = records.filter(|it| *it.owner() == name && it.rtype() == rtype);
        found.next().map(|record| record.ttl())
    };
    assert_eq!(ttl("long.a.example.", Rtype::TXT), Some(Ttl::from_secs(LONGEST as u32)));
    assert_eq!(ttl(ZONE, Rtype::DNSKEY), Some(Ttl::from_secs(LIST as u32)));
}
