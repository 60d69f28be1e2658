//! A line that people carry: words, then a secret behind `#`, and a checksum over both, by which a
//! mistyped or shortened line is told from a good one before anything is done with it.
//!
//! The secret stands where a URL has its fragment, which no browser sends anywhere.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// In front of what is hashed for the checksum, so that it is no other hash of ours.
const CONTEXT: &[u8] = b"sealpost line 1\0";
/// One slip in 4 billion goes unnoticed.
const CHECK: usize = 4;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineError {
    /// It does not begin as it should.
    Foreign,
    /// It is longer than any such line.
    TooLong,
    /// It is not as it was written.
    Damaged,
}

/// The line of `head`, which must hold neither white space nor `#`, and `secret`.
pub(crate) fn write(head: &str, secret: &[u8]) -> String {
    let sealed = [secret, &check(head, secret)].concat();
    format!("{head}#{}", URL_SAFE_NO_PAD.encode(sealed))
}

/// Head and secret of a line that begins with `prefix` and has at most `max` octets. White space
/// in it is what mail programs and terminals put there, and is left out.
pub(crate) fn read<const N: usize>(
    text: &str,
    prefix: &str,
    max: usize,
) -> Result<(String, [u8; N]), LineError> {
    if text.len() > max {
        return Err(LineError::TooLong);
    }
    let line: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if !line.starts_with(prefix) {
        return Err(LineError::Foreign);
    }
    let (head, sealed) = line.split_once('#').ok_or(LineError::Damaged)?;
    let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| LineError::Damaged)?;
    let (secret, found) = sealed.split_first_chunk::<N>().ok_or(LineError::Damaged)?;
    if *found != check(head, secret) {
        return Err(LineError::Damaged);
    }
    Ok((head.into(), *secret))
}

fn check(head: &str, secret: &[u8]) -> [u8; CHECK] {
    // The secret's length is fixed, so that nothing can move between it and the head.
    let hash = digest::digest(&digest::SHA256, &[CONTEXT, head.as_bytes(), secret].concat());
    *hash.as_ref().first_chunk().expect("SHA-256 has 32 octets")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 20] = [7; 20];

    fn again(text: &str) -> Result<(String, [u8; 20]), LineError> {
        read(text, "sealpost:", 100)
    }

    #[test]
    fn a_line_is_read_as_it_was_written_even_when_it_was_wrapped() {
        let line = write("sealpost:a?b=c", &SECRET);
        let read = Ok(("sealpost:a?b=c".to_string(), SECRET));
        assert_eq!(again(&line), read);
        assert_eq!(again(&format!("  {}\r\n {}\n", &line[..20], &line[20..])), read);
    }

    #[test]
    fn other_texts_long_ones_and_damaged_ones_are_told_apart() {
        let line = write("sealpost:a", &SECRET);
        assert_eq!(again(&line[1..]), Err(LineError::Foreign));
        assert_eq!(again(""), Err(LineError::Foreign));
        assert_eq!(again(&line.replace(":a", ":b")), Err(LineError::Damaged));
        assert_eq!(again(&line[..line.len() - 1]), Err(LineError::Damaged));
        assert_eq!(again("sealpost:a"), Err(LineError::Damaged));
        assert_eq!(again(&format!("{line}AAAA")), Err(LineError::Damaged));
        assert_eq!(again(&format!("{line}#")), Err(LineError::Damaged));
        assert_eq!(again(&format!("sealpost:{}", "a".repeat(100))), Err(LineError::TooLong));
    }

    #[test]
    fn a_secret_of_another_length_is_damaged() {
        let line = write("sealpost:a", &[7; 19]);
        assert_eq!(again(&line), Err(LineError::Damaged));
    }
}
