//! Sender and recipients of a message, and how commands name them (RFC 5321 section 4.1.1.2). Pure.

/// The longest path (RFC 5321 section 4.5.3.1.3).
const PATH: usize = 256;

/// Sender and recipients of a message.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// What stood in the angle brackets of MAIL FROM; empty for a bounce.
    pub(crate) sender: String,
    /// What stood in those of each RCPT TO.
    pub(crate) recipients: Vec<String>,
}

/// Splits `FROM:<a@b> SIZE=1` into the address and the parameters.
pub(crate) fn path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let head = rest.get(..keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let (address, parameters) =
        rest[keyword.len()..].trim_start().strip_prefix('<')?.split_once('>')?;
    let clean = address.len() <= PATH && address.chars().all(|c| c.is_ascii_graphic() && c != '<');
    clean.then_some((address, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_paths() {
        assert_eq!(path("FROM:<a@b> SIZE=1", "FROM:"), Some(("a@b", " SIZE=1")));
        assert_eq!(path("to: <a@b>", "TO:"), Some(("a@b", "")));
        assert_eq!(path("FROM:<>", "FROM:"), Some(("", "")));
        for wrong in ["", "FROM", "FROM:a@b", "FROM:<a@b", "TO:<a@b>", "FROM:<a b>", "FROM:<<a@b>"]
        {
            assert_eq!(path(wrong, "FROM:"), None, "{wrong}");
        }
    }
}
