//! A transfer in, over whatever carries bytes: a TCP connection, or a stream inside a tunnel.
//!
//! One question and its answer. Which question to ask, when, and what to do with the answer is
//! `refresh`'s.

use std::sync::Arc;

use bytes::Bytes;
use domain::base::iana::{OptRcode, Rtype};
use domain::base::name::{FlattenInto, ParsedName};
use domain::base::{Message, Record as AnyRecord};
use domain::rdata::{Soa, ZoneRecordData};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{FrameError, Pace, Reader, Writer};
use super::inbound::{Fault, Inbound, Limits, Received, Step};
use super::query::{self, Kind, expire_option, serial_of};
use super::tsig::{self, ReplyFault, ReplyVerifier, TsigKey};
use crate::record::{Name, Record};
use crate::unix_time;

/// A question about a zone.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The zone.
    pub apex: Name,
    /// Signs the question; the answer must then be signed too.
    pub key: Option<Arc<TsigKey>>,
    /// How much may come.
    pub limits: Limits,
    /// How slowly.
    pub pace: Pace,
}

/// A transfer that is complete, and signed where it had to be.
#[derive(Debug)]
pub struct Pulled {
    /// What it brought.
    pub received: Received,
    /// Seconds until the zone expires at the server, if it said so (RFC 7314).
    pub expire: Option<u32>,
}

/// The version that a server has.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its SOA record.
    pub soa: Record,
    /// Seconds until the zone expires there, if it said so (RFC 7314).
    pub expire: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended before the answer did.
    #[error("the connection ended before the transfer did, after {0} messages")]
    Unfinished(usize),
    /// The signature.
    #[error(transparent)]
    Tsig(#[from] ReplyFault),
    /// The content.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl PullError {
    /// Whether the server may still answer AXFR where this was its answer to IXFR: everything but a
    /// bad connection or a wrong key.
    pub fn is_about_content(&self) -> bool {
        matches!(self, Self::Fault(_))
    }
}

/// Asks for the zone's SOA record.
pub async fn version<S>(stream: &mut S, ask: &Ask) -> Result<Version, PullError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let id = rand::random();
    let (mut reader, mut verifier) = send(stream, ask, query::soa(id, &ask.apex)).await?;
    let message = reader.read(stream).await?.ok_or(PullError::Unfinished(0))?;
    let message = verified(&mut verifier, message)?;
    Ok(read_version(id, &ask.apex, &message)?)
}

/// Asks for the zone: what changed since `have`, or all of it.
pub async fn pull<S>(stream: &mut S, ask: &Ask, have: Option<&Record>) -> Result<Pulled, PullError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let id = rand::random();
    let (question, kind) = match have {
        None => (query::axfr(id, &ask.apex), Kind::Axfr),
        Some(soa) => (query::ixfr(id, &ask.apex, soa), Kind::Ixfr { serial: serial_of(soa) }),
    };
    let (mut reader, mut verifier) = send(stream, ask, question).await?;
    let mut inbound = Inbound::new(id, ask.apex.clone(), kind, ask.limits);
    let mut count = 0;
    loop {
        let message = reader.read(stream).await?.ok_or(PullError::Unfinished(count))?;
        count += 1;
        let message = verified(&mut verifier, message)?;
        if let Step::Done(received) = inbound.take(message)? {
            // The last message has to be signed itself, or its end proves nothing.
            if verifier.is_some_and(|verifier| !verifier.settled()) {
                return Err(ReplyFault::Unsigned.into());
            }
            return Ok(Pulled { received, expire: inbound.expire() });
        }
        // A long transfer is parsed in between reads; others get their turn.
        tokio::task::yield_now().await;
    }
}

