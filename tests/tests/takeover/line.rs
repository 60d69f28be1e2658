//! A machine's way to the relay, on which the test speaks the protocol itself: QUIC from the
//! machine's own network, every key that is wanted, and any octets as a request.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn::{Connection, ConnectionError, Endpoint, ReadError, ReadToEndError, WriteError};
use sealpost_tests::machine::Machine;
use sealpost_tests::network::RELAY_SHARED_V4;
use sealpost_tunnel::pins::{Pin, Use};
use sealpost_tunnel::request::{MAX_ANSWER, RefusalCode, Standing};
use sealpost_tunnel::{Answer, Handover, Identity, PublicKey, ResetCode, quic};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the played boxes live between the steps of a test; ends when dropped.
pub(crate) struct Background {
    pub(crate) handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Background {
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || runtime.block_on(stopped));
        Ok(Self { handle, _stop: stop })
    }
}

/// See the module's text.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) handle: Handle,
    endpoint: Endpoint,
    relay: PublicKey,
}

impl Line {
    /// From `machine` to the relay with the key `relay`.
    pub(crate) fn from(machine: &Machine, handle: &Handle, relay: PublicKey) -> Result<Self> {
        // A socket stays in the network in which it was made, whoever uses it.
        let endpoint = machine.enter(|| {
            let _runtime = handle.enter();
            Ok(quic::agent_endpoint("0.0.0.0:0".parse()?)?)
        })?;
        Ok(Self { handle: handle.clone(), endpoint, relay })
    }

    /// A connection that proved the key of `identity`.
    pub(crate) fn dial(&self, identity: &Identity, purpose: Use) -> Result<Connection> {
        let address: SocketAddr = format!("{RELAY_SHARED_V4}:4433").parse()?;
        self.handle.block_on(async {
            let pin = Pin::Exactly(self.relay);
            let connecting = quic::dial(&self.endpoint, address, identity, pin, purpose)?;
            timeout(PATIENCE, connecting).await?.context("no handshake with the relay")
        })
    }
}

/// What came of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Answer(Answer),
    /// The stream was given up.
    Reset(ResetCode),
    /// The whole connection was.
    Closed(ResetCode),
}

/// Sends `octets` as one request, and waits for what comes of it.
pub(crate) async fn say(connection: &Connection, octets: &[u8]) -> Result<Said> {
    timeout(PATIENCE, exchange(connection, octets)).await.context("the relay does not answer")?
}

async fn exchange(connection: &Connection, octets: &[u8]) -> Result<Said> {
    let (mut send, mut recv) = match connection.open_bi().await {
        Ok(stream) => stream,
        Err(error) => return closed(error),
    };
    match send.write_all(octets).await {
        // What it refuses it may refuse early; why is told in the other direction.
        Ok(()) | Err(WriteError::Stopped(_)) => _ = send.finish(),
        Err(WriteError::ConnectionLost(error)) => return closed(error),
        Err(error) => return Err(error.into()),
    }
    match recv.read_to_end(MAX_ANSWER).await {
        Ok(answer) => Ok(Said::Answer(Answer::decode(&answer)?)),
        Err(ReadToEndError::Read(ReadError::Reset(code))) => Ok(Said::Reset(code.into())),
        Err(ReadToEndError::Read(ReadError::ConnectionLost(error))) => closed(error),
        Err(error) => Err(error.into()),
    }
}

fn closed(error: ConnectionError) -> Result<Said> {
    Ok(Said::Closed(reset_code(error)?))
}

/// Why the relay closed a connection.
pub(crate) fn reset_code(error: ConnectionError) -> Result<ResetCode> {
    match error {
        ConnectionError::ApplicationClosed(close) => Ok(close.error_code.into()),
        error => Err(error.into()),
    }
}

impl Said {
    /// Demands what the registry now holds about the asker.
    pub(crate) fn granted(self) -> Result<Standing> {
        match self {
            Self::Answer(Answer::Standing(standing)) => Ok(*standing),
            other => bail!("not granted: {other:?}"),
        }
    }

    /// Demands that nothing was done, for this reason; the words for it.
    pub(crate) fn refused(self, code: RefusalCode) -> Result<String> {
        let Self::Answer(Answer::Refused(refusal)) = self else {
            bail!("expected to be refused ({}), but: {self:?}", code.label());
        };
        ensure!(refusal.code == code, "expected {}, but: {refusal:?}", code.label());
        Ok(refusal.message)
    }

    /// Demands the one sentence for all who prove a domain that they cannot have.
    pub(crate) fn not_available(self, domain: &str) -> Result<()> {
        let message = self.refused(RefusalCode::NotAvailable)?;
        let neutral = format!(
            "{domain} is proved to be yours, but is not available at this relay now; ask its \
             operator, or use another relay"
        );
        ensure!(message == neutral, "not the neutral sentence: {message}");
        Ok(())
    }

    /// Demands that the relay did not even take it for a request.
    pub(crate) fn not_read(self) -> Result<()> {
        ensure!(self == Self::Reset(ResetCode::Protocol), "this was read: {self:?}");
        Ok(())
    }

    /// Demands that a refusal tells nothing of alice that was not in the request. The fingerprint
    /// of her key stands in the DNS for everybody; her key, and her name here, do not.
    pub(crate) fn is_discreet(&self, request: &str) -> Result<()> {
        let Self::Answer(Answer::Refused(refusal)) = self else { return Ok(()) };
        for secret in ["alice", "ed25519:"] {
            let told = refusal.message.contains(secret) && !request.contains(secret);
            ensure!(!told, "this tells {secret}: {}", refusal.message);
        }
        Ok(())
    }

    /// Demands the way from a former key of the relay to its present one.
    pub(crate) fn succession(self) -> Result<Vec<Handover>> {
        match self {
            Self::Answer(Answer::Succession { chain }) => Ok(chain),
            other => bail!("not a succession: {other:?}"),
        }
    }
}
