//! What the parent zone, the name servers and resolvers of the world say about a domain, asked all
//! at once. Each has a time of its own, so one that is silent delays nobody.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::{ExtendedErrorCode, Rcode, Rtype};
use domain::rdata::Ds;
use sealpost_dns::record::{Data, Name};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::delegation::{Resolvers, Server, Unknown};
use super::exchange::{self, Silence};
use super::message::{Answer, Of, Question};
use super::resolvers::PORT;

/// How long one server may take for all that it is asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most sets of records that are asked for.
pub const MOST_SETS: usize = 64;
/// The most servers that are asked.
const MOST_ASKED: usize = 64;

/// What to ask about a domain.
#[derive(Debug, Clone)]
pub struct Request {
    /// The domain.
    pub domain: Name,
    /// Name servers that it should have, which are asked beside those that the parent names.
    pub name_servers: Vec<Name>,
    /// The sets of records that count: name and type.
    pub sets: Vec<(Name, Rtype)>,
    /// The resolvers that are asked what they hear.
    pub resolvers: Vec<SocketAddr>,
}

/// What all said.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The parent zone; or why it was not found.
    pub parent: Result<Parent, Unknown>,
    /// Each name server of the domain at each of its addresses.
    pub servers: Vec<(Server, Result<Zone, Silence>)>,
    /// Each resolver.
    pub resolvers: Vec<(SocketAddr, Result<Heard, Silence>)>,
}

/// The parent zone.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its name.
    pub zone: Name,
    /// What each of its name servers says.
    pub servers: Vec<(Server, Result<Delegation, Silence>)>,
}

/// What a name server of the parent zone says about the domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delegation {
    /// The names of its name servers, sorted.
    pub name_servers: Vec<Name>,
    /// Which keys it should have.
    pub ds: Vec<Ds<Bytes>>,
    /// For how long those are remembered, in seconds.
    pub ds_ttl: u32,
}

/// What a name server of the domain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// How the question for the SOA record went.
    pub rcode: Rcode,
    /// Whether it is its own zone.
    pub authoritative: bool,
    /// Which version it has.
    pub serial: Option<u32>,
    /// The data of each set that was asked for, in that order.
    pub sets: Vec<Result<Vec<Data>, Silence>>,
}

/// What a resolver hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// How it went.
    pub outcome: Outcome,
    /// Which version of the zone it knows.
    pub serial: Option<u32>,
    /// The data of each set that was asked for, in that order.
    pub sets: Vec<Result<Vec<Data>, Silence>>,
}

/// How a resolver fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It found and validated.
    Validated,
    /// It found, and the domain is not signed for it, or it does not validate.
    NotValidated,
    /// The signatures are wrong: it tells nobody anything about the domain. With its reason.
    Bogus(Option<ExtendedErrorCode>),
    /// It found nothing out.
    Failed(Rcode, Option<ExtendedErrorCode>),
}

/// Asks all. `way` finds who is to be asked.
pub async fn survey(way: Arc<Resolvers>, request: Request) -> Survey {
    let request = Arc::new(request);
    let resolvers = tokio::spawn(ask_resolvers(Arc::clone(&request)));
    let parent = ask_parent(&way, &request.domain).await;
    let mut names = request.name_servers.clone();
    let delegations = parent.iter().flat_map(|parent| &parent.servers);
    for name in delegations.flat_map(|(_, said)| said.iter().flat_map(|it| &it.name_servers)) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let servers = at_addresses(&way, names).await;
    let servers = in_parallel(servers, |server| {
        let request = Arc::clone(&request);
        async move {
            let Ok(address) = server.address else { return Err(Silence::NoWay) };
            ask_server(address, &request).await
        }
    });
    let servers = servers.await;
    let resolvers = resolvers.await.unwrap_or_default();
    Survey { parent, servers, resolvers }
}

/// What the parent of `domain` says about it, at each of its name servers.
pub async fn ask_parent(way: &Arc<Resolvers>, domain: &Name) -> Result<Parent, Unknown> {
    let zone = way.parent_of(domain).await?;
    let names = way.name_servers(&zone).await?;
    let servers = at_addresses(way, names).await;
    let domain = domain.clone();
    let servers = in_parallel(servers, |server| {
        let domain = domain.clone();
        async move {
            let Ok(address) = server.address else { return Err(Silence::NoWay) };
            delegation(address, &domain).await
        }
    });
    Ok(Parent { zone, servers: servers.await })
}

async fn at_addresses(way: &Arc<Resolvers>, names: Vec<Name>) -> Vec<Server> {
    let found = in_parallel(names, |name| {
        let way = Arc::clone(way);
        async move { Ok(way.at_addresses(&name).await) }
    });
    let found = found.await.into_iter().filter_map(|(_, servers)| servers.ok());
    found.flatten().take(MOST_ASKED).collect()
}

