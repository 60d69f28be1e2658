//! What a query asks: the header, the one question and EDNS of a message (RFC 1035 section 4,
//! RFC 6891). Pure; nothing is copied but the name.

use crate::name::Lower;

/// Octets of a header.
pub const HEADER: usize = 12;

/// OPT (RFC 6891).
const OPT: u16 = 41;
/// TSIG (RFC 8945).
const TSIG: u16 = 250;
/// The option of EDNS that carries a cookie (RFC 7873).
const COOKIE: u16 = 10;
/// The option of EDNS that asks how long a zone lasts (RFC 7314).
const EXPIRE: u16 = 9;

/// A query that can be answered.
pub struct Query<'a> {
    /// Its octets from the beginning to the end of the question.
    pub head: &'a [u8],
    /// The name that is asked for.
    pub name: Lower,
    /// The type of records that is asked for.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// What the client says of itself, if it speaks EDNS.
    pub edns: Option<Edns<'a>>,
    /// It is signed by a TSIG record.
    pub signed: bool,
}

/// What a client says of itself by EDNS.
#[derive(Clone, Copy)]
pub struct Edns<'a> {
    /// Octets of the largest datagram that it takes.
    pub payload: u16,
    /// The version that it speaks.
    pub version: u8,
    /// It wants signatures (the DO bit, RFC 3225).
    pub dnssec: bool,
    /// Its cookie: 8 octets of its own, and those of ours behind (RFC 7873).
    pub cookie: Option<&'a [u8]>,
    /// It wants to know how long the zone lasts (RFC 7314).
    pub expire: bool,
}

/// Why there is nothing to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Not {
    /// Too short for a header, or an answer itself: there is nobody to tell.
    Query,
    /// A header and something that is not a question (FORMERR).
    WellFormed,
    /// Another kind of message: NOTIFY, UPDATE or one that nobody knows, by its opcode.
    Asking(u8),
}

/// The kind of a message: the opcode of its header, if there is one.
fn opcode(message: &[u8]) -> Option<u8> {
    Some(message.get(2)? >> 3 & 0xf)
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

impl<'a> Query<'a> {
    /// Reads `message`.
    pub fn parse(message: &'a [u8]) -> Result<Self, Not> {
        const RESPONSE: u8 = 0x80;
        if message.len() < HEADER || message[2] & RESPONSE != 0 {
            return Err(Not::Query);
        }
        match opcode(message) {
            Some(0) => Self::question(message).ok_or(Not::WellFormed),
            other => Err(Not::Asking(other.unwrap_or(0))),
        }
    }

    fn question(message: &'a [u8]) -> Option<Self> {
        let count = |at| u16_at(message, at);
        let (questions, answers) = (count(4)?, count(6)?);
        let (authorities, additional) = (count(8)?, count(10)?);
        if questions != 1 || answers != 0 {
            return None;
        }
        let name = Lower::read(&message[HEADER..])?;
        let asked = HEADER + name.as_wire().len();
        let (rtype, class) = (u16_at(message, asked)?, u16_at(message, asked + 2)?);
        let mut at = asked + 4;
        let mut query =
            Self { head: &message[..at], name, rtype, class, edns: None, signed: false };
        // Of an IXFR (RFC 1995 section 3); whoever reads that reads it again.
        for _ in 0..authorities {
            at = Extra::read(message, at)?.end;
        }
        for _ in 0..additional {
            let extra = Extra::read(message, at)?;
            match extra.rtype {
                OPT if query.edns.is_some() || !extra.root => return None,
                OPT => query.edns = Some(Edns::read(&extra)?),
                TSIG if extra.end != message.len() => return None,
                TSIG => query.signed = true,
                _ => {}
            }
            at = extra.end;
        }
        (at == message.len()).then_some(query)
    }

    /// Whether signatures are wanted.
    pub fn dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec)
    }
}

/// A record that comes with a question.
struct Extra<'a> {
    root: bool,
    rtype: u16,
    class: u16,
    ttl: [u8; 4],
    data: &'a [u8],
    end: usize,
}

impl<'a> Extra<'a> {
    fn read(message: &'a [u8], at: usize) -> Option<Self> {
        let owner = owner_len(message, at)?;
        let fixed = at + owner;
        let length = usize::from(u16_at(message, fixed + 8)?);
        let data = message.get(fixed + 10..fixed + 10 + length)?;
        Some(Self {
            root: owner == 1,
            rtype: u16_at(message, fixed)?,
            class: u16_at(message, fixed + 2)?,
            ttl: message.get(fixed + 4..fixed + 8)?.try_into().ok()?,
            data,
            end: fixed + 10 + length,
        })
    }
}

/// Octets of an owner's name at `at`, which may end with a pointer.
fn owner_len(message: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        match *message.get(end)? {
            0 => return Some(end + 1 - at),
            length if length >= 0xc0 => return Some(end + 2 - at),
            length if length < 0x40 => end += 1 + usize::from(length),
            _ => return None,
        }
    }
}

impl<'a> Edns<'a> {
    fn read(record: &Extra<'a>) -> Option<Self> {
        const DO: u8 = 0x80;
        let [_, version, flags, _] = record.ttl;
        let mut edns = Self {
            payload: record.class,
            version,
            dnssec: flags & DO != 0,
            cookie: None,
            expire: false,
        };
        let mut rest = record.data;
        while !rest.is_empty() {
            let (code, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
            let value = rest.get(4..4 + length)?;
            match code {
                // RFC 7873 section 5.2.2: other lengths are malformed.
                COOKIE if !(length == 8 || (16..=40).contains(&length)) => return None,
                COOKIE if edns.cookie.is_none() => edns.cookie = Some(value),
                EXPIRE => edns.expire = true,
                _ => {}
            }
            rest = &rest[4 + length..];
        }
        Some(edns)
    }
}
