//! Leads a TCP connection to a mail server up to TLS, or up to its greeting.

use std::time::Instant;

use sealpost_tunnel::{ResetCode, splice};
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
    let mut tcp = connect(service, until).await?;
    let leading = async {
        introduce(&mut tcp, proxy_header, service.proxy).await?;
        lead(&mut tcp, ehlo, service.proxy).await
    };
    in_time(service, until, leading).await?;
    Ok(tcp)
}

/// Connects to `service`, sends `proxy_header`, and returns when the mail server has begun to greet.
/// Of what it says nothing is read, and nothing is said to it; gives up at `until`.
pub async fn up_to_greeting(
    service: &Service,
    proxy_header: &[u8],
    until: Instant,
) -> Result<TcpStream, DialogueError> {
    let mut tcp = connect(service, until).await?;
    let leading = async {
        introduce(&mut tcp, proxy_header, service.proxy).await?;
        match tcp.peek(&mut [0]).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(DialogueError::Ended(service.proxy)),
        }
    };
    in_time(service, until, leading).await?;
    Ok(tcp)
}

async fn connect(service: &Service, until: Instant) -> Result<TcpStream, DialogueError> {
    let address = service.address.as_str();
    let unreachable = |error: String| DialogueError::Unreachable(address.into(), error);
    timeout_at(until.into(), TcpStream::connect(address))
        .await
        .map_err(|_| unreachable("no answer".into()))?
        .map_err(|error| unreachable(error.to_string()))
}

async fn in_time(
    service: &Service,
    until: Instant,
    leading: impl Future<Output = Result<(), DialogueError>>,
) -> Result<(), DialogueError> {
    timeout_at(until.into(), leading).await.map_err(|_| DialogueError::Timeout(service.proxy))?
}

/// Tells the mail server who the sender is.
async fn introduce(
    tcp: &mut TcpStream,
    proxy_header: &[u8],
    proxy: Proxy,
) -> Result<(), DialogueError> {
    let ended = |_: std::io::Error| DialogueError::Ended(proxy);
    tcp.set_nodelay(true).map_err(ended)?;
    // The mail server may be behind a router that forgets silent connections.
    splice::keep_alive(tcp).map_err(ended)?;
    tcp.write_all(proxy_header).await.map_err(ended)
}

async fn lead(tcp: &mut TcpStream, ehlo: &str, proxy: Proxy) -> Result<(), DialogueError> {
    let ended = |_: std::io::Error| DialogueError::Ended(proxy);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    const SOON: Duration = Duration::from_millis(100);

    /// What comes of a greeting that `server` gives to a connection.
    async fn greeted(server: impl AsyncFnOnce(TcpStream)) -> Result<TcpStream, ResetCode> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Service {
            name: sealpost_tunnel::ServiceName::smtp(),
            address: listener.local_addr().unwrap().to_string().try_into().unwrap(),
            proxy: Proxy::V1,
            self_test_recipient: "a@example.com".into(),
        };
        let serving = async { server(listener.accept().await.unwrap().0).await };
        let until = Instant::now() + SOON;
        let (led, ()) = tokio::join!(up_to_greeting(&service, b"PROXY ...\r\n", until), serving);
        led.map_err(|error| error.code())
    }

    #[tokio::test]
    async fn a_greeting_is_awaited_and_left_to_be_read() {
        let mut tcp = greeted(async |mut tcp| {
            let mut header = [0; 11];
            tcp.read_exact(&mut header).await.unwrap();
            assert_eq!(&header, b"PROXY ...\r\n");
            tcp.write_all(b"220 ").await.unwrap();
        })
        .await
        .unwrap();
        let mut greeting = String::new();
        tcp.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "220 ");
    }

    #[tokio::test]
    async fn a_mail_server_that_ends_or_is_silent_has_not_greeted() {
        let ended = greeted(async |mut tcp| {
            tcp.read_exact(&mut [0; 11]).await.unwrap();
        });
        assert_eq!(ended.await.err(), Some(ResetCode::HomeRefused));
        let silent = greeted(async |tcp| {
            tokio::time::sleep(2 * SOON).await;
            drop(tcp);
        });
        assert_eq!(silent.await.err(), Some(ResetCode::HomeTimeout));
    }
}
