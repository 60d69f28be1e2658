//! Carries bytes between a TCP connection and a tunnel stream, with every end kept as it was.
//!
//! | on one side | becomes on the other |
//! |---|---|
//! | TCP FIN | end of stream |
//! | end of stream | TCP FIN |
//! | TCP RST | RESET_STREAM and STOP_SENDING |
//! | RESET_STREAM | TCP RST |
//! | STOP_SENDING | nothing more is read from TCP; RST once the other direction has ended |
//! | this program leaves, nobody waits | an end for the sender, as servers end; a reset for the server |
//! | panic, cancellation, lost connection | RESET_STREAM and TCP RST |
//!
//! The last row holds by construction: the TCP socket is set to reset on close (`SO_LINGER` 0)
//! before the first byte, and that is taken back only when both directions ended cleanly.
//!
//! An idle splice owns no buffer: it waits for the socket to be readable and takes one then.

use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, WriteError};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use crate::reset::ResetCode;
use crate::stream::{SendHalf, TunnelStream};

const MIN_READ: usize = 2 * 1024;
const MAX_READ: usize = 128 * 1024;
/// How long the last bytes may take to be acknowledged, and how long a TCP peer that is no
/// longer listened to may go on sending before it is reset.
const LINGER: Duration = Duration::from_secs(5);

/// How long after a TCP reset the far end may take to end by itself. A sender that closes without
/// reading the answer to its QUIT resets the connection: only the far end's FIN, which is then
/// already on the way, tells that from a message that was cut.
const GRACE: Duration = Duration::from_secs(1);

/// How long a TCP connection may be silent before its peer is asked whether it still is there. Well
/// below the 5 minutes after which the hastiest routers forget a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// How long nothing may have passed before a program that leaves takes the server's last words for
/// the end of a reply.
const SETTLED: Duration = Duration::from_secs(5);
/// When a program leaves, it asks a silent TCP peer this soon, and then this often, whether it still
/// is there: with the nine probes of Linux, one that vanished is not waited for after a minute.
const STILL_THERE: Duration = Duration::from_secs(15);
const STILL_THERE_AGAIN: Duration = Duration::from_secs(5);

/// On which side of a splice the mail server is that the other side speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// At the TCP connection.
    AtTcp,
    /// At the far end of the tunnel.
    InTunnel,
}

/// How one direction of a splice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an end of stream, which was passed on unless the receiver had reset the connection.
    Finished,
    /// The TCP connection was reset or refuses bytes.
    TcpReset,
    /// The far end reset the stream, or wants no more of it.
    PeerReset(ResetCode),
    /// The connection to the far end was lost.
    TunnelLost,
    /// No byte in either direction for the idle time.
    Idle,
    /// This program leaves, and nobody waited for an answer.
    Left,
}

/// What a splice did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spliced {
    /// How the direction from TCP into the tunnel ended.
    pub to_tunnel: End,
    /// How the direction from the tunnel to TCP ended.
    pub to_tcp: End,
    /// Bytes read from TCP and given to the tunnel.
    pub bytes_to_tunnel: u64,
    /// Bytes taken from the tunnel and written to TCP.
    pub bytes_to_tcp: u64,
}

/// Makes closing `tcp` send RST, until [`close_cleanly`]. To be called as soon as bytes that
/// must not be cut silently may pass.
pub fn reset_on_close(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).set_linger(Some(Duration::ZERO))
}

/// Asks the peer of a silent connection now and then whether it still is there, which also keeps
/// routers on the way from forgetting it.
pub fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))
}

/// Makes closing `tcp` send FIN again.
pub fn close_cleanly(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(None);
}

/// Carries bytes both ways until both directions have ended. `pending` are bytes from the
/// tunnel that were read already. `idle` is how long nothing may pass: at least that, at most
/// twice that, as one timer a session looks only that often.
pub async fn splice(
    tcp: TcpStream,
    stream: TunnelStream,
    pending: Bytes,
    idle: Duration,
) -> Spliced {
    let stays = std::future::pending();
    splice_until(tcp, stream, pending, idle, Server::InTunnel, stays).await
}

