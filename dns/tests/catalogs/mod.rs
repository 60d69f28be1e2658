//! Catalog zones (RFC 9432): the ones that the library makes, before Knot, BIND and the program; and the
//! program with those of Knot, and with one that is broken.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use domain::base::name::FlattenInto;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::zonefile::inplace::{Entry, Zonefile};
use prometheus::Registry;
use sealpost_dns::catalog_zone::producer::Catalog;
use sealpost_dns::config::{Cookies, Limits, RateLimit, Zone};
use sealpost_dns::handle::Handle;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::server::{NameServer, Settings};
use sealpost_dns::transfer::access::Rule;
use sealpost_dns::transfer::attempt::{Primary, Tcp};
use sealpost_dns::transfer::difference::Difference;
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::inbound;
use sealpost_dns::transfer::notifier::Recipient;
use sealpost_dns::transfer::pull::{Ask, pull, version};
use sealpost_dns::transfer::query::serial_of;
use sealpost_dns::transfer::serve::{Served, Server, Zones, serve};
use sealpost_dns::transfer::tsig::{Keys, TsigKey};
use sealpost_dns::trust::{NoParent, Trust};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::servers::{KEY, Program, SECRET, free_port};
use super::{Ours, PATIENCE};

/// The catalog.
const CATALOG: &str = "catalog.example";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(program: Program) -> TsigKey {
    let algorithm = program.algorithm().parse().unwrap();
    TsigKey::from_base64(name(KEY), algorithm, SECRET).unwrap()
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

/// A primary in this process, that gives its zones to all.
#[derive(Clone, Default)]
struct Home(Arc<Mutex<HashMap<Name, Vec<Record>>>>);

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
        Some(Arc::new(Version(self.0.lock().unwrap().get(apex)?.clone())))
    }
    fn transfer_rules(&self, _: &Name) -> Arc<[Rule]> {
        Arc::new([Rule::From("127.0.0.0/8".parse().unwrap())])
    }
    fn primaries(&self, _: &Name) -> Option<Arc<[Rule]>> {
        None
    }
    fn notified(&self, _: &Name, _: Option<u32>) -> bool {
        true
    }
    fn private_soa(&self, apex: &Name) -> Option<Record> {
        self.find(apex).map(|version| version.soa())
    }
}

impl Home {
    fn put(&self, zone: Vec<Record>) {
        self.0.lock().unwrap().insert(zone[0].owner().clone(), zone);
    }

    async fn start(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server::new(self.clone(), Keys::default()));
        tasks.spawn(async move {
            while let Ok((mut stream, client)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let plain = |_: &[u8], _: &mut Vec<u8>| {};
                    let _ = serve(&mut stream, &server, client.ip(), Pace::default(), plain).await;
                });
            }
        });
        address
    }
}

/// The library as it makes a catalog, of zones that a primary in this process has.
struct Producer {
    home: Home,
    from: SocketAddr,
    handle: Handle<Tcp, NoParent>,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _state: TempDir,
}

impl Producer {
    /// For one that has the key of `program` and hears of changes at a port.
    async fn start(program: Program, consumer: u16) -> Self {
        let (home, mut tasks) = (Home::default(), JoinSet::new());
        let from = home.start(&mut tasks).await;
        let state = tempfile::tempdir().unwrap();
        let port = free_port();
        let settings = Settings {
            state: state.path().to_owned(),
            listen: vec![(Ipv4Addr::LOCALHOST, port).into()],
            threads: NonZeroUsize::MIN,
            tls: None,
            cookies: Cookies::default(),
            rate_limit: RateLimit::default(),
            limits: Limits::default(),
            keys: [key(program)].into_iter().collect(),
        };
        let registry = Registry::new();
        let server = NameServer::bind(settings, Tcp::default(), NoParent, &registry).await.unwrap();
        let (handle, address) = (server.handle(), server.local_addrs()[0]);
        let rules = [Rule::From("127.0.0.0/8".parse().unwrap()), Rule::Key(name(KEY))];
        let consumer = SocketAddr::from((Ipv4Addr::LOCALHOST, consumer));
        let notify = vec![Recipient { address: consumer, key: Some(Arc::new(key(program))) }];
        let catalog = Catalog::new(name(CATALOG), &rules, notify).unwrap();
        let stop = CancellationToken::new();
        let (making, stopped) = (handle.clone(), stop.clone());
        tasks.spawn(async move { making.produce(catalog).await });
        tasks.spawn(async move { server.run(stopped).await.unwrap() });
        Self { home, from, handle, address, stop, tasks, _state: state }
    }

