//! What a store keeps beside a zone, so that signatures are checked once in a zone's life and not
//! at each start: a signature costs as much as a thousand comparisons.

use aws_lc_rs::digest::{Context, SHA256};

use crate::record::Name;

use super::Trust;
use super::content::Content;

/// Raised when the checks of signatures change, so that zones which were sealed by an older program
/// are verified anew.
const RULES: &[u8] = b"sealpost admission 1\0";

/// A digest of a zone whose signatures were all verified, with the pinned keys that it was verified
/// by. It says nothing of time: when signatures end is looked at on each admission.
///
/// It is a plain SHA-256 over what was verified. Who can write the store's folder can make one, and
/// could as well replace the program; what it must withstand is a disk that errs and a zone that
/// changes. Order and case of names do not count, as the signatures do not cover them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal([u8; Self::OCTETS]);

impl Seal {
    /// Length of a seal.
    pub const OCTETS: usize = 32;

    /// The seal as a store keeps it.
    pub fn as_octets(&self) -> &[u8; Self::OCTETS] {
        &self.0
    }

    /// A seal as it was kept.
    pub fn from_octets(octets: [u8; Self::OCTETS]) -> Self {
        Self(octets)
    }

    pub(super) fn of(apex: &Name, content: &Content<'_>, trust: &Trust) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(RULES);
        digest.update(&super::order::key(apex.for_slice()));
        // All that follows is of fixed length or led by its length, so that nothing can be moved
        // from one part to another.
        let (kind, mut pinned) = trust.octets();
        pinned.sort_unstable();
        digest.update(&[0, kind]);
        digest.update(&u64::try_from(pinned.len()).unwrap_or(u64::MAX).to_be_bytes());
        for rdata in &pinned {
            digest.update(&u64::try_from(rdata.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(rdata);
        }
        let mut octets = Vec::new();
        for entry in content.entries() {
            octets.clear();
            octets.extend_from_slice(entry.owner());
            octets.extend_from_slice(&entry.fixed(entry.ttl()));
            octets.extend_from_slice(entry.rdata());
            digest.update(&octets);
        }
        let mut seal = [0; Self::OCTETS];
        seal.copy_from_slice(digest.finish().as_ref());
        Self(seal)
    }
}
