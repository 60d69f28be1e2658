//! A transfer in, over whatever carries bytes: a TCP connection, or a stream inside a tunnel.
//!
//! One question and its answer. Which question to ask, when, and what to do with the answer is
//! `refresh`'s.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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
        ask.key.as_ref().map(|key| tsig::sign_request(&mut question, key, unix_seconds()));
    Writer::new(ask.pace).write(stream, &question).await?;
    stream.flush().await.map_err(FrameError::Io)?;
    Ok((Reader::new(ask.pace), verifier))
}

fn verified(verifier: &mut Option<ReplyVerifier>, message: Bytes) -> Result<Bytes, ReplyFault> {
    match verifier {
        None => Ok(message),
        Some(verifier) => Ok(verifier.verify(&message, unix_seconds())?.into()),
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

/// The time that signatures are made for.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
