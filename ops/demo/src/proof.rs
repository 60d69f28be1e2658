//! The proof that the relay never had the message: looking for its words where they must not be,
//! and for other words where they must be, so that finding nothing means something.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::memory;
use crate::search::Search;
use crate::tap::Capture;

/// A word that must be found, or else the search itself is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Control {
    /// The word.
    pub(crate) word: String,
    /// How often it was found.
    pub(crate) hits: u64,
}

/// What a search of one place gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Bytes looked at.
    pub(crate) bytes: u64,
    /// How often marker words of the message were found there.
    pub(crate) hits: u64,
    /// How many different ones.
    pub(crate) words: usize,
    /// Positive controls.
    pub(crate) controls: Vec<Control>,
    /// Bytes that passed but had no room in the recording.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) missed: u64,
    /// Why nothing could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unread: Option<String>,
}

/// The whole proof.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Proof {
    /// Marker words in the message.
    pub(crate) words: usize,
    /// Everything between the sender and the relay.
    pub(crate) smtp: Finding,
    /// Everything between the relay and the agent.
    pub(crate) tunnel: Finding,
    /// The relay's writable memory while the session was open, the message just carried.
    pub(crate) memory: Finding,
    /// The sink's memory at the same moment. It has opened the letter, so this shows what the
    /// search of a process that knows the message looks like. Not part of the verdict: what a
    /// process has freed may be gone.
    pub(crate) home_memory: Option<Finding>,
    /// The file in the Maildir; none with a real mail server.
    pub(crate) maildir: Option<Finding>,
}

impl Finding {
    /// Nothing of the message is there, all controls are, and nothing was left out.
    pub(crate) fn is_clean(&self) -> bool {
        let controlled = self.controls.iter().all(|control| control.hits > 0);
        self.bytes > 0 && self.hits == 0 && self.missed == 0 && self.unread.is_none() && controlled
    }
}

impl Finding {
    /// The same for memory, where one control is enough: the relay is free to forget a name that
    /// it no longer needs.
    fn is_clean_as_memory(&self) -> bool {
        self.bytes > 0 && self.hits == 0 && self.controls.iter().any(|control| control.hits > 0)
    }
}

impl Proof {
    /// Whether the message was sealed. Memory that could not be read proves nothing either way;
    /// the bytes on both sides of the relay are enough.
    pub(crate) fn is_sealed(&self) -> bool {
        // The tunnel is encrypted as a whole, so no word can serve as its control: it must have
        // carried at least what the sender's connection carried.
        let carried = self.tunnel.bytes >= self.smtp.bytes;
        let memory = self.memory.unread.is_some() || self.memory.is_clean_as_memory();
        let home = self.maildir.as_ref().is_none_or(|file| file.words == self.words);
        self.words > 0
            && self.smtp.is_clean()
            && self.tunnel.is_clean()
            && carried
            && memory
            && home
    }
}

/// Searches what a tap has recorded.
pub(crate) fn in_capture(capture: &Capture, markers: &[String], controls: &[&str]) -> Finding {
    let mut search = begin(markers, controls);
    let (streams, missed) = capture.streams();
    for stream in streams {
        search.gap();
        search.feed(&stream);
    }
    Finding { missed, ..finding(&search, markers, controls) }
}

/// Searches the memory of a running process.
pub(crate) fn in_memory(pid: u32, markers: &[String], controls: &[&str]) -> Finding {
    let mut search = begin(markers, controls);
    match memory::search(pid, &mut search) {
        Ok(()) => finding(&search, markers, controls),
        Err(error) => Finding { unread: Some(error.to_string()), ..Finding::default() },
    }
}

/// Searches a file.
pub(crate) fn in_file(path: &Path, markers: &[String]) -> io::Result<Finding> {
    let mut search = begin(markers, &[]);
    search.feed(&std::fs::read(path)?);
    Ok(finding(&search, markers, &[]))
}

fn begin<'a>(markers: &'a [String], controls: &[&'a str]) -> Search<'a> {
    Search::new(markers.iter().map(String::as_str).chain(controls.iter().copied()))
}

fn finding(search: &Search<'_>, markers: &[String], controls: &[&str]) -> Finding {
    let mut counts = search.counts();
    let found: Vec<u64> = counts.by_ref().take(markers.len()).collect();
    let controls = controls
        .iter()
        .zip(counts)
        .map(|(word, hits)| Control { word: (*word).to_owned(), hits })
        .collect();
    Finding {
        bytes: search.bytes(),
        hits: found.iter().sum(),
        words: found.iter().filter(|hits| **hits > 0).count(),
        controls,
        missed: 0,
        unread: None,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::Direction;

    fn markers() -> Vec<String> {
        vec!["marigold".to_owned(), "buttercup".to_owned()]
    }

    fn clean(bytes: u64) -> Finding {
        Finding { bytes, ..Finding::default() }
    }

    #[test]
    fn finds_a_leak_in_a_capture() {
        let capture = Capture::default();
        capture.bytes(0, Direction::ToRelay, b"EHLO sender.example\r\nSubject: butter");
        let sealed = in_capture(&capture, &markers(), &["sender.example"]);
        assert!(sealed.is_clean(), "{sealed:?}");
        capture.bytes(0, Direction::ToRelay, b"cup\r\n");
        let leaked = in_capture(&capture, &markers(), &["sender.example"]);
        assert_eq!(leaked.hits, 1);
        assert!(!leaked.is_clean());
    }

    #[test]
    fn believes_no_search_whose_control_fails() {
        let capture = Capture::default();
        capture.bytes(0, Direction::ToRelay, b"EHLO another.example\r\n");
        assert!(!in_capture(&capture, &markers(), &["sender.example"]).is_clean());
        assert!(!in_capture(&Capture::default(), &markers(), &[]).is_clean());
    }

    #[test]
    fn judges_the_whole() {
        let proof = Proof {
            words: 2,
            smtp: clean(100),
            tunnel: clean(200),
            memory: Finding { unread: Some("not allowed".into()), ..Finding::default() },
            home_memory: None,
            maildir: Some(Finding { words: 2, ..clean(50) }),
        };
        assert!(proof.is_sealed());
        let control = |hits| Control { word: "x".into(), hits };
        let read = Finding { controls: vec![control(0), control(1)], ..clean(50) };
        let leaked = Finding { hits: 1, ..read.clone() };
        let blind = Finding { controls: vec![control(0)], ..clean(50) };
        for (memory, sealed) in [(read, true), (leaked, false), (blind, false)] {
            let proof = Proof { memory, ..proof.clone() };
            assert_eq!(proof.is_sealed(), sealed, "{:?}", proof.memory);
        }
        assert!(!Proof { tunnel: clean(99), ..proof.clone() }.is_sealed());
        let partial = Finding { missed: 1, ..clean(200) };
        assert!(!Proof { tunnel: partial, ..proof.clone() }.is_sealed());
        assert!(!Proof { maildir: Some(clean(50)), ..proof }.is_sealed());
    }
}
