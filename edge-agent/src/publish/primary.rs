//! The zone as a name server of the owner's own has it, by standard transfers. It comes signed, and
//! is passed on as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::difference::apply;
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::inbound::{Limits, Received};
use sealpost_dns::transfer::pull::{Ask, PullError, pull};
use sealpost_dns::transfer::query::{serial_of, soa_of};
use sealpost_dns::transfer::tsig::TsigKey;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::zone::Signed;
use crate::zone::serial::is_newer;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For everything.
const TOTAL: Duration = Duration::from_secs(120);
/// Between questions, whatever the zone says: at least, and at most.
const ASK_LEAST: Duration = Duration::from_secs(30);
const ASK_MOST: Duration = Duration::from_secs(3600);

/// A version that the primary has.
#[derive(Debug)]
pub struct Fetched {
    /// All records; `None` when it is the one that is here.
    pub records: Option<Vec<Record>>,
    /// For how long it may be served without the primary's word.
    pub expire: Duration,
}

/// Asks the primary at `address` for what is newer than `have`, the version here.
pub async fn fetch(
    address: SocketAddr,
    key: Option<Arc<TsigKey>>,
    apex: Name,
    have: Option<Arc<Signed>>,
) -> Result<Fetched, String> {
    let fetched = timeout(TOTAL, fetch_all(address, key, apex, have)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(format!("no zone within {TOTAL:?}")));
    fetched.map_err(|error| format!("the primary {address}: {error}"))
}

async fn fetch_all(
    address: SocketAddr,
    key: Option<Arc<TsigKey>>,
    apex: Name,
    have: Option<Arc<Signed>>,
) -> Result<Fetched, String> {
    let pace = Pace { total: TOTAL, ..Pace::default() };
    let ask = Ask { apex, key, limits: Limits::default(), pace };
    let records = have.iter().flat_map(|have| &have.records);
    let soa = records.into_iter().find(|record| soa_of(record).is_some()).cloned();
    if let (Some(soa), Some(have)) = (soa, have) {
        match pull(&mut connect(address).await?, &ask, Some(&soa)).await {
            Ok(pulled) => match pulled.received {
                Received::UpToDate(theirs) if is_newer(serial_of(&soa), serial_of(&theirs)) => {
                    return Err(format!(
                        "its serial {} is behind {}, which was passed on: raise it there",
                        serial_of(&theirs),
                        serial_of(&soa)
                    ));
                }
                Received::UpToDate(theirs) => {
                    return Ok(Fetched { records: None, expire: expire(&[theirs], pulled.expire) });
                }
                Received::Zone(records) => return Ok(whole(records, pulled.expire)),
                Received::Differences(steps) => {
                    // Of a large zone it takes its time.
                    let applied = spawn_blocking(move || apply(&have.records, &steps)).await;
                    if let Ok(records) = applied.map_err(|error| error.to_string())? {
                        return Ok(whole(records, pulled.expire));
                    }
                }
            },
            // A primary that knows no IXFR has AXFR.
            Err(PullError::Fault(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let pulled = pull(&mut connect(address).await?, &ask, None).await;
    let pulled = pulled.map_err(|error| error.to_string())?;
    match pulled.received {
        Received::Zone(records) => Ok(whole(records, pulled.expire)),
        Received::Differences(_) | Received::UpToDate(_) => Err("it sent no zone".into()),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = timeout(CONNECT, TcpStream::connect(address)).await;
    let connected = connected.map_err(|_| format!("no connection within {CONNECT:?}"))?;
    connected.map_err(|error| error.to_string())
}

fn whole(records: Vec<Record>, told: Option<u32>) -> Fetched {
    let expire = expire(&records, told);
    Fetched { records: Some(records), expire }
}

/// What the primary told (RFC 7314), or else the SOA record.
fn expire(records: &[Record], told: Option<u32>) -> Duration {
    let soa = records.iter().find_map(soa_of).map(|soa| soa.expire().as_secs());
    Duration::from_secs(told.or(soa).unwrap_or_default().into())
}

/// When to ask again: after `failed` attempts in a row that failed, by the timers of the zone.
pub fn pause(records: Option<&[Record]>, failed: u32) -> Duration {
    let soa = records.and_then(|records| records.iter().find_map(soa_of));
    let wait = match (soa, failed) {
        (Some(soa), 0) => soa.refresh().as_secs(),
        (Some(soa), _) => soa.retry().as_secs(),
        (None, failed) => 30 << failed.min(6),
    };
    Duration::from_secs(wait.into()).clamp(ASK_LEAST, ASK_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_says_when_to_ask_within_bounds() {
        let zone = |text: &str| crate::zone::canonical::tests::records("a.example.", text);
        let slow = zone("@ SOA n h 1 999999 60 9 9\n");
        assert_eq!(pause(Some(&slow), 0), ASK_MOST);
        assert_eq!(pause(Some(&slow), 1), Duration::from_secs(60));
        assert_eq!(pause(Some(&zone("@ SOA n h 1 1 1 9 9\n")), 0), ASK_LEAST);
        assert_eq!(pause(None, 0), Duration::from_secs(30));
        assert_eq!(pause(None, 40), Duration::from_secs(1920));
    }
}