/// The same, until `leaving` resolves. From then on the splice ends as soon as `server` has spoken
/// last and nothing has passed for a moment. Whoever speaks SMTP waits for the other by turns, and
/// TLS does not hide whose turn it is: a sender that has had its answer loses nothing, while one
/// that waits for the answer to its message would send it again.
pub async fn splice_until(
    tcp: TcpStream,
    mut stream: TunnelStream,
    pending: Bytes,
    idle: Duration,
    server: Server,
    leaving: impl Future<Output = ()>,
) -> Spliced {
    let counts = Counts::default();
    let (to_tunnel, to_tcp) = match reset_on_close(&tcp) {
        Ok(()) => {
            let over = over(&tcp, idle, server, leaving, &counts);
            both_ways(&tcp, &mut stream, pending, over, &counts).await
        }
        Err(_) => (End::TcpReset, End::TcpReset),
    };
    // Boxed, as an idle splice is not there yet and should not own the room for it.
    if [to_tunnel, to_tcp].contains(&End::Left) {
        Box::pin(leave(&tcp, &mut stream, server)).await;
    } else {
        Box::pin(settle(&tcp, &mut stream, to_tunnel, to_tcp)).await;
    }
    Spliced {
        to_tunnel,
        to_tcp,
        bytes_to_tunnel: counts.to_tunnel.load(Ordering::Relaxed),
        bytes_to_tcp: counts.to_tcp.load(Ordering::Relaxed),
    }
}

#[derive(Default)]
struct Counts {
    to_tunnel: AtomicU64,
    to_tcp: AtomicU64,
    /// Whether the last bytes came out of the tunnel, and are written.
    tunnel_spoke_last: AtomicBool,
}

impl Counts {
    fn spoke_last(&self) -> Server {
        match self.tunnel_spoke_last.load(Ordering::Relaxed) {
            true => Server::InTunnel,
            false => Server::AtTcp,
        }
    }

    fn sum(&self) -> u64 {
        self.to_tunnel.load(Ordering::Relaxed).wrapping_add(self.to_tcp.load(Ordering::Relaxed))
    }
}

async fn both_ways(
    tcp: &TcpStream,
    stream: &mut TunnelStream,
    pending: Bytes,
    over: impl Future<Output = End>,
    counts: &Counts,
) -> (End, End) {
    let mut up = pin!(tcp_to_tunnel(tcp, &mut stream.send, counts));
    let mut down = pin!(tunnel_to_tcp(tcp, &mut stream.recv, pending, counts));
    let mut broken = pin!(tcp_broke(tcp));
    let mut over = pin!(over);
    let (mut up_end, mut down_end) = (None, None);
    let mut grace: Option<Pin<Box<Sleep>>> = None;
    loop {
        tokio::select! {
            biased;
            end = &mut down, if down_end.is_none() => down_end = Some(end),
            end = &mut up, if up_end.is_none() => up_end = Some(end),
            () = &mut broken, if grace.is_none() => {
                grace = Some(Box::pin(sleep(if up_end.is_none() { LINGER } else { GRACE })));
            }
            () = async { if let Some(grace) = &mut grace { grace.await } }, if grace.is_some() => {
                return (up_end.unwrap_or(End::TcpReset), down_end.unwrap_or(End::TcpReset));
            }
            end = &mut over => return (up_end.unwrap_or(end), down_end.unwrap_or(end)),
        }
        match (up_end, down_end) {
            (Some(up), Some(down)) => return (up, down),
            // A reset by the far end or a lost tunnel concerns both directions.
            (Some(End::TunnelLost), None) => return (End::TunnelLost, End::TunnelLost),
            (None, Some(end @ (End::PeerReset(_) | End::TunnelLost))) => return (end, end),
            (Some(End::TcpReset), None) => grace = Some(Box::pin(sleep(GRACE))),
            // A FIN or a STOP_SENDING concerns one; the other goes on.
            _ => {}
        }
    }
}

