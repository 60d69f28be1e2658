//! The questions of one check: first the way to the domain's own name servers, then what they
//! say, then what the resolvers say. All of a kind are asked at once, and every wait is bounded.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use sealpost_tunnel::DomainName;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::answer;
use super::parent::Word;
use super::record::LABEL;
use super::servers::{self, Delegation, MAX_SERVERS, Server};
use super::validated;
use super::wire::{self, Role};
use super::witness::{Answer, Source, Statement};

/// For everything about one domain.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of that, for the way to its name servers; their answers and the resolvers' take three each.
const FINDING: Duration = Duration::from_secs(4);
/// Name servers whose addresses are looked up.
const MAX_NAMES: usize = 8;
/// A domain that is itself an alias may still have a record beneath it, in the zone above.
const MAX_ALIASES: usize = 3;
const DNS_PORT: u16 = 53;

/// One check of one domain.
pub(super) struct Lookup {
    domain: Name,
    name: Name,
    resolvers: Vec<SocketAddr>,
    private_servers: bool,
    until: Instant,
}

impl Lookup {
    pub(super) fn new(
        domain: &DomainName,
        resolvers: Vec<SocketAddr>,
        private_servers: bool,
    ) -> Option<Self> {
        let name = |text: String| Name::from_ascii(text).ok();
        Some(Self {
            domain: name(format!("{domain}."))?,
            name: name(format!("{LABEL}.{domain}."))?,
            resolvers,
            private_servers,
            until: Instant::now() + PATIENCE,
        })
    }

    /// What the domain's name servers say. If none are known: why the resolvers do not know them.
    pub(super) async fn at_servers(&self) -> Vec<Statement> {
        let limit = self.until.min(Instant::now() + FINDING);
        let finding =
            self.resolvers.iter().map(|&resolver| delegation(resolver, self.domain.clone()));
        let told = all(limit, finding).await;
        let (told, failed): (Vec<_>, Vec<_>) =
            self.resolvers.iter().zip(told).partition(|(_, told)| matches!(told, Some(Ok(_))));
        let told: Vec<Delegation> = told.into_iter().filter_map(|(_, told)| told?.ok()).collect();
        let servers = servers::agreed(&told);
        if servers.is_empty() {
            let failed = failed.into_iter().map(|(&resolver, told)| {
                let why = told.and_then(Result::err).unwrap_or_else(late);
                Statement { source: Source::Resolver(resolver), answer: Answer::Silent(why) }
            });
            return failed.collect();
        }
        let (private, public): (Vec<_>, Vec<_>) = servers
            .into_iter()
            .partition(|s| !self.private_servers && servers::is_private(s.address));
        let public: Vec<Server> = public.into_iter().take(MAX_SERVERS).collect();
        let asking = public.iter().map(|server| ask_server(server.address, self.name.clone()));
        let answers = all(self.until, asking).await;
        let not_asked = "is an address of a private network, which is not asked";
        let private = private.into_iter().map(|server| (server, Answer::Silent(not_asked.into())));
        let answers = answers.into_iter().map(|answer| answer.unwrap_or(Answer::Silent(late())));
        let statement = |(Server { name, address }, answer)| Statement {
            source: Source::Server { name, address },
            answer,
        };
        public.into_iter().zip(answers).chain(private.take(MAX_SERVERS)).map(statement).collect()
    }

    /// What the resolvers say.
    pub(super) async fn at_resolvers(&self, anchors: &Arc<TrustAnchors>) -> Vec<Statement> {
        let asking = self
            .resolvers
            .iter()
            .map(|&resolver| validated::ask(resolver, anchors.clone(), self.name.clone()));
        let answers = all(self.until, asking).await;
        let statement = |(&resolver, answer): (_, Option<Answer>)| Statement {
            source: Source::Resolver(resolver),
            answer: answer.unwrap_or(Answer::Silent(late())),
        };
        self.resolvers.iter().zip(answers).map(statement).collect()
    }
}

