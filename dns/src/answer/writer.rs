//! The octets of a message, within their bound.

use crate::zone::{Set, Zone, rtype, split};

/// There is no room for what must be in the message.
#[derive(Debug)]
pub(super) struct Full;

/// A section of a message behind the question.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Whose records they are.
#[derive(Clone, Copy)]
pub(super) enum Owner<'a> {
    /// The name that was asked for, written as it was asked (which resolvers compare).
    Question,
    /// These labels below the apex.
    Below(&'a [u8]),
}

/// How it went (RFC 1035 section 4.1.1, RFC 2136, RFC 6895). Those above 15 need EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the names of the registry")]
#[repr(u16)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    YxDomain = 6,
    NotAuth = 9,
    BadVers = 16,
    BadCookie = 23,
}

/// What the header says of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// The zone is here.
    pub authoritative: bool,
    /// There is more than would fit.
    pub truncated: bool,
    /// How it went.
    pub rcode: Rcode,
}

/// A pointer to the name of the question.
const QUESTION: [u8; 2] = [0xc0, 12];

pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    most: usize,
    /// A pointer to the apex, which the name of the question ends with.
    apex: [u8; 2],
    counts: [u16; 3],
}

impl<'o> Writer<'o> {
    /// Behind the question in `out`, whose name has the apex at `apex_at`, up to `most` octets.
    pub(super) fn new(out: &'o mut Vec<u8>, most: usize, apex_at: usize) -> Self {
        let apex = (0xc000 | apex_at as u16).to_be_bytes();
        Self { out, most, apex, counts: [0; 3] }
    }

    /// Forgets all but the first `len` octets.
    pub(super) fn empty(&mut self, len: usize) {
        self.out.truncate(len);
        self.counts = [0; 3];
        self.write_counts();
    }

    pub(super) fn write_counts(&mut self) {
        for (place, count) in self.out[6..12].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    /// An RRset whole or not at all.
    pub(super) fn put(
        &mut self,
        section: Section,
        zone: &Zone,
        owner: Owner<'_>,
        set: &Set,
        signatures: bool,
    ) -> Result<(), Full> {
        let begin = self.out.len();
        let mut pointers = set.pointers(zone).peekable();
        // Where the octets of the set are in the zone; its pointers are counted from there.
        let mut from = 0;
        let mut again = None;
        for record in split(set.records(zone)) {
            self.put_owner(owner, &mut again);
            let to = self.out.len();
            self.out.extend_from_slice(record);
            while let Some(pointer) = pointers.next_if(|pointer| *pointer < from + record.len()) {
                let place = to + pointer - from;
                self.out[place..place + 2].copy_from_slice(&self.apex);
            }
            from += record.len();
        }
        let mut count = set.count();
        if signatures {
            for record in split(set.signature_records(zone)) {
                self.put_owner(owner, &mut again);
                self.out.extend_from_slice(record);
            }
            count += set.signatures();
        }
        self.counted(section, begin, count)
    }

    /// The signatures of an RRset alone.
    pub(super) fn put_signatures(
        &mut self,
        section: Section,
        zone: &Zone,
        owner: Owner<'_>,
        set: &Set,
    ) -> Result<(), Full> {
        let begin = self.out.len();
        let mut again = None;
        for record in split(set.signature_records(zone)) {
            self.put_owner(owner, &mut again);
            self.out.extend_from_slice(record);
        }
        self.counted(section, begin, set.signatures())
    }

    /// A CNAME that a DNAME makes (RFC 6672 section 3.1).
    pub(super) fn put_cname(
        &mut self,
        owner: Owner<'_>,
        ttl: u32,
        target: &[u8],
    ) -> Result<(), Full> {
        const IN: u16 = 1;
        let begin = self.out.len();
        self.put_owner(owner, &mut None);
        self.out.extend(rtype::CNAME.to_be_bytes());
        self.out.extend(IN.to_be_bytes());
        self.out.extend(ttl.to_be_bytes());
        self.out.extend((target.len() as u16).to_be_bytes());
        self.out.extend_from_slice(target);
        self.counted(Section::Answer, begin, 1)
    }

    /// Writes the owner, the second time as a pointer to the first.
    fn put_owner(&mut self, owner: Owner<'_>, again: &mut Option<[u8; 2]>) {
        /// What a pointer can point to.
        const FARTHEST: usize = 0x3fff;
        match (owner, *again) {
            (Owner::Question, _) => self.out.extend(QUESTION),
            (Owner::Below(&[]), _) => self.out.extend(self.apex),
            (_, Some(pointer)) => self.out.extend(pointer),
            (Owner::Below(labels), None) => {
                let at = self.out.len();
                if at <= FARTHEST {
                    *again = Some((0xc000 | at as u16).to_be_bytes());
                }
                self.out.extend_from_slice(labels);
                self.out.extend(self.apex);
            }
        }
    }

    fn counted(&mut self, section: Section, begin: usize, count: u16) -> Result<(), Full> {
        if self.out.len() > self.most {
            self.out.truncate(begin);
            return Err(Full);
        }
        self.counts[section as usize] += count;
        Ok(())
    }
}

/// Says in the header of `out`, which begins as the query does, how it went. What the client said of
/// recursion and of checking is kept (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6).
pub(super) fn set_flags(out: &mut [u8], flags: Flags) {
    const RESPONSE: u8 = 0x80;
    const AUTHORITATIVE: u8 = 0x04;
    const TRUNCATED: u8 = 0x02;
    const KEPT: u8 = 0x79;
    const CHECKING_DISABLED: u8 = 0x10;
    let [first, second] = [out[2], out[3]];
    out[2] = first & KEPT
        | RESPONSE
        | if flags.authoritative { AUTHORITATIVE } else { 0 }
        | if flags.truncated { TRUNCATED } else { 0 };
    out[3] = second & CHECKING_DISABLED | (flags.rcode as u16 & 0xf) as u8;
}

/// Puts the EDNS record (RFC 6891 section 6.1.2) at the end of `out`: the upper bits of `rcode`, whether
/// signatures were wanted, and `options` in wire format.
pub fn finish(out: &mut Vec<u8>, payload: u16, rcode: Rcode, dnssec: bool, options: &[u8]) {
    const OPT: u16 = 41;
    out.push(0);
    out.extend(OPT.to_be_bytes());
    out.extend(payload.to_be_bytes());
    out.extend([(rcode as u16 >> 4) as u8, 0, if dnssec { 0x80 } else { 0 }, 0]);
    out.extend((options.len() as u16).to_be_bytes());
    out.extend_from_slice(options);
    let count = u16::from_be_bytes([out[10], out[11]]) + 1;
    out[10..12].copy_from_slice(&count.to_be_bytes());
}

/// Writes an answer of the header and the question alone.
pub fn plain(head: &[u8], flags: Flags, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(head);
    out[6..12].fill(0);
    set_flags(out, flags);
}

/// Leaves of an answer the header and the question, which end at `head`, and says that there is more.
pub fn truncate(out: &mut Vec<u8>, head: usize) {
    const TRUNCATED: u8 = 0x02;
    out.truncate(head);
    out[6..12].fill(0);
    out[2] |= TRUNCATED;
}
