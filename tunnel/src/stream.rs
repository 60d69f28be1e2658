//! A QUIC stream that cannot end cleanly by accident.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::reset::ResetCode;

/// Both directions of a stream between relay and agent.
pub struct TunnelStream {
    /// Towards the peer.
    pub send: SendHalf,
    /// From the peer.
    pub recv: RecvStream,
}

impl TunnelStream {
    /// Takes both halves of a stream into care.
    pub fn new(send: SendStream, recv: RecvStream) -> Self {
        Self { send: SendHalf { stream: send, ended: false }, recv }
    }

    /// Resets both directions for `reason`.
    pub fn abort(mut self, reason: ResetCode) {
        self.send.reset(reason);
        // Fails when the peer has ended the stream already, which is as good.
        let _ = self.recv.stop(reason.into());
    }
}

/// For those who read and write what is framed by itself. To shut down is to
/// [finish](SendHalf::finish).
impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.get_mut().recv), context, buffer)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().send.stream), context, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.get_mut().send.stream), context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().send.finish();
        Poll::Ready(Ok(()))
    }
}

/// The sending half. quinn finishes a stream that is dropped, so a panic or a cancelled task
/// would look like the end of a message; this one is reset unless it was finished on purpose.
pub struct SendHalf {
    stream: SendStream,
    ended: bool,
}

impl SendHalf {
    /// Sends all of `bytes`, waiting for room in the window.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.stream.write_chunk(bytes).await
    }

    /// Ends the direction cleanly: the peer sees the end behind the last byte.
    pub fn finish(&mut self) {
        self.ended = true;
        // Fails only when the stream is stopped or reset already, which the peer knows.
        let _ = self.stream.finish();
    }

    /// Ends the direction as broken.
    pub fn reset(&mut self, reason: ResetCode) {
        self.ended = true;
        // Fails only when all was acknowledged or reset already.
        let _ = self.stream.reset(reason.into());
    }

    /// Resolves when the peer no longer wants bytes (its reason), has taken all of a finished
    /// stream (`None`), or the connection is lost.
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<VarInt>, quinn::StoppedError>> + Send + Sync + 'static
    {
        self.stream.stopped()
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(ResetCode::Aborted);
        }
    }
}
