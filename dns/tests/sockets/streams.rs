use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use sealpost_dns::stream::{QuicListener, Settings, StreamListener, Streams, tls_config};
use sealpost_dns::transport::{Carrier, Clock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::echo::{Echo, Numbers, TRANSFER, certificate, dig, framed, query};

pub(crate) struct Server {
    pub(crate) streams: Arc<Streams<Echo, Numbers>>,
    pub(crate) tcp: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
    tasks: TaskTracker,
}

impl Server {
    pub(crate) fn start(settings: Settings) -> Self {
        let streams = Streams::new(&Echo, Numbers, settings, Clock::start());
        let (certificate, resolver) = certificate();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = |carrier| tls_config(carrier, resolver.clone()).unwrap();
        let tcp = StreamListener::bind(any).unwrap();
        let tls = StreamListener::bind_tls(any, config(Carrier::Tls)).unwrap();
        let quic = QuicListener::bind(any, config(Carrier::Quic), settings.idle).unwrap();
        let tasks = TaskTracker::new();
        let server = Self {
            tcp: tcp.local_addr().unwrap(),
            tls: tls.local_addr().unwrap(),
            quic: quic.local_addr().unwrap(),
            streams: streams.clone(),
            certificate,
            tasks: tasks.clone(),
        };
        tasks.spawn(tcp.run(streams.clone(), tasks.clone()));
        tasks.spawn(tls.run(streams.clone(), tasks.clone()));
        tasks.spawn(quic.run(streams, tasks.clone()));
        server
    }

    pub(crate) async fn shutdown(self) {
        self.streams.shutdown();
        self.tasks.close();
        timeout(Duration::from_secs(10), self.tasks.wait()).await.unwrap();
        assert_eq!(self.streams.counts().open, 0);
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tcp).await.unwrap()
    }
}

pub(crate) fn impatient() -> Settings {
    let soon = Duration::from_millis(300);
    Settings { idle: soon, write: soon, ..Settings::default() }
}

