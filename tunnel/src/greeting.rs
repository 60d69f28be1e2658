//! The control stream at work: each end says [`Hello`], then little else.

use quinn::{Connection, ReadExactError, RecvStream, SendStream};

use crate::control::{ControlError, Hello, MAX_PAYLOAD, Message};

/// Messages of unknown types that are skipped on one connection before the peer is told off.
const MAX_UNKNOWN: u32 = 64;
const FIXED: usize = 3;

/// Why the control stream ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The connection ended; for an agent at this stage usually because it was not admitted.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The stream ended in the middle.
    #[error("the control stream broke: {0}")]
    Stream(String),
    /// What came was no message.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A message came that does not belong there.
    #[error("the peer broke the order of the control stream")]
    Order,
    /// The ends know no common version.
    #[error(
        "we speak versions {ours_min} to {ours_max}, the peer {theirs_min} to {theirs_max}; update the older one"
    )]
    Version {
        /// Our oldest.
        ours_min: u8,
        /// Our newest.
        ours_max: u8,
        /// The peer's oldest.
        theirs_min: u8,
        /// The peer's newest.
        theirs_max: u8,
    },
}

/// A control stream after both ends said hello.
pub struct Control {
    send: SendStream,
    recv: RecvStream,
    unknown: u32,
    /// What the peer said.
    pub peer: Hello,
    /// The version that both use.
    pub version: u8,
}

impl Control {
    /// The agent's side: opens the stream and speaks first.
    pub async fn open(connection: &Connection, ours: &Hello) -> Result<Self, GreetingError> {
        let (send, recv) = connection.open_bi().await?;
        Self::greet(send, recv, ours).await
    }

    /// The relay's side: the first stream is the control stream.
    pub async fn accept(connection: &Connection, ours: &Hello) -> Result<Self, GreetingError> {
        let (send, recv) = connection.accept_bi().await?;
        Self::greet(send, recv, ours).await
    }

    async fn greet(
        mut send: SendStream,
        mut recv: RecvStream,
        ours: &Hello,
    ) -> Result<Self, GreetingError> {
        write(&mut send, &Message::Hello(ours.clone())).await?;
        let Message::Hello(peer) = read(&mut recv).await?.ok_or(GreetingError::Order)? else {
            return Err(GreetingError::Order);
        };
        let version = ours.common_version(&peer).ok_or(GreetingError::Version {
            ours_min: ours.min_version,
            ours_max: ours.max_version,
            theirs_min: peer.min_version,
            theirs_max: peer.max_version,
        })?;
        Ok(Self {
            send,
            recv,
            unknown: 0,
            peer,
            version,
        })
    }

    /// Tells the peer that no new streams are wanted.
    pub async fn say_leaving(&mut self) -> Result<(), GreetingError> {
        write(&mut self.send, &Message::Leaving).await
    }

    /// Waits until the peer says that it will leave. Not to be called again when a wait was
    /// cancelled in the middle of a message, as bytes of it may be lost.
    pub async fn peer_leaves(&mut self) -> Result<(), GreetingError> {
        loop {
            match read(&mut self.recv).await? {
                Some(Message::Leaving) => return Ok(()),
                Some(Message::Unknown(_)) if self.unknown < MAX_UNKNOWN => self.unknown += 1,
                _ => return Err(GreetingError::Order),
            }
        }
    }
}

async fn write(send: &mut SendStream, message: &Message) -> Result<(), GreetingError> {
    send.write_all(&message.encode())
        .await
        .map_err(|e| match e {
            quinn::WriteError::ConnectionLost(e) => e.into(),
            e => GreetingError::Stream(e.to_string()),
        })
}

/// The next message, or `None` when the peer ended the stream.
async fn read(recv: &mut RecvStream) -> Result<Option<Message>, GreetingError> {
    let mut buffer = vec![0; FIXED];
    match recv.read_exact(&mut buffer).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(e) => return Err(stream_error(e)),
    }
    let length = usize::from(u16::from_be_bytes([buffer[1], buffer[2]]));
    if length > MAX_PAYLOAD {
        return Err(ControlError::TooLong(length).into());
    }
    buffer.resize(FIXED + length, 0);
    recv.read_exact(&mut buffer[FIXED..])
        .await
        .map_err(stream_error)?;
    Ok(Message::decode(&buffer)?.map(|(message, _)| message))
}

fn stream_error(e: ReadExactError) -> GreetingError {
    match e {
        ReadExactError::ReadError(quinn::ReadError::ConnectionLost(e)) => e.into(),
        e => GreetingError::Stream(e.to_string()),
    }
}
