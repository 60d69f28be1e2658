//! Transfers with Debian's name servers: this library as secondary of each, and each as its
//! secondary, with TSIG, AXFR at first and IXFR after a change that NOTIFY tells of.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod servers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::message_builder::MessageBuilder;
use domain::base::name::FlattenInto;
use domain::base::{Message, Rtype};
use domain::zonefile::inplace::{Entry, Zonefile};
use sealpost_dns::record::{Name, Record};
use sealpost_dns::store::Store;
use sealpost_dns::transfer::access::Rule;
use sealpost_dns::transfer::attempt::{Keeper, Primary, Secondary, Tcp};
use sealpost_dns::transfer::difference::{Difference, apply, between};
use sealpost_dns::transfer::frame::{Pace, Reader};
use sealpost_dns::transfer::inbound::{Limits, Received};
use sealpost_dns::transfer::journal::Journal;
use sealpost_dns::transfer::notifier::{Notifier, Outgoing};
use sealpost_dns::transfer::pull::{Ask, pull, version};
use sealpost_dns::transfer::query::{Kind, Request, serial_of};
use sealpost_dns::transfer::refresh::{self, Refresher, Settings};
use sealpost_dns::transfer::serve::{Over, Reply, Served, Server, Zones, send};
use sealpost_dns::transfer::timers::Standing;
use sealpost_dns::transfer::tsig::{Algorithm, Keys, TsigKey};
use sealpost_dns::unix_time;
use servers::{KEY, Program, Role, Running, SECRET, ZONE};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Long enough for a busy machine; the target for following a change is 5 s.
const PATIENCE: Duration = Duration::from_secs(30);

fn name(text: &str) -> Name {
    Name::bytes_from_str(text).unwrap()
}

fn key(program: Program) -> TsigKey {
    let algorithm: Algorithm = program.algorithm().parse().unwrap();
    TsigKey::from_base64(name(KEY), algorithm, SECRET).unwrap()
}

/// A zone with every kind of data that is written differently on the wire, in several messages.
fn text(serial: u32, hosts: usize) -> String {
    let mut out = format!(
        "$ORIGIN {ZONE}.\n\
         @ 3600 IN SOA NS.example.org. Host.example.org. {serial} 14400 3600 1814400 300\n\
         @ 3600 IN NS ns\n\
         @ 3600 IN MX 10 Mail\n\
         ns 3600 IN A 127.0.0.1\n\
         Mail 3600 IN AAAA 2001:db8::1\n\
         _25._tcp.mail 3600 IN TLSA 3 1 1 {}\n\
         _sip._tcp 60 IN SRV 1 2 5060 Mail\n\
         @ 60 IN CAA 0 issue \"ca.example; validationmethods=dns-01\"\n\
         @ 60 IN NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:a@example.org!\" .\n\
         below 60 IN DNAME other.example.\n\
         *.wild 60 IN TXT \"a\" \"b c\" \"\"\n\
         odd\\.label\\000x 60 IN TXT odd\n\
         unknown 60 IN TYPE65280 \\# 5 0102030405\n\
         child 60 IN NS ns.child\n\
         ns.child 60 IN A 192.0.2.2\n",
        "ab".repeat(32)
    );
    for host in 0..hosts {
        out.push_str(&format!(
            "Host-{host} 300 IN A 192.0.2.{}\nhost-{host} 300 IN TXT \"{}\"\n",
            host % 256,
            "x".repeat(100)
        ));
    }
    out
}

fn parse(text: &str) -> Vec<Record> {
    let mut file = Zonefile::from(text);
    let mut out: Vec<Record> = Vec::new();
    while let Some(entry) = file.next_entry().unwrap() {
        if let Entry::Record(record) = entry {
            out.push(record.flatten_into());
        }
    }
    out
}

/// The records in canonical form, as some servers hand names on in lower case.
fn canonical(zone: &[Record]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = zone
        .iter()
        .map(|record| {
            let mut out = Vec::new();
            let Ok(()) = record.compose_canonical(&mut out);
            out
        })
        .collect();
    all.sort();
    all
}

/// One version and the steps that lead to it.
struct Version {
    records: Vec<Record>,
    journal: Journal,
}

impl Served for Version {
    fn soa(&self) -> Record {
        self.records[0].clone()
    }
    fn records(&self) -> Vec<Record> {
        self.records.clone()
    }
    fn expires_in(&self) -> Option<u32> {
        Some(1_000_000)
    }
    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        self.journal.since(serial)
    }
}

/// What holds the zone here.
struct Shelf {
    version: Mutex<Option<Arc<Version>>>,
    refresher: Mutex<Option<refresh::Handle<SocketAddr>>>,
    asked: Mutex<Vec<Kind>>,
    store: Store,
    _directory: TempDir,
}

