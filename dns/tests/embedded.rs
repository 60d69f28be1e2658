//! The name server as a part of another program: zones come and go while it runs, from primaries that are
//! reached by no socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::name::FlattenInto;
use domain::base::{Message, MessageBuilder, ParsedName, Rtype};
use domain::rdata::{Soa, ZoneRecordData};
use domain::zonefile::inplace::{Entry, Zonefile};
use prometheus::{Registry, TextEncoder};
use sealpost_dns::config::{Cookies, Limits, RateLimit};
use sealpost_dns::handle::Handle;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::secondaries::Zone;
use sealpost_dns::server::{NameServer, Settings};
use sealpost_dns::transfer::access::Rule;
use sealpost_dns::transfer::attempt::{Connect, Primary};
use sealpost_dns::transfer::difference::Difference;
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::notify;
use sealpost_dns::transfer::serve::{Served, Server, Zones, serve};
use sealpost_dns::transfer::tsig::Keys;
use sealpost_dns::trust::{Delegation, Parent, Trust};
use tokio::io::DuplexStream;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn parse(text: &str) -> Vec<Record> {
    let mut file = Zonefile::from(text);
    let mut out: Vec<Record> = Vec::new();
    while let Some(Entry::Record(record)) = file.next_entry().unwrap() {
        out.push(record.flatten_into());
    }
    out
}

fn plain(apex: &str, serial: u32) -> Vec<Record> {
    parse(&format!(
        "{apex}. 3600 IN SOA ns.{apex}. host.{apex}. {serial} 14400 3600 1814400 300\n\
         {apex}. 3600 IN NS ns.{apex}.\nns.{apex}. 60 IN A 192.0.2.1\n"
    ))
}

/// The zones of boxes, which have numbers.
type Homes = HashMap<(u32, Name), Vec<Record>>;

/// All boxes.
#[derive(Clone, Default)]
struct Boxes(Arc<Mutex<Homes>>);

impl Boxes {
    fn put(&self, at: u32, zone: Vec<Record>) {
        let name = zone[0].owner().clone();
        self.0.lock().unwrap().insert((at, name), zone);
    }
}

/// One box.
struct Home(Boxes, u32);

struct Version(Vec<Record>);

impl Served for Version {
    fn soa(&self) -> Record {
        self.0[0].clone()
    }
    fn records(&self) -> Vec<Record> {
        self.0.clone()
    }
    fn expires_in(&self) -> Option<u32> {
        None
    }
    fn steps_since(&self, _: u32) -> Option<Vec<Arc<Difference>>> {
        None
    }
}

impl Zones for Home {
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
        let zones = self.0.0.lock().unwrap();
        let zone = zones.get(&(self.1, apex.clone()))?;
        Some(Arc::new(Version(zone.clone())))
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

impl Connect for Boxes {
    type Stream = DuplexStream;
    type Peer = u32;

    async fn connect(&self, to: &u32) -> io::Result<DuplexStream> {
        let (near, mut far) = tokio::io::duplex(4096);
        let (boxes, to) = (self.clone(), *to);
        if !boxes.0.lock().unwrap().keys().any(|(at, _)| *at == to) {
            return Err(io::Error::other("the box is away"));
        }
        tokio::spawn(async move {
            let server = Server::new(Home(boxes, to), Keys::default());
            let soa = |query: &[u8], out: &mut Vec<u8>| {
                let message = Message::from_slice(query).unwrap();
                let apex: Name = message.sole_question().unwrap().qname().flatten_into();
                let mut reply = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR);
                if let Some(version) = server.zones().find(&apex) {
                    reply.as_mut().unwrap().push(version.soa()).unwrap();
                }
                *out = reply.unwrap().finish();
            };
            let _ =
                serve(&mut far, &server, Ipv6Addr::LOCALHOST.into(), Pace::default(), soa).await;
        });
        Ok(near)
    }
}

