//! Tells one relay, through its tunnel, that a zone changed, and waits until the relay serves it.

use std::time::Duration;

use bytes::Bytes;
use domain::base::Message;
use domain::base::iana::Rcode;
use domain::base::name::ParsedName;
use domain::rdata::Soa;
use quinn::Connection;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::frame::{FrameError, Pace, Reader, Writer};
use sealpost_dns::transfer::notify;
use sealpost_dns::transfer::query::{self, serial_of};
use sealpost_tunnel::spoken::spoken;
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Opening, SessionId};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::zone::serial::is_newer;

/// For one question and its answer.
const EXCHANGE: Duration = Duration::from_secs(5);
/// How long the relay may take to have the zone and to look at it, before it is told again later.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between questions whether it serves it: at first, and at most.
const ASK_FIRST: Duration = Duration::from_millis(100);
const ASK_MOST: Duration = Duration::from_secs(2);
/// A message is short and comes at once.
const PACE: Pace = Pace { window: EXCHANGE, octets: 1, total: EXCHANGE };

/// The longest that is repeated of what a relay says when it ends the tunnel, in characters.
const MAX_WORDS: usize = 300;

/// Why a relay does not serve a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// It was not told.
    #[error("it could not be told of the zone: {0}")]
    Untold(String),
    /// It wants no zone.
    #[error(
        "it does not take the zone ({0}): claim the domain there, see sealpost-agent domain add"
    )]
    Refused(Rcode),
    /// It could not take note of it.
    #[error("it has too much to do to take the zone; it is told again")]
    Busy,
    /// It was told, and serves another version or none.
    #[error("it was told, and {}", match .0 {
        Some(serial) => format!("still serves serial {serial}"),
        None => "does not serve the zone yet".into(),
    })]
    Behind(Option<u32>),
}

/// Tells the relay at the other end of `connection` of the version with the SOA record `soa`; the
/// serial that it serves in the end, which is that or a newer one.
pub async fn tell(connection: &Connection, apex: &Name, soa: &Record) -> Result<u32, NotServed> {
    let id = rand::random();
    let reply = exchange(connection, &notify::make(id, apex, Some(soa))).await;
    let reply = reply.map_err(untold)?;
    match notify::parse_reply(&reply, id) {
        Some(Rcode::NOERROR) => {}
        Some(Rcode::SERVFAIL) => return Err(NotServed::Busy),
        Some(rcode) => return Err(NotServed::Refused(rcode)),
        None => return Err(NotServed::Untold("what it answered is no reply".into())),
    }
    let wanted = serial_of(soa);
    let end = Instant::now() + PATIENCE;
    let mut pause = ASK_FIRST;
    let mut last = None;
    while Instant::now() < end {
        sleep(pause).await;
        pause = (pause * 2).min(ASK_MOST);
        let served = served(connection, apex).await;
        last = served.map_err(untold)?;
        if let Some(serial) = last.filter(|serial| !is_newer(wanted, *serial)) {
            return Ok(serial);
        }
    }
    Err(NotServed::Behind(last))
}

/// An owner reads it on a terminal, and a tunnel ends with words of the relay's choice.
fn untold(error: FrameError) -> NotServed {
    NotServed::Untold(spoken(&error.to_string(), MAX_WORDS))
}

/// The serial that the relay serves, if any.
async fn served(connection: &Connection, apex: &Name) -> Result<Option<u32>, FrameError> {
    let id = rand::random();
    let reply = exchange(connection, &query::soa(id, apex)).await?;
    Ok(read_serial(&reply, id, apex))
}

fn read_serial(reply: &[u8], id: u16, apex: &Name) -> Option<u32> {
    let message = Message::from_slice(reply).ok()?;
    let header = message.header();
    if !header.qr() || header.id() != id || header.rcode() != Rcode::NOERROR {
        return None;
    }
    let soas = message.answer().ok()?.limit_to_in::<Soa<ParsedName<_>>>();
    let mut own = soas.filter_map(Result::ok).filter(|soa| soa.owner() == apex);
    own.next().map(|soa| soa.data().serial().into_int())
}

/// One message there and one back, on a stream of their own.
async fn exchange(connection: &Connection, message: &[u8]) -> Result<Bytes, FrameError> {
    let exchanged = async {
        let (send, recv) = connection.open_bi().await.map_err(std::io::Error::other)?;
        let mut stream = TunnelStream::new(send, recv);
        stream.write_all(&Opening::Dns(SessionId::random()).encode()).await?;
        Writer::new(PACE).write(&mut stream, message).await?;
        stream.send.finish();
        Reader::new(PACE).read(&mut stream).await?.ok_or(FrameError::CutShort)
    };
    match timeout(EXCHANGE, Box::pin(exchanged)).await {
        Ok(exchanged) => exchanged,
        Err(_) => Err(FrameError::Late(EXCHANGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_at_the_end_steers_no_terminal() {
        let error = FrameError::Io(std::io::Error::other("closed by peer: \u{1b}[2Jfine"));
        let told = untold(error).to_string();
        assert!(told.ends_with("[2Jfine") && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn a_serial_is_read_from_an_answer_to_the_question_alone() {
        let apex: Name = "a.example.".parse().unwrap();
        let zone = crate::zone::canonical::tests::records("a.example.", "@ SOA n h 7 4 3 2 1\n");
        let mut answer = notify::make(5, &apex, Some(&zone[0]));
        // A notice is like an answer but for its first flags.
        answer[2] = 0x84;
        assert_eq!(read_serial(&answer, 5, &apex), Some(7));
        assert_eq!(read_serial(&answer, 6, &apex), None);
        assert_eq!(read_serial(&answer, 5, &"b.example.".parse().unwrap()), None);
        answer[3] = 5;
        assert_eq!(read_serial(&answer, 5, &apex), None);
        assert_eq!(read_serial(&answer[..20], 5, &apex), None);
    }
}
