//! The way of several messages to one client.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frame;

/// Where the messages of a transfer are written.
///
/// It does not buffer: whoever makes the messages waits until the client has taken most of the last.
pub struct Messages<'a> {
    to: &'a mut (dyn AsyncWrite + Send + Unpin),
    patience: Duration,
    frame: Vec<u8>,
}

impl<'a> Messages<'a> {
    /// Messages to `to`, each of which the client has to take within `patience`.
    pub fn new(to: &'a mut (dyn AsyncWrite + Send + Unpin), patience: Duration) -> Self {
        Self { to, patience, frame: Vec::new() }
    }

    /// Writes one message, without its length.
    ///
    /// # Errors
    /// `InvalidInput` if it is longer than 65,535 octets, `TimedOut` if the client does not read, and
    /// what the connection says.
    pub async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.frame.clear();
        if !frame::push(&mut self.frame, message) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a message has 65,535 octets at most",
            ));
        }
        write(self.to, &self.frame, self.patience).await
    }
}

/// Writes all of `octets` within `patience`.
pub(super) async fn write(
    to: &mut (dyn AsyncWrite + Send + Unpin),
    octets: &[u8],
    patience: Duration,
) -> io::Result<()> {
    let written = async {
        to.write_all(octets).await?;
        to.flush().await
    };
    timeout(patience, written).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
