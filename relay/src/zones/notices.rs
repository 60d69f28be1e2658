//! Boxes say that their zones changed (NOTIFY, RFC 1996), each on a stream of its own, and ask which
//! version is served: who obtains a certificate has to know when its record can be seen.
//!
//! A notice of the version that is served costs nothing, so a box may repeat all of its own whenever
//! its tunnel is new. Any other one makes the relay fetch and check a zone, and takes a token.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use sealpost_dns::transfer::notify::{self, Decision, Notice, NoticeError};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{PublicKey, ResetCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Zones;
use super::parents::domain_of;
use crate::shield::Rate;

/// The longest notice, in octets: a question and a SOA record fill no fourth of it.
const MAX_NOTICE: usize = 4096;
/// No message is shorter.
const HEADER: usize = 12;
/// For reading a notice, and again for writing the answer. It is one packet, and its box has few places
/// for notices: who drips holds up himself.
const TRANSFER: Duration = Duration::from_secs(3);
/// How long a notice waits while zones are read from the disk.
const START: Duration = Duration::from_secs(3);
/// Zones that one box may have fetched. At once: all that a box with many domains may have changed
/// while it was away.
const FETCHED: Rate =
    Rate { per_minute: NonZeroU32::new(20).expect("not zero"), burst: NonZeroU32::new(120) };

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The zone is served, and its box is asked for it.
    Taken,
    /// The zone is not one of a domain that the box has here.
    Foreign,
    /// The box has had too many zones fetched lately, the relay is starting, or it has too many notices of
    /// all boxes to look at.
    TooMany,
    /// A question, answered as the name server answers all who ask.
    Asked,
    /// It is neither.
    Unreadable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Taken, Self::Foreign, Self::TooMany, Self::Asked, Self::Unreadable];

    /// For counters and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Foreign => "foreign",
            Self::TooMany => "too-many",
            Self::Asked => "asked",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Zones {
    /// Hears and answers the one notice on `stream`, which the box with `key` opened.
    pub async fn notice(&self, key: PublicKey, mut stream: TunnelStream) -> Outcome {
        let Ok(Ok(message)) = timeout(TRANSFER, read(&mut stream)).await else {
            stream.abort(ResetCode::Protocol);
            return Outcome::Unreadable;
        };
        let (outcome, reply) = self.answer(key, &message).await;
        match reply {
            Some(reply) => {
                if !matches!(timeout(TRANSFER, write(&mut stream, &reply)).await, Ok(Ok(()))) {
                    stream.abort(ResetCode::Aborted);
                }
            }
            None if outcome == Outcome::TooMany => stream.abort(ResetCode::Busy),
            None => stream.abort(ResetCode::Protocol),
        }
        outcome
    }

    async fn answer(&self, key: PublicKey, message: &[u8]) -> (Outcome, Option<Vec<u8>>) {
        let notice = match notify::parse(message) {
            Ok(notice) => notice,
            Err(NoticeError::Other) => {
                let answer = Some(self.server.answer(message)).filter(|answer| !answer.is_empty());
                let outcome = if answer.is_some() { Outcome::Asked } else { Outcome::Unreadable };
                return (outcome, answer);
            }
            Err(NoticeError::Malformed) => {
                return (Outcome::Unreadable, self.server.notify_from(&key, message));
            }
        };
        let domain = domain_of(&notice.apex).filter(|domain| self.is_of(domain, key));
        let Some(domain) = domain else {
            return (Outcome::Foreign, notify::reply(message, Decision::NotAuth));
        };
        // Before that nothing is known to be served, and a notice of it would take a token.
        if timeout(START, self.loaded()).await.is_err() {
            return (Outcome::TooMany, None);
        }
        let known = self.is_served(&notice);
        if !known && !self.fetched.take(key, FETCHED, Instant::now()) {
            return (Outcome::TooMany, None);
        }
        if !self.host(&domain, key).await {
            return (Outcome::Foreign, notify::reply(message, Decision::NotAuth));
        }
        let reply = self.server.notify_from(&key, message);
        let said = reply.as_ref().and_then(|reply| notify::parse_reply(reply, notice.id));
        let taken = said == Some(Rcode::NOERROR);
        (if taken { Outcome::Taken } else { Outcome::TooMany }, reply)
    }

    /// Whether the version that a notice is about is the one that is served.
    fn is_served(&self, notice: &Notice) -> bool {
        self.server.status(&notice.apex).is_some_and(|status| {
            let here = status.version.map(|version| version.serial);
            status.served && status.error.is_none() && here.is_some() && here == notice.serial
        })
    }
}

/// The message behind its length (RFC 1035 section 4.2.2): no header, or a longer one than a notice may
/// be, is an error.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if !(HEADER..=MAX_NOTICE).contains(&length) {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TunnelStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    stream.shutdown().await
}
