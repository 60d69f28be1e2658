//! A box that the test plays: its key, its requests, its tunnel.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn::{Connection, RecvStream, SendStream};
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::{Control, GreetingError};
use sealpost_tunnel::pins::Use;
use sealpost_tunnel::{Handover, Identity, PublicKey, Request, ResetCode, StreamHeader};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::line::{Line, Said, reset_code, say};

const PATIENCE: Duration = Duration::from_secs(20);
/// What is shut out is cut within this.
const CUT: Duration = Duration::from_secs(5);

/// See the module's text.
pub(crate) struct PlayedBox {
    pub(crate) identity: Identity,
    pub(crate) line: Line,
    tunnel: Option<Tunnel>,
}

struct Tunnel {
    connection: Connection,
    streams: Arc<Mutex<Vec<String>>>,
}

impl PlayedBox {
    /// One that nobody knows.
    pub(crate) fn stranger(line: &Line) -> Self {
        Self::with_key(line, Identity::ephemeral())
    }

    /// One that has this key, whoever's it is.
    pub(crate) fn with_key(line: &Line, identity: Identity) -> Self {
        Self { identity, line: line.clone(), tunnel: None }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.identity.public()
    }

    /// Asks on a connection of its own.
    pub(crate) fn ask(&self, request: &Request) -> Result<Said> {
        self.say(&request.encode())
    }

    /// Sends any octets as a request.
    pub(crate) fn say(&self, octets: &[u8]) -> Result<Said> {
        let connection = self.line.dial(&self.identity, Use::Registry)?;
        let said = self.line.handle.block_on(say(&connection, octets))?;
        connection.close(ResetCode::Aborted.into(), b"");
        // For `cargo test -- --show-output`.
        let request = String::from_utf8_lossy(octets);
        println!("    {request} → {said:?}");
        said.is_discreet(&request)?;
        Ok(said)
    }

    /// Sends any JSON as a request.
    pub(crate) fn say_json(&self, request: &Value) -> Result<Said> {
        self.say(request.to_string().as_bytes())
    }

    /// Claims what may not even be a name; without `mx` for the relay's default.
    pub(crate) fn claim(&self, domain: &str, mx: &[&str]) -> Result<Said> {
        self.say_json(&json!({ "do": "claim", "domain": domain, "mx": mx }))
    }

    pub(crate) fn release(&self, domain: &str) -> Result<Said> {
        self.say_json(&json!({ "do": "release", "domain": domain }))
    }

    pub(crate) fn rotate(&self, handover: Handover) -> Result<Said> {
        self.ask(&Request::Rotate { handover })
    }

    pub(crate) fn recover(&self, handover: Handover) -> Result<Said> {
        self.ask(&Request::Recover { handover })
    }

    pub(crate) fn set_recovery(&self, recovery: PublicKey, by: Option<Handover>) -> Result<Said> {
        self.ask(&Request::SetRecovery { recovery, by })
    }

    /// Opens a tunnel; why not, if the relay does not let it in.
    pub(crate) fn try_connect(&mut self) -> Result<Option<ResetCode>> {
        let connection = self.line.dial(&self.identity, Use::Tunnel)?;
        self.greet(connection)
    }

    /// Says hello on a connection that is to be a tunnel; why not, if the relay does not let it in.
    pub(crate) fn greet(&mut self, connection: Connection) -> Result<Option<ResetCode>> {
        let ours = Hello::ours("played by a test");
        let opening = Control::open(&connection, &ours);
        let opened = self.line.handle.block_on(async { timeout(PATIENCE, opening).await })?;
        let mut control = match opened {
            Ok(control) => control,
            Err(GreetingError::Connection(error)) => return reset_code(error).map(Some),
            Err(error) => return Err(error.into()),
        };
        self.line.handle.spawn(async move { while control.next_event().await.is_ok() {} });
        let streams = Arc::default();
        let serving = serve(connection.clone(), self.key(), Arc::clone(&streams));
        self.line.handle.spawn(serving);
        self.tunnel = Some(Tunnel { connection, streams });
        Ok(None)
    }

    /// Opens a tunnel, in which everybody hears the box's key.
    pub(crate) fn connect(&mut self) -> Result<()> {
        match self.try_connect()? {
            None => Ok(()),
            Some(code) => bail!("not let in: {}", code.label()),
        }
    }

    /// Demands that the relay lets no tunnel in, for this reason.
    pub(crate) fn expect_shut_out(&mut self, reason: ResetCode) -> Result<()> {
        let code = self.try_connect()?;
        ensure!(code == Some(reason), "expected {}, but: {code:?}", reason.label());
        Ok(())
    }

    /// Why the relay closes the tunnel that is open, which it must.
    pub(crate) fn end(&self) -> Result<ResetCode> {
        let connection = &self.tunnel.as_ref().context("there is no tunnel")?.connection;
        let closed = async { timeout(CUT, connection.closed()).await };
        reset_code(self.line.handle.block_on(closed).context("the tunnel is not cut")?)
    }

    /// Demands that the relay cuts the tunnel that is open, as its key is not accepted any more.
    pub(crate) fn expect_cut(&self) -> Result<()> {
        let code = self.end()?;
        ensure!(code == ResetCode::Revoked, "cut for another reason: {}", code.label());
        Ok(())
    }

    /// The names for which streams came through the tunnel.
    pub(crate) fn streams(&self) -> Vec<String> {
        let Some(tunnel) = &self.tunnel else { return Vec::new() };
        tunnel.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(connection: Connection, key: PublicKey, streams: Arc<Mutex<Vec<String>>>) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let streams = streams.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(send, recv, key, &streams).await {
                streams.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            }
        });
    }
}

/// Tells a sender whom it has reached.
async fn answer(
    mut send: SendStream,
    mut recv: RecvStream,
    key: PublicKey,
    streams: &Mutex<Vec<String>>,
) -> Result<()> {
    let mut octets = Vec::new();
    let header = loop {
        if let Some((header, _)) = StreamHeader::decode(&octets)? {
            break header;
        }
        let chunk = recv.read_chunk(2048, true).await?.context("no header")?;
        octets.extend_from_slice(&chunk.bytes);
    };
    let name = header.sni().map_or(String::new(), |name| name.as_str().to_owned());
    streams.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    send.write_all(format!("{key}\n").as_bytes()).await?;
    send.finish()?;
    // Until the sender has it and leaves.
    recv.read_to_end(1 << 20).await?;
    Ok(())
}