/// What the parent says of every zone.
struct Says(Delegation);

impl Parent for Says {
    async fn delegation(&self, _: &Name) -> Result<Delegation, String> {
        Ok(self.0.clone())
    }
}

fn zone(apex: &str, from: u32) -> Zone<u32> {
    Zone {
        name: name(apex),
        owner: None,
        primaries: vec![Primary { peer: from, key: None }],
        notices_from: Arc::default(),
        trust: Trust::Unsigned,
        transfer_to: Arc::default(),
        notify: Vec::new(),
    }
}

/// A name server that runs, in this process.
struct Ours {
    handle: Handle<Boxes, Says>,
    address: SocketAddr,
    registry: Registry,
    loaded: usize,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Ours {
    async fn start(state: &Path, boxes: &Boxes, wanted: &[&'static str]) -> Self {
        Self::start_for(state, boxes, wanted, None).await
    }

    /// Where kept zones are wanted if they were this owner's or nobody's.
    async fn start_for(
        state: &Path,
        boxes: &Boxes,
        wanted: &[&'static str],
        owner: Option<u64>,
    ) -> Self {
        let settings = Settings {
            state: state.to_owned(),
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            threads: NonZeroUsize::MIN,
            tls: None,
            cookies: Cookies::default(),
            rate_limit: RateLimit::default(),
            limits: Limits::default(),
            keys: Keys::default(),
        };
        let (server, registry) = loop {
            let (registry, parent) = (Registry::new(), Says(Delegation::Insecure));
            let bound = NameServer::bind(settings.clone(), boxes.clone(), parent, &registry).await;
            match bound {
                Ok(server) => break (server, registry),
                // The port that the system picks for UDP may be another's for TCP.
                Err(error) => assert!(format!("{error:#}").contains("in use"), "{error:#}"),
            }
        };
        let wanted: Vec<_> = wanted.iter().map(|apex| Zone { owner, ..zone(apex, 1) }).collect();
        let find = move |apex: &Name, was: Option<u64>| {
            let find = |zone: &&Zone<u32>| zone.name == *apex && (was.is_none() || was == owner);
            wanted.iter().find(find).cloned()
        };
        let loaded = server.load(find).await.unwrap();
        let (handle, address) = (server.handle(), server.local_addrs()[0]);
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        Self { handle, address, registry, loaded, stop, running }
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// The serial that is answered, or the error.
    async fn serial(&self, apex: &str) -> Result<u32, Rcode> {
        let message = self.ask(apex).await?;
        let answer = message.answer().unwrap().limit_to_in::<Soa<ParsedName<_>>>().next();
        Ok(answer.unwrap().unwrap().data().serial().into_int())
    }

    /// How many records the answer has to the question for a SOA record.
    async fn answers(&self, apex: &str) -> Result<u16, Rcode> {
        Ok(self.ask(apex).await?.header_counts().ancount())
    }

    async fn wait_for_version(&self, apex: &str, serial: u32) {
        let here = || self.handle.status(&name(apex))?.version;
        let look = async {
            while here().is_none_or(|here| here.serial != serial) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap();
    }

    async fn ask(&self, apex: &str) -> Result<Message<Vec<u8>>, Rcode> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut query = MessageBuilder::new_vec().question();
        query.push((name(apex), Rtype::SOA)).unwrap();
        socket.send_to(&query.finish(), self.address).await.unwrap();
        let mut buffer = [0; 1500];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let message = Message::from_octets(buffer[..received.unwrap().unwrap()].to_vec()).unwrap();
        match message.header().rcode() {
            Rcode::NOERROR => Ok(message),
            error => Err(error),
        }
    }

    async fn until(&self, apex: &str, wanted: Result<u32, Rcode>) {
        let look = async {
            while self.serial(apex).await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, look).await.is_err() {
            panic!("{apex} is not {wanted:?}: {:?}", self.handle.status(&name(apex)));
        }
    }

    fn served(&self) -> String {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("sealpost_dns_zones"));
        lines.collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test]
async fn zones_come_follow_notices_go_and_are_kept() {
    let (state, boxes) = (tempfile::tempdir().unwrap(), Boxes::default());
    let ours = Ours::start(state.path(), &boxes, &[]).await;
    boxes.put(1, plain("a.example", 1));
    boxes.put(1, plain("b.example", 1));
    assert_eq!(ours.serial("a.example").await, Err(Rcode::REFUSED));
    ours.handle.add(zone("a.example", 1)).await;
    ours.handle.add(zone("B.example", 1)).await;
    // Its box is away.
    ours.handle.add(zone("c.example", 2)).await;
    ours.until("a.example", Ok(1)).await;
    ours.until("b.example", Ok(1)).await;
    assert_eq!(ours.serial("c.example").await, Err(Rcode::SERVFAIL));
    let metrics = ours.served();
    assert!(metrics.contains("{state=\"missing\"} 1") && metrics.contains("{state=\"served\"} 2"));

    // Whose zone it is may say that it changed.
    boxes.put(1, plain("a.example", 2));
    let soa = plain("a.example", 2).remove(0);
    let notice = notify::make(7, &name("a.example"), Some(&soa));
    let rcode = |reply: Option<Vec<u8>>| {
        let reply = reply.unwrap();
        let message = Message::from_slice(&reply).unwrap();
        assert_eq!((message.header().id(), message.header().qr()), (7, true));
        message.header().rcode()
    };
    assert_eq!(rcode(ours.handle.notify_from(&2, &notice)), Rcode::REFUSED);
    assert_eq!(rcode(ours.handle.notify_from(&1, &notice)), Rcode::NOERROR);
    ours.until("a.example", Ok(2)).await;
    let other = notify::make(7, &name("z.example"), None);
    assert_eq!(rcode(ours.handle.notify_from(&1, &other)), Rcode::NOTAUTH);
    let mut query = MessageBuilder::new_vec().question();
    query.header_mut().set_id(7);
    query.push((name("a.example"), Rtype::SOA, Class::IN)).unwrap();
    assert_eq!(rcode(ours.handle.notify_from(&1, &query.finish())), Rcode::NOTIMP);
    assert_eq!(ours.handle.notify_from(&1, b"short"), None);

    // The box comes back, and says so.
    let status = ours.handle.status(&name("c.example")).unwrap();
    assert!(status.error.unwrap().contains("the box is away") && status.version.is_none());
    boxes.put(2, plain("c.example", 5));
    assert!(ours.handle.notified(&name("c.example"), Some(5)));
    ours.until("c.example", Ok(5)).await;
    let status = ours.handle.status(&name("c.example")).unwrap();
    assert_eq!((status.error, status.version.unwrap().serial), (None, 5));

    ours.handle.remove(&name("b.example")).await.unwrap();
    assert_eq!(ours.serial("b.example").await, Err(Rcode::REFUSED));
    assert_eq!(ours.handle.count().served, 2);
    ours.end().await;

    // Only who is still wanted comes back, and the other file stays until somebody removes it.
    *boxes.0.lock().unwrap() = HashMap::new();
    let ours = Ours::start(state.path(), &boxes, &["a.example", "b.example"]).await;
    assert_eq!((ours.loaded, ours.serial("a.example").await), (1, Ok(2)));
    assert_eq!(ours.serial("b.example").await, Err(Rcode::REFUSED));
    assert_eq!(ours.serial("c.example").await, Err(Rcode::REFUSED));
    let file = state.path().join("zones/c.example.zone");
    assert!(file.exists());
    ours.handle.remove(&name("c.example")).await.unwrap();
    assert!(!file.exists());
    assert_eq!(ours.handle.list().len(), 1);
    ours.end().await;
}

#[tokio::test]
async fn what_came_for_one_owner_is_not_served_for_another() {
    let (state, boxes) = (tempfile::tempdir().unwrap(), Boxes::default());
    let of = |owner, from| Zone { owner: Some(owner), ..zone("a.example", from) };
    let file = state.path().join("zones/a.example.zone");
    boxes.put(1, plain("a.example", 1));
    boxes.put(1, plain("b.example", 1));
    let ours = Ours::start_for(state.path(), &boxes, &[], None).await;
    ours.handle.add(of(256, 1)).await;
    ours.handle.add(zone("b.example", 1)).await;
    ours.until("a.example", Ok(1)).await;
    ours.until("b.example", Ok(1)).await;
    // The same owner elsewhere.
    ours.handle.add(of(256, 2)).await;
    assert_eq!(ours.serial("a.example").await, Ok(1));
    ours.end().await;

    // It is another's now; of the other file nobody knows whose it is.
    let both = ["a.example", "b.example"];
    let ours = Ours::start_for(state.path(), &boxes, &both, Some(257)).await;
    assert_eq!((ours.loaded, ours.serial("a.example").await), (1, Err(Rcode::REFUSED)));
    assert_eq!(ours.serial("b.example").await, Ok(1));
    ours.end().await;
    let ours = Ours::start_for(state.path(), &boxes, &both, Some(256)).await;
    assert_eq!((ours.loaded, ours.serial("a.example").await), (2, Ok(1)));
    // And also while it runs, with an older serial than the one before had.
    boxes.put(2, plain("a.example", 0));
    boxes.0.lock().unwrap().remove(&(1, name("a.example")));
    ours.handle.add(of(257, 3)).await;
    assert_eq!(ours.serial("a.example").await, Err(Rcode::SERVFAIL));
    assert!(!file.exists());
    ours.handle.add(of(257, 2)).await;
    ours.until("a.example", Ok(0)).await;
    ours.end().await;
    let ours = Ours::start_for(state.path(), &boxes, &["a.example"], Some(257)).await;
    assert_eq!((ours.loaded, ours.serial("a.example").await), (1, Ok(0)));
    ours.end().await;
}

/// A zone, and one below it that others have.
#[tokio::test]
async fn a_zone_answers_for_what_it_does_not_delegate() {
    let (state, boxes) = (tempfile::tempdir().unwrap(), Boxes::default());
    let with = |serial, more: &str| {
        let mut zone = plain("a.example", serial);
        zone.extend(parse(more));
        zone
    };
    let address = "www.sub.a.example. 60 IN A 192.0.2.7\n";
    let cut = "sub.a.example. 60 IN NS ns.sub.a.example.\nns.sub.a.example. 60 IN A 192.0.2.8\n";
    // The SOA record of the zone is no answer for the name above all that the zone above has there.
    let nothing: Result<u32, Rcode> = Err(Rcode::NXDOMAIN);
    boxes.put(1, with(1, ""));
    boxes.put(2, plain("sub.a.example", 7));
    let ours = Ours::start(state.path(), &boxes, &[]).await;
    ours.handle.add(zone("sub.a.example", 2)).await;
    ours.until("sub.a.example", Ok(7)).await;
    ours.handle.add(zone("a.example", 1)).await;
    ours.until("sub.a.example", nothing).await;
    let status = ours.handle.status(&name("sub.a.example")).unwrap();
    assert!(status.hidden && status.served);
    assert!(ours.served().contains("{state=\"hidden\"} 1"), "{}", ours.served());

    // Of a new version nobody hears either.
    boxes.put(2, plain("sub.a.example", 8));
    ours.handle.notified(&name("sub.a.example"), Some(8));
    ours.wait_for_version("sub.a.example", 8).await;
    assert_eq!(ours.serial("sub.a.example").await, nothing);
    // The zone above delegates it, and takes that back.
    boxes.put(1, with(2, cut));
    ours.handle.notified(&name("a.example"), Some(2));
    ours.until("sub.a.example", Ok(8)).await;
    boxes.put(1, with(3, address));
    ours.handle.notified(&name("a.example"), Some(3));
    ours.wait_for_version("a.example", 3).await;
    // There is a name below it, so it exists.
    assert_eq!(ours.answers("sub.a.example").await, Ok(0));
    assert_eq!(ours.answers("www.sub.a.example").await, Ok(0));
    ours.end().await;

    // It is so from the first answer after a restart, in whatever order files are read.
    let ours = Ours::start(state.path(), &boxes, &["sub.a.example", "a.example"]).await;
    assert_eq!((ours.loaded, ours.answers("sub.a.example").await), (2, Ok(0)));
    ours.handle.remove(&name("a.example")).await.unwrap();
    assert_eq!(ours.serial("sub.a.example").await, Ok(8));
    ours.end().await;
}

/// Whoever asks by TCP is answered while the one thread of the program around is busy, and the name server
/// leaves nothing behind when it ends.
#[tokio::test]
async fn streams_do_not_wait_for_the_program_around() {
    use std::io::{Read, Write};
    let (state, boxes) = (tempfile::tempdir().unwrap(), Boxes::default());
    boxes.put(1, plain("a.example", 3));
    let ours = Ours::start(state.path(), &boxes, &[]).await;
    ours.handle.add(zone("a.example", 1)).await;
    ours.until("a.example", Ok(3)).await;
    let ask = |address| -> io::Result<Vec<u8>> {
        // Blocks the runtime of this test, which is the program's.
        let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut query = MessageBuilder::new_stream_vec().question();
        query.push((name("a.example"), Rtype::SOA)).unwrap();
        stream.write_all(query.finish().as_stream_slice())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    let answer = ask(ours.address).unwrap();
    let message = Message::from_slice(&answer).unwrap();
    assert_eq!((message.header().rcode(), message.header_counts().ancount()), (Rcode::NOERROR, 1));
    let address = ours.address;
    ours.end().await;
    assert_eq!(ask(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_zone_is_fetched_once_and_nothing_stays() {
    let (state, boxes) = (tempfile::tempdir().unwrap(), Boxes::default());
    // Signed until 2037.
    let signed = parse(include_str!("zones/nsec-p256.zone"));
    let ds = |text| {
        let data = parse(text).into_iter().map(Record::into_data);
        let ds = data.filter_map(|data| match data {
            ZoneRecordData::Ds(ds) => Some(ds),
            _ => None,
        });
        ds.collect::<Vec<_>>()
    };
    let ours = Ours::start(state.path(), &boxes, &[]).await;
    let apex = name("zone.example");
    let good = || ds(include_str!("zones/nsec-p256.ds"));
    let soon = Duration::from_secs(20);
    let error = ours.handle.fetch(&apex, &1, good(), soon).await.unwrap_err();
    assert!(error.to_string().contains("the box is away"), "{error}");
    boxes.put(1, signed.clone());
    let records = ours.handle.fetch(&apex, &1, good(), soon).await.unwrap();
    assert_eq!(records.len(), signed.len());
    // Nobody answers in no time.
    let late = ours.handle.fetch(&apex, &1, good(), Duration::ZERO).await.unwrap_err();
    assert!(late.may_pass(), "{late}");
    let other = ds(include_str!("zones/nsec-ed25519.ds"));
    let error = ours.handle.fetch(&apex, &1, other, soon).await.unwrap_err();
    assert!(error.to_string().contains("refused") && !error.may_pass(), "{error}");
    assert_eq!(ours.serial("zone.example").await, Err(Rcode::REFUSED));
    assert_eq!(std::fs::read_dir(state.path().join("zones")).unwrap().count(), 0);

    // And is served when its parent is not signed.
    ours.handle.add(Zone { trust: Trust::Parent, ..zone("zone.example", 1) }).await;
    ours.until("zone.example", Ok(2_026_010_100)).await;
    ours.end().await;
}
