//! As much of a mail server as shows a certificate.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

/// A key and its certificate.
pub(crate) struct Key(KeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    /// As a TLSA record has it, in the digits of dig.
    pub(crate) fn digest(&self) -> String {
        let digest = digest(&SHA256, &self.0.subject_public_key_info());
        digest.as_ref().iter().map(|octet| format!("{octet:02X}")).collect()
    }

    fn config(&self) -> Arc<ServerConfig> {
        let names = vec!["mx.a.example".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&self.0).unwrap();
        let key = PrivateKeyDer::try_from(self.0.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap())
    }
}

/// Listens at `address`, or at a free port, and shows `key` for ever.
pub(crate) fn start(address: Option<SocketAddr>, key: &Key) -> (SocketAddr, Arc<()>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(address.unwrap_or(any)).unwrap();
    let address = listener.local_addr().unwrap();
    let (config, alive) = (key.config(), Arc::new(()));
    let ends = Arc::downgrade(&alive);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if ends.upgrade().is_none() {
                return;
            }
            let (stream, config) = (stream.unwrap(), config.clone());
            // What comes of one client is of no matter to the others.
            std::thread::spawn(move || drop(serve(stream, config)));
        }
    });
    (address, alive)
}

/// Ends the one at `address`, whose `alive` this is.
pub(crate) fn end(address: SocketAddr, alive: Arc<()>) {
    drop(alive);
    // Its thread hears of the end by the next client, this one or the agent.
    let _ = TcpStream::connect(address);
    crate::programs::until(|| TcpListener::bind(address).is_ok());
}

fn serve(mut stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    stream.write_all(b"220 mx.a.example\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.get(..4).unwrap_or_default() {
            "EHLO" => stream.write_all(b"250-mx.a.example\r\n250 STARTTLS\r\n")?,
            "STAR" => break,
            _ => stream.write_all(b"250 fine\r\n")?,
        }
    }
    stream.write_all(b"220 go\r\n")?;
    let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    stream.read_to_end(&mut Vec::new()).map(drop)
}