async fn tcp_to_tunnel(tcp: &TcpStream, send: &mut SendHalf, counts: &Counts) -> End {
    let mut stopped = pin!(send.stopped());
    let mut size = MIN_READ;
    loop {
        tokio::select! {
            ready = tcp.readable() => if ready.is_err() { return End::TcpReset },
            stop = &mut stopped => return match stop {
                Ok(Some(code)) => End::PeerReset(code.into()),
                Ok(None) => End::Finished,
                Err(_) => End::TunnelLost,
            },
        }
        let mut buffer = BytesMut::with_capacity(size);
        let read = match tcp.try_read_buf(&mut buffer) {
            Ok(0) => {
                send.finish();
                return End::Finished;
            }
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return End::TcpReset,
        };
        counts.tunnel_spoke_last.store(false, Ordering::Relaxed);
        // A buffer waits in quinn until it is acknowledged: one that is mostly empty is copied
        // into one of its size, so that a trickle of bytes cannot occupy a multiple of them.
        let bytes = if read < size / 2 { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() };
        size = if read == size { (size * 4).min(MAX_READ) } else { read.max(MIN_READ) };
        match send.send(bytes).await {
            Ok(()) => _ = counts.to_tunnel.fetch_add(read as u64, Ordering::Relaxed),
            Err(WriteError::Stopped(code)) => return End::PeerReset(code.into()),
            Err(_) => return End::TunnelLost,
        }
    }
}