/// What the resolvers say of the keys that the parent zone of `domain` vouches for.
pub(super) async fn at_parent(
    domain: &Name,
    resolvers: &[SocketAddr],
    anchors: &Arc<TrustAnchors>,
) -> Vec<(String, Word)> {
    let ask = |&resolver| validated::ask_parent(resolver, anchors.clone(), domain.clone());
    let words = all(Instant::now() + PATIENCE, resolvers.iter().map(ask)).await;
    let named = |(&resolver, word): (_, Option<Word>)| {
        (Source::Resolver(resolver).to_string(), word.unwrap_or(Word::Silent(late())))
    };
    resolvers.iter().zip(words).map(named).collect()
}

fn late() -> String {
    "took too long".into()
}

/// Does all of `work` at once, until `limit`. `None` where it took longer, or where a library
/// broke down over what a stranger sent.
async fn all<T: Send + 'static>(
    limit: Instant,
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<Option<T>> {
    let mut tasks = JoinSet::new();
    let mut results = Vec::new();
    for (index, piece) in work.into_iter().enumerate() {
        results.push(None);
        tasks.spawn(async move { (index, timeout_at(limit, piece).await.ok()) });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((index, result)) = done {
            results[index] = result;
        }
    }
    results
}

async fn ask_server(address: IpAddr, name: Name) -> Answer {
    let query = Query::query(name.clone(), RecordType::TXT);
    match wire::ask(SocketAddr::new(address, DNS_PORT), Role::Server, &query).await {
        Ok(message) => answer::of_server(&message, &name),
        Err(error) => Answer::Silent(error.to_string()),
    }
}

/// What one resolver knows of the way to the domain's name servers. It must not be asked about the
/// record's own name: it would remember that there is none, for as long as the zone wants.
async fn delegation(resolver: SocketAddr, domain: Name) -> Result<Delegation, String> {
    let zone = zone_of(resolver, domain).await?;
    let message = ask_resolver(resolver, &zone, RecordType::NS).await?;
    let mut names: Vec<Name> = records(&message, &zone)
        .filter_map(|data| match data {
            RData::NS(name) => Some(name.0.clone()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names.truncate(MAX_NAMES);
    let questions = names.iter().flat_map(|name| {
        [RecordType::A, RecordType::AAAA].map(|kind| addresses(resolver, name.clone(), kind))
    });
    let answers = all(Instant::now() + wire::PATIENCE, questions).await;
    let servers: Vec<Server> = answers.into_iter().flatten().flatten().collect();
    if servers.is_empty() {
        return Err(format!("knows no addresses of the name servers of {zone}"));
    }
    Ok(Delegation { zone: zone.to_lowercase().to_string(), servers })
}

async fn zone_of(resolver: SocketAddr, domain: Name) -> Result<Name, String> {
    let mut name = domain;
    for _ in 0..MAX_ALIASES {
        let message = ask_resolver(resolver, &name, RecordType::SOA).await?;
        if records(&message, &name).any(|data| data.record_type() == RecordType::CNAME) {
            name = name.base_name();
            continue;
        }
        let mut soas =
            message.answers.iter().chain(&message.authorities).filter(|record| {
                record.record_type() == RecordType::SOA && record.name.zone_of(&name)
            });
        return match soas.next() {
            Some(soa) => Ok(soa.name.clone()),
            None => Err("does not say in which zone the domain is".into()),
        };
    }
    Err("the domain is an alias beneath aliases".into())
}

async fn addresses(resolver: SocketAddr, name: Name, kind: RecordType) -> Vec<Server> {
    // One server that has no address is no reason to give up the others.
    let Ok(message) = ask_resolver(resolver, &name, kind).await else { return Vec::new() };
    let text = name.to_lowercase().to_string().trim_end_matches('.').to_owned();
    let addresses = records(&message, &name).filter_map(RData::ip_addr);
    addresses.map(|address| Server { name: text.clone(), address }).collect()
}

async fn ask_resolver(
    resolver: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> Result<Message, String> {
    let query = Query::query(name.clone(), kind);
    let asked = wire::ask(resolver, Role::Resolver, &query).await;
    let message = asked.map_err(|error| error.to_string())?;
    answer::refused(message.metadata.response_code).map_or(Ok(message), Err)
}

fn records<'a>(message: &'a Message, name: &'a Name) -> impl Iterator<Item = &'a RData> {
    message.answers.iter().filter(move |record| record.name == *name).map(|record| &record.data)
}
