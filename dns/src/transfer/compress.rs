//! Name compression that keeps the case of letters (RFC 1035 section 4.1.4, RFC 5936 section 3.4).
//!
//! `domain`'s compressors take `WWW.Example.org` and `example.org` for the same tail, as the
//! protocol does everywhere else. In a transfer that would rewrite a name's case, and this server
//! hands zones on as they came.

use std::collections::HashMap;
use std::convert::Infallible;

use domain::base::name::ToName;
use domain::base::wire::Composer;
use domain::dep::octseq::builder::{OctetsBuilder, Truncate};

/// Pointers have 14 bits.
const REACH: usize = 0x4000;

/// A message in the making. It must begin at the message's first octet, without a length before it.
#[derive(Debug, Default)]
pub struct ExactCompressor {
    octets: Vec<u8>,
    /// Where each tail of a name begins, by its octets.
    tails: HashMap<Box<[u8]>, u16, foldhash::fast::RandomState>,
}

impl ExactCompressor {
    /// The message.
    pub fn into_octets(self) -> Vec<u8> {
        self.octets
    }
}

impl AsRef<[u8]> for ExactCompressor {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl AsMut<[u8]> for ExactCompressor {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }
}

impl OctetsBuilder for ExactCompressor {
    type AppendError = Infallible;

    fn append_slice(&mut self, slice: &[u8]) -> Result<(), Infallible> {
        self.octets.extend_from_slice(slice);
        Ok(())
    }
}

impl Truncate for ExactCompressor {
    fn truncate(&mut self, length: usize) {
        self.octets.truncate(length);
        if length < REACH {
            self.tails.retain(|_, at| usize::from(*at) < length);
        }
    }
}

impl Composer for ExactCompressor {
    fn append_compressed_name<N: ToName + ?Sized>(&mut self, name: &N) -> Result<(), Infallible> {
        let mut wire = Vec::with_capacity(usize::from(name.compose_len()));
        name.compose(&mut wire)?;
        let mut from = 0;
        // The root is one octet, a pointer two.
        while wire.len() - from > 1 {
            let tail = &wire[from..];
            if let Some(at) = self.tails.get(tail) {
                return self.append_slice(&(at | 0xc000).to_be_bytes());
            }
            let here = self.octets.len();
            if let Some(at) = u16::try_from(here).ok().filter(|_| here < REACH) {
                self.tails.insert(tail.into(), at);
            }
            let next = from + 1 + usize::from(wire[from]);
            self.octets.extend_from_slice(&wire[from..next]);
            from = next;
        }
        self.append_slice(&[0])
    }

    fn can_compress(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Name;

    fn put(out: &mut ExactCompressor, text: &str) {
        let Ok(()) = out.append_compressed_name(&Name::bytes_from_str(text).unwrap());
    }

    #[test]
    fn a_tail_is_shared_only_in_the_same_case() {
        let mut out = ExactCompressor::default();
        for name in ["example.org", "www.example.org", "www.Example.org", "example.org", "."] {
            put(&mut out, name);
        }
        let expected: &[&[u8]] = &[
            b"\x07example\x03org\0",
            b"\x03www\xc0\0",
            b"\x03www\x07Example\xc0\x08",
            b"\xc0\0",
            b"\0",
        ];
        assert_eq!(out.into_octets(), expected.concat());
    }

    #[test]
    fn what_was_cut_off_is_not_pointed_to() {
        let mut out = ExactCompressor::default();
        put(&mut out, "org");
        put(&mut out, "example.org");
        out.truncate(5);
        put(&mut out, "example.org");
        put(&mut out, "example.org");
        assert_eq!(out.into_octets(), b"\x03org\0\x07example\xc0\0\xc0\x05");
    }

    #[test]
    fn beyond_the_reach_of_pointers_nothing_is_remembered() {
        let mut out = ExactCompressor::default();
        let Ok(()) = out.append_slice(&vec![0; REACH]);
        put(&mut out, "example.org");
        put(&mut out, "example.org");
        assert_eq!(out.into_octets().len(), REACH + 2 * 13);
    }
}
