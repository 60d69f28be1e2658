//! A transfer with one bit flipped on its way, again and again, over real TCP: what is served afterwards
//! is what was served before, or a zone with the same content as the right one.
//!
//! The primary is our own, behind a proxy that flips one bit of its answer; then comes what becomes of
//! any transfer: it is read, admitted, compiled and served. There is no TSIG, which would notice each
//! flip and leave nothing to the checks of the zone. Then the same with what changed between two versions
//! (IXFR): what is served is the old one or the new one as it is. `SEALPOST_BIT_FLIPS` says how many for each zone.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use domain::base::Rtype;
use domain::base::iana::{DigestAlgorithm, SecurityAlgorithm};
use domain::base::name::FlattenInto;
use domain::rdata::{Ds, ZoneRecordData};
use domain::zonefile::inplace::{Entry as Line, Zonefile};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sealpost_dns::admission::{self, Expect, Trust, admit};
use sealpost_dns::name::Lower;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::served::{Entry, ServedZones};
use sealpost_dns::transfer::access::{Prefix, Rule};
use sealpost_dns::transfer::difference::{Difference, apply, between};
use sealpost_dns::transfer::frame::{Pace, Reader};
use sealpost_dns::transfer::inbound::{Limits, Received};
use sealpost_dns::transfer::pull::{Ask, pull};
use sealpost_dns::transfer::query::serial_of;
use sealpost_dns::transfer::serve::{Over, Served, Server, Zones, send};
use sealpost_dns::transfer::tsig::Keys;
use sealpost_dns::zone::Zone;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// For each zone, where nobody says otherwise.
const FLIPS: u64 = 400;
/// Within the validity of the signatures, which `zones/make.sh` says.
const NOW: u64 = 2_082_758_400;
/// Of the zones, which have all the same.
const SERIAL: u32 = 2_026_010_100;
const APEX: &str = "zone.example";
/// Octets before the name in the data of AFSDB and KX.
const PREFERENCE: usize = 2;

/// Signed zones, what pins their key, and whether a ZONEMD covers what no signature does.
const ZONES: [(&str, &str, &str, bool); 4] = [
    (
        "NSEC and ZONEMD",
        include_str!("zones/nsec-p256-zonemd.zone"),
        include_str!("zones/nsec-p256-zonemd.ds"),
        true,
    ),
    (
        "NSEC3 and ZONEMD",
        include_str!("zones/nsec3-p256-zonemd.zone"),
        include_str!("zones/nsec3-p256-zonemd.ds"),
        true,
    ),
    ("NSEC", include_str!("zones/nsec-p256.zone"), include_str!("zones/nsec-p256.ds"), false),
    ("NSEC3", include_str!("zones/nsec3-p256.zone"), include_str!("zones/nsec3-p256.ds"), false),
];

fn name(text: &str) -> Name {
    Name::bytes_from_str(text).unwrap()
}

fn parse(text: &str) -> Vec<Record> {
    let mut file = Zonefile::from(text);
    let mut out: Vec<Record> = Vec::new();
    while let Some(line) = file.next_entry().unwrap() {
        if let Line::Record(record) = line {
            out.push(record.flatten_into());
        }
    }
    let soa = out.iter().position(|record| record.rtype() == Rtype::SOA).unwrap();
    out.swap(0, soa);
    out
}

fn anchors(text: &str) -> Vec<Ds<Bytes>> {
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "DS").collect();
        let digits: String = words[4..].concat();
        let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let digest: Vec<u8> = (0..digits.len()).step_by(2).map(octet).collect();
        let algorithm = SecurityAlgorithm::from_int(words[2].parse().unwrap());
        let kind = DigestAlgorithm::from_int(words[3].parse().unwrap());
        Ds::new(words[1].parse().unwrap(), algorithm, kind, digest.into()).unwrap()
    };
    text.lines().map(read).collect()
}

/// A zone's records in canonical form: the case of names is not content.
fn canonical(zone: &[Record]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = zone.iter().map(octets).collect();
    all.sort();
    all
}

fn octets(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(()) = record.compose_canonical(&mut out);
    // The name in these has no case either (RFC 4034 section 6.2), and the library knows it for octets.
    if let ZoneRecordData::Unknown(data) = record.data()
        && matches!(data.rtype(), Rtype::AFSDB | Rtype::KX)
    {
        let name = out.len() - data.data().len() + PREFERENCE;
        out[name..].make_ascii_lowercase();
    }
    out
}

/// A zone that anybody here may have, and what changed before it became so.
#[derive(Clone)]
struct Primary(Arc<Vec<Record>>, Option<Arc<Difference>>);

impl Served for Primary {
    fn soa(&self) -> Record {
        self.0[0].clone()
    }
    fn records(&self) -> Vec<Record> {
        self.0.to_vec()
    }
    fn expires_in(&self) -> Option<u32> {
        None
    }
    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        let step = self.1.as_ref().filter(|step| serial_of(&step.from) == serial);
        step.map(|step| vec![step.clone()])
    }
}

