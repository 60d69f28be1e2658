//! A zone as text (RFC 1035 section 5), for its owner to read and to take elsewhere. Pure.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt};
use domain::rdata::dnssec::Timestamp;
use sealpost_dns::record::{Data, Record};

/// One line for each record, with whole names, so that it can be read without what is around it.
pub fn text(records: &[Record]) -> String {
    records.iter().fold(String::new(), |mut text, record| {
        text.push_str(&line(record));
        text.push('\n');
        text
    })
}

/// A record on one line.
pub fn line(record: &Record) -> String {
    let mut line = record.display_zonefile(DisplayKind::Simple).to_string();
    if let Data::Rrsig(rrsig) = record.data() {
        // NSD reads times as dates only, which all others do too (RFC 4034 section 3.2).
        let times = |expiration, inception| format!(" {expiration} {inception} ");
        let numbers = times(rrsig.expiration().to_string(), rrsig.inception().to_string());
        let dates = times(date(rrsig.expiration()), date(rrsig.inception()));
        line = line.replacen(&numbers, &dates, 1);
    }
    line
}

/// A time as year, month, day, hours, minutes and seconds.
fn date(time: Timestamp) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(time.into_int().into());
    let mut shown = String::new();
    // Before the year 10000 this has four digits and cannot fail.
    if write!(shown, "{}", humantime::format_rfc3339_seconds(time)).is_err() {
        shown.clear();
    }
    shown.retain(|c| c.is_ascii_digit());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;

    #[test]
    fn what_is_written_is_what_is_read() {
        let zone = records(
            "a.example.",
            "@ 60 TXT \"a \\\"b\\\" \\\\ ; \\000\" c\nX TYPE65280 \\# 2 0102\nw\\.\\@ MX 1 B\n\
             s RRSIG A 13 3 60 20261122074253 20240229235959 1 a.example. AAAA\n\
             _25._tcp TLSA 3 1 1 00ff\nc CAA 0 issue \"x; y=z\"\n",
        );
        let text = text(&zone);
        assert!(text.contains(" 20261122074253 20240229235959 1 "), "{text}");
        assert_eq!(records("other.", &text), zone);
    }
}
