//! The owner's own records, from a zone file (RFC 1035 section 5) that the agent's file names.
//!
//! Each record is written to wire format and read again, as the parser leaves some in a form of its
//! own: data in the notation for unknown types stays unknown even where the type is known, and a
//! free-standing `@` in data becomes a label.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::base::ParsedRecord;
use domain::base::iana::{Class, Rtype};
use domain::base::name::{FlattenInto, ToLabelIter};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{self, Entry, ScannedRecord, Zonefile};
use sealpost_dns::record::{Name, Record};

/// The longest file that is read, in octets.
pub const MAX_FILE: usize = 16 * 1024 * 1024;
/// The most records that it may hold.
pub const MAX_RECORDS: usize = 100_000;

/// A record, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// The record.
    pub record: Record,
    /// The file.
    pub file: PathBuf,
    /// The line on which it begins, from 1.
    pub line: usize,
}

/// Why a file cannot be used. All name file and line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncludeError {
    /// It is not a zone file.
    #[error(
        "{}:{line}: {reason}. A line is: name, TTL in seconds (may be left out), IN (may be left out), type, \
         data",
        file.display()
    )]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A quote or a parenthesis is not closed.
    #[error("{}:{line}: {open} is not closed", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The mark.
        open: char,
    },
    /// It includes another.
    #[error(
        "{}:{line}: $INCLUDE is not followed: name both files in the agent's configuration",
        file.display()
    )]
    Nested {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A record's data is not what its type asks for.
    #[error("{}:{line}: the data does not fit the type {rtype}: {reason}", file.display())]
    Data {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The type.
        rtype: Rtype,
        /// What is wrong.
        reason: String,
    },
    /// It is too large.
    #[error(
        "{}: it is longer than {MAX_FILE} octets or has more than {MAX_RECORDS} records: serve such \
         a zone from a name server of its own",
        .0.display()
    )]
    TooLarge(PathBuf),
}

/// Reads the text of `file`, in which names without a final dot are below `apex`.
pub fn parse(text: &[u8], file: &Path, apex: &Name) -> Result<Vec<Included>, IncludeError> {
    if text.len() > MAX_FILE {
        return Err(IncludeError::TooLarge(file.into()));
    }
    read(text, file, apex, MAX_RECORDS)
}

/// As [`parse`], of a file that this program wrote: a signed zone has several times as many records.
pub fn parse_all(text: &[u8], file: &Path, apex: &Name) -> Result<Vec<Included>, IncludeError> {
    read(text, file, apex, usize::MAX)
}

fn read(text: &[u8], file: &Path, apex: &Name, most: usize) -> Result<Vec<Included>, IncludeError> {
    let mut source = Zonefile::new();
    source.set_origin(apex.clone());
    source.set_default_class(Class::IN);
    let mut entries = Entries { rest: text, line: 1 };
    let mut records = Vec::new();
    while let Some(entry) = entries.next() {
        let Piece { line, text } = entry.map_err(|Unclosed { line, open }| IncludeError::Open {
            file: file.into(),
            line,
            open,
        })?;
        source.extend_from_slice(text);
        // The last line may lack its end.
        source.extend_from_slice(b"\n");
        while let Some(found) = source.next_entry().map_err(|error| syntax(file, line, &error))? {
            let Entry::Record(found) = found else {
                return Err(IncludeError::Nested { file: file.into(), line });
            };
            if records.len() == most {
                return Err(IncludeError::TooLarge(file.into()));
            }
            let origin = source.origin().unwrap_or_else(|_| apex.clone());
            let rtype = found.rtype();
            let record = settle(&found, &origin).map_err(|reason| IncludeError::Data {
                file: file.into(),
                line,
                rtype,
                reason,
            })?;
            records.push(Included { record, file: file.into(), line });
        }
    }
    Ok(records)
}

/// The parser's own words. Its line is that of the next token, so it is left out.
fn syntax(file: &Path, line: usize, error: &inplace::Error) -> IncludeError {
    let text = error.to_string();
    let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
    IncludeError::Syntax { file: file.into(), line, reason: reason.into() }
}

/// The text of an entry, and the line on which it begins.
struct Piece<'a> {
    line: usize,
    text: &'a [u8],
}

/// The line and the mark of what is not closed.
struct Unclosed {
    line: usize,
    open: char,
}

/// The entries of a zone file. The parser is given one at a time:
/// so each record's line is known, and what is left open, at which the parser panics, is found
/// before.
struct Entries<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Entries<'a> {
    /// The next entry, if any.
    fn next(&mut self) -> Option<Result<Piece<'a>, Unclosed>> {
        if self.rest.is_empty() {
            return None;
        }
        let begin = self.line;
        let mut parens = Vec::new();
        let mut octets = self.rest.iter().enumerate();
        let (mut quoted, mut comment) = (false, false);
        while let Some((at, octet)) = octets.next() {
            match octet {
                b'\n' if quoted => return Some(Err(Unclosed { line: self.line, open: '"' })),
                b'\n' => {
                    self.line += 1;
                    comment = false;
                    if parens.is_empty() {
                        let (text, rest) = self.rest.split_at(at + 1);
                        self.rest = rest;
                        return Some(Ok(Piece { line: begin, text }));
                    }
                }
                _ if comment => {}
                // What follows is meant as it is; the parser refuses an end of line there.
                b'\\' if self.rest.get(at + 1) != Some(&b'\n') => drop(octets.next()),
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b';' => comment = true,
                b'(' => parens.push(self.line),
                b')' => drop(parens.pop()),
                _ => {}
            }
        }
        if quoted {
            return Some(Err(Unclosed { line: self.line, open: '"' }));
        }
        if let Some(line) = parens.first() {
            return Some(Err(Unclosed { line: *line, open: '(' }));
        }
        Some(Ok(Piece { line: begin, text: std::mem::take(&mut self.rest) }))
    }
}

