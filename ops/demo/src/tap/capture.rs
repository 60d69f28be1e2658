//! What a tap has recorded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most that a tap keeps. What comes later is carried and counted, no longer kept, and the
/// proof says so.
const LIMIT: usize = 64 << 20;

/// Seen from who opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From the one who connected (the sender, the agent) to the relay.
    ToRelay,
    /// From the relay back.
    FromRelay,
}

/// One thing that happened on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes, as one read or one datagram gave them.
    Bytes(Vec<u8>),
    /// This direction ended in order (TCP FIN).
    Fin,
    /// The connection was torn down (TCP RST).
    Reset,
}

/// One recorded piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Counts the connections of this tap, from 0.
    pub(crate) connection: u32,
    /// Which way it went.
    pub(crate) direction: Direction,
    /// What it was.
    pub(crate) piece: Piece,
}

/// A recording, shared by the tasks of one tap.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    chunks: Vec<Chunk>,
    kept: usize,
    missed: u64,
}

impl Capture {
    /// Keeps a copy of `bytes`, or counts them when there is no more room.
    pub(crate) fn bytes(&self, connection: u32, direction: Direction, bytes: &[u8]) {
        let mut recorded = self.lock();
        if recorded.kept + bytes.len() > LIMIT {
            recorded.missed += bytes.len() as u64;
            return;
        }
        recorded.kept += bytes.len();
        let piece = Piece::Bytes(bytes.to_vec());
        recorded.chunks.push(Chunk { connection, direction, piece });
    }

    /// Notes an end.
    pub(crate) fn end(&self, connection: u32, direction: Direction, piece: Piece) {
        let mut recorded = self.lock();
        if recorded.missed == 0 {
            recorded.chunks.push(Chunk { connection, direction, piece });
        }
    }

    /// Everything about one connection, in the order in which it happened.
    pub(crate) fn connection(&self, connection: u32) -> Vec<Chunk> {
        let recorded = self.lock();
        recorded.chunks.iter().filter(|chunk| chunk.connection == connection).cloned().collect()
    }

    /// The bytes of each connection and direction in one piece, so that a search also finds what
    /// was spread over several reads; and how many bytes had no room.
    pub(crate) fn streams(&self) -> (Vec<Vec<u8>>, u64) {
        let recorded = self.lock();
        let mut streams: BTreeMap<(u32, Direction), Vec<u8>> = BTreeMap::new();
        for chunk in &recorded.chunks {
            if let Piece::Bytes(bytes) = &chunk.piece {
                streams.entry((chunk.connection, chunk.direction)).or_default().extend(bytes);
            }
        }
        (streams.into_values().collect(), recorded.missed)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        // A panic elsewhere cannot leave a recording in a state that is wrong to read.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_came_in_pieces_and_keeps_directions_apart() {
        let capture = Capture::default();
        capture.bytes(0, Direction::ToRelay, b"mari");
        capture.bytes(0, Direction::FromRelay, b"220 ");
        capture.bytes(1, Direction::ToRelay, b"other");
        capture.bytes(0, Direction::ToRelay, b"gold");
        capture.end(0, Direction::ToRelay, Piece::Fin);
        let (streams, missed) = capture.streams();
        assert_eq!(streams, [b"marigold".to_vec(), b"220 ".to_vec(), b"other".to_vec()]);
        assert_eq!(missed, 0);
        assert_eq!(capture.connection(0).len(), 4);
    }

    #[test]
    fn counts_what_it_cannot_keep() {
        let capture = Capture::default();
        capture.bytes(0, Direction::ToRelay, &vec![0; LIMIT]);
        capture.bytes(0, Direction::ToRelay, b"more");
        assert_eq!(capture.streams().1, 4);
    }
}