    async fn add(&self, apex: &str, serial: u32) {
        self.home.put(plain(apex, serial));
        let zone = Zone {
            name: name(apex),
            owner: None,
            primaries: vec![Primary { peer: self.from, key: None }],
            notices_from: Arc::default(),
            trust: Trust::Unsigned,
            transfer_to: Arc::new([Rule::Key(name(KEY))]),
            notify: Vec::new(),
        };
        self.handle.add(zone).await;
    }

    async fn remove(&self, apex: &str) {
        self.handle.remove(&name(apex)).await.unwrap();
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
    }
}

/// What a server answers to a plain question for a zone's SOA record.
async fn answer(of: SocketAddr, apex: &str) -> Result<u32, Option<Rcode>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut query = MessageBuilder::new_vec().question();
    query.push((name(apex), Rtype::SOA)).unwrap();
    let _ = socket.send_to(&query.finish(), of).await;
    let mut buffer = [0; 1500];
    let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
    let Ok(Ok(octets)) = received else { return Err(None) };
    let message = Message::from_slice(&buffer[..octets]).unwrap();
    let answer = message.answer().unwrap().next();
    if message.header().rcode() != Rcode::NOERROR || answer.is_none() {
        return Err(Some(message.header().rcode()));
    }
    let ask = Ask {
        apex: name(apex),
        key: None,
        limits: inbound::Limits::default(),
        pace: Pace::default(),
    };
    let mut stream = TcpStream::connect(of).await.map_err(|_| None)?;
    version(&mut stream, &ask).await.map(|version| serial_of(&version.soa)).map_err(|_| None)
}

const REFUSED: Result<u32, Option<Rcode>> = Err(Some(Rcode::REFUSED));

