//! The splice between real TCP connections and a real QUIC connection on loopback: every way in
//! which one side can end must look the same on the other.
//!
//! ```text
//! near (TCP) <-> splice <-> QUIC <-> splice <-> far (TCP)
//! ```

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;
use sealpost_tunnel::quic::{self, Pin, Use};
use sealpost_tunnel::restart_keys::RestartKeys;
use sealpost_tunnel::splice::{End, Server, Spliced, splice_until};
use sealpost_tunnel::stream::TunnelStream;
use sealpost_tunnel::{Identity, ResetCode};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// Two spliced TCP connections with a tunnel between them.
struct Line {
    near: TcpStream,
    far: TcpStream,
    near_splice: JoinHandle<Spliced>,
    far_splice: JoinHandle<Spliced>,
    /// Tell the splices that their programs leave.
    near_leaves: oneshot::Sender<()>,
    far_leaves: oneshot::Sender<()>,
    relay: Connection,
    agent: Connection,
}

async fn tunnel() -> (Connection, Connection) {
    let (relay_id, agent_id) = (Identity::ephemeral(), Identity::ephemeral());
    let keys = RestartKeys::ephemeral();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let listening = quic::relay_endpoint(any_port, &relay_id, &keys).unwrap();
    let address = listening.local_addr().unwrap();
    let dialling = quic::agent_endpoint(any_port).unwrap();
    let pin = Pin::Exactly(relay_id.public());
    let connecting = quic::dial(&dialling, address, &agent_id, pin, Use::Tunnel).unwrap();
    let (relay, agent) =
        tokio::join!(async { listening.accept().await.unwrap().await.unwrap() }, connecting);
    let agent = agent.unwrap();
    assert_eq!(quic::peer_key(&relay), Some(agent_id.public()));
    assert_eq!(quic::peer_key(&agent), Some(relay_id.public()));
    (relay, agent)
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

impl Line {
    async fn new(idle: Duration) -> Self {
        let (relay, agent) = tunnel().await;
        let (near, near_inner) = tcp_pair().await;
        let (far, far_inner) = tcp_pair().await;
        let (mut send, recv) = relay.open_bi().await.unwrap();
        // A stream exists for the peer once a byte was sent on it.
        send.write_all(b"!").await.unwrap();
        let (far_send, mut far_recv) = agent.accept_bi().await.unwrap();
        far_recv.read_exact(&mut [0]).await.unwrap();
        let near_stream = TunnelStream::new(send, recv);
        let far_stream = TunnelStream::new(far_send, far_recv);
        // The sender is near, the server far.
        let spliced = |tcp, stream, server| {
            let (leaves, told) = oneshot::channel::<()>();
            let leaving = async {
                if told.await.is_err() {
                    std::future::pending().await
                }
            };
            let splice = splice_until(tcp, stream, Bytes::new(), idle, server, leaving);
            (tokio::spawn(splice), leaves)
        };
        let (near_splice, near_leaves) = spliced(near_inner, near_stream, Server::InTunnel);
        let (far_splice, far_leaves) = spliced(far_inner, far_stream, Server::AtTcp);
        Self { near, far, near_splice, far_splice, near_leaves, far_leaves, relay, agent }
    }

    async fn ends(self) -> (Spliced, Spliced) {
        let near = timeout(PATIENCE, self.near_splice).await.unwrap().unwrap();
        let far = timeout(PATIENCE, self.far_splice).await.unwrap().unwrap();
        (near, far)
    }
}

async fn read_all(tcp: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    timeout(PATIENCE, tcp.read_to_end(&mut all)).await.unwrap().map(|_| all)
}

async fn expect(tcp: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    timeout(PATIENCE, tcp.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, wanted);
}

async fn expect_reset(tcp: &mut TcpStream) {
    let error = read_all(tcp).await.expect_err("the end must not look clean");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn half_close_passes_in_each_direction_while_the_other_goes_on() {
    for near_first in [true, false] {
        let mut line = Line::new(IDLE).await;
        let (first, second) = if near_first {
            (&mut line.near, &mut line.far)
        } else {
            (&mut line.far, &mut line.near)
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(read_all(second).await.unwrap(), b"question");
        for _ in 0..3 {
            second.write_all(b"answer").await.unwrap();
            expect(first, b"answer").await;
        }
        second.shutdown().await.unwrap();
        assert_eq!(read_all(first).await.unwrap(), b"");
        let (near, far) = line.ends().await;
        for ends in [near, far] {
            assert_eq!((ends.to_tunnel, ends.to_tcp), (End::Finished, End::Finished));
        }
        assert_eq!(near.bytes_to_tunnel, far.bytes_to_tcp);
        assert_eq!(near.bytes_to_tcp + near.bytes_to_tunnel, 8 + 18);
    }
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_unchanged() {
    let line = Line::new(IDLE).await;
    let data: Vec<u8> =
        (0..6_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let Line { near, far, near_splice, far_splice, relay, agent, .. } = line;
    let carry = |tcp: TcpStream, data: Vec<u8>| async move {
        let (mut read, mut write) = tcp.into_split();
        let (written, got) = tokio::join!(
            async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await
            },
            async {
                let mut all = Vec::new();
                read.read_to_end(&mut all).await.map(|_| all)
            }
        );
        written.unwrap();
        assert!(got.unwrap() == data, "bytes changed on the way");
    };
    let both = async { tokio::join!(carry(near, data.clone()), carry(far, data)) };
    timeout(PATIENCE * 3, both).await.unwrap();
    for ended in [near_splice, far_splice] {
        let ended = timeout(PATIENCE, ended).await.unwrap().unwrap();
        assert_eq!((ended.to_tunnel, ended.to_tcp), (End::Finished, End::Finished));
    }
    drop((relay, agent));
}

#[tokio::test]
async fn a_reset_passes_as_a_reset() {
    let mut line = Line::new(IDLE).await;
    line.near.write_all(b"begin").await.unwrap();
    expect(&mut line.far, b"begin").await;
    let (near, _) = tcp_pair().await;
    reset(std::mem::replace(&mut line.near, near));
    expect_reset(&mut line.far).await;
    let (near, far) = line.ends().await;
    assert_eq!(near.to_tunnel, End::TcpReset);
    assert_eq!(far.to_tcp, End::PeerReset(ResetCode::TcpReset));
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed_without_a_byte() {
    let mut line = Line::new(IDLE).await;
    line.near.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.far).await.unwrap(), b"");
    let (near, _) = tcp_pair().await;
    reset(std::mem::replace(&mut line.near, near));
    // After the FIN a read says nothing new; the socket's error state does.
    let broken = line.far.ready(tokio::io::Interest::ERROR);
    assert!(timeout(PATIENCE, broken).await.unwrap().unwrap().is_error());
    let (near, _) = line.ends().await;
    assert_eq!((near.to_tunnel, near.to_tcp), (End::Finished, End::TcpReset));
}

#[tokio::test]
async fn last_words_arrive_although_the_speaker_takes_nothing_more() {
    // A mail server says 221 and closes; the sender's close_notify then meets a closed socket.
    let mut line = Line::new(IDLE).await;
    let words = vec![b'w'; 200_000];
    line.far.write_all(&words).await.unwrap();
    let (far, _) = tcp_pair().await;
    drop(std::mem::replace(&mut line.far, far));
    line.near.write_all(b"close_notify").await.unwrap();
    let mut got = vec![0; words.len()];
    timeout(PATIENCE, line.near.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == words);
    assert_eq!(line.near.read(&mut [0]).await.unwrap(), 0, "the speaker ended cleanly");
    line.near.write_all(b"more").await.unwrap();
    line.near.shutdown().await.unwrap();
    let (near, far) = line.ends().await;
    assert_eq!((far.to_tunnel, near.to_tcp), (End::Finished, End::Finished));
}

#[tokio::test]
async fn a_cancelled_splice_resets_both_sides() {
    let mut line = Line::new(IDLE).await;
    line.near.write_all(b"half a mess").await.unwrap();
    expect(&mut line.far, b"half a mess").await;
    line.near_splice.abort();
    expect_reset(&mut line.near).await;
    expect_reset(&mut line.far).await;
    let far = timeout(PATIENCE, line.far_splice).await.unwrap().unwrap();
    assert_eq!(far.to_tcp, End::PeerReset(ResetCode::Aborted));
}

#[tokio::test]
async fn a_panic_resets_the_stream() {
    let (relay, agent) = tunnel().await;
    let (send, recv) = relay.open_bi().await.unwrap();
    let mut stream = TunnelStream::new(send, recv);
    stream.send.send(Bytes::from_static(b"half")).await.unwrap();
    let (_far_send, mut far_recv) = agent.accept_bi().await.unwrap();
    let panicking = tokio::spawn(async move {
        let _stream = stream;
        panic!("a bug");
    });
    assert!(panicking.await.unwrap_err().is_panic());
    let ended = timeout(PATIENCE, far_recv.read_to_end(100)).await.unwrap();
    let reason = quinn::ReadError::Reset(ResetCode::Aborted.into());
    assert_eq!(ended, Err(quinn::ReadToEndError::Read(reason)));
}

#[tokio::test]
async fn a_lost_tunnel_resets_both_sides() {
    let mut line = Line::new(IDLE).await;
    line.near.write_all(b"half a mess").await.unwrap();
    expect(&mut line.far, b"half a mess").await;
    line.relay.close(ResetCode::Draining.into(), b"");
    expect_reset(&mut line.near).await;
    expect_reset(&mut line.far).await;
    let (near, far) = line.ends().await;
    assert_eq!((near.to_tunnel, near.to_tcp), (End::TunnelLost, End::TunnelLost));
    assert_eq!((far.to_tunnel, far.to_tcp), (End::TunnelLost, End::TunnelLost));
}

#[tokio::test]
async fn silence_ends_a_splice_as_a_reset() {
    let mut line = Line::new(Duration::from_millis(100)).await;
    expect_reset(&mut line.near).await;
    expect_reset(&mut line.far).await;
    let (near, far) = line.ends().await;
    assert!([near.to_tunnel, far.to_tunnel].contains(&End::Idle));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_writer_back_and_a_reset_frees_it() {
    let mut line = Line::new(IDLE).await;
    // Nobody reads at the far end: the windows fill, then writing stops.
    let chunk = vec![7; 65_536];
    let mut written = 0usize;
    while let Ok(done) = timeout(Duration::from_millis(300), line.near.write(&chunk)).await {
        written += done.unwrap();
        assert!(written < 64 << 20, "nothing holds the writer back");
    }
    let (near, _) = tcp_pair().await;
    reset(std::mem::replace(&mut line.near, near));
    let (near, far) = line.ends().await;
    assert_eq!(near.to_tunnel, End::TcpReset);
    assert_eq!(far.to_tcp, End::PeerReset(ResetCode::TcpReset));
}

#[tokio::test]
async fn who_has_an_answer_is_not_waited_for_and_who_waits_is() {
    for relay_leaves in [true, false] {
        let mut line = Line::new(IDLE).await;
        line.near.write_all(b"message").await.unwrap();
        expect(&mut line.far, b"message").await;
        let (unused, _) = oneshot::channel();
        let leaves = if relay_leaves { &mut line.near_leaves } else { &mut line.far_leaves };
        std::mem::replace(leaves, unused).send(()).unwrap();
        // Longer than a splice in which nobody waits lasts.
        sleep(Duration::from_secs(11)).await;
        assert!(!line.near_splice.is_finished() && !line.far_splice.is_finished());
        line.far.write_all(b"answer").await.unwrap();
        // All of it, and an end that is none of a broken connection.
        assert_eq!(read_all(&mut line.near).await.unwrap(), b"answer");
        expect_reset(&mut line.far).await;
        drop(line.near);
        let splice = if relay_leaves { line.near_splice } else { line.far_splice };
        let ends = timeout(PATIENCE, splice).await.unwrap().unwrap();
        assert_eq!((ends.to_tunnel, ends.to_tcp), (End::Left, End::Left));
    }
}
