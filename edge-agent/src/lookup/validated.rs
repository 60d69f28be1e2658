//! What the parent zone says of a domain's keys, proved by signatures from the root down.
//!
//! Name servers are asked over plain UDP, so whoever is on the way can answer for all of them. What is
//! done for good because of an answer must not rest on that: signatures are checked here, and what a
//! resolver says that it has checked counts for nothing. What can still be done on the way is to give
//! no answer, or one that was true some time ago.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use domain::base::iana::{DigestAlgorithm, SecurityAlgorithm};
use domain::rdata::Ds;
use hickory_resolver::net::dnssec::DnssecDnsHandle;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, DnsResponseStream, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, MessageType, OpCode, Query,
    ResponseCode,
};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::BinDecodable;
use sealpost_dns::record::Name as ZoneName;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::delegation::Resolvers;
use super::exchange::{Read, Silence, talk};
use super::message::{PAYLOAD, Unfit};
use crate::zone::canonical;

/// Questions to one resolver: a chain of keys has about three for each label.
const MOST_QUESTIONS: usize = 60;
/// More DS records than any zone needs.
const MOST_RECORDS: usize = 32;

/// What is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proved {
    /// The parent has these DS records; none, where it is proved that there are none.
    Signed(Vec<Ds<Bytes>>),
    /// The parent, or a zone above it, is not signed: nobody validates the domain.
    Unsigned,
}

/// Whether it is proved that the parent of `domain` has exactly the DS records `said`. What one resolver
/// remembers from before does not count against it, so each is asked until one proves it; why none does.
pub async fn confirm(
    resolvers: &Resolvers,
    anchors: &Arc<TrustAnchors>,
    domain: &ZoneName,
    said: &[Ds<Bytes>],
) -> Result<(), String> {
    let mut why = "there is no resolver to ask".to_owned();
    for resolver in resolvers.all() {
        match ds(*resolver, anchors, domain).await {
            Ok(Proved::Unsigned) => return Ok(()),
            Ok(Proved::Signed(proved)) if same(&proved, said) => return Ok(()),
            Ok(Proved::Signed(_)) => {
                why = format!("{resolver} proves another DS, which it may remember from before");
            }
            Err(error) => why = format!("{resolver}: {error}"),
        }
    }
    Err(why)
}

fn same(one: &[Ds<Bytes>], other: &[Ds<Bytes>]) -> bool {
    one.iter().all(|ds| other.contains(ds)) && other.iter().all(|ds| one.contains(ds))
}

/// What `resolver` can prove.
async fn ds(
    resolver: SocketAddr,
    anchors: &Arc<TrustAnchors>,
    domain: &ZoneName,
) -> Result<Proved, String> {
    let name = Name::from_bytes(&canonical::name(domain)).map_err(|error| error.to_string())?;
    // Made anew each time: it remembers by hashes that a stranger can compute.
    let upstream = Upstream { resolver, questions: Arc::default() };
    let validator = DnssecDnsHandle::with_trust_anchor(upstream, Arc::clone(anchors));
    let query = Query::query(name.clone(), RecordType::DS);
    let answered = validator.lookup(query, DnsRequestOptions::default()).first_answer();
    // The library logs what strangers send as warnings.
    let result = answered.with_subscriber(Dispatch::none()).await;
    judge(result.as_deref(), &name)
}

/// What came of an answer when its signatures were checked.
fn judge(result: Result<&Message, &NetError>, name: &Name) -> Result<Proved, String> {
    let bogus = || "its answer does not have the signatures that it must have".to_owned();
    let message = match result {
        Ok(message) => message,
        Err(NetError::Dns(DnsError::Nsec { proof: Proof::Insecure, .. })) => {
            return Ok(Proved::Unsigned);
        }
        Err(NetError::Dns(DnsError::Nsec { .. })) => return Err(bogus()),
        Err(error) => return Err(error.to_string()),
    };
    let code = message.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(format!("it answers {code}"));
    }
    let ours = |record: &&Record| record.record_type() == RecordType::DS && record.name == *name;
    let records: Vec<&Record> = message.answers.iter().filter(ours).collect();
    if records.len() > MOST_RECORDS {
        return Err(format!("it has more than {MOST_RECORDS} DS records"));
    }
    let all = |proof| records.iter().all(|record| record.proof == proof);
    if !records.is_empty() {
        return match (all(Proof::Secure), all(Proof::Insecure)) {
            (true, _) => Ok(Proved::Signed(records.into_iter().filter_map(read).collect())),
            (_, true) => Ok(Proved::Unsigned),
            _ => Err(bogus()),
        };
    }
    // An alias is no cut, and what is behind it says nothing of this name.
    let alias = message.answers.iter().any(|record| record.record_type() == RecordType::CNAME);
    let denies = |record: &Record| {
        let denial = matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3);
        denial && record.proof == Proof::Secure
    };
    // Any record of an unsigned zone would do for the validator; it must be one above this name.
    let unsigned = |record: &Record| {
        let above = record.record_type() == RecordType::SOA && record.name.zone_of(name);
        above && record.proof == Proof::Insecure
    };
    match &message.authorities {
        _ if alias => Err(bogus()),
        records if records.iter().any(denies) => Ok(Proved::Signed(Vec::new())),
        records if records.iter().any(unsigned) => Ok(Proved::Unsigned),
        _ => Err(bogus()),
    }
}