async fn tunnel_to_tcp(
    tcp: &TcpStream,
    recv: &mut RecvStream,
    pending: Bytes,
    counts: &Counts,
) -> End {
    let mut bytes = pending;
    loop {
        while !bytes.is_empty() {
            match tcp.try_write(&bytes) {
                Ok(written) => {
                    counts.to_tcp.fetch_add(written as u64, Ordering::Relaxed);
                    bytes = bytes.split_off(written);
                    counts.tunnel_spoke_last.store(bytes.is_empty(), Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // A TCP peer that does not read must not hide that the far end is gone.
                    let gone = async {
                        match recv.received_reset().await {
                            Ok(Some(code)) => End::PeerReset(code.into()),
                            Ok(None) => std::future::pending().await,
                            Err(_) => End::TunnelLost,
                        }
                    };
                    tokio::select! {
                        ready = tcp.writable() => if ready.is_err() { return End::TcpReset },
                        end = gone => return end,
                    }
                }
                Err(_) => return rest_of(recv).await,
            }
        }
        bytes = match recv.read_chunk(MAX_READ, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            Ok(None) => {
                // Fails when the peer has reset the connection, and then needs no FIN.
                let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
                return End::Finished;
            }
            Err(ReadError::Reset(code)) => return End::PeerReset(code.into()),
            Err(_) => return End::TunnelLost,
        };
    }
}

/// The TCP peer takes nothing more: drops what the far end still says, to learn whether it came
/// to its end.
async fn rest_of(recv: &mut RecvStream) -> End {
    loop {
        match recv.read_chunk(MAX_READ, true).await {
            Ok(Some(_)) => {}
            Ok(None) => return End::Finished,
            Err(ReadError::Reset(_)) => return End::TcpReset,
            Err(_) => return End::TunnelLost,
        }
    }
}

/// Resolves when the TCP connection is reset, also while nothing is read from or written to it.
async fn tcp_broke(tcp: &TcpStream) {
    let _ = tcp.ready(Interest::ERROR).await;
}

async fn quiet_for(idle: Duration, counts: &Counts) {
    loop {
        let before = counts.sum();
        sleep(idle).await;
        if counts.sum() == before {
            return;
        }
    }
}

/// Resolves when the splice is to end although neither side ended it.
async fn over(
    tcp: &TcpStream,
    idle: Duration,
    server: Server,
    leaving: impl Future<Output = ()>,
    counts: &Counts,
) -> End {
    tokio::select! {
        () = quiet_for(idle, counts) => End::Idle,
        () = async {
            leaving.await;
            // Boxed, as few splices are there when their program leaves.
            Box::pin(nobody_waits(tcp, server, counts)).await;
        } => End::Left,
    }
}

async fn nobody_waits(tcp: &TcpStream, server: Server, counts: &Counts) {
    let probes = TcpKeepalive::new().with_time(STILL_THERE).with_interval(STILL_THERE_AGAIN);
    let _ = SockRef::from(tcp).set_tcp_keepalive(&probes);
    loop {
        let before = counts.sum();
        sleep(SETTLED).await;
        if counts.sum() == before && counts.spoke_last() == server {
            return;
        }
    }
}

/// Ends a splice in which nobody waits: for the sender as a server does that ends, behind its last
/// words; for the server as broken, since the sender has not ended.
async fn leave(tcp: &TcpStream, stream: &mut TunnelStream, server: Server) {
    let _ = stream.recv.stop(ResetCode::Draining.into());
    match server {
        Server::AtTcp => {
            stream.send.finish();
            acknowledged(stream).await;
        }
        Server::InTunnel => {
            stream.send.reset(ResetCode::Draining);
            let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
            linger(tcp).await;
        }
    }
}

/// Ends what has not ended, so that each peer sees what happened and no byte is cut.
async fn settle(tcp: &TcpStream, stream: &mut TunnelStream, to_tunnel: End, to_tcp: End) {
    let reason = |end| match end {
        End::Idle => ResetCode::Idle,
        End::PeerReset(code) => code,
        End::Left => ResetCode::Draining,
        End::TcpReset | End::TunnelLost | End::Finished => ResetCode::TcpReset,
    };
    if (to_tunnel, to_tcp) == (End::TcpReset, End::Finished) {
        // The TCP peer's last words may still be under way, and RESET_STREAM would discard them.
        sleep(GRACE).await;
    }
    if to_tunnel != End::Finished {
        stream.send.reset(reason(to_tunnel));
    }
    if to_tcp != End::Finished {
        let _ = stream.recv.stop(reason(to_tcp).into());
    }
    match (to_tunnel, to_tcp) {
        (End::Finished, End::Finished) => {
            close_cleanly(tcp);
            acknowledged(stream).await;
        }
        // The far end has finished but takes nothing more: its last bytes must reach the TCP
        // peer before that is reset, as an RST discards what is still under way.
        (End::PeerReset(_), End::Finished) => linger(tcp).await,
        (End::Finished, _) => acknowledged(stream).await,
        _ => {}
    }
}

/// Waits until the far end has everything, as closing the connection earlier would lose it.
async fn acknowledged(stream: &TunnelStream) {
    let _ = timeout(LINGER, stream.send.stopped()).await;
}

/// Reads and drops what comes until the TCP peer ends. One that does not end in time is reset.
async fn linger(tcp: &TcpStream) {
    if let Ok(true) = timeout(LINGER, discard(tcp)).await {
        close_cleanly(tcp);
    }
}

/// Whether the TCP peer ended with a FIN, after everything before it was read and dropped. To be
/// awaited, for a bounded time, before a connection is closed whose peer may still be sending:
/// closing a socket with unread bytes sends RST, which destroys what the peer has not read yet.
pub async fn discard(tcp: &TcpStream) -> bool {
    // On the heap, as every idle splice would own a buffer of its future.
    let mut sink = vec![0; 4096];
    loop {
        if tcp.readable().await.is_err() {
            return false;
        }
        match tcp.try_read(&mut sink) {
            Ok(0) => return true,
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return false,
            _ => {}
        }
    }
}
