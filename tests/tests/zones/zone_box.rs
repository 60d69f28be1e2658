//! A box that the test plays, with zones: it answers what the relay asks in DNS streams, and tells of
//! new versions.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use domain::base::iana::Rcode;
use domain::base::name::FlattenInto;
use domain::base::{Message, MessageBuilder};
use domain::zonefile::inplace::{Entry, Zonefile};
use quinn::{Connection, ReadError, ReadToEndError};
use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::access::Rule;
use sealpost_dns::transfer::difference::Difference;
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::notify;
use sealpost_dns::transfer::serve::{Served, Server, Zones, serve};
use sealpost_dns::transfer::tsig::Keys;
use sealpost_tunnel::control::{Hello, OFFERS_ZONES, SERVES_ZONES};
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::handover::Purpose;
use sealpost_tunnel::names::SessionId;
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Handover, Identity, Opening, PublicKey, Request, ResetCode};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use crate::line::{Line, Said, say};

const PATIENCE: Duration = Duration::from_secs(20);

/// See the module's text.
pub(crate) struct ZoneBox {
    identity: Identity,
    line: Line,
    home: Home,
    tunnel: Option<Connection>,
}

/// What it has, and how it answers.
#[derive(Clone, Default)]
struct Home(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    zones: HashMap<Name, Vec<Record>>,
    /// One octet, and then nothing.
    drips: bool,
    asked: usize,
}

/// What came of a notice.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Answer(Rcode),
    Reset(ResetCode),
}

impl ZoneBox {
    pub(crate) fn new(line: Line, identity: Identity) -> Self {
        Self { identity, line, home: Home::default(), tunnel: None }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.identity.public()
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Said> {
        self.say(&request.encode())
    }

    pub(crate) fn claim(&self, domain: &str) -> Result<Said> {
        self.say(json!({ "do": "claim", "domain": domain }).to_string().as_bytes())
    }

    pub(crate) fn release(&self, domain: &str) -> Result<Said> {
        self.say(json!({ "do": "release", "domain": domain }).to_string().as_bytes())
    }

    fn say(&self, octets: &[u8]) -> Result<Said> {
        let connection = self.line.dial(&self.identity, Use::Registry)?;
        let said = self.line.handle.block_on(say(&connection, octets))?;
        connection.close(ResetCode::Aborted.into(), b"");
        println!("    {} → {said:?}", String::from_utf8_lossy(octets));
        Ok(said)
    }

    /// The same box with another key, of which it tells the relay.
    pub(crate) fn rotated(&self, relay: PublicKey) -> Result<Self> {
        let next = Self {
            identity: Identity::ephemeral(),
            line: self.line.clone(),
            home: self.home.clone(),
            tunnel: None,
        };
        let handover = Handover::sign(Purpose::BoxKey, &self.identity, next.key(), Some(relay));
        next.ask(&Request::Rotate { handover })?.granted()?;
        Ok(next)
    }

    /// Opens a tunnel that answers for the zones.
    pub(crate) fn connect(&mut self) -> Result<()> {
        let connection = self.line.dial(&self.identity, Use::Tunnel)?;
        let ours = Hello { capabilities: OFFERS_ZONES, ..Hello::ours("played by a test") };
        let opening = Control::open(&connection, &ours);
        let mut control =
            self.line.handle.block_on(async { timeout(PATIENCE, opening).await })??;
        ensure!(
            control.peer.capabilities & SERVES_ZONES != 0,
            "the relay serves zones, and says so"
        );
        self.line.handle.spawn(async move { while control.next_event().await.is_ok() {} });
        self.line.handle.spawn(answer(connection.clone(), self.home.clone()));
        self.tunnel = Some(connection);
        Ok(())
    }

    /// Goes away.
    pub(crate) fn disconnect(&mut self) {
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.close(ResetCode::Draining.into(), b"");
        }
    }

    /// Has this zone from now on.
    pub(crate) fn has(&self, text: &str) -> Result<()> {
        let mut file = Zonefile::from(text);
        let mut records: Vec<Record> = Vec::new();
        while let Some(Entry::Record(record)) = file.next_entry()? {
            records.push(record.flatten_into());
        }
        let apex = records.first().context("an empty zone")?.owner().clone();
        self.home.state(|state| state.zones.insert(apex, records));
        Ok(())
    }

    /// Answers nothing any more, for ever.
    pub(crate) fn drip(&self) {
        self.home.state(|state| state.drips = true);
    }