fn read(record: &Record) -> Option<Ds<Bytes>> {
    let RData::DNSSEC(DNSSECRData::DS(ds)) = &record.data else { return None };
    let algorithm = SecurityAlgorithm::from_int(ds.algorithm().into());
    let kind = DigestAlgorithm::from_int(ds.digest_type().into());
    Ds::new(ds.key_tag(), algorithm, kind, Bytes::copy_from_slice(ds.digest())).ok()
}

/// Asks the resolver whatever the validator wants to know.
#[derive(Clone)]
struct Upstream {
    resolver: SocketAddr,
    questions: Arc<AtomicUsize>,
}

impl Upstream {
    async fn answer(self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        if self.questions.fetch_add(1, Ordering::Relaxed) >= MOST_QUESTIONS {
            return Err(NetError::from(format!(
                "it takes more than {MOST_QUESTIONS} questions to check signatures"
            )));
        }
        let [asked] = request.queries.as_slice() else {
            return Err(NetError::from("no question".to_owned()));
        };
        let query = |id| query(asked, id);
        let read = |octets: Bytes, id| answer(&octets, asked, id);
        let message = talk(self.resolver, &query, &read).await;
        let message = message.map_err(|silence: Silence| NetError::from(silence.to_string()))?;
        Ok(DnsResponse::from_message(message)?)
    }
}

impl DnsHandle for Upstream {
    type Response = DnsResponseStream;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        Box::pin(self.clone().answer(request)).into()
    }
}

