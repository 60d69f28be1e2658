use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadToEndError, RecvStream};
use sealpost_dns::stream::Settings;

use crate::echo::{TRANSFER, framed, query};
use crate::streams::{Server, impatient};

async fn connect(server: &Server) -> Connection {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"doq".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.connect_with(config, server.quic, "localhost").unwrap().await.unwrap()
}

async fn ask(connection: &Connection, octets: &[u8]) -> RecvStream {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(octets).await.unwrap();
    send.finish().unwrap();
    receive
}

/// The code with which the server ends the connection.
async fn closed_with(connection: &Connection) -> u64 {
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(closed) = closed else { panic!("{closed}") };
    closed.error_code.into_inner()
}

#[tokio::test]
async fn each_query_has_a_stream_and_a_transfer_has_one_too() {
    let server = Server::start(Settings::default());
    let connection = connect(&server).await;
    let mut transfer = ask(&connection, &framed(&query(0, "zone", 252))).await;
    for _ in 0..100 {
        let mut answer = ask(&connection, &framed(&query(0, "a", 16))).await;
        let answer = answer.read_to_end(70_000).await.unwrap();
        assert!(answer.ends_with(b"127.0.0.1 Stream"));
        assert_eq!(usize::from(u16::from_be_bytes([answer[0], answer[1]])), answer.len() - 2);
    }
    let all = transfer.read_to_end(10_000_000).await.unwrap();
    assert_eq!(all.len(), usize::from(TRANSFER) * 2002);
    let counts = server.streams.counts();
    assert_eq!((counts.connections, counts.queries, counts.transfers), ([0, 0, 1], [0, 0, 101], 1));
    // At its end the server says so.
    let ended = tokio::spawn(async move { closed_with(&connection).await });
    server.shutdown().await;
    assert_eq!(ended.await.unwrap(), 0);
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    let server = Server::start(Settings::default());
    let good = framed(&query(0, "a", 16));
    let id = framed(&query(1, "a", 16));
    let two = [&good[..], &good].concat();
    let long = vec![0xff; 65_538];
    for wrong in [&id[..], &two, &good[..20], &[], &long] {
        let connection = connect(&server).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let _ = send.write_all(wrong).await;
        let _ = send.finish();
        assert_eq!(closed_with(&connection).await, 2);
    }
    assert_eq!(server.streams.counts().malformed, 5);
    server.shutdown().await;
}

#[tokio::test]
async fn what_has_no_answer_or_no_end_costs_its_stream() {
    let server = Server::start(impatient());
    let connection = connect(&server).await;
    let code = |error| match error {
        ReadToEndError::Read(quinn::ReadError::Reset(code)) => code.into_inner(),
        other => panic!("{other}"),
    };
    let mut dropped = ask(&connection, &framed(&query(0, "drop", 16))).await;
    assert_eq!(code(dropped.read_to_end(100).await.unwrap_err()), 1);
    let mut broken = ask(&connection, &framed(&query(0, "broken", 252))).await;
    assert_eq!(code(broken.read_to_end(10_000).await.unwrap_err()), 1);
    let (mut send, mut endless) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&query(0, "a", 16))).await.unwrap();
    // So that the connection itself is not silent.
    let asking = async {
        loop {
            let mut other = ask(&connection, &framed(&query(0, "a", 16))).await;
            assert!(other.read_to_end(1000).await.is_ok());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let error = tokio::select! {
        () = asking => unreachable!(),
        ended = endless.read_to_end(1000) => ended.unwrap_err(),
    };
    assert_eq!(code(error), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn all_carriers_share_the_places() {
    let server = Server::start(Settings { connections: 1, ..Settings::default() });
    let first = connect(&server).await;
    let _second = tokio::net::TcpStream::connect(server.tcp).await.unwrap();
    assert_eq!(closed_with(&first).await, 4);
    assert_eq!(server.streams.counts().evicted, 1);
    server.shutdown().await;
}
