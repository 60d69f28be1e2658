//! One connection to the sink, from its PROXY header to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::{Date, Headers};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::data::{Body, Taken};
use super::dialogue::{Answer, Dialogue, MESSAGE_LIMIT};
use super::envelope::Envelope;
use super::lines::{LineError, read_line};
use super::maildir::Maildir;
use super::{log, proxy};

/// The longest command line, CRLF included. RFC 5321 section 4.5.3.1.4 asks for 512 and more for
/// extensions.
const COMMAND_LINE: usize = 2048;

/// The longest line of a message. RFC 5322 says 998; real mail is longer.
const TEXT_LINE: usize = 64 << 10;

/// How long the whole connection may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long the header may take: it is there at once or never.
const PROXY_DEADLINE: Duration = Duration::from_secs(5);

/// What all sessions share.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) maildir: Maildir,
    pub(crate) tls: Option<TlsAcceptor>,
}

/// How a conversation ended.
enum Ended {
    /// The peer wants TLS now.
    StartTls,
    /// Nothing more is to come.
    Closed,
}

/// Serves one connection.
pub(crate) async fn serve(mut stream: TcpStream, host: &Arc<Host>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let client = timeout(PROXY_DEADLINE, proxy::read_header(&mut stream)).await??;
    timeout(DEADLINE, Box::pin(converse(stream, client, host))).await?
}

async fn converse(
    stream: TcpStream,
    client: Option<SocketAddr>,
    host: &Arc<Host>,
) -> anyhow::Result<()> {
    let mut dialogue = Dialogue::new(&host.name, &host.domain, host.tls.is_some());
    let mut stream = BufReader::new(stream);
    say(&mut stream, &dialogue.banner()).await?;
    let mut session = Session { host, client, dialogue: &mut dialogue };
    if let (Ended::StartTls, Some(tls)) = (session.talk(&mut stream).await?, &host.tls) {
        // Bytes already here were sent before TLS and could be anyone's: STARTTLS injection.
        anyhow::ensure!(stream.buffer().is_empty(), "bytes behind STARTTLS");
        let mut stream = BufReader::new(tls.accept(stream.into_inner()).await?);
        session.dialogue.secured();
        session.talk(&mut stream).await?;
        stream.shutdown().await?;
    } else {
        stream.shutdown().await?;
    }
    Ok(())
}

struct Session<'a> {
    host: &'a Arc<Host>,
    client: Option<SocketAddr>,
    dialogue: &'a mut Dialogue,
}

impl Session<'_> {
    /// Command by command, until TLS is wanted or one side leaves.
    async fn talk<S>(&mut self, stream: &mut BufReader<S>) -> anyhow::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut line = Vec::new();
        loop {
            match read_line(stream, &mut line, COMMAND_LINE).await {
                Ok(()) => {}
                Err(LineError::Closed) => return Ok(Ended::Closed),
                Err(LineError::Io(error)) => return Err(error.into()),
                Err(error) => {
                    say(stream, &format!("500 5.5.2 {error}")).await?;
                    return Ok(Ended::Closed);
                }
            }
            match self.dialogue.command(&line) {
                Answer::Reply(text) => say(stream, &text).await?,
                Answer::StartTls(text) => {
                    say(stream, &text).await?;
                    return Ok(Ended::StartTls);
                }
                Answer::Data(text) => {
                    say(stream, &text).await?;
                    let reply = self.message(stream).await?;
                    say(stream, &reply).await?;
                }
                Answer::Close(text) => {
                    say(stream, &text).await?;
                    return Ok(Ended::Closed);
                }
            }
        }
    }

    /// Takes the message after DATA and returns the reply to its final dot.
    async fn message<S>(&mut self, stream: &mut BufReader<S>) -> anyhow::Result<String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut body = Body::new(MESSAGE_LIMIT);
        let mut line = Vec::new();
        let text = loop {
            read_line(stream, &mut line, TEXT_LINE).await?;
            if let Taken::Complete(text) = body.line(&line) {
                break text;
            }
        };
        let envelope = self.dialogue.take_envelope();
        let Some(text) = text else {
            return Ok(format!("552 5.3.4 Larger than {MESSAGE_LIMIT} bytes"));
        };
        let message = [self.trace(&envelope).into_bytes(), text].concat();
        let bytes = message.len();
        let host = Arc::clone(self.host);
        match tokio::task::spawn_blocking(move || host.maildir.store(&message)).await? {
            Ok(path) => {
                log(json!({
                    "level": "INFO", "message": "stored", "bytes": bytes,
                    "path": path, "client": self.client.map(|client| client.to_string()),
                }));
                Ok("250 2.0.0 Stored in the Maildir".to_owned())
            }
            Err(error) => {
                log(
                    json!({"level": "ERROR", "message": "cannot store", "error": error.to_string()}),
                );
                Ok("451 4.3.0 Cannot store it now".to_owned())
            }
        }
    }

    /// The trace lines on top of a delivered message (RFC 5321 section 4.4).
    fn trace(&self, envelope: &Envelope) -> String {
        let client = self.client.map_or("local".to_owned(), |client| client.ip().to_string());
        let protocol = if self.dialogue.is_encrypted() { "ESMTPS" } else { "ESMTP" };
        let mut headers = Headers::new();
        headers.set(Date::now());
        format!(
            "Return-Path: <{}>\r\nDelivered-To: {}\r\nReceived: from {} ([{client}])\r\n\tby {} with {protocol};\r\n\t{}\r\n",
            envelope.sender,
            envelope.recipients.join(", "),
            self.dialogue.hello(),
            self.host.name,
            headers.get_raw("Date").unwrap_or_default(),
        )
    }
}

async fn say<S>(stream: &mut S, text: &str) -> std::io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    stream.flush().await
}