    /// How often the relay asked.
    pub(crate) fn asked(&self) -> usize {
        self.home.state(|state| state.asked)
    }

    /// Tells the relay that a zone changed.
    pub(crate) fn notify(&self, apex: &str) -> Result<Heard> {
        let apex: Name = apex.parse()?;
        let soa = self.home.state(|state| state.zones.get(&apex).map(|zone| zone[0].clone()));
        self.tell(&notify::make(7, &apex, soa.as_ref()))
    }

    /// Demands that the relay takes the word that a zone changed.
    pub(crate) fn publish(&self, apex: &str) -> Result<()> {
        let heard = self.notify(apex)?;
        ensure!(heard == Heard::Answer(Rcode::NOERROR), "{apex}: {heard:?}");
        Ok(())
    }

    /// Sends any octets as a message.
    pub(crate) fn tell(&self, message: &[u8]) -> Result<Heard> {
        let length = u16::try_from(message.len())?.to_be_bytes();
        let header = Opening::Dns(SessionId(rand::random())).encode();
        self.tell_octets(&[&header, &length[..], message].concat())
    }

    /// Sends any octets on a stream.
    pub(crate) fn tell_octets(&self, octets: &[u8]) -> Result<Heard> {
        let tunnel = self.tunnel.as_ref().context("there is no tunnel")?;
        self.line.handle.block_on(async {
            timeout(PATIENCE, tell(tunnel, octets)).await.context("no answer to a notice")?
        })
    }
}

async fn tell(tunnel: &Connection, octets: &[u8]) -> Result<Heard> {
    let (mut send, mut recv) = tunnel.open_bi().await?;
    // What it refuses it may refuse early.
    let _ = send.write_all(octets).await;
    let _ = send.finish();
    match recv.read_to_end(4096).await {
        Ok(reply) => {
            let reply = reply.get(2..).context("a reply without its length")?;
            let message = Message::from_octets(reply).context("no message")?;
            ensure!(message.header().qr(), "no reply");
            Ok(Heard::Answer(message.header().rcode()))
        }
        Err(ReadToEndError::Read(ReadError::Reset(code))) => Ok(Heard::Reset(code.into())),
        Err(error) => bail!("{error}"),
    }
}

/// Answers DNS streams until the tunnel ends.
async fn answer(tunnel: Connection, home: Home) {
    while let Ok((send, recv)) = tunnel.accept_bi().await {
        let home = home.clone();
        let mut stream = TunnelStream::new(send, recv);
        tokio::spawn(async move {
            let mut header = [0; 11];
            stream.read_exact(&mut header).await?;
            let opening = Opening::decode(&header)?;
            ensure!(matches!(opening, Some((Opening::Dns(_), 11))), "no DNS stream: {opening:?}");
            let drips = home.state(|state| {
                state.asked += 1;
                state.drips
            });
            if drips {
                tokio::io::AsyncWriteExt::write_all(&mut stream, &[0]).await?;
                sleep(Duration::from_secs(3600)).await;
            }
            let server = Server::new(home.clone(), Keys::default());
            let soa = |query: &[u8], out: &mut Vec<u8>| *out = home.soa(query);
            let client = Ipv6Addr::LOCALHOST.into();
            serve(&mut stream, &server, client, Pace::default(), soa).await?;
            anyhow::Ok(())
        });
    }
}

impl Home {
    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn soa(&self, query: &[u8]) -> Vec<u8> {
        let message = Message::from_slice(query).expect("a message");
        let question = message.sole_question().expect("one question");
        let apex: Name = question.qname().flatten_into();
        let mut reply = MessageBuilder::new_vec()
            .start_answer(message, Rcode::NOERROR)
            .expect("an answer has room");
        if let Some(version) = self.find(&apex) {
            reply.header_mut().set_aa(true);
            reply.push(version.soa()).expect("one record has room");
        }
        reply.finish()
    }
}

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
        let zone = self.state(|state| state.zones.get(apex).cloned())?;
        Some(Arc::new(Version(zone)))
    }
    fn transfer_rules(&self, _: &Name) -> Arc<[Rule]> {
        Arc::new([Rule::From("::/0".parse().expect("a prefix"))])
    }
    fn primaries(&self, _: &Name) -> Option<Arc<[Rule]>> {
        None
    }
    fn notified(&self, _: &Name, _: Option<u32>) -> bool {
        true
    }
}
