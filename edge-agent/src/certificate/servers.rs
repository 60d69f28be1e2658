//! Which name servers serve a zone, and what each of them answers.
//!
//! A CA asks any of them, and so does a sender: what has to be in the zone must be at all. Each is
//! asked itself, without a resolver that may remember an older answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::TokioResolver;
use sealpost_tunnel::DomainName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::zone::plan::KeyDigest;

/// The most name servers of a zone, and addresses of each.
const MAX_SERVERS: usize = 16;
const MAX_ADDRESSES: usize = 8;
/// For one question, with all its attempts.
const PATIENCE: Duration = Duration::from_secs(6);
/// For one packet.
const RETRY: Duration = Duration::from_millis(1900);
/// For finding the name servers.
const FINDING: Duration = Duration::from_secs(20);
/// The largest packet that passes everywhere in one piece (RFC 9715).
const MAX_PACKET: u16 = 1232;
/// Strange packets before TCP is used.
const MAX_STRAY: usize = 8;
/// Questions to all servers of a zone that are under way at once.
const MAX_AT_ONCE: usize = 32;

/// How the name servers of a zone are found.
#[derive(Debug, Clone, Default)]
pub enum NameServers {
    /// By its NS records, through this machine's resolver.
    #[default]
    Delegated,
    /// These, for all zones: for tests.
    Given(Vec<Server>),
}

/// A name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What it is called.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// What has to be at a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expected {
    /// The name, absolute.
    pub name: String,
    /// What has to be there, beside anything else.
    pub what: What,
}

/// What has to be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A text, as for a challenge.
    Text(String),
    /// A TLSA record 3 1 1 with this digest.
    Key(KeyDigest),
}

/// What was found at all name servers of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// A sentence for each name server that lacks something or cannot be asked. Empty: all is
    /// everywhere.
    pub lacking: Vec<String>,
    /// The longest that resolvers may keep any of the answers, in seconds.
    pub ttl: u32,
}

impl NameServers {
    /// Those of the zone `domain`.
    pub async fn of(&self, domain: &DomainName) -> Result<Vec<Server>, String> {
        match self {
            Self::Given(servers) => Ok(servers.clone()),
            Self::Delegated => match timeout(FINDING, delegated(domain)).await {
                Ok(found) => found,
                Err(_) => Err(format!("the name servers of {domain} are not found in time")),
            },
        }
    }

    /// Asks all name servers of `domain` for all of `expected`.
    pub async fn ask(&self, domain: &DomainName, expected: &[Expected]) -> Found {
        match self.of(domain).await {
            Ok(servers) => ask_all(&servers, expected).await,
            Err(why) => Found { lacking: vec![why], ttl: 0 },
        }
    }
}

async fn delegated(domain: &DomainName) -> Result<Vec<Server>, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("the name servers of {domain} cannot be looked up: {error}")
    };
    let builder = TokioResolver::builder_tokio().map_err(|error| failed(&error))?;
    let resolver = builder.build().map_err(|error| failed(&error))?;
    let found = resolver.lookup(format!("{domain}."), RecordType::NS).await;
    let found = found.map_err(|error| failed(&error))?;
    let names: Vec<_> = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::NS(name) => Some(name.0.clone()),
            _ => None,
        })
        .take(MAX_SERVERS)
        .collect();
    if names.is_empty() {
        return Err(format!("{domain} has no name servers: has its registrar been told them?"));
    }
    let mut servers = Vec::new();
    for name in names {
        // A server without an address cannot be asked by the CA either, and is told of below.
        let addresses = match resolver.lookup_ip(name.clone()).await {
            Ok(found) => {
                found.iter().map(|ip| SocketAddr::new(ip, 53)).take(MAX_ADDRESSES).collect()
            }
            Err(_) => Vec::new(),
        };
        let name = name.to_string().trim_end_matches('.').to_owned();
        servers.push(Server { name, addresses });
    }
    Ok(servers)
}

async fn ask_all(servers: &[Server], expected: &[Expected]) -> Found {
    let mut tasks = JoinSet::new();
    let mut told: BTreeMap<(String, SocketAddr), Vec<Answer>> = BTreeMap::new();
    let mut keep = |done: Result<(String, SocketAddr, Answer), _>| {
        if let Ok((name, address, answer)) = done {
            told.entry((name, address)).or_default().push(answer);
        }
    };
    for server in servers {
        for &address in &server.addresses {
            for expected in expected.iter().cloned() {
                if tasks.len() >= MAX_AT_ONCE
                    && let Some(done) = tasks.join_next().await
                {
                    keep(done);
                }
                let name = server.name.clone();
                tasks.spawn(async move { (name, address, ask_one(address, expected).await) });
            }
        }
    }
    while let Some(done) = tasks.join_next().await {
        keep(done);
    }
    judge(servers, expected.len(), &told)
}

