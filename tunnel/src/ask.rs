//! Requests and answers at work: one stream each, one document each way.

use std::time::Duration;

use quinn::{Connection, ConnectionError, ReadError, ReadToEndError, RecvStream, SendStream};
use quinn::{StoppedError, WriteError};
use tokio::time::timeout;

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

/// The relay's side: the request of one stream, whole.
pub async fn read_request(recv: &mut RecvStream) -> Result<Request, AskError> {
    let octets = timeout(TRANSFER_TIMEOUT, read_all(recv, MAX_REQUEST))
        .await
        .unwrap_or(Err(AskError::Timeout(TRANSFER_TIMEOUT)))?;
    Ok(Request::decode(&octets)?)
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
        ReadToEndError::Read(ReadError::Reset(code)) => AskError::Reset(code.into()),
        ReadToEndError::Read(ReadError::ConnectionLost(e)) => e.into(),
        ReadToEndError::Read(_) => AskError::Reset(ResetCode::Aborted),
    })
}
