//! Leads a TCP connection to a mail server up to TLS.

use std::time::Instant;

use sealpost_tunnel::ResetCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::starttls::{MAX_REPLY, Replay, ReplayError, Step};
use crate::config::{Proxy, Service};

/// Why a mail server could not be led to TLS.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// No connection.
    #[error("cannot connect to {0}: {1}; is the mail server running?")]
    Unreachable(String, String),
    /// The connection ended.
    #[error("the mail server ended the connection{}", hint(*.0))]
    Ended(Proxy),
    /// The mail server was silent.
    #[error("the mail server did not answer in time{}", hint(*.0))]
    Timeout(Proxy),
    /// The mail server said something that ends the dialogue.
    #[error("{reply}{hint}", reply = .0, hint = hint_on(.0, *.1))]
    Replay(ReplayError, Proxy),
}

impl DialogueError {
    /// What the relay is told.
    pub fn code(&self) -> ResetCode {
        match self {
            Self::Unreachable(..) => ResetCode::HomeUnreachable,
            Self::Timeout(_) => ResetCode::HomeTimeout,
            Self::Replay(ReplayError::NoStarttls, _) => ResetCode::HomeNoStarttls,
            Self::Replay(ReplayError::Injection, _) => ResetCode::HomeInjection,
            Self::Ended(_) | Self::Replay(..) => ResetCode::HomeRefused,
        }
    }
}

/// The usual reason why a mail server says nothing or nonsense at the very beginning.
fn hint(proxy: Proxy) -> &'static str {
    match proxy {
        Proxy::None => "; does it expect the PROXY protocol? then set proxy = \"v2\"",
        Proxy::V1 | Proxy::V2 => {
            "; does it expect the PROXY protocol on this port? if not, open a port that does"
        }
    }
}

fn hint_on(error: &ReplayError, proxy: Proxy) -> &'static str {
    match error {
        ReplayError::Injection | ReplayError::Malformed if proxy != Proxy::None => hint(proxy),
        _ => "",
    }
}

/// Connects to `service`, sends `proxy_header`, says `ehlo`, and returns when TLS may begin;
/// gives up at `until`.
pub async fn up_to_tls(
    service: &Service,
    proxy_header: &[u8],
    ehlo: &str,
    until: Instant,
) -> Result<TcpStream, DialogueError> {
    let until = until.into();
    let address = service.address.as_str();
    let unreachable = |error: String| DialogueError::Unreachable(address.into(), error);
    let mut tcp = timeout_at(until, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable("no answer".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let proxy = service.proxy;
    timeout_at(until, lead(&mut tcp, proxy_header, ehlo, proxy))
        .await
        .map_err(|_| DialogueError::Timeout(proxy))??;
    Ok(tcp)
}

async fn lead(
    tcp: &mut TcpStream,
    proxy_header: &[u8],
    ehlo: &str,
    proxy: Proxy,
) -> Result<(), DialogueError> {
    let ended = |_: std::io::Error| DialogueError::Ended(proxy);
    tcp.set_nodelay(true).map_err(ended)?;
    tcp.write_all(proxy_header).await.map_err(ended)?;
    let mut replay = Replay::new(ehlo);
    let mut buffer = Vec::new();
    loop {
        match replay.step(&buffer).map_err(|error| DialogueError::Replay(error, proxy))? {
            Step::Tls => return Ok(()),
            Step::Send(command) => {
                buffer.clear();
                tcp.write_all(command.as_bytes()).await.map_err(ended)?;
            }
            Step::More => {}
        }
        // `step` refuses a buffer that is full, so there is room.
        let room = (MAX_REPLY - buffer.len()).min(2048) as u64;
        if (&mut *tcp).take(room).read_buf(&mut buffer).await.map_err(ended)? == 0 {
            return Err(DialogueError::Ended(proxy));
        }
    }
}
