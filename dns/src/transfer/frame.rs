//! Messages on a byte stream, each behind its length in two octets (RFC 1035 section 4.2.2), read
//! and written at a pace that the other end may not fall below.
//!
//! A peer that sends an octet a minute never lets an idle timer run out. So what counts is progress:
//! in each window of time enough octets, and an end to it all.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// The length before each message.
const LENGTH: usize = 2;
/// Octets that are read at once when no message is under way.
const READ_AHEAD: usize = 4096;
/// No message is shorter than its header.
const HEADER: usize = 12;

/// How slow the other end may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// A stretch of time in which there must be progress.
    pub window: Duration,
    /// Octets that have to go by in each window.
    pub octets: usize,
    /// The end of it all.
    pub total: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        // 2 kB/s: a mail zone comes in one window, 1 MB within the total.
        Self { window: Duration::from_secs(10), octets: 20_000, total: Duration::from_secs(600) }
    }
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The stream ended inside a message.
    #[error("the connection ended inside a message")]
    CutShort,
    /// A message without room for a header.
    #[error("a message of {0} octets, but a header alone has {HEADER}")]
    Short(usize),
    /// A message longer than its length can say.
    #[error("a message of {0} octets, but none can have more than 65535")]
    Long(usize),
    /// Fewer octets in a window than [`Pace::octets`].
    #[error("too slow: {0} octets within {1:?}")]
    Slow(usize, Duration),
    /// Longer than [`Pace::total`].
    #[error("not done within {0:?}")]
    Late(Duration),
}

/// How a stream does against its pace.
#[derive(Debug)]
struct Clock {
    pace: Pace,
    end: Instant,
    window_ends: Instant,
    seen: usize,
}

impl Clock {
    fn start(pace: Pace) -> Self {
        let now = Instant::now();
        Self { pace, end: now + pace.total, window_ends: now + pace.window, seen: 0 }
    }

    fn deadline(&self) -> Instant {
        self.end.min(self.window_ends)
    }

    fn progress(&mut self, octets: usize, now: Instant) {
        self.seen += octets;
        if self.seen >= self.pace.octets {
            self.seen = 0;
            self.window_ends = now + self.pace.window;
        }
    }

    fn error(&self, now: Instant) -> FrameError {
        if now >= self.end {
            FrameError::Late(self.pace.total)
        } else {
            FrameError::Slow(self.seen, self.pace.window)
        }
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader {
    clock: Clock,
    buffer: BytesMut,
}

impl Reader {
    /// The time runs from now.
    pub fn new(pace: Pace) -> Self {
        Self { clock: Clock::start(pace), buffer: BytesMut::new() }
    }

    /// The time runs from now again, as for the next question on a connection. What was read ahead
    /// is kept.
    pub fn restart(&mut self) {
        self.clock = Clock::start(self.clock.pace);
    }

    /// The next message, or `None` where the stream ends between two.
    pub async fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            // Never more than is needed for one message, whatever the peer sends, and little while
            // nothing is under way.
            let room = self.needed() - self.buffer.len();
            self.buffer.reserve(room);
            let mut limited = (&mut *stream).take(room as u64);
            let read = limited.read_buf(&mut self.buffer);
            let read = timeout_at(self.clock.deadline(), read).await;
            let octets = read.map_err(|_| self.clock.error(Instant::now()))??;
            if octets == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::CutShort) };
            }
            self.clock.progress(octets, Instant::now());
        }
    }

    /// Octets to have before a look at them is worth it: the message under way, or a few small ones.
    fn needed(&self) -> usize {
        let length = match self.buffer.get(..LENGTH) {
            Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
            None => 0,
        };
        (LENGTH + length).max(READ_AHEAD)
    }

    fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.buffer.get(..LENGTH) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length < HEADER {
            return Err(FrameError::Short(length));
        }
        if self.buffer.len() < LENGTH + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Writer {
    clock: Clock,
}

impl Writer {
    /// The time runs from now.
    pub fn new(pace: Pace) -> Self {
        Self { clock: Clock::start(pace) }
    }

    /// Writes a message and its length.
    pub async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        message: &[u8],
    ) -> Result<(), FrameError> {
        let framed = framed(message)?;
        let mut rest = &framed[..];
        while !rest.is_empty() {
            let written = timeout_at(self.clock.deadline(), stream.write(rest)).await;
            let octets = written.map_err(|_| self.clock.error(Instant::now()))??;
            if octets == 0 {
                return Err(FrameError::CutShort);
            }
            self.clock.progress(octets, Instant::now());
            rest = &rest[octets..];
        }
        Ok(())
    }
}

/// A message behind its length, in one piece so that it leaves in one packet where it fits.
pub fn framed(message: &[u8]) -> Result<Vec<u8>, FrameError> {
    let length = u16::try_from(message.len()).map_err(|_| FrameError::Long(message.len()))?;
    Ok([&length.to_be_bytes(), message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { window: Duration::from_secs(10), octets: 100, total: Duration::from_secs(60) };

    #[tokio::test(start_paused = true)]
    async fn messages_come_back_however_they_are_cut() {
        let messages: Vec<Vec<u8>> = vec![vec![1; 12], vec![2; 65535], vec![3; 700]];
        for piece in [1, 7, 4096] {
            let (mut near, mut far) = tokio::io::duplex(piece);
            let sent = messages.clone();
            let write = async move {
                let mut writer = Writer::new(PACE);
                for message in &sent {
                    writer.write(&mut far, message).await.unwrap();
                }
            };
            let read = async {
                let mut reader = Reader::new(PACE);
                let mut got = Vec::new();
                while let Some(message) = reader.read(&mut near).await.unwrap() {
                    got.push(message.to_vec());
                }
                got
            };
            assert_eq!(tokio::join!(write, read).1, messages);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_is_too_slow_and_a_trickle_ends_some_time() {
        for (gap, expected) in [(1000, "too slow"), (99, "not done within 60s")] {
            let (mut near, mut far) = tokio::io::duplex(1 << 16);
            let drip = async move {
                let octets = framed(&[0; 6000]).unwrap();
                for octet in octets {
                    tokio::time::sleep(Duration::from_millis(gap)).await;
                    if far.write_all(&[octet]).await.is_err() {
                        break;
                    }
                }
            };
            let read = async {
                let error = Reader::new(PACE).read(&mut near).await.unwrap_err();
                drop(near);
                error.to_string()
            };
            let text = tokio::join!(drip, read).1;
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_left_alone() {
        let (mut near, _far) = tokio::io::duplex(10);
        let error = Writer::new(PACE).write(&mut near, &[0; 100]).await.unwrap_err();
        assert!(matches!(error, FrameError::Slow(10, _)), "{error}");
    }

    #[tokio::test]
    async fn an_end_inside_a_message_is_told_from_one_between_two() {
        let read = async |octets: &[u8]| {
            let mut stream = octets;
            Reader::new(PACE).read(&mut stream).await
        };
        assert!(matches!(read(&[]).await, Ok(None)));
        assert!(matches!(read(&[0]).await, Err(FrameError::CutShort)));
        assert!(matches!(read(&[0, 12, 1]).await, Err(FrameError::CutShort)));
        assert!(matches!(read(&[0, 11]).await, Err(FrameError::Short(11))));
    }
}
