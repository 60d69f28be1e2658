//! The mail server at home, played by a child process: STARTTLS, one domain, a Maildir.
//!
//! It is a process of its own so that the message is plain text in exactly two processes, the
//! sender and this one, and the search through the relay's memory proves something. Its private
//! key is made in this process and never leaves it.

mod data;
mod dialogue;
mod envelope;
mod lines;
mod maildir;
mod proxy;
mod session;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use maildir::Maildir;
use session::Host;

/// Sessions at a time. The demo needs two: the agent's self-test and the message.
const SESSIONS: usize = 32;

/// Name of the file with the sink's certificate, inside its state directory.
pub(crate) const CERTIFICATE: &str = "sink.der";

/// Name of the Maildir inside the sink's state directory.
pub(crate) const MAILDIR: &str = "Maildir";

/// Command line of the hidden `sink` role.
#[derive(Debug, Parser)]
#[command(name = "sink")]
struct Arguments {
    /// Directory for the Maildir and the certificate.
    #[arg(long)]
    state: PathBuf,
    /// The only domain it takes mail for.
    #[arg(long)]
    domain: String,
    /// Its own name: in the banner and in the certificate.
    #[arg(long)]
    name: String,
    /// Do not offer STARTTLS (for `--fault mta-no-starttls`).
    #[arg(long)]
    no_starttls: bool,
}

/// Runs the sink until it is killed. `arguments` begin with a program name.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let result =
        Arguments::try_parse_from(arguments).map_err(anyhow::Error::from).and_then(|arguments| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(serve(arguments))
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(
                json!({"level": "ERROR", "message": "cannot serve", "error": format!("{error:#}")}),
            );
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let (listener, host) = open(arguments).await?;
    log(json!({
        "level": "INFO", "message": "listening", "service": "smtp",
        "address": listener.local_addr()?.to_string(),
    }));
    accept(listener, host).await
}

async fn open(arguments: Arguments) -> anyhow::Result<(TcpListener, Arc<Host>)> {
    let tls = if arguments.no_starttls {
        None
    } else {
        Some(make_certificate(&arguments.state, &arguments.name)?)
    };
    let host = Host {
        maildir: Maildir::create(&arguments.state.join(MAILDIR), &arguments.name)?,
        name: arguments.name,
        domain: arguments.domain,
        tls,
    };
    Ok((TcpListener::bind("127.0.0.1:0").await?, Arc::new(host)))
}

async fn accept(listener: TcpListener, host: Arc<Host>) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(SESSIONS));
    let mut sessions = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        let host = Arc::clone(&host);
        sessions.spawn(async move {
            if let Err(error) = session::serve(stream, &host).await {
                log(json!({"level": "DEBUG", "message": "connection", "error": error.to_string()}));
            }
            drop(place);
        });
        while sessions.try_join_next().is_some() {}
    }
}

/// Makes a throwaway key and a self-signed certificate, and leaves the certificate (not the key)
/// where the demo's sender can read what to trust.
fn make_certificate(state: &Path, name: &str) -> anyhow::Result<TlsAcceptor> {
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = parameters.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let path = state.join(CERTIFICATE);
    std::fs::write(&path, &certificate).with_context(|| format!("writing {}", path.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// One line on stderr in the shape of the relay's and the agent's logs, so that the demo reads all
/// three alike.
fn log(line: serde_json::Value) {
    eprintln!("{line}");
}
