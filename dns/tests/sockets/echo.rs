//! An engine that answers every question with the client and what carried it, and does what the first
//! label of the name says.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sealpost_dns::stream::Messages;
use sealpost_dns::transport::{Asked, Carrier, Reply, Respond, Transfer, Worker};

/// Messages of every transfer.
pub(crate) const TRANSFER: u16 = 300;

pub(crate) struct Echo;

impl Respond for Echo {
    type Worker = Self;

    fn worker(&self) -> Self {
        Self
    }
}

impl Worker for Echo {
    fn respond(&mut self, query: &[u8], asked: &Asked, out: &mut Vec<u8>) -> Reply {
        assert!(out.is_empty());
        let Some(end) = question(query) else { return Reply::Drop };
        let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
        // NOTIFY is opcode 4.
        if kind == 252 || query[2] >> 3 == 4 {
            return Reply::Transfer;
        }
        let label = &query[13..][..usize::from(query[12])];
        match label {
            b"panic" => panic!("as the test asked for"),
            b"drop" => return Reply::Drop,
            _ => {}
        }
        out.extend_from_slice(&query[..2]);
        out.extend_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
        out.extend_from_slice(&query[12..end]);
        let text = format!("{} {:?}", asked.client.ip(), asked.via);
        let length = if label == b"big" { 60_000 } else { text.len() + 1 };
        out.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0]);
        out.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        out.push(u8::try_from(text.len()).unwrap());
        out.extend_from_slice(text.as_bytes());
        if label == b"big" {
            out.resize(out.len() + length - text.len() - 1, 0);
        }
        Reply::Send
    }
}

/// Where the only question of a query ends.
fn question(query: &[u8]) -> Option<usize> {
    if query.len() < 12 || query[2] & 0x80 != 0 || query[4..6] != [0, 1] {
        return None;
    }
    let mut at = 12;
    loop {
        match *query.get(at)? {
            0 => break,
            label @ 1..=63 => at += usize::from(label) + 1,
            _ => return None,
        }
    }
    (query.len() >= at + 5).then_some(at + 5)
}

/// Sends as many messages as a transfer has, each with its number as its ID; the queries of a name
/// `broken` end after the first.
pub(crate) struct Numbers;

impl Transfer for Numbers {
    async fn serve(
        &self,
        query: &[u8],
        _client: SocketAddr,
        _carrier: Carrier,
        to: &mut Messages<'_>,
    ) -> io::Result<()> {
        for number in 0..TRANSFER {
            let mut message = number.to_be_bytes().to_vec();
            message.resize(2000, 7);
            to.send(&message).await?;
            if query[13..].starts_with(b"broken") {
                return Err(io::Error::other("as the test asked for"));
            }
        }
        Ok(())
    }
}

/// A query for `label.test.` of type `kind`.
pub(crate) fn query(id: u16, label: &str, kind: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.push(u8::try_from(label.len()).unwrap());
    query.extend_from_slice(label.as_bytes());
    query.extend_from_slice(b"\x04test\0");
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// With its length before it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

/// What dig prints when it asks the server at `address`.
pub(crate) fn dig(address: SocketAddr, options: &[&str]) -> String {
    let ran = Command::new("dig")
        .args([&format!("@{}", address.ip()), "-p", &address.port().to_string()])
        .args(["+time=5", "+tries=1", "+short", "a.test", "TXT"])
        .args(options)
        .output()
        .expect("dig is installed (package bind9-dnsutils)");
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// A certificate for `localhost`, and what a server proves it with.
pub(crate) fn certificate() -> (CertificateDer<'static>, Arc<dyn ResolvesServerCert>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let proven = CertifiedKey::from_der(vec![certificate.clone()], key, &provider).unwrap();
    (certificate, Arc::new(SingleCertAndKey::from(proven)))
}
