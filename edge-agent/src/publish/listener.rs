//! DNS on an address of this machine alone: for programs that look at the zones (SOA, AXFR, any
//! question), that obtain certificates (UPDATE with TSIG, RFC 2136), and for a name server of the
//! owner's own that says that its zone changed (NOTIFY).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Opcode, Rcode};
use sealpost_dns::engine::Engine;
use sealpost_dns::record::Name;
use sealpost_dns::transfer::access::{Prefix, Rule};
use sealpost_dns::transfer::frame::{Pace, Reader};
use sealpost_dns::transfer::query::error_reply;
use sealpost_dns::transfer::serve::{Over, Reply, SendError, Served, Server, Zones, send};
use sealpost_dns::transfer::tsig::{self, Keys};
use sealpost_dns::transport::{Asked, Clock, Reply as Answered, Respond, Via, Worker};
use sealpost_tunnel::DomainName;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::zone_task::Command;
use super::{Publisher, Shared, now, update};
use crate::config::Dns;
use crate::config::dns::Update;
use crate::deliver::offered::everybody;

/// Datagrams that are answered at the same time.
const MAX_DATAGRAMS: usize = 64;
/// Connections at the same time.
const MAX_CONNECTIONS: usize = 32;
/// Questions on a connection.
const MAX_QUESTIONS: usize = 100;
/// The largest datagram that is read, in octets.
const MAX_DATAGRAM: usize = 4096;
/// A client on this machine that says nothing for that long is gone.
const PACE: Pace =
    Pace { window: Duration::from_secs(15), octets: 1, total: Duration::from_secs(120) };
/// How long an update may take in all; the zone's task answers before.
const UPDATE: Duration = Duration::from_secs(60);
/// After an error of the socket, as when all files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// What is bound and does not answer yet.
pub struct Listener {
    udp: UdpSocket,
    tcp: TcpListener,
    local: Arc<Local>,
}

/// What answers.
struct Local {
    shared: Arc<Shared>,
    server: Server<ForPrograms>,
    keys: Keys,
    /// What the holders of keys may change, and where; everywhere when no zone is named.
    may: HashMap<Name, (Update, Vec<DomainName>)>,
    engine: Arc<Engine>,
    clock: Clock,
}

/// The zones as programs of this machine may have them.
struct ForPrograms(Arc<Shared>);

impl Zones for ForPrograms {
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
        let version = self.0.deliveries.dns.offered().version(apex)?;
        Some(version)
    }

    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
        // The listener is for this machine alone.
        if self.0.find(apex).is_some() { everybody() } else { Arc::new([]) }
    }

    fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>> {
        let (zone, _) = self.0.find(apex)?;
        let from = Prefix::new(zone.primary?.ip(), u8::MAX);
        let key = zone.primary_key.and_then(|key| self.0.tsig.get(&key).cloned());
        Some(Arc::new([match key {
            Some(key) => Rule::KeyFrom(key.name().clone(), from),
            None => Rule::From(from),
        }]))
    }

    fn notified(&self, apex: &Name, _: Option<u32>) -> bool {
        // When its queue is full, the primary says so again later.
        let found = self.0.find(apex);
        found.is_none_or(|(_, commands)| commands.try_send(Command::Refresh).is_ok())
    }
}