impl Shelf {
    fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("zones")).unwrap();
        Arc::new(Self {
            version: Mutex::default(),
            refresher: Mutex::default(),
            asked: Mutex::default(),
            store,
            _directory: directory,
        })
    }

    fn put(&self, records: Vec<Record>) {
        let mut version = self.version.lock().unwrap();
        let mut journal = Journal::default();
        if let Some(old) = &*version {
            journal = old.journal.clone();
            journal.push(between(&old.records, &records).unwrap());
        }
        *version = Some(Arc::new(Version { records, journal }));
    }

    fn here(&self) -> Option<Arc<Version>> {
        self.version.lock().unwrap().clone()
    }

    fn serial(&self) -> u32 {
        self.here().map_or(0, |version| serial_of(&version.records[0]))
    }
}

impl Keeper for Shelf {
    fn soa(&self, _: &Name) -> Option<Record> {
        self.here().map(|version| version.soa())
    }
    fn records(&self, _: &Name) -> Option<Vec<Record>> {
        self.here().map(|version| version.records.clone())
    }
    async fn accept(&self, apex: &Name, zone: Vec<Record>, at: Standing) -> Result<(), String> {
        self.store.save(apex, &zone, at, None).map_err(|error| error.to_string())?;
        self.put(zone);
        Ok(())
    }
    async fn confirm(&self, apex: &Name, at: Standing) {
        self.store.confirm(apex, at).unwrap();
    }
    fn failed(&self, apex: &Name, why: String) {
        eprintln!("{apex}: {why}");
    }
    fn expire(&self, _: &Name) {
        panic!("nothing expires here");
    }
}

struct Ours(Arc<Shelf>);

impl Zones for Ours {
    fn find(&self, _: &Name) -> Option<Arc<dyn Served>> {
        self.0.here().map(|version| version as Arc<dyn Served>)
    }
    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
        assert_eq!(apex, &name(ZONE));
        Arc::new([Rule::Key(name(KEY))])
    }
    fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>> {
        Some(self.transfer_rules(apex))
    }
    fn notified(&self, apex: &Name, _: Option<u32>) -> bool {
        let refresher = self.0.refresher.lock().unwrap();
        refresher.as_ref().is_none_or(|refresher| refresher.notified(apex.clone()))
    }
}

/// Answers SOA, and nothing else: the rest is the engine's.
fn plain(shelf: &Shelf, query: &[u8], out: &mut Vec<u8>) {
    let Ok(message) = Message::from_slice(query) else { return };
    let Ok(mut reply) = MessageBuilder::new_vec().start_answer(message, Rcode::NOERROR) else {
        return;
    };
    reply.header_mut().set_aa(true);
    if let (Some(version), Ok(question)) = (shelf.here(), message.sole_question())
        && question.qtype() == Rtype::SOA
    {
        reply.push(version.soa()).unwrap();
    }
    *out = reply.finish();
}

fn answer(server: &Server<Ours>, query: &[u8], from: IpAddr, over: Over) -> Reply {
    let now = unix_time::seconds();
    let shelf = &server.zones().0;
    server.handle(query, from, over, now, |query, out| plain(shelf, query, out))
}

/// Listens on a port for UDP and TCP.
async fn listen(program: Program, shelf: Arc<Shelf>, tasks: &mut JoinSet<()>) -> u16 {
    let (tcp, udp, port) = loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        if let Ok(udp) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await {
            break (tcp, udp, port);
        }
    };
    let keys: Keys = [key(program)].into_iter().collect();
    let server = Arc::new(Server::new(Ours(shelf.clone()), keys));
    let datagrams = server.clone();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (octets, from) = udp.recv_from(&mut buffer).await.unwrap();
            let reply = answer(&datagrams, &buffer[..octets], from.ip(), Over::Datagram);
            if let Reply::One(message) = reply {
                udp.send_to(&message, from).await.unwrap();
            }
        }
    });
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, from) = tcp.accept().await.unwrap();
            connections.spawn(converse(server.clone(), shelf.clone(), stream, from));
        }
    });
    port
}

async fn converse(
    server: Arc<Server<Ours>>,
    shelf: Arc<Shelf>,
    mut stream: TcpStream,
    from: SocketAddr,
) {
    let mut reader = Reader::new(Pace::default());
    while let Ok(Some(query)) = reader.read(&mut stream).await {
        let reply = answer(&server, &query, from.ip(), Over::Stream);
        if let (Reply::Transfer(_), Ok(request)) = (&reply, Request::parse(&query)) {
            shelf.asked.lock().unwrap().push(request.kind);
        }
        if send(&mut stream, reply, Pace::default()).await.is_err() {
            return;
        }
    }
}

async fn until<T>(
    what: &str,
    log: impl Fn() -> String,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let look = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within {PATIENCE:?}; the server said:\n{}", log()),
    }
}

fn ask(program: Program) -> Ask {
    Ask {
        apex: name(ZONE),
        key: Some(Arc::new(key(program))),
        limits: Limits::default(),
        pace: Pace::default(),
    }
}

/// What a server hands on. NSD closes connections while it takes a new version into service, so one
/// may fail.
async fn pulled(program: Program, server: &Running, have: Option<&Record>) -> Received {
    until(
        "it hands it on",
        || server.log(),
        async || {
            let mut stream = TcpStream::connect(server.address).await.ok()?;
            let pulled = pull(&mut stream, &ask(program), have).await;
            pulled.inspect_err(|error| eprintln!("{program:?}: {error}")).ok()
        },
    )
    .await
    .received
}