/// What one address said to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// It is there; answers may be kept for so long.
    There(u32),
    /// It is not.
    Lacks(String, u32),
    /// Nothing useful was said.
    Silent(String),
    /// This box has no way to such addresses.
    NoWay,
}

/// Each server has to have all at every address. An address of a kind that this box has no way to
/// counts only when the server has no other.
fn judge(
    servers: &[Server],
    questions: usize,
    told: &BTreeMap<(String, SocketAddr), Vec<Answer>>,
) -> Found {
    let mut found = Found::default();
    for server in servers {
        let mut seen = false;
        let mut wrong = Vec::new();
        for &address in &server.addresses {
            let answers = told.get(&(server.name.clone(), address));
            let answers = answers.map(Vec::as_slice).unwrap_or_default();
            let mut there = 0;
            for answer in answers {
                match answer {
                    Answer::There(ttl) => {
                        there += 1;
                        found.ttl = found.ttl.max(*ttl);
                    }
                    Answer::Lacks(what, ttl) => {
                        found.ttl = found.ttl.max(*ttl);
                        wrong.push(format!("{} ({}) {what}", server.name, address.ip()));
                    }
                    Answer::Silent(why) => {
                        wrong.push(format!("{} ({}) {why}", server.name, address.ip()));
                    }
                    Answer::NoWay => {}
                }
            }
            seen |= there == questions;
        }
        wrong.sort();
        wrong.dedup();
        if wrong.is_empty() && !seen {
            let none = server.addresses.is_empty();
            let why = if none { "has no address" } else { "cannot be reached from here" };
            wrong.push(format!("{} {why}", server.name));
        }
        // One sentence for each server is enough for people.
        found.lacking.extend(wrong.into_iter().take(1));
    }
    found
}

async fn ask_one(address: SocketAddr, expected: Expected) -> Answer {
    let kind = match expected.what {
        What::Text(_) => RecordType::TXT,
        What::Key(_) => RecordType::TLSA,
    };
    let Ok(name) = Name::from_ascii(&expected.name) else {
        return Answer::Silent(format!("was not asked: {} is no name", expected.name));
    };
    match timeout(PATIENCE, exchange(address, Query::query(name, kind))).await {
        Ok(Ok(message)) => read(&message, &expected),
        Ok(Err(error)) if no_way(&error) => Answer::NoWay,
        Ok(Err(error)) => Answer::Silent(format!("cannot be asked: {error}")),
        Err(_) => Answer::Silent("does not answer".into()),
    }
}

fn no_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, Unsupported};
    matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable | Unsupported)
}

/// What a message says about what is expected. Pure.
fn read(message: &Message, expected: &Expected) -> Answer {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Answer::Silent(format!("answers with {other:?}")),
    }
    if !message.metadata.authoritative {
        return Answer::Silent("does not serve the zone".into());
    }
    let records: Vec<_> = message
        .answers
        .iter()
        .filter(|record| record.name.to_string().eq_ignore_ascii_case(&expected.name))
        .collect();
    let is_it = |data: &RData| match (&expected.what, data) {
        (What::Text(text), RData::TXT(txt)) => txt.txt_data.concat() == text.as_bytes(),
        (What::Key(key), RData::TLSA(tlsa)) => {
            (u8::from(tlsa.cert_usage), u8::from(tlsa.selector), u8::from(tlsa.matching))
                == (3, 1, 1)
                && tlsa.cert_data == key
        }
        _ => false,
    };
    if let Some(record) = records.iter().find(|record| is_it(&record.data)) {
        return Answer::There(record.ttl);
    }
    let kind = match expected.what {
        What::Text(_) => RecordType::TXT,
        What::Key(_) => RecordType::TLSA,
    };
    let kept = records.iter().filter(|it| it.record_type() == kind).map(|it| it.ttl).max();
    // What is remembered of a name without such records (RFC 2308 section 5).
    let denied = message.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let ttl = kept.or(denied.max()).unwrap_or(0);
    let lacks = match expected.what {
        What::Text(_) => "lacks the challenge at",
        What::Key(_) => "lacks the TLSA record of the next key at",
    };
    Answer::Lacks(format!("{lacks} {}", expected.name.trim_end_matches('.')), ttl)
}

