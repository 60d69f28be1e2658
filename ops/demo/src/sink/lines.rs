//! Lines from a stream, never longer than allowed and never ended by anything but CRLF.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Why no line could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The peer closed, possibly in the middle of a line.
    #[error("closed by the peer")]
    Closed,
    /// More bytes than allowed without a line end.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// A line feed without a carriage return before it. Taking one for a line end is what makes
    /// SMTP smuggling possible (RFC 5321 section 2.3.8 forbids it).
    #[error("a line ends in a bare line feed")]
    BareLineFeed,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads one line into `line` (emptied first), without its CRLF.
pub(crate) async fn read_line<R>(
    reader: &mut R,
    line: &mut Vec<u8>,
    limit: usize,
) -> Result<(), LineError>
where
    R: AsyncBufRead + Unpin,
{
    line.clear();
    loop {
        let buffered = reader.fill_buf().await?;
        if buffered.is_empty() {
            return Err(LineError::Closed);
        }
        let end = memchr::memchr(b'\n', buffered);
        let taken = end.map_or(buffered.len(), |at| at + 1);
        if line.len() + taken > limit {
            return Err(LineError::TooLong(limit));
        }
        line.extend_from_slice(&buffered[..taken]);
        reader.consume(taken);
        if end.is_some() {
            if !line.ends_with(b"\r\n") {
                return Err(LineError::BareLineFeed);
            }
            line.truncate(line.len() - 2);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], limit: usize) -> Result<Vec<u8>, LineError> {
        let mut line = Vec::new();
        read_line(&mut &bytes[..], &mut line, limit).await?;
        Ok(line)
    }

    #[tokio::test]
    async fn takes_one_line_without_its_end() {
        assert_eq!(read(b"NOOP\r\nQUIT\r\n", 99).await.expect("a line"), b"NOOP");
    }

    #[tokio::test]
    async fn refuses_what_is_no_line() {
        assert!(matches!(read(b"NOOP", 99).await, Err(LineError::Closed)));
        assert!(matches!(read(b"NOOP\n", 99).await, Err(LineError::BareLineFeed)));
        assert!(matches!(read(b"NOOP\r\n", 5).await, Err(LineError::TooLong(5))));
    }
}
