//! The lines after DATA, put together to a message (RFC 5321 section 4.5.2). Pure.

/// What one line did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The message goes on.
    More,
    /// That was the final dot. `None` when the message was larger than allowed.
    Complete(Option<Vec<u8>>),
}

/// Collects a message.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    limit: usize,
    too_large: bool,
}

impl Body {
    /// An empty message that may grow to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, too_large: false }
    }

    /// Takes a line without its CRLF. A leading dot is stuffing and goes away; a lone dot ends the
    /// message. What is over the limit is read on and thrown away, because a sender hears the
    /// reply to DATA only after its final dot.
    pub(crate) fn line(&mut self, line: &[u8]) -> Taken {
        if line == b"." {
            let bytes = std::mem::take(&mut self.bytes);
            return Taken::Complete((!self.too_large).then_some(bytes));
        }
        let line = line.strip_prefix(b".").unwrap_or(line);
        if self.bytes.len() + line.len() + 2 > self.limit {
            self.too_large = true;
            self.bytes = Vec::new();
        }
        if !self.too_large {
            self.bytes.extend_from_slice(line);
            self.bytes.extend_from_slice(b"\r\n");
        }
        Taken::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unstuffs_dots() {
        let mut body = Body::new(100);
        for line in [&b"Subject: x"[..], b"", b"..", b".two", b"three."] {
            assert_eq!(body.line(line), Taken::More);
        }
        let expected = b"Subject: x\r\n\r\n.\r\ntwo\r\nthree.\r\n".to_vec();
        assert_eq!(body.line(b"."), Taken::Complete(Some(expected)));
    }

    #[test]
    fn says_when_it_was_too_large_and_keeps_nothing() {
        let mut body = Body::new(10);
        assert_eq!(body.line(b"12345678"), Taken::More);
        assert_eq!(body.line(b"9"), Taken::More);
        assert!(body.bytes.is_empty());
        assert_eq!(body.line(b"."), Taken::Complete(None));
    }
}