async fn send<S>(
    stream: &mut S,
    ask: &Ask,
    mut question: Vec<u8>,
) -> Result<(Reader, Option<ReplyVerifier>), PullError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let verifier =
        ask.key.as_ref().map(|key| tsig::sign_request(&mut question, key, unix_time::seconds()));
    Writer::new(ask.pace).write(stream, &question).await?;
    stream.flush().await.map_err(FrameError::Io)?;
    Ok((Reader::new(ask.pace), verifier))
}

fn verified(verifier: &mut Option<ReplyVerifier>, message: Bytes) -> Result<Bytes, ReplyFault> {
    match verifier {
        None => Ok(message),
        Some(verifier) => Ok(verifier.verify(&message, unix_time::seconds())?.into()),
    }
}

/// Reads the answer to a question for the SOA record.
fn read_version(id: u16, apex: &Name, message: &Bytes) -> Result<Version, Fault> {
    let message = Message::from_octets(message.clone()).map_err(|_| Fault::Malformed)?;
    let header = message.header();
    if !header.qr() {
        return Err(Fault::NotReply);
    }
    if header.id() != id {
        return Err(Fault::Identity { asked: id, got: header.id() });
    }
    if message.opt_rcode() != OptRcode::NOERROR {
        return Err(Fault::Refused(message.opt_rcode()));
    }
    let question = message.sole_question().map_err(|_| Fault::Question)?;
    if question.qname() != apex || question.qtype() != Rtype::SOA {
        return Err(Fault::Question);
    }
    let mut answers =
        message.answer().map_err(|_| Fault::Malformed)?.limit_to_in::<Soa<ParsedName<Bytes>>>();
    let record = answers
        .find_map(|record| record.ok().filter(|record| record.owner() == apex))
        .ok_or(Fault::NoSoa)?;
    let (class, ttl) = (record.class(), record.ttl());
    let (owner, data) = record.into_owner_and_data();
    let data: Soa<Name> = data.flatten_into();
    let soa = AnyRecord::new(owner.flatten_into(), class, ttl, ZoneRecordData::Soa(data));
    Ok(Version { soa, expire: expire_option(message.for_slice()).flatten() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::base::iana::Rcode;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::transfer::fixture::{name, zone};
    use crate::transfer::outbound::{Head, messages};
    use crate::transfer::tsig::{Algorithm, Keys, open_request};

    const PACE: Pace =
        Pace { window: Duration::from_secs(10), octets: 1000, total: Duration::from_secs(60) };

    fn key() -> TsigKey {
        TsigKey::new(name("key"), Algorithm::Sha256, &[3; 32]).unwrap()
    }

    fn ask(key: Option<TsigKey>) -> Ask {
        let apex = name("example.org");
        let limits = Limits { records: 5_000, ..Limits::default() };
        Ask { apex, key: key.map(Arc::new), limits, pace: PACE }
    }

    /// The messages of a zone in answer to a query.
    fn answer(query: &[u8]) -> Vec<Vec<u8>> {
        let id = u16::from_be_bytes([query[0], query[1]]);
        let apex = name("example.org");
        let head = Head { id, apex, qtype: Rtype::AXFR, edns: false, expire: None };
        let zone = zone(1, 300);
        messages(head, zone.iter().chain(&zone[..1])).map(Result::unwrap).collect()
    }

    /// What comes of asking somebody who does `serve` with the query.
    async fn from(
        key: Option<TsigKey>,
        serve: impl AsyncFnOnce(Vec<u8>, &mut DuplexStream),
    ) -> Result<Pulled, PullError> {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let served = async move {
            let query = Reader::new(PACE).read(&mut far).await.unwrap().unwrap();
            serve(query.to_vec(), &mut far).await;
        };
        let pulled = async move {
            let pulled = pull(&mut near, &ask(key), None).await;
            // Tells the other end, as closing a connection does.
            drop(near);
            pulled
        };
        tokio::join!(served, pulled).1
    }

    async fn write(stream: &mut DuplexStream, all: &[Vec<u8>]) {
        for message in all {
            Writer::new(PACE).write(stream, message).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_transfer_that_stops_in_the_middle_is_none() {
        let got = from(None, async |query, stream| write(stream, &answer(&query)[..2]).await).await;
        assert!(matches!(got, Err(PullError::Unfinished(2))), "{got:?}");
        let got = from(None, async |query, stream| {
            let whole = answer(&query).remove(0);
            stream.write_all(&[0x30, 0]).await.unwrap();
            stream.write_all(&whole[..100]).await.unwrap();
        })
        .await;
        assert!(matches!(got, Err(PullError::Frame(FrameError::CutShort))), "{got:?}");
        let got = from(None, async |_, _| {}).await;
        assert!(matches!(got, Err(PullError::Unfinished(0))), "{got:?}");
    }

    #[tokio::test]
    async fn with_a_key_the_first_and_the_last_message_are_signed_or_it_is_none() {
        // Which of the messages are signed. A signature covers those before it, so what is signed
        // here after a gap is signed wrongly too.
        for (signed, expected) in [
            ([true, true, true, true, true], "ok"),
            ([false, true, true, true, true], "not signed with TSIG where it has to be"),
            ([true, true, true, true, false], "not signed with TSIG where it has to be"),
            ([true, false, true, true, true], "wrong TSIG signature of the reply"),
        ] {
            let got = from(Some(key()), async |query, stream| {
                let keys: Keys = [key()].into_iter().collect();
                let opened = open_request(&query, &keys, unix_time::seconds()).unwrap().unwrap();
                let mut signer = opened.signer;
                let mut all = answer(&query);
                let last = all.len() - 1;
                for (at, message) in all.iter_mut().enumerate() {
                    let which = if at == last { 4 } else { at.min(3) };
                    if signed[which] {
                        signer.sign(message, unix_time::seconds());
                    }
                }
                write(stream, &all).await;
            })
            .await;
            let told = got.map_or_else(|error| error.to_string(), |_| "ok".to_string());
            assert!(told.contains(expected), "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_without_end_and_a_drip_have_one() {
        let endless = from(None, async |query, stream| {
            let mut all = answer(&query);
            // The second message ever again: no SOA record ends it.
            let again = all.remove(1);
            write(stream, &all[..1]).await;
            while Writer::new(PACE).write(stream, &again).await.is_ok() {}
        });
        let got = endless.await;
        assert!(matches!(got, Err(PullError::Fault(Fault::Records(_)))), "{got:?}");
        let drip = from(None, async |query, stream| {
            for octet in &answer(&query)[0] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if stream.write_all(&[*octet]).await.is_err() {
                    break;
                }
            }
        });
        let got = tokio::time::timeout(Duration::from_secs(60_000), drip).await.unwrap();
        assert!(matches!(got, Err(PullError::Frame(_))), "{got:?}");
    }

    #[test]
    fn only_the_zones_own_soa_in_answer_to_the_question_is_its_version() {
        let apex = name("example.org");
        let query = query::soa(9, &apex);
        let reply = |record: &Record| {
            let message = Message::from_slice(&query).unwrap();
            let mut reply = query::begin_reply(message, Rcode::NOERROR);
            reply.push(record).unwrap();
            Bytes::from(reply.finish())
        };
        let zone = zone(5, 1);
        let version = read_version(9, &apex, &reply(&zone[0])).unwrap();
        assert_eq!(version.soa, zone[0]);
        assert_eq!(read_version(9, &apex, &reply(&zone[1])).unwrap_err(), Fault::NoSoa);
        let other = name("example.net");
        assert_eq!(read_version(9, &other, &reply(&zone[0])).unwrap_err(), Fault::Question);
        let asked = Fault::Identity { asked: 8, got: 9 };
        assert_eq!(read_version(8, &apex, &reply(&zone[0])).unwrap_err(), asked);
        assert_eq!(read_version(9, &apex, &query.into()).unwrap_err(), Fault::NotReply);
    }
}