async fn exchange(address: SocketAddr, query: Query) -> io::Result<Message> {
    if let Some(answer) = by_packet(address, &query).await? {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(address).await?;
    let (id, octets) = question(&query)?;
    let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &octets].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    answer(&buffer, id, &query).ok_or_else(|| io::Error::other("something that is no answer"))
}

/// `None`: it is too long for a packet, or none comes, or many that are none.
async fn by_packet(address: SocketAddr, query: &Query) -> io::Result<Option<Message>> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    for _ in 0..2 {
        // A new port and a new number for each attempt leave the most to guess.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        let (id, octets) = question(query)?;
        socket.send(&octets).await?;
        let received = timeout(RETRY, async {
            let mut buffer = vec![0; 4096];
            for _ in 0..MAX_STRAY {
                let length = socket.recv(&mut buffer).await?;
                if let Some(answer) = answer(&buffer[..length], id, query) {
                    return Ok(Some(answer).filter(|it| !it.metadata.truncation));
                }
            }
            io::Result::Ok(None)
        });
        if let Ok(received) = received.await {
            return received;
        }
    }
    Ok(None)
}

fn question(query: &Query) -> io::Result<(u16, Vec<u8>)> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_PACKET);
    message.set_edns(edns);
    Ok((id, message.to_vec().map_err(io::Error::other)?))
}

fn answer(octets: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(octets).ok()?;
    let meta = &message.metadata;
    let answers = meta.id == id && meta.message_type == MessageType::Response;
    let [asked] = message.queries.as_slice() else { return None };
    let same = asked.name() == query.name() && asked.query_type() == query.query_type();
    (answers && same).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::TXT;

    fn expected() -> Expected {
        Expected { name: "_acme-challenge.mx.a.example.".into(), what: What::Text("abc".into()) }
    }

    fn answered(texts: &[&str]) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        for text in texts {
            let name = Name::from_ascii("_ACME-challenge.mx.a.example.").unwrap();
            let data = RData::TXT(TXT::new(vec![(*text).into()]));
            message.add_answer(Record::from_rdata(name, 300, data));
        }
        message
    }

    #[test]
    fn a_challenge_may_stand_beside_others() {
        assert_eq!(read(&answered(&["x", "abc"]), &expected()), Answer::There(300));
        assert!(matches!(read(&answered(&["x"]), &expected()), Answer::Lacks(_, 300)));
        assert!(matches!(read(&answered(&[]), &expected()), Answer::Lacks(_, 0)));
        let mut forwarded = answered(&["abc"]);
        forwarded.metadata.authoritative = false;
        assert!(matches!(read(&forwarded, &expected()), Answer::Silent(_)));
    }

    #[test]
    fn every_server_must_have_it_and_is_named_when_not() {
        let server = |name: &str, addresses: &[&str]| Server {
            name: name.into(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        };
        let servers = [
            server("ns1.example", &["192.0.2.1:53", "[2001:db8::1]:53"]),
            server("ns2.example", &["192.0.2.2:53"]),
        ];
        let judged = |answers: [Answer; 3]| {
            let places = servers.iter().flat_map(|server| {
                server.addresses.iter().map(|address| (server.name.clone(), *address))
            });
            let told = places.zip(answers.map(|answer| vec![answer])).collect();
            judge(&servers, 1, &told)
        };
        let there = Answer::There(300);
        let all = judged([there.clone(), there.clone(), Answer::There(3600)]);
        assert_eq!(all, Found { lacking: vec![], ttl: 3600 });
        let no_ipv6 = judged([there.clone(), Answer::NoWay, there.clone()]);
        assert_eq!(no_ipv6.lacking, Vec::<String>::new());
        let lacks = Answer::Lacks("lacks it".into(), 60);
        assert_eq!(
            judged([there.clone(), Answer::NoWay, lacks]).lacking,
            ["ns2.example (192.0.2.2) lacks it"]
        );
        assert_eq!(
            judged([Answer::NoWay, Answer::NoWay, there.clone()]).lacking,
            ["ns1.example cannot be reached from here"]
        );
        let silent = judged([there.clone(), Answer::Silent("does not answer".into()), there]);
        assert_eq!(silent.lacking, ["ns1.example (2001:db8::1) does not answer"]);
        let none = judge(&[server("ns3.example", &[])], 1, &BTreeMap::new());
        assert_eq!(none.lacking, ["ns3.example has no address"]);
    }
}
