//! Which name servers serve a zone, and what each of them answers.
//!
//! A CA asks any of them, and so does a sender: what has to be in the zone must be at all. Each is
//! asked itself, without a resolver that may remember an older answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::DomainName;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::zone::apex;
use crate::lookup::delegation::Resolvers;
use crate::lookup::exchange::{self, Silence};
use crate::lookup::message::{Answer as Message, Of, Question};
use crate::lookup::resolvers::{FILE, PORT, of_machine, world};
use crate::zone::plan::KeyDigest;

/// The most addresses of a name server.
const MAX_ADDRESSES: usize = 8;
/// For finding the name servers.
const FINDING: Duration = Duration::from_secs(30);
/// Questions to all servers of a zone that are under way at once.
const MAX_AT_ONCE: usize = 32;
/// The longest that an answer is taken to be kept, in seconds: as resolvers have it, which keep
/// nothing for longer than a day. Answers are not validated here, and without this a relay could have
/// a new key wait for years.
const MAX_KEPT: u32 = 86_400;

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

/// What was found at all name servers of a zone, or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// A sentence for each name server that answers and lacks something.
    pub lacking: Vec<String>,
    /// A sentence for each that says nothing about the zone: it does not answer, or only that it
    /// cannot or will not, or it cannot be reached from here.
    pub silent: Vec<String>,
    /// Whether of each zone one name server at least has all.
    pub answered: bool,
    /// The longest that resolvers may keep any of the answers, in seconds.
    pub ttl: u32,
}

impl Found {
    /// Whether every name server has all.
    pub fn everywhere(&self) -> bool {
        self.answered && self.lacking.is_empty() && self.silent.is_empty()
    }

    /// Whether every name server that answers has all, and there is one.
    pub fn wherever_answered(&self) -> bool {
        self.answered && self.lacking.is_empty()
    }

    /// What was found in several zones.
    pub fn all(zones: impl IntoIterator<Item = Self>) -> Self {
        let mut zones = zones.into_iter().peekable();
        let mut all = Self { answered: zones.peek().is_some(), ..Self::default() };
        for zone in zones {
            all.lacking.extend(zone.lacking);
            all.silent.extend(zone.silent);
            all.answered &= zone.answered;
            all.ttl = all.ttl.max(zone.ttl);
        }
        all
    }
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
            Err(why) => Found { silent: vec![why], ..Found::default() },
        }
    }
}

/// This machine's own resolvers are asked first, and public ones where they are silent.
async fn delegated(domain: &DomainName) -> Result<Vec<Server>, String> {
    let mut resolvers = of_machine(Path::new(FILE));
    resolvers.extend(world(&[]));
    let way = Resolvers::new(resolvers);
    let names = way.name_servers(&apex(domain)).await.map_err(|unknown| {
        format!("the name servers of {domain} are not found ({unknown}): has its registrar been told them?")
    })?;
    let mut servers = Vec::new();
    for name in names {
        // A server without an address cannot be asked by the CA either, and is told of below.
        let found = way.at_addresses(&name).await;
        let addresses = found.iter().filter_map(|server| server.address.as_ref().ok());
        let addresses = addresses.map(|ip| SocketAddr::new(*ip, PORT)).take(MAX_ADDRESSES);
        servers.push(Server { name: name.to_string(), addresses: addresses.collect() });
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
    /// Nothing was said about the zone.
    Silent(String),
    /// This box has no way to such addresses.
    NoWay,
}

/// Each server has to have all at every address. An address of a kind that this box has no way to
/// counts only when the server has no other. One address with an old version is enough for resolvers to
/// learn it, so that weighs more than the silence of another.
fn judge(
    servers: &[Server],
    questions: usize,
    told: &BTreeMap<(String, SocketAddr), Vec<Answer>>,
) -> Found {
    let mut found = Found::default();
    for server in servers {
        let mut seen = false;
        let (mut lacking, mut silent) = (Vec::new(), Vec::new());
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
                        lacking.push(format!("{} ({}) {what}", server.name, address.ip()));
                    }
                    Answer::Silent(why) => {
                        silent.push(format!("{} ({}) {why}", server.name, address.ip()));
                    }
                    Answer::NoWay => {}
                }
            }
            seen |= there == questions;
        }
        found.answered |= seen;
        if lacking.is_empty() && silent.is_empty() && !seen {
            let none = server.addresses.is_empty();
            let why = if none { "has no address" } else { "cannot be reached from here" };
            silent.push(format!("{} {why}", server.name));
        }
        // One sentence for each server is enough for people.
        lacking.sort();
        silent.sort();
        match lacking.is_empty() {
            false => found.lacking.extend(lacking.into_iter().take(1)),
            true => found.silent.extend(silent.into_iter().take(1)),
        }
    }
    found
}

