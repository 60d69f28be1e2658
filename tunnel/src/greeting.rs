//! The control stream at work: each end says [`Hello`], then little else.

use quinn::{Connection, ReadError, RecvStream, SendStream};

use crate::control::{ControlError, HEARS_NEWS, Hello, Message};

/// Messages that say nothing to us which are skipped on one connection before the peer is told
/// off: probes and what a newer peer may say.
const MAX_SKIPPED: u32 = 1024;
/// Most that is read at once; a message has at most 1,027 octets.
const MAX_READ: usize = 2048;

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

/// What a peer says after hello that somebody here must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It shuts down: streams that are open are finished, no new ones are wanted. Told once.
    Leaving,
    /// What the relay's registry holds about this box has changed. Told to agents alone, any
    /// number of times: who asks for more on each must bound how often.
    News,
}

/// A control stream after both ends said hello.
pub struct Control {
    send: SendStream,
    reader: Reader,
    skipped: u32,
    left: bool,
    hears_news: bool,
    /// What the peer said.
    pub peer: Hello,
    /// The version that both use.
    pub version: u8,
}

impl Control {
    /// The agent's side: opens the stream and speaks first.
    pub async fn open(connection: &Connection, ours: &Hello) -> Result<Self, GreetingError> {
        let (send, recv) = connection.open_bi().await?;
        // Every agent of this version does, as it does so here.
        let ours = Hello { capabilities: ours.capabilities | HEARS_NEWS, ..ours.clone() };
        Ok(Self { hears_news: true, ..Self::greet(send, recv, &ours).await? })
    }

    /// The relay's side: the first stream is the control stream.
    pub async fn accept(connection: &Connection, ours: &Hello) -> Result<Self, GreetingError> {
        let (send, recv) = connection.accept_bi().await?;
        Self::greet(send, recv, ours).await
    }

    async fn greet(
        mut send: SendStream,
        recv: RecvStream,
        ours: &Hello,
    ) -> Result<Self, GreetingError> {
        write(&mut send, &Message::Hello(ours.clone())).await?;
        let mut reader = Reader { recv, buffer: Vec::new() };
        let Message::Hello(peer) = reader.next().await? else {
            return Err(GreetingError::Order);
        };
        let version = ours.common_version(&peer).ok_or(GreetingError::Version {
            ours_min: ours.min_version,
            ours_max: ours.max_version,
            theirs_min: peer.min_version,
            theirs_max: peer.max_version,
        })?;
        Ok(Self { send, reader, skipped: 0, left: false, hears_news: false, peer, version })
    }

    /// Tells the peer that no new streams are wanted.
    pub async fn say_leaving(&mut self) -> Result<(), GreetingError> {
        write(&mut self.send, &Message::Leaving).await
    }

    /// Sends what a peer that is there acknowledges.
    pub async fn probe(&mut self) -> Result<(), GreetingError> {
        write(&mut self.send, &Message::Probe).await
    }

    /// The relay's side: tells the box that something about it has changed, if the box said that
    /// it understands that.
    pub async fn say_news(&mut self) -> Result<(), GreetingError> {
        if self.peer.capabilities & HEARS_NEWS == 0 {
            return Ok(());
        }
        write(&mut self.send, &Message::News).await
    }

    /// Waits for what the peer says. Cancelling the wait loses nothing.
    pub async fn next_event(&mut self) -> Result<Event, GreetingError> {
        loop {
            match self.reader.next().await? {
                Message::Leaving if !self.left => {
                    self.left = true;
                    return Ok(Event::Leaving);
                }
                Message::News if self.hears_news => return Ok(Event::News),
                Message::Hello(_) => return Err(GreetingError::Order),
                // What says nothing, or nothing new, to us.
                Message::Leaving | Message::News | Message::Probe | Message::Unknown(_) => {
                    self.skipped += 1;
                    if self.skipped > MAX_SKIPPED {
                        return Err(GreetingError::Order);
                    }
                }
            }
        }
    }
}

async fn write(send: &mut SendStream, message: &Message) -> Result<(), GreetingError> {
    send.write_all(&message.encode()).await.map_err(|e| match e {
        quinn::WriteError::ConnectionLost(e) => e.into(),
        e => GreetingError::Stream(e.to_string()),
    })
}

/// Puts messages together; what has come of the next one is kept here, not in a future.
struct Reader {
    recv: RecvStream,
    buffer: Vec<u8>,
}

impl Reader {
    async fn next(&mut self) -> Result<Message, GreetingError> {
        loop {
            if let Some((message, taken)) = Message::decode(&self.buffer)? {
                self.buffer.drain(..taken);
                // Between messages, which is nearly always, an idle tunnel owns no buffer.
                self.buffer.shrink_to_fit();
                return Ok(message);
            }
            match self.recv.read_chunk(MAX_READ, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(GreetingError::Order),
                Err(ReadError::ConnectionLost(e)) => return Err(e.into()),
                Err(e) => return Err(GreetingError::Stream(e.to_string())),
            }
        }
    }
}
