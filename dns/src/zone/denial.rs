//! Which records prove that something is not there: NSEC (RFC 4034 section 4) or NSEC3 (RFC 5155).

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::{NodeId, Set, Zone};
use crate::name::Lower;

/// How a zone denies.
pub(crate) enum Denial {
    /// It is not signed.
    Unsigned,
    /// The names that have an NSEC record: the keys by which they sort, one after the other, and where
    /// each begins.
    Nsec {
        /// All keys.
        keys: Box<[u8]>,
        /// Where the key of each ends, and its node.
        chain: Box<[(u32, u32)]>,
    },
    /// By hashes.
    Nsec3(Nsec3),
}

/// Most iterations of NSEC3. RFC 9276 wants none (section 3.1) and lets validators take zones with more
/// than a few for unsigned (section 3.2), of which 50 became the usual bound; RFC 5155 section 10.3 allowed
/// far more. Each negative answer costs us as many.
pub const MAX_ITERATIONS: u16 = 50;

/// More iterations than [`MAX_ITERATIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the zone has {0} NSEC3 iterations, more than {MAX_ITERATIONS}; 0 is right (RFC 9276)")]
pub struct TooManyIterations(pub u16);

impl TooManyIterations {
    /// Whether `iterations` are few enough.
    pub(crate) fn check(iterations: u16) -> Result<u16, Self> {
        if iterations > MAX_ITERATIONS { Err(Self(iterations)) } else { Ok(iterations) }
    }
}

/// A chain of NSEC3 records.
pub(crate) struct Nsec3 {
    pub(super) iterations: u16,
    pub(super) salt: Box<[u8]>,
    /// Each hash, the first label of its owner as it came, and its record, in the order of the hashes.
    pub(super) chain: Box<[(Hash, Label, Set)]>,
}

/// A hash of a name (SHA-1, the only one there is: RFC 5155 section 11).
pub(super) type Hash = [u8; 20];
/// A hash in the alphabet of RFC 4648 section 7, with the length of a label before it.
pub(super) type Label = [u8; 33];

impl Zone {
    /// The node whose NSEC record matches or covers a name whose labels below the apex have this key
    /// ([`sort_key`](crate::name::sort_key)): itself, or the nearest before it that has one.
    pub(crate) fn nsec(&self, sought: &[u8]) -> Option<NodeId> {
        let Denial::Nsec { keys, chain } = &self.denial else { return None };
        let begin = |at: usize| at.checked_sub(1).map_or(0, |before| chain[before].0 as usize);
        let (mut low, mut high) = (0, chain.len());
        // Between them are those that are not known yet to be before or behind it.
        while low < high {
            let middle = low + (high - low) / 2;
            if keys[begin(middle)..chain[middle].0 as usize] <= *sought {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // The apex is before all and has one.
        low.checked_sub(1).map(|at| NodeId(chain[at].1))
    }
}

impl Nsec3 {
    /// The hash of a name (RFC 5155 section 5).
    pub(crate) fn hash(&self, lower: &[u8]) -> Hash {
        let mut hash = digest(lower, &self.salt);
        for _ in 0..self.iterations {
            hash = digest(&hash, &self.salt);
        }
        hash
    }

    /// The record whose owner is the hash of `name`.
    pub(crate) fn matching(&self, name: &[u8]) -> Option<&(Hash, Label, Set)> {
        let hash = self.hash(name);
        let at = self.chain.binary_search_by(|(one, ..)| one.cmp(&hash)).ok()?;
        self.chain.get(at)
    }

    /// The record that covers the hash of `name`, which has none of its own.
    pub(crate) fn covering(&self, name: &[u8]) -> Option<&(Hash, Label, Set)> {
        let hash = self.hash(name);
        let behind = self.chain.partition_point(|(one, ..)| *one <= hash);
        // The last one covers what is before the first.
        self.chain[..behind].last().or(self.chain.last())
    }

    /// The closest encloser that can be proved: the longest suffix of `name` of at most `labels` labels
    /// with a record of its own, and how many labels it has (RFC 5155 section 7.2.1).
    pub(crate) fn encloser(
        &self,
        name: &Lower,
        mut labels: usize,
        apex: usize,
    ) -> Option<(usize, &(Hash, Label, Set))> {
        while labels >= apex {
            if let Some(found) = self.matching(name.suffix(labels)) {
                return Some((labels, found));
            }
            labels = labels.checked_sub(1)?;
        }
        None
    }
}

fn digest(of: &[u8], salt: &[u8]) -> Hash {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(of);
    context.update(salt);
    let mut hash = [0; 20];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