async fn follow(program: Program) {
    let mut tasks = JoinSet::new();
    let shelf = Shelf::new();
    let port = listen(program, shelf.clone(), &mut tasks).await;
    let Some(server) = program.start(&Role::Primary { text: text(1, 600), other: port }) else {
        return;
    };
    let (handle, task) = Refresher::new(shelf.clone(), Tcp::default(), Settings::default());
    tasks.spawn(task.run());
    *shelf.refresher.lock().unwrap() = Some(handle.clone());
    // A notice that comes before the server is ready to answer is not what is tested here.
    until(
        "it answers",
        || server.log(),
        async || {
            let mut stream = TcpStream::connect(server.address).await.ok()?;
            version(&mut stream, &ask(program)).await.ok()
        },
    )
    .await;
    let primary = Primary { peer: server.address, key: Some(Arc::new(key(program))) };
    let limits = Limits::default();
    let secondary = Secondary { apex: name(ZONE), primaries: vec![primary], limits };
    handle.add(secondary, None).await;
    until("we have it", || server.log(), async || (shelf.serial() == 1).then_some(())).await;
    let first = shelf.here().unwrap().records.clone();
    assert_eq!(canonical(&first), canonical(&parse(&text(1, 600))), "{program:?}");

    server.reload(&text(2, 605));
    let changed = tokio::time::Instant::now();
    until("we have the change", || server.log(), async || (shelf.serial() == 2).then_some(()))
        .await;
    eprintln!("{program:?} as primary: followed after {:?}", changed.elapsed());
    let second = shelf.here().unwrap().records.clone();
    assert_eq!(canonical(&second), canonical(&parse(&text(2, 605))), "{program:?}");

    let Received::Differences(steps) = pulled(program, &server, Some(&first[0])).await else {
        panic!("{program:?} sent no differences:\n{}", server.log())
    };
    assert_eq!(canonical(&apply(&first, &steps).unwrap()), canonical(&second));
    let nothing = pulled(program, &server, Some(&second[0])).await;
    assert!(matches!(nothing, Received::UpToDate(_)), "{program:?}: {nothing:?}");
    let kept = shelf.store.load(&name(ZONE)).unwrap().unwrap();
    assert_eq!(kept.records, second);

    // Without the key there is nothing to be had.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert!(pull(&mut stream, &Ask { key: None, ..ask(program) }, None).await.is_err());
    let algorithm = program.algorithm().parse().unwrap();
    let liar = TsigKey::new(name(KEY), algorithm, &[0; 32]).unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let error = pull(&mut stream, &Ask { key: Some(Arc::new(liar)), ..ask(program) }, None).await;
    assert!(error.unwrap_err().to_string().contains("BADSIG"), "{program:?}");
}

async fn lead(program: Program) {
    let mut tasks = JoinSet::new();
    let shelf = Shelf::new();
    shelf.put(parse(&text(1, 600)));
    let port = listen(program, shelf.clone(), &mut tasks).await;
    let Some(server) = program.start(&Role::Secondary { other: port }) else { return };
    let serial = async |wanted: u32| {
        until(
            "it has it",
            || server.log(),
            async || {
                let mut stream = TcpStream::connect(server.address).await.ok()?;
                let version = version(&mut stream, &ask(program)).await.ok()?;
                (serial_of(&version.soa) == wanted).then_some(())
            },
        )
        .await;
    };
    serial(1).await;
    let held = async || match pulled(program, &server, None).await {
        Received::Zone(records) => records,
        other => panic!("{program:?} handed on {other:?}"),
    };
    assert_eq!(canonical(&held().await), canonical(&parse(&text(1, 600))), "{program:?}");

    shelf.put(parse(&text(2, 605)));
    let changed = tokio::time::Instant::now();
    let (notices, task) = Notifier::bind(Some(Ipv4Addr::LOCALHOST), None).await.unwrap();
    tasks.spawn(task.run());
    let soa = shelf.here().unwrap().soa();
    let (apex, to) = (name(ZONE), server.address);
    notices.send(Outgoing { apex, soa, to, key: Some(Arc::new(key(program))) }).await;
    serial(2).await;
    eprintln!("{program:?} as secondary: followed after {:?}", changed.elapsed());
    assert_eq!(canonical(&held().await), canonical(&parse(&text(2, 605))), "{program:?}");
    let asked = shelf.asked.lock().unwrap().clone();
    assert!(asked.contains(&Kind::Ixfr { serial: 1 }), "{program:?} asked {asked:?}");
}

#[tokio::test]
async fn nsd_is_followed() {
    follow(Program::Nsd).await;
}

#[tokio::test]
async fn knot_is_followed() {
    follow(Program::Knot).await;
}

#[tokio::test]
async fn named_is_followed() {
    follow(Program::Named).await;
}

#[tokio::test]
async fn nsd_follows() {
    lead(Program::Nsd).await;
}

#[tokio::test]
async fn knot_follows() {
    lead(Program::Knot).await;
}

#[tokio::test]
async fn named_follows() {
    lead(Program::Named).await;
}