impl Zones for Primary {
    fn find(&self, _: &Name) -> Option<Arc<dyn Served>> {
        Some(Arc::new(self.clone()))
    }
    fn transfer_rules(&self, _: &Name) -> Arc<[Rule]> {
        Arc::new([Rule::From(Prefix::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 32))])
    }
    fn primaries(&self, _: &Name) -> Option<Arc<[Rule]>> {
        None
    }
    fn notified(&self, _: &Name, _: Option<u32>) -> bool {
        true
    }
}

/// Serves the zone on TCP.
async fn primary(primary: Primary, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(primary, Keys::default());
    tasks.spawn(async move {
        loop {
            let (mut stream, from) = listener.accept().await.unwrap();
            let mut reader = Reader::new(Pace::default());
            while let Ok(Some(query)) = reader.read(&mut stream).await {
                let reply = server.handle(&query, from.ip(), Over::Stream, NOW, |_, _| {});
                if send(&mut stream, reply, Pace::default()).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// One client's question to the primary, and its answer back with a bit flipped, which `which` chooses.
/// Gives the octet where that was.
async fn tamper(listener: &TcpListener, primary: SocketAddr, which: Option<usize>) -> usize {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(primary).await.unwrap();
    let mut query = vec![0; 2];
    client.read_exact(&mut query).await.unwrap();
    query.resize(2 + usize::from(u16::from_be_bytes([query[0], query[1]])), 0);
    client.read_exact(&mut query[2..]).await.unwrap();
    server.write_all(&query).await.unwrap();
    // It answers, and has then nothing more to wait for.
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.unwrap();
    let bit = which.map_or(0, |which| which % (answer.len() * 8));
    if which.is_some() {
        answer[bit / 8] ^= 1 << (bit % 8);
    }
    // Who has seen enough closes earlier.
    let _ = client.write_all(&answer).await;
    bit / 8
}

/// What became of the transfers of a zone.
#[derive(Debug, Default)]
struct Count {
    /// By whom.
    refused: BTreeMap<&'static str, u64>,
    /// Served, with the content of the right one.
    same: u64,
    /// Served with other glue or NS of a delegation, which no signature covers.
    uncovered: u64,
}

/// Whether nothing but a ZONEMD covers the record: it is at a delegation or below, and unsigned there.
fn uncovered(zone: &[Record], record: &Record) -> bool {
    let apex = name(APEX);
    let mut cuts = zone.iter().filter(|cut| cut.rtype() == Rtype::NS && *cut.owner() != apex);
    cuts.any(|cut| record.owner().ends_with(cut.owner()))
        && !matches!(record.rtype(), Rtype::DS | Rtype::NSEC | Rtype::RRSIG)
}

/// What a secondary that has a version, or none, makes of a transfer.
async fn take(
    primary: SocketAddr,
    expect: &Expect,
    have: Option<&[Record]>,
) -> Result<Arc<Zone>, (&'static str, String)> {
    let ask = Ask { apex: name(APEX), key: None, limits: Limits::default(), pace: Pace::default() };
    let mut stream = TcpStream::connect(primary).await.unwrap();
    let pulled = pull(&mut stream, &ask, have.map(|have| &have[0])).await;
    let pulled = pulled.map_err(|error| ("transfer", error.to_string()))?;
    let records = match (pulled.received, have) {
        (Received::Zone(records), _) => records,
        (Received::Differences(steps), Some(have)) => {
            let applied = apply(have, &steps);
            applied.map_err(|error| ("differences", error.to_string()))?
        }
        (Received::UpToDate(_), Some(_)) => return Err(("up to date", "so it says".to_owned())),
        _ => panic!("AXFR brings zones"),
    };
    let admitted = admit(&ask.apex, &records, expect, NOW);
    admitted.map_err(|error| ("admission", error.to_string()))?;
    let compiled = Zone::compile(&ask.apex, &records);
    compiled.map(Arc::new).map_err(|error| ("compiler", error.to_string()))
}

async fn flip(what: &str, text: &str, ds: &str, covered: bool, times: u64) {
    let right = Arc::new(parse(text));
    let wanted = canonical(&right);
    let expect = Expect {
        trust: Trust::Ds(anchors(ds)),
        previous_serial: Some(SERIAL - 1),
        seal: None,
        limits: admission::Limits::default(),
    };
    let mut tasks = JoinSet::new();
    let primary = primary(Primary(right.clone(), None), &mut tasks).await;
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let through = proxy.local_addr().unwrap();

    let old = parse(include_str!("zones/small-nsec.zone"));
    let old = Arc::new(Zone::compile(&name(APEX), &old).unwrap());
    let zones = ServedZones::default();
    let mut count = Count::default();
    let mut random = StdRng::seed_from_u64(times);
    // Without a flip first: the proxy is none of the reasons.
    for flip in 0..=times {
        let which = (flip > 0).then(|| random.random());
        zones.insert(Entry::Serving(old.clone()));
        let tampered = tamper(&proxy, primary, which.map(|which: u32| which as usize));
        let (taken, at) = tokio::join!(take(through, &expect, None), tampered);
        let refused = match taken {
            Ok(zone) => {
                zones.insert(Entry::Serving(zone));
                None
            }
            Err((by, why)) => {
                *count.refused.entry(by).or_default() += 1;
                Some(why)
            }
        };
        let apex = Lower::read(name(APEX).as_slice()).unwrap();
        let found = zones.with(&apex, false, |entry| entry.cloned());
        let Some(Entry::Serving(served)) = found else {
            panic!("{what}: nothing is served after octet {at} was changed")
        };
        if let Some(why) = refused {
            assert!(flip > 0, "{what}: refused as it is: {why}");
            assert!(Arc::ptr_eq(&served, &old), "{what}, octet {at}");
            continue;
        }
        let served = served.records();
        let here = canonical(&served);
        if here == wanted {
            count.same += 1;
            continue;
        }
        let differ = |zone: &[Record], other: &[Vec<u8>]| -> Vec<Record> {
            let other = |record: &&Record| other.binary_search(&octets(record)).is_err();
            zone.iter().filter(other).cloned().collect()
        };
        let (gone, come) = (differ(&right, &here), differ(&served, &wanted));
        let harmless = !covered && gone.iter().chain(&come).all(|one| uncovered(&right, one));
        assert!(harmless, "{what}, octet {at}: {gone:?} became {come:?}");
        count.uncovered += 1;
    }
    let refused: u64 = count.refused.values().sum();
    assert_eq!(refused + count.same + count.uncovered, times + 1);
    assert!(count.same > 0 && refused > times / 2, "{what}: {count:?}");
    println!("{what}: {times} transfers with one bit flipped: {count:?}");
}

fn times() -> u64 {
    std::env::var("SEALPOST_BIT_FLIPS").map_or(FLIPS, |text| text.parse().unwrap())
}

#[tokio::test]
async fn differences_that_were_changed_on_their_way_lead_to_the_new_version_or_nowhere() {
    let old = parse(include_str!("zones/steps-rsa256-first.zone"));
    let new = Arc::new(parse(include_str!("zones/steps-rsa256-second.zone")));
    let (before, wanted) = (canonical(&old), canonical(&new));
    let step = Arc::new(between(&old, &new).unwrap());
    assert!(!step.removed.is_empty() && step.added.len() < new.len() / 3, "{}", step.added.len());
    let expect = Expect {
        trust: Trust::Ds(anchors(include_str!("zones/steps-rsa256.ds"))),
        previous_serial: Some(serial_of(&old[0])),
        seal: None,
        limits: admission::Limits::default(),
    };
    let mut tasks = JoinSet::new();
    let primary = primary(Primary(new.clone(), Some(step)), &mut tasks).await;
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let through = proxy.local_addr().unwrap();
    let served = Arc::new(Zone::compile(&name(APEX), &old).unwrap());
    let (zones, times) = (ServedZones::default(), times());
    let mut count = Count::default();
    let mut random = StdRng::seed_from_u64(times);
    for flip in 0..=times {
        let which = (flip > 0).then(|| random.random());
        zones.insert(Entry::Serving(served.clone()));
        let tampered = tamper(&proxy, primary, which.map(|which: u32| which as usize));
        let (taken, at) = tokio::join!(take(through, &expect, Some(&old)), tampered);
        match taken {
            Ok(zone) => {
                zones.insert(Entry::Serving(zone));
                count.same += 1;
            }
            Err((by, why)) => {
                assert!(flip > 0, "refused as it is: {why}");
                *count.refused.entry(by).or_default() += 1;
            }
        }
        let apex = Lower::read(name(APEX).as_slice()).unwrap();
        let found = zones.with(&apex, false, |entry| entry.cloned());
        let Some(Entry::Serving(here)) = found else {
            panic!("nothing is served after octet {at} was changed")
        };
        let here = canonical(&here.records());
        assert!(here == before || here == wanted, "octet {at}");
        assert!(flip > 0 || here == wanted, "the differences do not lead there");
    }
    let refused: u64 = count.refused.values().sum();
    assert!(refused > times / 2, "{count:?}");
    println!("{times} sequences of differences with one bit flipped: {count:?}");
}

#[tokio::test]
async fn what_was_changed_on_its_way_is_never_served() {
    let times = times();
    for (what, text, ds, covered) in ZONES {
        flip(what, text, ds, covered, times).await;
    }
}
