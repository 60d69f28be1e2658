//! Requests and answers at work: one stream each, one document each way. What an agent opens is such a
//! stream or one for DNS ([`Opening::Dns`]); the first octet tells which.

use std::time::Duration;

use quinn::{Connection, ConnectionError, ReadError, ReadExactError, ReadToEndError};
use quinn::{RecvStream, SendStream};
use quinn::{StoppedError, WriteError};
use tokio::time::timeout;

use crate::header::{DNS_HEADER, Opening, VERSION_DNS};
use crate::names::SessionId;
use crate::request::{Answer, MAX_ANSWER, MAX_REQUEST, Request, RequestError};
use crate::reset::{ResetCode, describe};

/// How long an agent waits for an answer: a claim is answered only after the domain's name
/// servers were asked, some of them in vain.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a relay waits for the rest of a request, and for an answer to be taken.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no request or answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection ended.
    #[error("the connection ended: {}", describe(.0))]
    Connection(ConnectionError),
    /// The peer gave the stream up; a relay that answers no requests does so with
    /// [`ResetCode::ServiceUnknown`].
    #[error("the peer gave the request up: {}", .0.label())]
    Reset(ResetCode),
    /// What came cannot be read.
    #[error("what came is {0}")]
    Document(#[from] RequestError),
    /// A stream for DNS whose header is wrong, or where none belongs.
    #[error("what came is no header of a stream for DNS, or not in its place")]
    Header,
    /// It took too long.
    #[error("nothing came within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl From<ConnectionError> for AskError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

/// The agent's side: asks, and waits for the answer. Cancelling it gives the request up, though
/// the relay may have done it already.
pub async fn ask(connection: &Connection, request: &Request) -> Result<Answer, AskError> {
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        // A relay that refuses may do so before it has read all; then its answer counts.
        let sent = send_all(&mut send, &request.encode()).await;
        match (read_all(&mut recv, MAX_ANSWER).await, sent) {
            (Ok(answer), _) => Ok(Answer::decode(&answer)?),
            (Err(AskError::Document(e)), _) => Err(e.into()),
            (Err(_), Err(e)) | (Err(e), Ok(())) => Err(e),
        }
    };
    // Boxed, as the buffers of a rare exchange should not be part of whoever asks.
    timeout(ANSWER_TIMEOUT, Box::pin(exchange))
        .await
        .unwrap_or(Err(AskError::Timeout(ANSWER_TIMEOUT)))
}

/// What an agent opened a stream for.
#[derive(Debug)]
pub enum Asked {
    /// To ask the registry this.
    Request(Request),
    /// To send DNS messages, of which nothing was read.
    Dns(SessionId),
}

/// The relay's side: what one stream is for, and its request, whole, if that is it.
pub async fn read_asked(recv: &mut RecvStream) -> Result<Asked, AskError> {
    timeout(TRANSFER_TIMEOUT, asked(recv)).await.unwrap_or(Err(AskError::Timeout(TRANSFER_TIMEOUT)))
}

/// As [`read_asked`], where nothing but requests comes.
pub async fn read_request(recv: &mut RecvStream) -> Result<Request, AskError> {
    match read_asked(recv).await? {
        Asked::Request(request) => Ok(request),
        Asked::Dns(_) => Err(AskError::Header),
    }
}

async fn asked(recv: &mut RecvStream) -> Result<Asked, AskError> {
    let mut octets = [0; DNS_HEADER];
    match recv.read_exact(&mut octets[..1]).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(_)) => return Ok(Asked::Request(Request::decode(&[])?)),
        Err(ReadExactError::ReadError(e)) => return Err(lost(e)),
    }
    if octets[0] != VERSION_DNS {
        let rest = read_all(recv, MAX_REQUEST - 1).await?;
        return Ok(Asked::Request(Request::decode(&[&octets[..1], &rest].concat())?));
    }
    recv.read_exact(&mut octets[1..]).await.map_err(|e| match e {
        ReadExactError::FinishedEarly(_) => AskError::Header,
        ReadExactError::ReadError(e) => lost(e),
    })?;
    match Opening::decode(&octets) {
        Ok(Some((Opening::Dns(session), DNS_HEADER))) => Ok(Asked::Dns(session)),
        _ => Err(AskError::Header),
    }
}

/// The relay's side: answers and ends the stream. Returns when the agent has the answer, so that
/// the connection may be closed then.
pub async fn write_answer(send: &mut SendStream, answer: &Answer) -> Result<(), AskError> {
    let octets = answer.encode();
    if octets.len() > MAX_ANSWER {
        return Err(RequestError::TooLong(octets.len(), MAX_ANSWER).into());
    }
    let taken = async {
        send_all(send, &octets).await?;
        match send.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(AskError::Reset(code.into())),
            Err(StoppedError::ConnectionLost(e)) => Err(e.into()),
            Err(StoppedError::ZeroRttRejected) => Err(AskError::Reset(ResetCode::Aborted)),
        }
    };
    timeout(TRANSFER_TIMEOUT, taken).await.unwrap_or(Err(AskError::Timeout(TRANSFER_TIMEOUT)))
}

async fn send_all(send: &mut SendStream, octets: &[u8]) -> Result<(), AskError> {
    send.write_all(octets).await.map_err(|e| match e {
        WriteError::Stopped(code) => AskError::Reset(code.into()),
        WriteError::ConnectionLost(e) => e.into(),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            AskError::Reset(ResetCode::Aborted)
        }
    })?;
    // Fails only when the stream is stopped already, which the peer knows.
    let _ = send.finish();
    Ok(())
}

async fn read_all(recv: &mut RecvStream, max: usize) -> Result<Vec<u8>, AskError> {
    recv.read_to_end(max).await.map_err(|e| match e {
        ReadToEndError::TooLong => RequestError::TooLong(max + 1, max).into(),
        ReadToEndError::Read(e) => lost(e),
    })
}

fn lost(error: ReadError) -> AskError {
    match error {
        ReadError::Reset(code) => AskError::Reset(code.into()),
        ReadError::ConnectionLost(e) => e.into(),
        _ => AskError::Reset(ResetCode::Aborted),
    }
}