/// With signatures (DO), and whatever the resolver thinks of them (CD).
fn query(asked: &Query, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = true;
    message.add_query(asked.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(true);
    message.set_edns(edns);
    // One question with a name that was read from octets has room.
    message.to_vec().unwrap_or_default()
}

/// The message in `octets`, if it answers this very question.
fn answer(octets: &[u8], asked: &Query, id: u16) -> Result<Read<Message>, Unfit> {
    let message = Message::from_vec(octets).map_err(|_| Unfit::Malformed)?;
    let [question] = message.queries.as_slice() else { return Err(Unfit::Other) };
    let same = question.name() == asked.name()
        && question.query_type() == asked.query_type()
        && question.query_class() == asked.query_class();
    if !same || message.metadata.id != id || message.metadata.message_type != MessageType::Response
    {
        return Err(Unfit::Other);
    }
    Ok(if message.metadata.truncation { Read::Cut } else { Read::Whole(message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{SystemTime, UNIX_EPOCH};

    use domain::base::ToName as _;
    use domain::base::iana::{Class, Rcode};
    use domain::base::message_builder::MessageBuilder;
    use hickory_resolver::proto::dnssec::{Algorithm, PublicKeyBuf};
    use sealpost_dns::record::{Data, Record as ZoneRecord};
    use tokio::net::UdpSocket;

    use crate::zone::plan::Host;
    use crate::zone::zone_key::Role;
    use crate::zone::{Keys, Plan, Policy, ZoneKey, build, included};

    const PARENT: &str = "example.";
    const ONE: &str = "1 13 2 0000000000000000000000000000000000000000000000000000000000000000";
    const TWO: &str = "2 13 2 0000000000000000000000000000000000000000000000000000000000000000";

    /// A parent zone with this DS for a.example, signed with `key`.
    fn parent(key: ZoneKey, ds: &str) -> Vec<ZoneRecord> {
        let mut plan = Plan::new(PARENT.parse().unwrap());
        plan.name_servers.push(Host { name: "ns.b.test.".parse().unwrap(), addresses: vec![] });
        let own = format!("a NS ns.b.test.\n{ds}\nb NS ns.b.test.\n");
        plan.own = included::parse(own.as_bytes(), Path::new("own"), &plan.apex).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        build(&plan, &Keys::combined(key), &Policy::default(), None, None, now)
            .unwrap()
            .zone
            .records
    }

    /// A server that answers out of `records`.
    async fn resolver(records: Vec<ZoneRecord>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut room = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut room).await.unwrap();
                let asked = domain::base::Message::from_octets(room[..length].to_vec()).unwrap();
                let question = asked.sole_question().unwrap();
                let mut reply =
                    MessageBuilder::new_vec().start_answer(&asked, Rcode::NOERROR).unwrap();
                let of = |record: &&ZoneRecord, rtype| {
                    let covers = match record.data() {
                        Data::Rrsig(rrsig) => rrsig.type_covered(),
                        _ => record.rtype(),
                    };
                    record.owner().name_eq(question.qname()) && covers == rtype
                };
                let mut found = 0;
                for record in records.iter().filter(|record| of(record, question.qtype())) {
                    reply.push((record.owner(), Class::IN, record.ttl(), record.data())).unwrap();
                    found += 1;
                }
                let mut reply = reply.authority();
                let nsec = domain::base::iana::Rtype::NSEC;
                for record in records.iter().filter(|record| found == 0 && of(record, nsec)) {
                    reply.push((record.owner(), Class::IN, record.ttl(), record.data())).unwrap();
                }
                socket.send_to(&reply.finish(), from).await.unwrap();
            }
        });
        address
    }

    fn anchors(key: &ZoneKey) -> Arc<TrustAnchors> {
        let mut anchors = TrustAnchors::empty();
        let dnskey = key.public().dnskey();
        let algorithm = Algorithm::ECDSAP256SHA256;
        let public = PublicKeyBuf::new(dnskey.public_key().to_vec(), algorithm);
        anchors.insert_with_name(&public, Name::from_ascii(PARENT).unwrap().into());
        Arc::new(anchors)
    }

    fn line(data: &str) -> String {
        format!("a DS {data}")
    }

    fn parsed(data: &[&str]) -> Vec<Ds<Bytes>> {
        let text: String = data.iter().map(|data| line(data) + "\n").collect();
        let apex = PARENT.parse().unwrap();
        let found = included::parse(text.as_bytes(), Path::new("own"), &apex).unwrap();
        let ds = found.into_iter().filter_map(|it| match it.record.into_data() {
            Data::Ds(ds) => Some(ds),
            _ => None,
        });
        ds.collect()
    }

    #[tokio::test]
    async fn only_what_the_parents_key_signed_is_proved() {
        let key = ZoneKey::generate(Role::Entry).unwrap();
        let text = key.to_text().unwrap();
        let again = || ZoneKey::from_text(&text, Role::Entry).unwrap();
        let anchors = anchors(&key);
        let domain = "a.example.".parse().unwrap();
        let true_one = resolver(parent(again(), &line(ONE))).await;
        let none = resolver(parent(again(), "")).await;
        let forged = resolver(parent(ZoneKey::generate(Role::Entry).unwrap(), &line(TWO))).await;
        let mut spliced = parent(again(), &line(ONE));
        let other = parent(again(), &line(TWO));
        spliced.retain(|record| !matches!(record.data(), Data::Ds(_)));
        spliced.extend(other.into_iter().filter(|it| matches!(it.data(), Data::Ds(_))));
        let spliced = resolver(spliced).await;
        let silent = resolver(Vec::new()).await;

        let confirmed = |resolvers: Vec<SocketAddr>, said: Vec<Ds<Bytes>>| {
            let (anchors, domain): (_, ZoneName) = (Arc::clone(&anchors), ZoneName::clone(&domain));
            async move { confirm(&Resolvers::new(resolvers), &anchors, &domain, &said).await }
        };
        let (one, two) = (parsed(&[ONE]), parsed(&[TWO]));
        assert_eq!(confirmed(vec![true_one], one.clone()).await, Ok(()));
        assert_eq!(confirmed(vec![none], Vec::new()).await, Ok(()));
        // Whoever lies, or remembers, keeps nobody from being believed.
        assert_eq!(confirmed(vec![forged, none, silent, true_one], one.clone()).await, Ok(()));
        for (resolvers, said) in [
            (vec![forged], two.clone()),
            (vec![spliced], two.clone()),
            (vec![true_one, none], two.clone()),
            (vec![true_one], Vec::new()),
            (vec![true_one], parsed(&[ONE, TWO])),
            (vec![none], one.clone()),
            (vec![silent], Vec::new()),
            (vec![], one.clone()),
        ] {
            let result = confirmed(resolvers.clone(), said.clone()).await;
            assert!(result.is_err(), "{resolvers:?} {said:?}");
        }
    }
}
