//! Asks a running relay over its live socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 64 << 20;
/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("the relay does not run: nobody listens at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is for others.
    #[error("the socket {} is for root and the relay's own user alone; try again with sudo", .0.display())]
    Denied(PathBuf),
    /// It takes too long.
    #[error("the relay does not answer at {} within 5 s; when it has just been started, it \
             may be waiting for its registry", .0.display())]
    Silent(PathBuf),
    /// The answer is none that this program understands.
    #[error("the relay's answer at {} is not understood ({reason}); is it of another version? \
             restart it", .path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl AskError {
    fn connecting(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NotRunning(path.into())
            }
            io::ErrorKind::PermissionDenied => Self::Denied(path.into()),
            _ => Self::garbled(path, error),
        }
    }

    fn garbled(path: &Path, reason: impl ToString) -> Self {
        Self::Garbled { path: path.into(), reason: reason.to_string() }
    }
}

/// Gets `what`, for example `/status`, from the relay behind the socket at `path`.
pub async fn ask<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T, AskError> {
    let asked = timeout(PATIENCE, get(path, what)).await;
    let answer = asked.unwrap_or_else(|_| Err(AskError::Silent(path.into())))?;
    serde_json::from_slice(&answer).map_err(|error| AskError::garbled(path, error))
}

async fn get(path: &Path, what: &str) -> Result<Bytes, AskError> {
    let garbled = |reason: &dyn ToString| AskError::garbled(path, reason.to_string());
    let stream =
        UnixStream::connect(path).await.map_err(|error| AskError::connecting(path, &error))?;
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| garbled(&error))?;
    let asking = async {
        let request = Request::get(what)
            .header(header::HOST, "sealpost-relay")
            .body(Empty::<Bytes>::new())
            .map_err(|error| garbled(&error))?;
        let answer = send.send_request(request).await.map_err(|error| garbled(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(garbled(&answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| garbled(&error))?.to_bytes())
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        // It ends when the answer is whole; what became of it is the other's to say.
        _ = connection => asking.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// What asking says of a relay that sends `answer`, after which it says no more.
    async fn told(answer: &'static [u8]) -> Result<Value, AskError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer).await.unwrap();
        });
        ask(&path, "/status").await
    }

    #[tokio::test]
    async fn an_answer_is_read_and_a_bad_one_is_named() {
        let good = told(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(good.unwrap(), serde_json::json!({}));
        for bad in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{}",
            b"220 mail.example ESMTP\r\n",
            b"",
        ] {
            let error = told(bad).await.unwrap_err();
            assert!(matches!(error, AskError::Garbled { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_relay_that_does_not_run_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let error = ask::<Value>(&path, "/status").await.unwrap_err();
        assert!(matches!(error, AskError::NotRunning(_)), "{error}");
        drop(UnixListener::bind(&path).unwrap());
        let error = ask::<Value>(&path, "/status").await.unwrap_err();
        assert!(matches!(error, AskError::NotRunning(_)), "{error}");
    }

    #[tokio::test]
    async fn a_relay_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = ask::<Value>(&path, "/status").await.unwrap_err();
        assert!(matches!(error, AskError::Silent(_)), "{error}");
    }
}