async fn until(
    of: SocketAddr,
    apex: &str,
    wanted: Result<u32, Option<Rcode>>,
    log: impl Fn() -> String,
) {
    let began = Instant::now();
    loop {
        let answered = answer(of, apex).await;
        if answered == wanted {
            return eprintln!("{apex} is {wanted:?} after {:?}", began.elapsed());
        }
        let late = began.elapsed() > PATIENCE;
        assert!(!late, "{apex} is {answered:?} and not {wanted:?}\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the zone can be had whole from a server.
async fn whole(of: SocketAddr, apex: &str, key: Option<TsigKey>) -> Option<usize> {
    let limits = inbound::Limits::default();
    let ask = Ask { apex: name(apex), key: key.map(Arc::new), limits, pace: Pace::default() };
    let mut stream = TcpStream::connect(of).await.unwrap();
    match pull(&mut stream, &ask, None).await.ok()?.received {
        inbound::Received::Zone(records) => Some(records.len()),
        _ => None,
    }
}

/// A server of others follows the catalog that we make.
async fn follow_ours(program: Program, config: impl Fn(&str, u16, u16) -> String) {
    let port = free_port();
    let ours = Producer::start(program, port).await;
    ours.add("a.example", 1).await;
    let at = ours.address.port();
    let Some(other) = program.run("", |directory, _| config(directory, port, at)) else { return };
    let of = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until(of, "a.example", Ok(1), || other.log()).await;
    ours.add("b.example", 2).await;
    ours.add("c.example", 3).await;
    until(of, "b.example", Ok(2), || other.log()).await;
    until(of, "c.example", Ok(3), || other.log()).await;
    ours.remove("a.example").await;
    until(of, "a.example", REFUSED, || other.log()).await;
    assert_eq!(answer(of, "b.example").await, Ok(2));

    // SOA, NS, version and two members; for who has the key, and nobody else.
    assert_eq!(whole(ours.address, CATALOG, Some(key(program))).await, Some(5));
    assert_eq!(whole(ours.address, CATALOG, None).await, None);
    assert_eq!(answer(ours.address, CATALOG).await, REFUSED);
    ours.end().await;
}

#[tokio::test]
async fn knot_follows_our_catalog() {
    follow_ours(Program::Knot, |at, port, ours| {
        let algorithm = Program::Knot.algorithm();
        format!(
            "server:\n    rundir: \"{at}\"\n    listen: 127.0.0.1@{port}\n    \
             tcp-workers: 1\n    udp-workers: 1\n    background-workers: 1\n\
             log:\n  - target: stderr\n    any: info\n\
             database:\n    storage: \"{at}\"\n\
             key:\n  - id: {KEY}\n    algorithm: {algorithm}\n    secret: {SECRET}\n\
             remote:\n  - id: us\n    address: 127.0.0.1@{ours}\n    key: {KEY}\n\
             acl:\n  - id: us\n    key: {KEY}\n    action: [transfer, notify]\n\
             template:\n  - id: member\n    storage: \"{at}\"\n    master: us\n    acl: us\n\
             zone:\n  - domain: {CATALOG}\n    storage: \"{at}\"\n    master: us\n    acl: us\n    \
             catalog-role: interpret\n    catalog-template: member\n"
        )
    })
    .await;
}

#[tokio::test]
async fn named_follows_our_catalog() {
    follow_ours(Program::Named, |at, port, ours| {
        let algorithm = Program::Named.algorithm();
        let primaries = format!("{{ 127.0.0.1 port {ours} key {KEY}; }}");
        format!(
            "options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; \
             listen-on-v6 {{ none; }}; pid-file \"{at}/pid\"; session-keyfile \"{at}/session\"; \
             lock-file none; recursion no; dnssec-validation no; allow-notify {{ key {KEY}; }}; \
             catalog-zones {{ zone {CATALOG} default-primaries {primaries} in-memory yes \
             min-update-interval 1; }}; }};\n\
             controls {{ }};\n\
             key {KEY} {{ algorithm {algorithm}; secret \"{SECRET}\"; }};\n\
             zone {CATALOG} {{ type secondary; notify no; file \"catalog\"; primaries {primaries}; \
             allow-query {{ none; }}; }};\n"
        )
    })
    .await;
}

fn followed(primary: SocketAddr) -> String {
    let primary = format!("primaries = [{{ address = \"{primary}\", key = \"{KEY}\" }}]\n");
    format!("[[catalog]]\nname = \"{CATALOG}\"\n{primary}trust = \"unsigned\"\n")
}

#[tokio::test]
async fn we_follow_our_catalog() {
    let (program, port) = (Program::Nsd, free_port());
    let producer = Producer::start(program, port).await;
    producer.add("a.example", 1).await;
    // One that the file has from elsewhere.
    producer.add("fixed.example", 7).await;
    let elsewhere = Home::default();
    elsewhere.put(plain("fixed.example", 1));
    let mut tasks = JoinSet::new();
    let other = elsewhere.start(&mut tasks).await;
    let fixed = format!(
        "[[zone]]\nname = \"fixed.example\"\ntrust = \"unsigned\"\n\
         primaries = [{{ address = \"{other}\" }}]\n"
    );
    let mut ours = Ours::with(program, port, &(followed(producer.address) + &fixed));
    let of = ours.address;
    until(of, "a.example", Ok(1), || ours.log()).await;
    producer.add("b.example", 2).await;
    until(of, "b.example", Ok(2), || ours.log()).await;
    let file = ours.directory.path().join("zones/b.example.zone");
    assert!(file.exists());
    producer.remove("b.example").await;
    until(of, "b.example", REFUSED, || ours.log()).await;
    until(of, "fixed.example", Ok(1), || ours.log()).await;
    assert!(ours.log().contains("not taken: they are of the file"), "{}", ours.log());
    assert_eq!(answer(of, CATALOG).await, REFUSED);
    assert_eq!(whole(of, CATALOG, Some(key(program))).await, None);

    // What is not of the file any more is the catalog's, and the other way round.
    let config = std::fs::read_to_string(ours.directory.path().join("dns.toml")).unwrap();
    ours.reload(&config.replace(&fixed, ""));
    until(of, "fixed.example", Ok(7), || ours.log()).await;
    ours.reload(&config.replace("fixed.example", "a.example"));
    elsewhere.put(plain("a.example", 9));
    until(of, "a.example", Ok(9), || ours.log()).await;
    producer.remove("a.example").await;
    producer.add("c.example", 3).await;
    until(of, "c.example", Ok(3), || ours.log()).await;
    assert_eq!(answer(of, "a.example").await, Ok(9));

    // All is kept.
    ours.stop();
    producer.end().await;
    ours.start();
    until(of, "c.example", Ok(3), || ours.log()).await;
    assert_eq!(answer(of, "fixed.example").await, Ok(7));
    assert_eq!(answer(of, CATALOG).await, REFUSED);
    // And without the catalog nobody wants them.
    let (without, _) = config.split_once("[[catalog]]").unwrap();
    ours.reload(without);
    until(of, "c.example", REFUSED, || ours.log()).await;
    until(of, CATALOG, REFUSED, || ours.log()).await;
    ours.stop();
}

#[tokio::test]
async fn we_follow_a_catalog_of_knot() {
    let (program, port) = (Program::Knot, free_port());
    let config = |at: &str, on: u16, zones: &[&str]| {
        let algorithm = program.algorithm();
        let zones = zones.iter().map(|zone| {
            std::fs::write(
                format!("{at}/{zone}.zone"),
                format!("$ORIGIN {zone}.\n@ 60 SOA ns host 5 600 60 9000 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n"),
            )
            .unwrap();
            format!("  - domain: {zone}\n    storage: \"{at}\"\n    acl: us\n    \
                     catalog-role: member\n    catalog-zone: {CATALOG}\n    catalog-group: some\n")
        });
        format!(
            "server:\n    rundir: \"{at}\"\n    listen: 127.0.0.1@{on}\n    \
             tcp-workers: 1\n    udp-workers: 1\n    background-workers: 1\n\
             log:\n  - target: stderr\n    any: info\n\
             database:\n    storage: \"{at}\"\n\
             key:\n  - id: {KEY}\n    algorithm: {algorithm}\n    secret: {SECRET}\n\
             remote:\n  - id: us\n    address: 127.0.0.1@{port}\n    key: {KEY}\n\
             acl:\n  - id: us\n    key: {KEY}\n    action: [transfer, notify]\n\
             zone:\n  - domain: {CATALOG}\n    storage: \"{at}\"\n    acl: us\n    notify: us\n    \
             catalog-role: generate\n{}",
            zones.collect::<String>()
        )
    };
    let mut place = (String::new(), 0);
    let running = program.run("", |at, on| {
        place = (at.to_owned(), on);
        config(at, on, &["a.example"])
    });
    let Some(knot) = running else { return };
    let mut ours = Ours::with(program, port, &followed(knot.address));
    let logs = || format!("{}\n{}", ours.log(), knot.log());
    let of = ours.address;
    until(of, "a.example", Ok(5), logs).await;
    knot.reload_with("config", &config(&place.0, place.1, &["a.example", "b.example"]));
    until(of, "b.example", Ok(5), logs).await;
    knot.reload_with("config", &config(&place.0, place.1, &["b.example"]));
    until(of, "a.example", REFUSED, logs).await;
    assert_eq!(answer(of, "b.example").await, Ok(5));
    drop(knot);
    ours.stop();
}

#[tokio::test]
async fn a_broken_catalog_changes_nothing_and_an_empty_one_little() {
    let (home, mut tasks) = (Home::default(), JoinSet::new());
    let from = home.start(&mut tasks).await;
    let zones = ["a.example", "b.example", "c.example"];
    for apex in zones {
        home.put(plain(apex, 1));
    }
    let catalog = |serial: u32, version: u32, zones: &[&str]| {
        let mut text = format!(
            "{CATALOG}. 0 IN SOA invalid. invalid. {serial} 1 1 2147483646 0\n\
             {CATALOG}. 0 IN NS invalid.\nversion.{CATALOG}. 0 IN TXT \"{version}\"\n"
        );
        for zone in zones {
            text.push_str(&format!("{}.zones.{CATALOG}. 0 IN PTR {zone}.\n", &zone[..1]));
        }
        home.put(parse(&text));
    };
    catalog(1, 2, &zones);
    let lines = followed(from).replace(&format!(", key = \"{KEY}\""), "") + "without_key = true\n";
    let port = free_port();
    let mut ours =
        Ours::with(Program::Nsd, port, &format!("[limits]\ncatalog_removals = 1\n{lines}"));
    let of = ours.address;
    let notify = async |serial: u32| {
        let soa = home.find(&name(CATALOG)).unwrap().soa();
        let message = sealpost_dns::transfer::notify::make(7, &name(CATALOG), Some(&soa));
        assert_eq!(serial_of(&soa), serial);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(&message, of).await.unwrap();
    };
    let count = async || {
        let mut served = 0;
        for apex in zones {
            served += usize::from(answer(of, apex).await == Ok(1));
        }
        served
    };
    for apex in zones {
        until(of, apex, Ok(1), || ours.log()).await;
    }
    let said = async |what: &str| {
        let began = Instant::now();
        while !ours.log().contains(what) {
            assert!(began.elapsed() < PATIENCE, "not {what:?}\n{}", ours.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    catalog(2, 3, &[]);
    notify(2).await;
    said("the catalog's version is not").await;
    assert_eq!(count().await, 3);

    // One a minute, and those that are named again before their turn stay.
    catalog(3, 2, &[]);
    notify(3).await;
    said("leaving=3").await;
    let began = Instant::now();
    while count().await == 3 {
        assert!(began.elapsed() < PATIENCE, "none is gone\n{}", ours.log());
    }
    assert_eq!(count().await, 2);
    catalog(4, 2, &zones);
    notify(4).await;
    for apex in zones {
        until(of, apex, Ok(1), || ours.log()).await;
    }
    ours.stop();
}
