//! Answers taken apart.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use domain::base::iana::Rcode;
use domain::base::{Message, ParsedRecord, Rtype, name::ParsedName};
use domain::rdata::ZoneRecordData;

use crate::client::Question;
use crate::presentation::Shown;

/// What the judges look at in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: Rcode,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    pub(crate) answer: BTreeSet<Shown>,
    pub(crate) authority: BTreeSet<Shown>,
    /// Without the OPT record.
    pub(crate) additional: BTreeSet<Shown>,
    /// A record that is there twice in one section, which RFC 2181 section 5.5 forbids and Knot does at
    /// the end of a loop of aliases.
    pub(crate) doubled: Option<String>,
    /// The octets of the whole message.
    pub(crate) length: usize,
}

impl Answer {
    /// Parses an answer; fails when it is malformed or does not repeat the question octet by octet.
    pub(crate) fn parse(question: &Question, bytes: &[u8]) -> Result<Answer> {
        let message = Message::from_octets(bytes).context("shorter than a header")?;
        let header = message.header();
        ensure!(header.qr(), "not a response");
        ensure!(!header.ra(), "offers recursion");
        let asked = question.section();
        let repeated = bytes.get(12..12 + asked.len());
        ensure!(message.header_counts().qdcount() == 1, "not one question");
        ensure!(repeated == Some(&asked[..]), "the question is not repeated as it was asked");
        let (_, answer, authority, additional) = message.sections().context("malformed")?;
        let mut sections = Vec::new();
        let mut doubled = None;
        for section in [answer, authority, additional] {
            let mut shown = BTreeSet::new();
            for record in section {
                let record: ParsedRecord<'_, &[u8]> = record.context("malformed record")?;
                if record.rtype() == Rtype::OPT {
                    continue;
                }
                let show =
                    show(&record).with_context(|| format!("a malformed {}", record.rtype()))?;
                let text = show.with_ttl();
                if !shown.insert(show) {
                    doubled = Some(text);
                }
            }
            sections.push(shown);
        }
        let [answer, authority, additional] = sections.try_into().ok().context("three sections")?;
        Ok(Answer {
            rcode: header.rcode(),
            authoritative: header.aa(),
            truncated: header.tc(),
            answer,
            authority,
            additional,
            doubled,
            length: bytes.len(),
        })
    }

    /// Whether the answer sends the asker to another name server.
    pub(crate) fn is_referral(&self) -> bool {
        self.authority.iter().any(|record| record.rtype == Rtype::NS)
            && !self.authority.iter().any(|record| record.rtype == Rtype::SOA)
    }

    /// For a reader of a failed test.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{}{}", self.rcode, if self.authoritative { " aa" } else { "" });
        if self.truncated {
            text += " tc";
        }
        let sections = [
            ("answer", &self.answer),
            ("authority", &self.authority),
            ("additional", &self.additional),
        ];
        if let Some(doubled) = &self.doubled {
            text += &format!("\n      twice: {doubled}");
        }
        for (name, section) in sections {
            for record in section {
                text += &format!("\n      {name} {}", record.with_ttl());
            }
        }
        text
    }
}

fn show(record: &ParsedRecord<'_, &[u8]>) -> Result<Shown> {
    let record = record
        .to_record::<ZoneRecordData<&[u8], ParsedName<&[u8]>>>()?
        .context("a type that is not of zones")?;
    Ok(Shown::new(record.owner(), record.rtype(), record.ttl().as_secs(), record.data()))
}