async fn ask_one(address: SocketAddr, expected: Expected) -> Answer {
    let Ok(name) = expected.name.parse() else {
        return Answer::Silent(format!("was not asked: {} is no name", expected.name));
    };
    let question = Question { name, rtype: expected.what.rtype(), of: Of::NameServer };
    match exchange::ask(address, &question).await {
        Ok(message) => read(&message, &question.name, &expected),
        Err(Silence::NoWay) => Answer::NoWay,
        Err(silence) => Answer::Silent(format!("was asked in vain: {silence}")),
    }
}

impl What {
    fn rtype(&self) -> Rtype {
        match self {
            Self::Text(_) => Rtype::TXT,
            Self::Key(_) => Rtype::TLSA,
        }
    }

    fn is(&self, record: &Record) -> bool {
        match (self, record.data()) {
            (Self::Text(text), Data::Txt(txt)) => txt.iter().flatten().copied().eq(text.bytes()),
            (Self::Key(key), Data::Tlsa(tlsa)) => {
                let kind = (tlsa.usage().to_int(), tlsa.selector().to_int());
                (kind, tlsa.matching_type().to_int()) == ((3, 1), 1) && *tlsa.data() == key[..]
            }
            _ => false,
        }
    }
}

/// What a message says about what is expected at `name`. Pure.
fn read(message: &Message, name: &Name, expected: &Expected) -> Answer {
    if !matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
        return Answer::Silent(format!("answers with {}", message.rcode));
    }
    let ttl = |record: &Record| record.ttl().as_secs().min(MAX_KEPT);
    if !message.authoritative {
        // It may have passed on what another remembers, which may be old.
        return Answer::Lacks("does not serve the zone".into(), 0);
    }
    let mut records = message.of(name, expected.what.rtype());
    if let Some(record) = records.find(|record| expected.what.is(record)) {
        return Answer::There(ttl(record));
    }
    let kept = message.of(name, expected.what.rtype()).map(ttl).max();
    // What is remembered of a name without such records (RFC 2308 section 5).
    let denied = message.authority.iter().filter_map(|record| match record.data() {
        Data::Soa(soa) => Some(ttl(record).min(soa.minimum().as_secs())),
        _ => None,
    });
    let ttl = kept.or(denied.max()).unwrap_or(0);
    let lacks = match expected.what {
        What::Text(_) => "lacks the challenge at",
        What::Key(_) => "lacks the TLSA record of the next key at",
    };
    Answer::Lacks(format!("{lacks} {}", expected.name.trim_end_matches('.')), ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;

    fn expected() -> Expected {
        Expected { name: "_acme-challenge.mx.a.example.".into(), what: What::Text("abc".into()) }
    }

    fn message(answer: &str, authority: &str) -> Message {
        let section = |text: &str| match text {
            "" => Vec::new(),
            text => records("a.example.", text),
        };
        Message {
            rcode: Rcode::NOERROR,
            authoritative: true,
            validated: false,
            truncated: false,
            reason: None,
            answer: section(answer),
            authority: section(authority),
            additional: Vec::new(),
        }
    }

    #[test]
    fn what_is_wanted_may_stand_beside_others() {
        let said = |message: &Message, expected: &Expected| {
            read(message, &expected.name.parse().unwrap(), expected)
        };
        let both = "_ACME-challenge.mx 300 TXT x\n_ACME-challenge.mx 300 TXT abc\n";
        assert_eq!(said(&message(both, ""), &expected()), Answer::There(300));
        let other = message("_acme-challenge.mx 300 TXT x\n", "");
        assert!(matches!(said(&other, &expected()), Answer::Lacks(_, 300)));
        assert!(matches!(said(&message("", ""), &expected()), Answer::Lacks(_, 0)));
        let forwarded = Message { authoritative: false, ..message(both, "") };
        assert!(matches!(said(&forwarded, &expected()), Answer::Lacks(_, 0)));
        let failed = Message { rcode: Rcode::SERVFAIL, ..message(both, "") };
        assert!(matches!(said(&failed, &expected()), Answer::Silent(_)));

        let name = "_25._tcp.mx.a.example.".to_owned();
        let key = Expected { name, what: What::Key([0xab; 32]) };
        let tlsa =
            |kind: &str| message(&format!("_25._tcp.mx 60 TLSA {kind} {}\n", "ab".repeat(32)), "");
        assert_eq!(said(&tlsa("3 1 1"), &key), Answer::There(60));
        assert!(matches!(said(&tlsa("3 0 1"), &key), Answer::Lacks(_, 60)));
    }

    #[test]
    fn nobody_has_a_key_wait_for_years() {
        let ever = i32::MAX;
        let denial = format!("@ {ever} SOA n h 1 1 1 1 {ever}\n");
        let name = expected().name.parse().unwrap();
        let said = read(&message("", &denial), &name, &expected());
        assert!(matches!(said, Answer::Lacks(_, MAX_KEPT)), "{said:?}");
        let there = message(&format!("_acme-challenge.mx {ever} TXT abc\n"), "");
        assert_eq!(read(&there, &name, &expected()), Answer::There(MAX_KEPT));
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
        let there = || Answer::There(300);
        let found = |lacking: &[&str], silent: &[&str], answered, ttl| Found {
            lacking: lacking.iter().map(|&it| it.into()).collect(),
            silent: silent.iter().map(|&it| it.into()).collect(),
            answered,
            ttl,
        };
        let all = judged([there(), there(), Answer::There(3600)]);
        assert_eq!(all, found(&[], &[], true, 3600));
        assert!(all.everywhere());
        assert!(judged([there(), Answer::NoWay, there()]).everywhere(), "no IPv6 here");
        let lacks = || Answer::Lacks("lacks it".into(), 60);
        let one = judged([there(), Answer::NoWay, lacks()]);
        assert_eq!(one, found(&["ns2.example (192.0.2.2) lacks it"], &[], true, 300));
        let far = judged([Answer::NoWay, Answer::NoWay, there()]);
        assert_eq!(far, found(&[], &["ns1.example cannot be reached from here"], true, 300));
        assert!(far.wherever_answered() && !far.everywhere());
        let silence = || Answer::Silent("does not answer".into());
        let silent = judged([there(), silence(), there()]);
        let says = "ns1.example (2001:db8::1) does not answer";
        assert_eq!(silent, found(&[], &[says], true, 300));
        // What is old at one address is not made good by the silence of another.
        let both = judged([silence(), lacks(), there()]);
        assert_eq!(both, found(&["ns1.example (2001:db8::1) lacks it"], &[], true, 300));
        let nobody = judged([silence(), silence(), silence()]);
        assert!(!nobody.wherever_answered() && nobody.silent.len() == 2);
        let none = judge(&[server("ns3.example", &[])], 1, &BTreeMap::new());
        assert_eq!(none, found(&[], &["ns3.example has no address"], false, 0));
        let zones = Found::all([silent, one, nobody]);
        assert_eq!((zones.lacking.len(), zones.silent.len(), zones.answered), (1, 3, false));
    }
}