async fn delegation(address: IpAddr, domain: &Name) -> Result<Delegation, Silence> {
    let ask = |rtype| {
        let question = Question { name: domain.clone(), rtype, of: Of::NameServer };
        async move { exchange::ask(SocketAddr::new(address, PORT), &question).await }
    };
    let ns = ask(Rtype::NS).await?;
    // A referral, or the answer of a server that has the domain too.
    let records = ns.authority.iter().chain(&ns.answer);
    let mut name_servers: Vec<_> = records
        .filter(|record| record.owner() == domain)
        .filter_map(|record| match record.data() {
            Data::Ns(ns) => Some(ns.nsdname().clone()),
            _ => None,
        })
        .collect();
    name_servers.sort();
    name_servers.dedup();
    name_servers.truncate(super::delegation::MOST_SERVERS);
    let answer = ask(Rtype::DS).await?;
    if !matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
        return Err(Silence::Refused(format!("it says {}", answer.rcode)));
    }
    let mut said = Delegation { name_servers, ..Delegation::default() };
    for record in answer.of(domain, Rtype::DS) {
        if let Data::Ds(ds) = record.data() {
            said.ds.push(ds.clone());
            said.ds_ttl = said.ds_ttl.max(record.ttl().as_secs());
        }
    }
    Ok(said)
}

async fn ask_server(address: IpAddr, request: &Request) -> Result<Zone, Silence> {
    let server = SocketAddr::new(address, PORT);
    let soa = ask_soa(server, request, Of::NameServer).await?;
    let served = soa.rcode == Rcode::NOERROR && soa.authoritative;
    let sets = if served { ask_sets(server, request, Of::NameServer).await } else { Vec::new() };
    let serial = serial(&soa, &request.domain);
    Ok(Zone { rcode: soa.rcode, authoritative: soa.authoritative, serial, sets })
}

async fn ask_resolvers(request: Arc<Request>) -> Vec<(SocketAddr, Result<Heard, Silence>)> {
    let resolvers = request.resolvers.clone();
    in_parallel(resolvers, |resolver| {
        let request = Arc::clone(&request);
        async move { hear(resolver, &request).await }
    })
    .await
}

async fn hear(resolver: SocketAddr, request: &Request) -> Result<Heard, Silence> {
    let soa = ask_soa(resolver, request, Of::Resolver).await?;
    let outcome = match soa.rcode {
        Rcode::NOERROR if soa.validated => Outcome::Validated,
        Rcode::NOERROR => Outcome::NotValidated,
        Rcode::SERVFAIL => {
            // Without validation the same question has an answer: so that is what failed.
            let unchecked = ask_soa(resolver, request, Of::Unchecked).await;
            match unchecked {
                Ok(answer) if answer.rcode == Rcode::NOERROR => Outcome::Bogus(soa.reason),
                _ => Outcome::Failed(soa.rcode, soa.reason),
            }
        }
        other => Outcome::Failed(other, soa.reason),
    };
    let found = matches!(outcome, Outcome::Validated | Outcome::NotValidated);
    let sets = if found { ask_sets(resolver, request, Of::Resolver).await } else { Vec::new() };
    Ok(Heard { outcome, serial: serial(&soa, &request.domain), sets })
}

async fn ask_soa(server: SocketAddr, request: &Request, of: Of) -> Result<Answer, Silence> {
    let question = Question { name: request.domain.clone(), rtype: Rtype::SOA, of };
    exchange::ask(server, &question).await
}

/// One after the other, so that nobody takes it for an attack.
async fn ask_sets(
    server: SocketAddr,
    request: &Request,
    of: Of,
) -> Vec<Result<Vec<Data>, Silence>> {
    let mut sets: Vec<Result<Vec<Data>, Silence>> = Vec::new();
    for (name, rtype) in request.sets.iter().take(MOST_SETS) {
        let question = Question { name: name.clone(), rtype: *rtype, of };
        let said = match exchange::ask(server, &question).await {
            Ok(answer) if matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) => {
                Ok(answer.of(name, *rtype).map(|record| record.data().clone()).collect())
            }
            Ok(answer) => Err(Silence::Refused(format!("it says {}", answer.rcode))),
            Err(silence) => {
                // Who fell silent is not waited for again and again.
                let left = request.sets.len().min(MOST_SETS) - sets.len();
                sets.extend(std::iter::repeat_n(Err(silence), left));
                return sets;
            }
        };
        sets.push(said);
    }
    sets
}

fn serial(soa: &Answer, domain: &Name) -> Option<u32> {
    soa.of(domain, Rtype::SOA).find_map(|record| match record.data() {
        Data::Soa(soa) => Some(soa.serial().into_int()),
        _ => None,
    })
}

/// Does `work` for each of `these` at once, each within its time; the results in their order.
async fn in_parallel<I, T, W>(these: Vec<I>, work: impl Fn(I) -> W) -> Vec<(I, Result<T, Silence>)>
where
    I: Clone,
    T: Send + 'static,
    W: Future<Output = Result<T, Silence>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (place, this) in these.iter().take(MOST_ASKED).enumerate() {
        let work = work(this.clone());
        tasks.spawn(async move { (place, timeout(PATIENCE, work).await) });
    }
    let mut done: Vec<_> = these.into_iter().map(|this| (this, Err(Silence::None))).collect();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((place, Ok(result))) = ended {
            done[place].1 = result;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_keep_their_order_and_one_that_fails_keeps_nobody_from_his() {
        let done = in_parallel(vec![3, 1, 2], |number| async move {
            tokio::time::sleep(Duration::from_millis(number)).await;
            if number == 1 { Err(Silence::NoWay) } else { Ok(number * 10) }
        });
        assert_eq!(done.await, [(3, Ok(30)), (1, Err(Silence::NoWay)), (2, Ok(20))]);
    }
}