pub(crate) async fn message(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = from.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    from.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Whether the server closes the connection, without another message.
async fn closes(tcp: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(10), tcp.read(&mut [0; 10])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn dig_is_answered_over_tcp_and_tls() {
    let server = Server::start(Settings::default());
    let (tcp, tls) = (server.tcp, server.tls);
    let answers = spawn_blocking(move || {
        [
            dig(tcp, &["+tcp"]),
            dig(tcp, &["+tcp", "+cookie"]),
            dig(tls, &["+tls"]),
            dig(tls, &["+tls"]),
        ]
    });
    assert_eq!(answers.await.unwrap(), ["\"127.0.0.1 Stream\""; 4]);
    let counts = server.streams.counts();
    assert_eq!((counts.connections, counts.queries), ([2, 2, 0], [2, 2, 0]));
    server.shutdown().await;
}

#[tokio::test]
async fn pipelined_queries_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(Settings::default());
    let queries: Vec<u8> = (0..1000).flat_map(|id| framed(&query(id, "a", 16))).collect();
    for piece in [1, 7, 100, queries.len()] {
        let (mut read, mut write) = server.connect().await.into_split();
        let queries = queries.clone();
        let writing = tokio::spawn(async move {
            for piece in queries.chunks(piece) {
                write.write_all(piece).await.unwrap();
            }
            // Closed for writing: what was asked is still answered.
            write.shutdown().await.unwrap();
        });
        for id in 0..1000u16 {
            assert_eq!(message(&mut read).await.unwrap()[..2], id.to_be_bytes());
        }
        assert_eq!(message(&mut read).await, None);
        writing.await.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_drips_or_is_silent_is_left() {
    let server = Server::start(impatient());
    let (mut silent, mut dripping) = (server.connect().await, server.connect().await);
    let octets = framed(&query(1, "a", 16));
    for octet in octets.iter().take(octets.len() - 1) {
        if dripping.write_all(&[*octet]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(30)).await;
    }
    assert!(closes(&mut silent).await && closes(&mut dripping).await);
    assert_eq!(server.streams.counts().queries, [0, 0, 0]);
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left_and_others_are_served() {
    let server =
        Server::start(Settings { write: Duration::from_millis(500), ..Settings::default() });
    let (_deaf, mut write) = server.connect().await.into_split();
    // More than the system's buffers hold.
    let queries: Vec<u8> = (0..1000).flat_map(|id| framed(&query(id, "big", 16))).collect();
    let writing = tokio::spawn(async move { write.write_all(&queries).await });
    let mut other = server.connect().await;
    other.write_all(&framed(&query(1, "a", 16))).await.unwrap();
    assert_eq!(message(&mut other).await.unwrap()[..2], [0, 1]);
    for _ in 0..200 {
        if server.streams.counts().unread > 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.streams.counts().unread, 1);
    let _ = writing.await;
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_no_dns_ends_the_connection() {
    let server = Server::start(Settings::default());
    for wrong in [&b"\0\0"[..], b"\0\x0bGET / HTTP/1.1\r\n", b"\0\x03abc"] {
        let mut tcp = server.connect().await;
        // What was asked before it is answered.
        tcp.write_all(&[&framed(&query(5, "a", 16))[..], wrong].concat()).await.unwrap();
        assert_eq!(message(&mut tcp).await.unwrap()[..2], [0, 5]);
        assert!(closes(&mut tcp).await);
    }
    assert_eq!(server.streams.counts().malformed, 3);
    server.shutdown().await;
}

#[tokio::test]
async fn a_newcomer_takes_the_place_of_who_waited_longest() {
    let server = Server::start(Settings { connections: 2, ..Settings::default() });
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for tcp in [&mut second, &mut first] {
        tcp.write_all(&framed(&query(1, "a", 16))).await.unwrap();
        message(tcp).await.unwrap();
    }
    let mut third = server.connect().await;
    assert!(closes(&mut second).await);
    for tcp in [&mut first, &mut third] {
        tcp.write_all(&framed(&query(2, "a", 16))).await.unwrap();
        assert_eq!(message(tcp).await.unwrap()[..2], [0, 2]);
    }
    let counts = server.streams.counts();
    assert_eq!((counts.open, counts.evicted), (2, 1));
    server.shutdown().await;
}

#[tokio::test]
async fn a_network_has_its_bounds() {
    let server = Server::start(Settings { per_prefix: 2, ..Settings::default() });
    let (first, _second) = (server.connect().await, server.connect().await);
    let mut third = server.connect().await;
    assert!(closes(&mut third).await);
    assert_eq!(server.streams.counts().refused_prefix, 1);
    drop(first);
    while server.streams.counts().open > 1 {
        sleep(Duration::from_millis(5)).await;
    }
    let mut fourth = server.connect().await;
    fourth.write_all(&framed(&query(1, "a", 16))).await.unwrap();
    assert!(message(&mut fourth).await.is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn a_transfer_is_many_messages_between_other_answers() {
    let server = Server::start(Settings { transfers: 1, ..Settings::default() });
    let mut tcp = server.connect().await;
    let queries = [query(1, "a", 16), query(2, "zone", 252), query(3, "a", 16)];
    let queries: Vec<u8> = queries.iter().flat_map(|query| framed(query)).collect();
    tcp.write_all(&queries).await.unwrap();
    assert_eq!(message(&mut tcp).await.unwrap()[..2], [0, 1]);
    for number in 0..TRANSFER {
        let message = message(&mut tcp).await.unwrap();
        assert_eq!((message.len(), &message[..2]), (2000, &number.to_be_bytes()[..]));
    }
    assert_eq!(message(&mut tcp).await.unwrap()[..2], [0, 3]);
    // One that breaks ends the connection, so that nobody takes it for whole.
    tcp.write_all(&framed(&query(4, "broken", 252))).await.unwrap();
    assert_eq!(message(&mut tcp).await.unwrap()[..2], [0, 0]);
    assert!(closes(&mut tcp).await);
    assert_eq!(server.streams.counts().transfers, 2);
    server.shutdown().await;
}

#[tokio::test]
async fn a_fault_of_the_engine_costs_one_connection() {
    let server = Server::start(Settings::default());
    let mut faulty = server.connect().await;
    faulty.write_all(&framed(&query(1, "panic", 16))).await.unwrap();
    assert!(closes(&mut faulty).await);
    let mut other = server.connect().await;
    other.write_all(&framed(&query(1, "a", 16))).await.unwrap();
    assert!(message(&mut other).await.is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_never_stops_asking_does_not_keep_the_server() {
    let server = Server::start(Settings::default());
    let (mut read, mut write) = server.connect().await.into_split();
    let asking =
        tokio::spawn(
            async move { while write.write_all(&framed(&query(1, "a", 16))).await.is_ok() {} },
        );
    let reading = tokio::spawn(async move { while message(&mut read).await.is_some() {} });
    sleep(Duration::from_millis(50)).await;
    server.shutdown().await;
    reading.await.unwrap();
    asking.await.unwrap();
}

#[tokio::test]
async fn a_transfer_that_takes_too_long_is_ended() {
    let soon = Duration::from_millis(300);
    let server = Server::start(Settings { transfer: soon, ..Settings::default() });
    let mut tcp = server.connect().await;
    // More transfers than the system's buffers hold, and nobody reads.
    for _ in 0..20 {
        tcp.write_all(&framed(&query(2, "zone", 252))).await.unwrap();
    }
    while server.streams.counts().unread == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    server.shutdown().await;
}

#[tokio::test]
async fn tls_that_is_none_is_left() {
    let server = Server::start(impatient());
    let mut silent = TcpStream::connect(server.tls).await.unwrap();
    let mut plain = TcpStream::connect(server.tls).await.unwrap();
    plain.write_all(&framed(&query(1, "a", 16))).await.unwrap();
    // An alert may come first.
    let _ = timeout(Duration::from_secs(10), plain.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(closes(&mut silent).await);
    assert_eq!(server.streams.counts().failed_handshakes, 2);
    server.shutdown().await;
}
