//! The public half of a DKIM key, as signers write it: OpenDKIM and rspamd as a line of a zone file,
//! others as the bare text. Pure.

use std::path::Path;

use sealpost_dns::record::{Data, Name};

use crate::zone::included::{self, IncludeError};

/// The longest file that is read, in octets.
pub const MAX_FILE: usize = 64 * 1024;

/// Why there is no key. All name the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkimError {
    /// A line of a zone file that cannot be read.
    #[error(transparent)]
    Line(#[from] IncludeError),
    /// The wrong half.
    #[error(
        "{0}:1: this is the private half of a key, which must not be published: name the file with \
         the record for DNS, often the same with .txt behind"
    )]
    Private(String),
    /// Neither form, or of something else.
    #[error(
        "{0}:1: this is no DKIM record: it is a line of a zone file with one TXT record, or a text \
         that begins with v=DKIM1"
    )]
    Other(String),
    /// Too large.
    #[error("{0}: a DKIM record has at most {MAX_FILE} octets")]
    TooLarge(String),
}

/// The text to publish out of the content of `file`.
pub fn parse(content: &[u8], file: &Path, apex: &Name) -> Result<String, DkimError> {
    let shown = || file.display().to_string();
    if content.len() > MAX_FILE {
        return Err(DkimError::TooLarge(shown()));
    }
    let other = || DkimError::Other(shown());
    let text = std::str::from_utf8(content).map_err(|_| other())?;
    if text.contains("PRIVATE KEY") {
        return Err(DkimError::Private(shown()));
    }
    let found = match text.trim_start().strip_prefix('"') {
        // The data of a record alone, in its strings.
        Some(_) => strings(text).ok_or_else(other)?,
        None if is_record(text.trim_start()) => {
            text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        }
        None => from_zone_file(content, file, apex)?.ok_or_else(other)?,
    };
    if is_record(&found) { Ok(found) } else { Err(other()) }
}

fn is_record(text: &str) -> bool {
    text.starts_with("v=DKIM1")
}

/// The text of the only TXT record there.
fn from_zone_file(
    content: &[u8],
    file: &Path,
    apex: &Name,
) -> Result<Option<String>, IncludeError> {
    let records = included::parse(content, file, apex)?;
    let [one] = records.as_slice() else { return Ok(None) };
    let Data::Txt(txt) = one.record.data() else { return Ok(None) };
    let octets: Vec<u8> = txt.iter().flatten().copied().collect();
    Ok(String::from_utf8(octets).ok())
}

/// Quoted strings, put together.
fn strings(text: &str) -> Option<String> {
    let mut whole = String::new();
    for (place, part) in text.split('"').enumerate() {
        match place % 2 {
            1 => whole.push_str(part),
            _ if part.trim().is_empty() => {}
            _ => return None,
        }
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let apex = "a.example.".parse().unwrap();
        parse(text.as_bytes(), Path::new("mail.txt"), &apex).map_err(|error| error.to_string())
    }

    #[test]
    fn what_signers_write_is_read() {
        let opendkim = "mail._domainkey\tIN\tTXT\t( \"v=DKIM1; h=sha256; k=rsa; \"\n\t  \
            \"p=MIIBIj\"\n\t  \"ANBg\" )  ; ----- DKIM key mail for a.example\n";
        assert_eq!(read(opendkim).unwrap(), "v=DKIM1; h=sha256; k=rsa; p=MIIBIjANBg");
        let rspamd = "mail._domainkey IN TXT ( \"v=DKIM1; k=rsa; \"\n\t\"p=MIIBIj\" ) ;\n";
        assert_eq!(read(rspamd).unwrap(), "v=DKIM1; k=rsa; p=MIIBIj");
        assert_eq!(read(" v=DKIM1; k=ed25519;\n p=11qY\n").unwrap(), "v=DKIM1; k=ed25519; p=11qY");
        assert_eq!(read("\"v=DKIM1; p=ab\" \"cd\"\n").unwrap(), "v=DKIM1; p=abcd");
    }

    #[test]
    fn what_is_no_public_key_is_named() {
        for (text, wanted) in [
            ("-----BEGIN PRIVATE\x20KEY-----", "private half"),
            ("", "no DKIM record"),
            ("a TXT \"v=spf1\"", "no DKIM record"),
            ("a TXT \"v=DKIM1; p=a\"\nb TXT \"v=DKIM1; p=b\"", "no DKIM record"),
            ("a TXT \"v=DKIM1; p=a", "mail.txt:1: \" is not closed"),
            ("\"v=DKIM1\" x \"p=\"", "no DKIM record"),
            ("a A 192.0.2.1", "no DKIM record"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("mail.txt:1") && error.contains(wanted), "{text}: {error}");
        }
        assert!(read(&"x".repeat(MAX_FILE + 1)).is_err());
    }
}