impl Listener {
    /// Opens both sockets.
    pub async fn bind(dns: &Dns, publisher: &Publisher) -> anyhow::Result<Self> {
        let address = dns.listen.get();
        let tcp = TcpListener::bind(address).await;
        let tcp = tcp.map_err(|error| anyhow::anyhow!("[dns] listen = \"{address}\": {error}"))?;
        // Port 0 is one that is free, the same for both.
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).await;
        let udp = udp.map_err(|error| anyhow::anyhow!("[dns] listen = \"{address}\": {error}"))?;
        let shared = publisher.shared().clone();
        let may = dns.keys.iter().filter_map(|key| {
            let name = key.wire_name().ok()?;
            Some((name, (key.update, key.zones.clone())))
        });
        let keys: Keys = shared.tsig.values().cloned().collect();
        let local = Local {
            server: Server::new(ForPrograms(shared.clone()), keys.clone()),
            keys,
            may: may.collect(),
            engine: shared.deliveries.dns.offered().engine().clone(),
            clock: Clock::start(),
            shared,
        };
        Ok(Self { udp, tcp, local: Arc::new(local) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let Self { udp, tcp, local } = self;
        let tasks = TaskTracker::new();
        let datagrams = datagrams(Arc::new(udp), local.clone(), tasks.clone());
        let connections = connections(tcp, local, tasks.clone());
        tokio::select! {
            () = datagrams => {}
            () = connections => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn datagrams(udp: Arc<UdpSocket>, local: Arc<Local>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(MAX_DATAGRAMS));
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (length, client) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "a datagram was not received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // A client asks again.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (udp, local, query) = (udp.clone(), local.clone(), buffer[..length].to_vec());
        tasks.spawn(async move {
            if let Reply::One(answer) = local.answer(&query, client, Over::Datagram).await {
                // Fails when the client is gone.
                let _ = udp.send_to(&answer, client).await;
            }
            drop(place);
        });
    }
}

async fn connections(tcp: TcpListener, local: Arc<Local>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match tcp.accept().await {
            Ok((stream, client)) => {
                let local = local.clone();
                tasks.spawn(async move {
                    if let Err(error) = local.serve(stream, client).await {
                        debug!(%client, %error, "a connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Local {
    async fn serve(&self, mut stream: TcpStream, client: SocketAddr) -> Result<(), SendError> {
        let mut reader = Reader::new(PACE);
        for _ in 0..MAX_QUESTIONS {
            let Some(query) = reader.read(&mut stream).await? else { break };
            let reply = self.answer(&query, client, Over::Stream).await;
            send(&mut stream, reply, PACE).await?;
            reader.restart();
        }
        Ok(())
    }

    async fn answer(&self, query: &[u8], client: SocketAddr, over: Over) -> Reply {
        let message = Message::from_slice(query);
        if message.is_ok_and(|message| message.header().opcode() == Opcode::UPDATE) {
            return self.update(query, client).await.map_or(Reply::Nothing, Reply::One);
        }
        let via = match over {
            Over::Datagram => Via::Udp,
            Over::Stream => Via::Stream,
        };
        let plain = |query: &[u8], out: &mut Vec<u8>| {
            let asked = Asked { client, via, now: self.clock.now() };
            match self.engine.worker().respond(query, &asked, out) {
                Answered::Send => {}
                Answered::Drop => out.clear(),
                Answered::Transfer => {
                    *out = error_reply(query, Rcode::REFUSED).unwrap_or_default();
                }
            }
        };
        self.server.handle(query, client.ip(), over, now(), plain)
    }

    /// Answers an update, signed as it was signed.
    async fn update(&self, query: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
        let opened = match tsig::open_request(query, &self.keys, now()) {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                info!(%client, "an update without a signature was refused");
                return error_reply(query, Rcode::REFUSED);
            }
            Err(fault) => {
                info!(%client, error = %fault, "an update was refused");
                let reply = tsig::fault_reply(query, &fault, &self.keys, now());
                return reply.or_else(|| error_reply(query, Rcode::FORMERR));
            }
        };
        let mut signer = opened.signer;
        let rcode = self.change(&opened.message, signer.key_name()).await;
        let mut reply = error_reply(&opened.message, rcode)?;
        signer.sign(&mut reply, now());
        Some(reply)
    }

    async fn change(&self, message: &[u8], key: &Name) -> Rcode {
        let request = match update::parse(message) {
            Ok(request) => request,
            Err(rcode) => return rcode,
        };
        let Some((zone, commands)) = self.shared.find(&request.apex) else {
            return Rcode::NOTAUTH;
        };
        let Some((may, zones)) = self.may.get(key) else { return Rcode::REFUSED };
        if *may == Update::None || !(zones.is_empty() || zones.contains(&zone.name)) {
            info!(zone = %zone.name, %key, "an update was refused: the key is not for it");
            return Rcode::REFUSED;
        }
        let (reply, answered) = oneshot::channel();
        if commands.try_send(Command::Update(request, *may, reply)).is_err() {
            return Rcode::SERVFAIL;
        }
        match tokio::time::timeout(UPDATE, answered).await {
            Ok(Ok(rcode)) => rcode,
            Ok(Err(_)) | Err(_) => Rcode::SERVFAIL,
        }
    }
}
