//! Who serves a zone, and which zone is its parent, found by way of resolvers.
//!
//! Validation is switched off on the way (CD): a domain whose signatures are wrong must be found
//! too, as its owner wants to know what is wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::base::iana::{Rcode, Rtype};
use domain::base::name::ToName;
use sealpost_dns::record::{Data, Name};

use super::exchange::{self, Silence};
use super::message::{Answer, Of, Question};

/// The most name servers of a zone that are looked at.
pub const MOST_SERVERS: usize = 16;
/// The most addresses of one of them.
const MOST_ADDRESSES: usize = 4;

/// A name server at one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: Name,
    /// The address, or why there is none.
    pub address: Result<IpAddr, Unknown>,
}

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No resolver is of use.
    #[error("no resolver answers ({0}): is this box on the internet?")]
    Resolvers(Silence),
    /// They all fail.
    #[error("resolvers cannot find out ({0})")]
    Failed(Rcode),
    /// There is no such name or no such record.
    #[error("there is none in the DNS")]
    Absent,
}

/// Resolvers to ask, in their order. One that is silent is not asked first again.
#[derive(Debug)]
pub struct Resolvers {
    all: Vec<SocketAddr>,
    first: AtomicUsize,
}

impl Resolvers {
    /// Those at `all`.
    pub fn new(all: Vec<SocketAddr>) -> Self {
        Self { all, first: AtomicUsize::new(0) }
    }

    /// All of them.
    pub fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// What the first says that says anything, without validation.
    async fn ask(&self, name: &Name, rtype: Rtype) -> Result<Answer, Unknown> {
        let question = Question { name: name.clone(), rtype, of: Of::Unchecked };
        let first = self.first.load(Ordering::Relaxed);
        let mut unknown = Unknown::Resolvers(Silence::None);
        for turn in 0..self.all.len() {
            let place = (first + turn) % self.all.len();
            match exchange::ask(self.all[place], &question).await {
                Err(silence) => unknown = Unknown::Resolvers(silence),
                Ok(answer) if matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => unknown = Unknown::Failed(answer.rcode),
            }
        }
        Err(unknown)
    }

    /// The zone that `domain` is delegated from.
    pub async fn parent_of(&self, domain: &Name) -> Result<Name, Unknown> {
        self.zone_of(&above(domain).ok_or(Unknown::Absent)?).await
    }

    /// The zone in which `domain` is; itself where there is none of that name, as it is then to be
    /// made.
    pub async fn zone_with(&self, domain: &Name) -> Result<Name, Unknown> {
        match self.ask(domain, Rtype::SOA).await?.rcode {
            Rcode::NXDOMAIN => Ok(domain.clone()),
            _ => self.zone_of(domain).await,
        }
    }

    /// The zone in which `name` is or would be.
    async fn zone_of(&self, name: &Name) -> Result<Name, Unknown> {
        let mut name = name.clone();
        loop {
            // At the top of a zone SOA is the answer, elsewhere in it the denial names the top.
            let answer = self.ask(&name, Rtype::SOA).await?;
            let records = answer.answer.iter().chain(&answer.authority);
            let mut tops = records.filter(|record| record.rtype() == Rtype::SOA);
            if let Some(top) = tops.find(|record| name.ends_with(record.owner())) {
                return Ok(top.owner().clone());
            }
            name = above(&name).ok_or(Unknown::Absent)?;
        }
    }

    /// The names of the name servers of `zone`, as it says itself.
    pub async fn name_servers(&self, zone: &Name) -> Result<Vec<Name>, Unknown> {
        let answer = self.ask(zone, Rtype::NS).await?;
        let names = answer.of(zone, Rtype::NS).filter_map(|record| match record.data() {
            Data::Ns(ns) => Some(ns.nsdname().clone()),
            _ => None,
        });
        let names: Vec<_> = names.take(MOST_SERVERS).collect();
        if names.is_empty() { Err(Unknown::Absent) } else { Ok(names) }
    }

    /// The name server `name` at each of its addresses, or once without one.
    pub async fn at_addresses(&self, name: &Name) -> Vec<Server> {
        let mut addresses = Vec::new();
        let mut unknown = Unknown::Absent;
        for rtype in [Rtype::A, Rtype::AAAA] {
            match self.ask(name, rtype).await {
                Err(error) => unknown = error,
                Ok(answer) => {
                    addresses.extend(answer.answer.iter().filter_map(address).take(MOST_ADDRESSES));
                }
            }
        }
        let server = |address| Server { name: name.clone(), address };
        if addresses.is_empty() {
            return vec![server(Err(unknown))];
        }
        addresses.into_iter().map(|address| server(Ok(address))).collect()
    }
}

fn address(record: &sealpost_dns::record::Record) -> Option<IpAddr> {
    match record.data() {
        Data::A(a) => Some(IpAddr::V4(a.addr())),
        Data::Aaaa(aaaa) => Some(IpAddr::V6(aaaa.addr())),
        _ => None,
    }
}

/// The name without its first label; `None` for the root.
fn above(name: &Name) -> Option<Name> {
    name.parent().map(|parent| parent.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_ends_at_the_root() {
        let name: Name = "a.example.".parse().unwrap();
        let up = above(&name).unwrap();
        assert_eq!(up, "example.".parse::<Name>().unwrap());
        let root = above(&up).unwrap();
        assert!(root.is_root() && above(&root).is_none());
    }
}