/// A record as it will be in the zone.
fn settle(found: &ScannedRecord, origin: &Name) -> Result<Record, String> {
    let mut wire = Vec::new();
    let Ok(()) = found.compose(&mut wire);
    if has_names(found.rtype()) {
        let owner = usize::from(found.owner().compose_len());
        wire = with_origin(wire, owner, origin);
    }
    let wire = Bytes::from(wire);
    let mut parser = Parser::from_ref(&wire);
    let parsed = ParsedRecord::parse(&mut parser).map_err(|error| error.to_string())?;
    let record = parsed.into_record::<ZoneRecordData<_, _>>().map_err(|error| error.to_string())?;
    let record = record.ok_or("it is not a type for zones")?;
    let Ok(record) = record.try_flatten_into();
    Ok(record)
}

/// Whether a free-standing `@` in the data can mean a name.
fn has_names(rtype: Rtype) -> bool {
    matches!(
        rtype,
        Rtype::NS
            | Rtype::CNAME
            | Rtype::DNAME
            | Rtype::PTR
            | Rtype::MX
            | Rtype::SRV
            | Rtype::NAPTR
            | Rtype::RP
            | Rtype::SVCB
            | Rtype::HTTPS
    )
}

/// Puts `origin` in the place of each `@` below it in the data of the record `wire`, whose owner has
/// `owner` octets.
fn with_origin(mut wire: Vec<u8>, owner: usize, origin: &Name) -> Vec<u8> {
    /// Octets of type, class, TTL and length.
    const FIXED: usize = 10;
    let at = [b"\x01@", origin.as_slice()].concat();
    let start = owner + FIXED;
    let mut from = start;
    while let Some(found) =
        wire.get(from..).and_then(|rest| rest.windows(at.len()).position(|window| window == at))
    {
        from += found;
        wire.drain(from..from + 2);
    }
    let length = u16::try_from(wire.len() - start).unwrap_or(u16::MAX);
    wire[start - 2..start].copy_from_slice(&length.to_be_bytes());
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sealpost_dns::record::Data;

    fn read(text: &str) -> Result<Vec<Included>, IncludeError> {
        super::parse(text.as_bytes(), Path::new("own.zone"), &"a.example.".parse().unwrap())
    }

    fn shown(text: &str) -> Vec<String> {
        let records = read(text).unwrap();
        records.iter().map(|it| it.record.to_string()).collect()
    }

    #[test]
    fn names_are_relative_to_the_domain_and_an_at_is_the_domain() {
        assert_eq!(
            shown("www CNAME @\n@ 60 MX 10 @\nx.y. A 192.0.2.1\n$ORIGIN sub\nw HTTPS 1 @\n"),
            [
                "www.a.example. 3600 IN CNAME a.example.",
                "a.example. 60 IN MX 10 a.example.",
                "x.y. 60 IN A 192.0.2.1",
                "w.sub.a.example. 60 IN HTTPS 1 sub.a.example. ",
            ]
        );
    }

    #[test]
    fn data_in_the_notation_for_unknown_types_is_what_its_type_says() {
        let records = read("a A \\# 4 C0000201\nb TYPE65280 \\# 3 010203").unwrap();
        assert!(matches!(records[0].record.data(), Data::A(_)));
        assert!(matches!(records[1].record.data(), Data::Unknown(_)));
        let error = read("\n\na A \\# 3 C00002").unwrap_err().to_string();
        assert!(error.starts_with("own.zone:3: the data does not fit the type A"), "{error}");
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, words) in [
            ("a A 192.0.2.1\nb A 192.0.2\n", "own.zone:2:"),
            ("a 1h A 192.0.2.1\n", "own.zone:1:"),
            ("\n$INCLUDE other.zone\n", "own.zone:2: $INCLUDE"),
            ("a CH TXT \"x\"\n", "own.zone:1:"),
            ("a AFSDB 1 b\n", "own.zone:1:"),
            ("\na TXT \"open\n", "own.zone:2: \" is not closed"),
            ("a TXT (\n(\nx)", "own.zone:1: ( is not closed"),
            ("a TXT x)", "own.zone:1:"),
            ("a A 192.0.2.1\r\nb A x\r\n", "own.zone:2:"),
            ("a TXT \\", "own.zone:1:"),
            ("  A 192.0.2.1", "own.zone:1:"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{text}: {error}");
        }
        let records = read("a A 192.0.2.1\n\nb TXT ( \"x\"\n \"y\" )\nc A 192.0.2.2\n").unwrap();
        assert_eq!(records.iter().map(|it| it.line).collect::<Vec<_>>(), [1, 3, 5]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n\t\"();@$\\\\]{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn no_line_makes_it_panic(
            rtype in "(A|TXT|MX|SVCB|CAA|NAPTR|TLSA|TYPE65280|LOC|HTTPS|DNAME)",
            data in "[ -~]{0,60}",
        ) {
            let _ = read(&format!("x {rtype} {data}\n"));
        }
    }
}
