//! A TLS client whose first message the scenario can cut as it likes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certificate::Certificate;

/// Type, version, length.
const RECORD_HEADER: usize = 5;

/// A client that has made its ClientHello and not sent it yet.
#[derive(Debug)]
pub struct TlsClient {
    connection: ClientConnection,
    hello: Vec<u8>,
}

impl TlsClient {
    /// A client that asks for `name` and trusts only `certificate`. With a post-quantum key
    /// share and a list of protocols its ClientHello is about as long as the longest that
    /// mail servers send today, more than one TCP segment holds.
    pub fn new(name: &str, certificate: &Certificate) -> Result<TlsClient> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"smtp".to_vec(), vec![b'x'; 200]];
        let name = ServerName::try_from(name.to_owned())?;
        let mut connection = ClientConnection::new(Arc::new(config), name)?;
        let mut hello = Vec::new();
        connection.write_tls(&mut hello)?;
        ensure!(hello.len() > 1500, "only {} bytes of hello", hello.len());
        Ok(TlsClient { connection, hello })
    }

    /// The ClientHello as it would go out: one TLS record.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// The same ClientHello in `count` TLS records.
    pub fn hello_in_records(&self, count: usize) -> Vec<u8> {
        let (header, body) = self.hello.split_at(RECORD_HEADER);
        let mut records = Vec::new();
        for piece in body.chunks(body.len().div_ceil(count)) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            records.extend_from_slice(&header[..3]);
            records.extend_from_slice(&length.to_be_bytes());
            records.extend_from_slice(piece);
        }
        records
    }

    /// Finishes the handshake on a stream on which the ClientHello has been sent. Succeeds
    /// only with the certificate that this client trusts.
    pub fn finish(self, mut stream: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut connection = self.connection;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }
}

/// The alert description with which the other side refused the ClientHello, and then closed.
/// Anything else that comes is a failure.
pub fn expect_alert(stream: &mut TcpStream) -> Result<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let [21, 3, _, 0, 2, 2, description] = answer[..] else {
        anyhow::bail!("not one fatal alert: {answer:?}");
    };
    Ok(description)
}

/// Sends `bytes` in as many TCP segments as there are `pieces`.
pub fn send_in_segments(stream: &mut TcpStream, pieces: &[&[u8]]) -> Result<()> {
    for piece in pieces {
        // With TCP_NODELAY set and nothing under way, each write leaves as it is. The pause is
        // no synchronisation: without it the receiver would just read both at once.
        stream.write_all(piece)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}
