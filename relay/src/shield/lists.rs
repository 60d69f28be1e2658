//! Asks DNS lists about a client, all at once and within a bounded time. Whatever does not work is
//! taken as "not listed": a list that is away must not keep mail away.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, debug, warn};

use super::dnsbl::{List, Says, never_listed, question, reading};
use crate::metrics::Metrics;

/// For all questions about one client.
const PATIENCE: Duration = Duration::from_secs(2);
/// For one packet, before it is sent again.
const RETRY: Duration = Duration::from_millis(900);
/// Clients that are asked about at once.
const MAX_CLIENTS: usize = 256;
/// Answers that are remembered.
const MAX_ANSWERS: u64 = 4096;
/// How long at most: who was taken off a list gets in soon, and nothing is known of who wrote.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The lists that are asked.
pub(super) struct Lists {
    lists: Vec<Entry>,
    resolvers: Vec<SocketAddr>,
    resolver: Mutex<Option<TokioResolver>>,
    turns: Semaphore,
    metrics: Metrics,
}

struct Entry {
    list: List,
    /// Whether its operator has been told that it is of no use.
    told: AtomicBool,
}

impl Lists {
    /// Nothing is asked yet.
    pub(super) fn new(lists: &[List], resolvers: &[SocketAddr], metrics: Metrics) -> Self {
        let entry = |list: &List| Entry { list: list.clone(), told: AtomicBool::new(false) };
        Self {
            lists: lists.iter().map(entry).collect(),
            resolvers: resolvers.to_vec(),
            resolver: Mutex::default(),
            turns: Semaphore::new(MAX_CLIENTS),
            metrics,
        }
    }

    /// A list on which `client` stands; the first that says so.
    pub(super) async fn listing(&self, client: IpAddr) -> Option<&List> {
        let asked = timeout(PATIENCE, async {
            let _turn = self.turns.acquire().await.ok()?;
            let resolver = self.resolver()?;
            let mut answers: FuturesUnordered<_> =
                self.lists.iter().map(|entry| self.ask(&resolver, entry, client)).collect();
            while let Some(listed) = answers.next().await {
                if listed.is_some() {
                    return listed;
                }
            }
            None
        });
        asked.await.unwrap_or_else(|_| {
            self.metrics.list_asked("failed");
            None
        })
    }

    async fn ask<'a>(
        &'a self,
        resolver: &TokioResolver,
        entry: &'a Entry,
        client: IpAddr,
    ) -> Option<&'a List> {
        let says = match look_up(resolver, question(client, &entry.list)).await {
            // Only a list that says clearly that it does not list everybody is believed.
            Ok(Says::Listed) => {
                let nobody = question(never_listed(client), &entry.list);
                match look_up(resolver, nobody).await {
                    Ok(Says::Clear) => Ok(Says::Listed),
                    Ok(_) => Ok(Says::Nonsense),
                    Err(error) => Err(error),
                }
            }
            says => says,
        };
        let list = &entry.list;
        let outcome = match says {
            Ok(Says::Listed) => "listed",
            Ok(Says::Clear) => "clear",
            Ok(Says::Refuses) => {
                entry.warn("it refuses to answer; ask it through a resolver of your own");
                "refused"
            }
            Ok(Says::Nonsense) => {
                entry.warn("it lists everybody, or is no list; take it out of [shield]");
                "nonsense"
            }
            Err(error) => {
                debug!(%list, %error, "a list was not reached");
                "failed"
            }
        };
        self.metrics.list_asked(outcome);
        (outcome == "listed").then_some(list)
    }

    /// Made when it is first needed: a relay that starts before its network is up still has mail to
    /// carry.
    fn resolver(&self) -> Option<TokioResolver> {
        let mut held = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = match resolver(&self.resolvers) {
                Ok(resolver) => Some(resolver),
                Err(error) => {
                    self.metrics.list_asked("failed");
                    debug!(%error, "no resolver is known for the lists");
                    None
                }
            };
        }
        held.clone()
    }
}

impl Entry {
    /// Tells the operator, once.
    fn warn(&self, reason: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            warn!(list = %self.list, reason, "a list is of no use");
        }
    }
}

async fn look_up(resolver: &TokioResolver, name: String) -> Result<Says, NetError> {
    // The library logs what strangers send as warnings.
    let looked = resolver.lookup(name, RecordType::A).with_subscriber(Dispatch::none()).await;
    match looked {
        Ok(found) => Ok(reading(found.answers().iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        }))),
        Err(error) if error.is_no_records_found() => Ok(Says::Clear),
        Err(error) => Err(error),
    }
}

