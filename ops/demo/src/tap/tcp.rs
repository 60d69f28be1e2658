//! The tap before the relay's SMTP port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::capture::{Capture, Direction, Piece};

/// Bytes of one read.
const BUFFER: usize = 16 << 10;

/// Connections at a time.
const CONNECTIONS: usize = 256;

/// A listener that hands every connection on.
#[derive(Debug)]
pub(crate) struct TcpTap {
    address: SocketAddr,
    capture: Arc<Capture>,
    _task: JoinSet<()>,
}

impl TcpTap {
    /// Listens on a free loopback port and carries to `target`.
    pub(crate) async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let capture = Arc::new(Capture::default());
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target, Arc::clone(&capture)));
        Ok(Self { address, capture, _task: task })
    }

    /// Where the sender connects to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, capture: Arc<Capture>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                let Ok((sender, _)) = accepted else { continue };
                connections.spawn(carry(sender, target, number, Arc::clone(&capture)));
                number += 1;
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut sender: TcpStream, target: SocketAddr, number: u32, capture: Arc<Capture>) {
    let mut relay = match TcpStream::connect(target).await {
        Ok(relay) => relay,
        Err(_) => {
            capture.end(number, Direction::FromRelay, Piece::Reset);
            let _ = sender.set_zero_linger();
            return;
        }
    };
    let carried = async {
        sender.set_nodelay(true)?;
        relay.set_nodelay(true)?;
        let (sender_read, sender_write) = sender.split();
        let (relay_read, relay_write) = relay.split();
        tokio::try_join!(
            copy(sender_read, relay_write, number, Direction::ToRelay, &capture),
            copy(relay_read, sender_write, number, Direction::FromRelay, &capture),
        )
    };
    let carried: io::Result<((), ())> = carried.await;
    if carried.is_err() {
        // A torn connection must look torn on the other side too: with zero linger the close that
        // follows sends RST instead of a clean FIN.
        let _ = sender.set_zero_linger();
        let _ = relay.set_zero_linger();
    }
}

/// Carries one direction; an end in order is passed on as such, and anything else is an error.
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    number: u32,
    direction: Direction,
    capture: &Capture,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) => read,
            Err(error) => {
                capture.end(number, direction, Piece::Reset);
                return Err(error);
            }
        };
        if read == 0 {
            capture.end(number, direction, Piece::Fin);
            return to.shutdown().await;
        }
        capture.bytes(number, direction, &buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_both_ways_and_keeps_half_close() {
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let tap = TcpTap::start(relay.local_addr().expect("an address")).await.expect("a tap");
        let mut sender = TcpStream::connect(tap.address()).await.expect("connected");
        let (mut accepted, _) = relay.accept().await.expect("accepted");
        sender.write_all(b"question").await.expect("written");
        sender.shutdown().await.expect("half closed");
        let mut heard = Vec::new();
        accepted.read_to_end(&mut heard).await.expect("read to the end");
        assert_eq!(heard, b"question");
        accepted.write_all(b"answer").await.expect("written");
        drop(accepted);
        let mut heard = Vec::new();
        sender.read_to_end(&mut heard).await.expect("read to the end");
        assert_eq!(heard, b"answer");
        let (streams, _) = tap.capture().streams();
        assert_eq!(streams, [b"question".to_vec(), b"answer".to_vec()]);
    }

    #[tokio::test]
    async fn passes_a_reset_on() {
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let tap = TcpTap::start(relay.local_addr().expect("an address")).await.expect("a tap");
        let mut sender = TcpStream::connect(tap.address()).await.expect("connected");
        let (accepted, _) = relay.accept().await.expect("accepted");
        accepted.set_zero_linger().expect("linger");
        drop(accepted);
        let error = sender.read(&mut [0; 8]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let ends = tap.capture().connection(0);
        assert!(ends.iter().any(|chunk| chunk.piece == Piece::Reset), "{ends:?}");
    }
}
