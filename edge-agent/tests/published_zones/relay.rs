//! A relay that serves the zone of its box: it has it through the tunnel when it is told of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use domain::base::iana::Opcode;
use domain::base::{Message, MessageBuilder};
use domain::rdata::{Soa, ZoneRecordData};
use quinn::{Connection, Endpoint};
use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::difference::apply;
use sealpost_dns::transfer::frame::{Pace, Reader, Writer};
use sealpost_dns::transfer::inbound::{Limits, Received};
use sealpost_dns::transfer::notify::{self, Decision};
use sealpost_dns::transfer::pull::{Ask, pull};
use sealpost_dns::transfer::query::{serial_of, soa_of};
use sealpost_tunnel::ask::write_answer;
use sealpost_tunnel::control::{Hello, OFFERS_ZONES, SERVES_ZONES};
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::quic::{self, Use};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Answer, Identity, Opening, PublicKey, ResetCode, SessionId};
use tokio::io::AsyncWriteExt;

/// What it has and was told.
#[derive(Default)]
struct State {
    zone: Vec<Record>,
    notices: usize,
    incremental: bool,
    offered: bool,
    tunnels: Vec<Connection>,
}

/// A relay on a port of its own; gone when dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Identity,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// That serves `zone`.
    pub(crate) fn start(zone: &'static str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = Identity::ephemeral();
        let endpoint = {
            let _context = runtime.enter();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            quic::relay_endpoint(any, &identity, &RestartKeys::ephemeral()).unwrap()
        };
        let state = Arc::<Mutex<State>>::default();
        let address = endpoint.local_addr().unwrap();
        runtime.spawn(accept(endpoint, zone, state.clone()));
        Self { address, identity, state, _runtime: runtime }
    }

    pub(crate) fn serial(&self) -> Option<u32> {
        self.state.lock().unwrap().zone.first().map(serial_of)
    }

    pub(crate) fn text(&self) -> String {
        let state = self.state.lock().unwrap();
        state.zone.iter().map(|record| format!("{record}\n")).collect()
    }

    pub(crate) fn notices(&self) -> usize {
        self.state.lock().unwrap().notices
    }

    /// Whether a change came as one.
    pub(crate) fn incremental(&self) -> bool {
        self.state.lock().unwrap().incremental
    }

    /// Whether the box said that it has zones.
    pub(crate) fn offered(&self) -> bool {
        self.state.lock().unwrap().offered
    }

    /// From now on serves a version that is ahead of what it had; its serial.
    pub(crate) fn run_ahead(&self, by: u32) -> u32 {
        let mut state = self.state.lock().unwrap();
        let ZoneRecordData::Soa(soa) = state.zone[0].data() else { panic!("no SOA first") };
        let serial = soa.serial().into_int() + by;
        let (primary, contact) = (soa.mname().clone(), soa.rname().clone());
        let soa = Soa::new(
            primary,
            contact,
            serial.into(),
            soa.refresh(),
            soa.retry(),
            soa.expire(),
            soa.minimum(),
        );
        *state.zone[0].data_mut() = soa.into();
        serial
    }

    /// Ends all tunnels.
    pub(crate) fn cut(&self) {
        for tunnel in std::mem::take(&mut self.state.lock().unwrap().tunnels) {
            tunnel.close(ResetCode::Draining.into(), b"");
        }
    }
}

async fn accept(endpoint: Endpoint, zone: &'static str, state: Arc<Mutex<State>>) {
    while let Some(incoming) = endpoint.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                serve(connection, zone, state).await;
            }
        });
    }
}

async fn serve(connection: Connection, zone: &'static str, state: Arc<Mutex<State>>) {
    let key = quic::peer_key(&connection).unwrap();
    let mut control = None;
    if quic::purpose(&connection) == Some(Use::Tunnel) {
        let hello = Hello { capabilities: SERVES_ZONES, ..Hello::ours("test") };
        let greeted = Control::accept(&connection, &hello).await.unwrap();
        let mut state = state.lock().unwrap();
        state.offered |= greeted.peer.capabilities & OFFERS_ZONES != 0;
        state.tunnels.push(connection.clone());
        control = Some(greeted);
    }
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(stream(connection.clone(), key, zone, state.clone(), send, recv));
    }
    drop(control);
}

async fn stream(
    connection: Connection,
    key: PublicKey,
    zone: &'static str,
    state: Arc<Mutex<State>>,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) {
    let mut first = [0; 1];
    recv.read_exact(&mut first).await.unwrap();
    if first[0] == b'{' {
        // What it asks is known.
        let answer = Answer::Standing(Box::new(standing(key, zone)));
        let _ = write_answer(&mut send, &answer).await;
        return;
    }
    let mut header = vec![first[0]];
    header.resize(11, 0);
    recv.read_exact(&mut header[1..]).await.unwrap();
    assert!(matches!(Opening::decode(&header), Ok(Some((Opening::Dns(_), 11)))));
    let mut stream = TunnelStream::new(send, recv);
    let question = Reader::new(Pace::default()).read(&mut stream).await.unwrap().unwrap();
    let message = Message::from_slice(&question).unwrap();
    let reply = if message.header().opcode() == Opcode::NOTIFY {
        state.lock().unwrap().notices += 1;
        tokio::spawn(fetch(connection, zone, state));
        notify::reply(&question, Decision::Refresh).unwrap()
    } else {
        let mut reply = MessageBuilder::new_vec()
            .start_answer(message, domain::base::iana::Rcode::NOERROR)
            .unwrap();
        if let Some(soa) = state.lock().unwrap().zone.first() {
            reply.push(soa).unwrap();
        }
        reply.finish()
    };
    Writer::new(Pace::default()).write(&mut stream, &reply).await.unwrap();
    stream.send.finish();
}

/// Has the zone from the box.
async fn fetch(connection: Connection, zone: &'static str, state: Arc<Mutex<State>>) {
    let apex: Name = format!("{zone}.").parse().unwrap();
    let have = state.lock().unwrap().zone.clone();
    let (send, recv) = connection.open_bi().await.unwrap();
    let mut stream = TunnelStream::new(send, recv);
    stream.write_all(&Opening::Dns(SessionId::random()).encode()).await.unwrap();
    let ask = Ask { apex, key: None, limits: Limits::default(), pace: Pace::default() };
    let soa = have.iter().find(|record| soa_of(record).is_some());
    let Ok(pulled) = pull(&mut stream, &ask, soa).await else { return };
    let mut state = state.lock().unwrap();
    match pulled.received {
        Received::Zone(records) => state.zone = records,
        Received::Differences(steps) => {
            state.incremental = true;
            let mut records = apply(&have, &steps).unwrap();
            records.sort_by_key(|record| soa_of(record).is_none());
            state.zone = records;
        }
        Received::UpToDate(_) => {}
    }
}

fn standing(key: PublicKey, zone: &str) -> sealpost_tunnel::request::Standing {
    serde_json::from_value(serde_json::json!({
        "name": "alice", "key": key, "hostname": "relay.example", "domains_allowed": 5,
        "shared": ["198.51.100.1"], "name_servers": ["ns1.relay.example", "ns2.relay.example"],
        "domains": [{ "domain": zone, "mx": [format!("mx.{zone}")], "state": "proved", "method": "ds" }],
    }))
    .unwrap()
}