fn resolver(addresses: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let config = if addresses.is_empty() {
        read_system_conf()?.0
    } else {
        let servers = addresses.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        ResolverConfig::from_name_servers(servers.collect())
    };
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = RETRY;
    options.attempts = 2;
    options.cache_size = MAX_ANSWERS;
    options.positive_max_ttl = Some(REMEMBERED);
    options.negative_max_ttl = Some(REMEMBERED);
    options.use_hosts_file = ResolveHosts::Never;
    // Who writes is told to no more resolvers than need be.
    options.num_concurrent_reqs = 1;
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::Record;
    use hickory_resolver::proto::rr::rdata::A;
    use sealpost_tunnel::DomainName;
    use std::net::Ipv4Addr;
    use std::time::Instant;
    use tokio::net::UdpSocket;

    const CLIENT: &str = "192.0.2.99";

    /// A resolver that knows these lists: what each answers to each question.
    async fn resolver() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                if let Some(answer) = answer(&asked) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        address
    }

    fn answer(asked: &Message) -> Option<Message> {
        let query = asked.queries[0].clone();
        let name = query.name().to_string();
        let is_client = name.starts_with("99.2.0.192.");
        let code_or_address = match name.split_once(".list.").unwrap().1 {
            "good.example." if is_client => Ok([127, 0, 0, 2]),
            "everybody.example." => Ok([127, 0, 0, 2]),
            "refusing.example." => Ok([127, 255, 255, 254]),
            "parked.example." => Ok([203, 0, 113, 80]),
            "broken.example." => Err(ResponseCode::ServFail),
            // Broken where it would have to say that it does not list everybody.
            "doubtful.example." if is_client => Ok([127, 0, 0, 2]),
            "doubtful.example." => Err(ResponseCode::ServFail),
            "silent.example." => return None,
            _ => Err(ResponseCode::NXDomain),
        };
        let mut message = Message::response(asked.id, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(query.clone());
        match code_or_address {
            Ok(address) => {
                let data = RData::A(A(Ipv4Addr::from(address)));
                message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            Err(code) => message.metadata.response_code = code,
        }
        Some(message)
    }

    fn list(name: &str) -> List {
        List::try_from(format!("list.{name}.example").parse::<DomainName>().unwrap()).unwrap()
    }

    async fn listing(
        client: &str,
        names: &[&str],
        resolver: SocketAddr,
    ) -> (Option<String>, Metrics) {
        let metrics = Metrics::new().unwrap();
        let lists: Vec<List> = names.iter().map(|name| list(name)).collect();
        let lists = Lists::new(&lists, &[resolver], metrics.clone());
        let found = lists.listing(client.parse().unwrap()).await.map(ToString::to_string);
        (found, metrics)
    }

    fn counted(metrics: &Metrics, outcome: &str) -> f64 {
        let families = metrics.registry().gather();
        let family = families.iter().find(|f| f.name() == "sealpost_relay_lists_total").unwrap();
        let of = |m: &&prometheus::proto::Metric| m.get_label()[0].value() == outcome;
        family.get_metric().iter().find(of).unwrap().get_counter().get_value()
    }

    #[tokio::test]
    async fn a_client_is_listed_where_a_list_says_so_and_not_elsewhere() {
        let resolver = resolver().await;
        let names = ["clear", "good", "refusing", "silent"];
        let start = Instant::now();
        let (found, metrics) = listing(CLIENT, &names, resolver).await;
        assert_eq!(found.as_deref(), Some("good.example"));
        assert_eq!(counted(&metrics, "listed"), 1.0);
        // One that says nothing holds nobody up where another has spoken.
        assert!(start.elapsed() < PATIENCE / 2);
        let (found, metrics) = listing("192.0.2.98", &["clear", "good"], resolver).await;
        assert_eq!((found, counted(&metrics, "clear")), (None, 2.0));
        assert_eq!(listing("2001:db8::1", &["good"], resolver).await.0, None);
    }

    #[tokio::test]
    async fn a_list_that_is_none_refuses_nobody() {
        let resolver = resolver().await;
        for (name, outcome) in [
            ("refusing", "refused"),
            ("parked", "nonsense"),
            ("everybody", "nonsense"),
            ("broken", "failed"),
            ("doubtful", "failed"),
        ] {
            let (found, metrics) = listing(CLIENT, &[name], resolver).await;
            assert_eq!((found, counted(&metrics, outcome)), (None, 1.0), "{name}");
        }
        let (found, metrics) = listing("2001:db8::1", &["everybody"], resolver).await;
        assert_eq!((found, counted(&metrics, "nonsense")), (None, 1.0));
    }

    #[tokio::test]
    async fn a_resolver_that_is_away_is_made_up_for_by_another() {
        let away = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolvers = [away.local_addr().unwrap(), resolver().await];
        let lists = Lists::new(&[list("good")], &resolvers, Metrics::new().unwrap());
        assert!(lists.listing(CLIENT.parse().unwrap()).await.is_some());
    }

    #[tokio::test]
    async fn silence_is_waited_for_no_longer_than_two_seconds() {
        let start = Instant::now();
        let (found, metrics) = listing(CLIENT, &["silent", "silent"], resolver().await).await;
        assert_eq!((found, counted(&metrics, "failed")), (None, 1.0));
        assert!(start.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
