//! The sink with the real sender, tap and proof: what `cargo demo` does, minus relay and agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proxy_header::{ProxiedAddress, ProxyHeader};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Arguments, CERTIFICATE, MAILDIR, accept, open};
use crate::letter::Letter;
use crate::proof;
use crate::sender::{EHLO_NAME, Sender, Trust};
use crate::stage::{DOMAIN, MX};
use crate::tap::TcpTap;

/// A sink behind something that adds PROXY headers, behind a tap.
struct Home {
    directory: TempDir,
    tap: TcpTap,
    _tasks: JoinSet<()>,
}

impl Home {
    async fn start(no_starttls: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = Arguments {
            state: directory.path().to_owned(),
            domain: DOMAIN.to_owned(),
            name: MX.to_owned(),
            no_starttls,
        };
        let (listener, host) = open(arguments).await.expect("a sink");
        let sink = listener.local_addr().expect("an address");
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let tap = TcpTap::start(front.local_addr().expect("an address")).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { accept(listener, host).await.expect("a listener") });
        tasks.spawn(add_headers(front, sink));
        Self { directory, tap: tap.expect("a tap"), _tasks: tasks }
    }

    fn trust(&self) -> Trust {
        let path = self.directory.path().join(CERTIFICATE);
        Trust::Only(std::fs::read(path).expect("a certificate"))
    }

    fn files(&self) -> Vec<PathBuf> {
        let new: &Path = &self.directory.path().join(MAILDIR).join("new");
        let entries = std::fs::read_dir(new).expect("a Maildir");
        entries.map(|entry| entry.expect("a file").path()).collect()
    }
}

async fn add_headers(listener: TcpListener, sink: SocketAddr) {
    loop {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let mut server = TcpStream::connect(sink).await.expect("a sink");
        let header = ProxyHeader::with_address(ProxiedAddress::stream(
            "203.0.113.9:4025".parse().expect("an address"),
            "198.51.100.7:25".parse().expect("an address"),
        ));
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).expect("a header");
        server.write_all(&bytes).await.expect("written");
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    }
}

#[tokio::test]
async fn takes_a_sealed_message_that_the_tap_cannot_read() {
    let home = Home::start(false).await;
    let letter = Letter::write(None, "you@home.example").expect("a letter");
    let mut sender = Sender::connect(home.tap.address(), EHLO_NAME).await.expect("connected");
    let trust = home.trust();
    let certificate = sender.start_tls(MX, &trust).await.expect("TLS");
    assert!(matches!(trust, Trust::Only(expected) if expected == certificate));
    let reply = sender.send(&letter).await.expect("sent");
    assert!(reply.starts_with("250"), "{reply}");
    sender.quit().await.expect("quit");
    let files = home.files();
    assert_eq!(files.len(), 1);
    let stored = std::fs::read_to_string(&files[0]).expect("a message");
    assert!(stored.contains("from mail.sender.example ([203.0.113.9])"), "{stored}");
    let file = proof::in_file(&files[0], &letter.markers).expect("a file");
    assert_eq!(file.words, letter.markers.len());
    let tapped = proof::in_capture(home.tap.capture(), &letter.markers, &[EHLO_NAME, MX]);
    assert!(tapped.is_clean(), "{tapped:?}");
}

/// The proof is worth something only if it can fail.
#[tokio::test]
async fn the_proof_notices_plain_text() {
    let home = Home::start(true).await;
    let letter = Letter::write(None, "you@home.example").expect("a letter");
    let mut sender = Sender::connect(home.tap.address(), EHLO_NAME).await.expect("connected");
    sender.send(&letter).await.expect("sent");
    sender.quit().await.expect("quit");
    let tapped = proof::in_capture(home.tap.capture(), &letter.markers, &[EHLO_NAME]);
    assert_eq!(tapped.words, letter.markers.len());
    assert!(!tapped.is_clean());
}

#[tokio::test]
async fn is_not_believed_with_another_certificate() {
    let (home, other) = (Home::start(false).await, Home::start(false).await);
    let mut sender = Sender::connect(home.tap.address(), EHLO_NAME).await.expect("connected");
    let refused = sender.start_tls(MX, &other.trust()).await;
    assert!(refused.is_err());
    assert!(home.files().is_empty());
}

#[tokio::test]
async fn refuses_foreign_recipients_and_plain_text() {
    let home = Home::start(false).await;
    let foreign = Letter::write(None, "open-relay-test@example.com").expect("a letter");
    let mut sender = Sender::connect(home.tap.address(), EHLO_NAME).await.expect("connected");
    sender.start_tls(MX, &home.trust()).await.expect("TLS");
    let refused = format!("{:#}", sender.send(&foreign).await.expect_err("a refusal"));
    assert!(refused.contains("550"), "{refused}");

    let letter = Letter::write(None, "you@home.example").expect("a letter");
    let mut sender = Sender::connect(home.tap.address(), EHLO_NAME).await.expect("connected");
    let refused = format!("{:#}", sender.send(&letter).await.expect_err("a refusal"));
    assert!(refused.contains("530"), "{refused}");
}
