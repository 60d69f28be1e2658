//! A zone as it is served: compiled once, never changed, and replaced whole. Every name has its place in
//! the tree, every RRset its octets for the wire; no record of it is ever made up or rewritten, but for
//! what the protocol asks to be synthesised (RFC 4592, RFC 6672).

mod compile;
mod denial;
mod lookup;
mod records;
mod set;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

pub use compile::Invalid;
pub(crate) use denial::{Denial, Nsec3};
pub use denial::{MAX_ITERATIONS, TooManyIterations};
pub(crate) use lookup::Found;
pub(crate) use set::{Set, split};

/// A type of records, as the registry of IANA numbers it.
pub mod rtype {
    #![expect(missing_docs, reason = "they are the names of the registry")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const AAAA: u16 = 28;
    pub const DNAME: u16 = 39;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const NSEC3: u16 = 50;
    pub const NSEC3PARAM: u16 = 51;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// No node.
const NONE: u32 = u32::MAX;

/// A compiled zone.
pub struct Zone {
    /// Its name in wire format, in the case in which it came.
    apex: Box<[u8]>,
    /// The same in lower case.
    lower: Box<[u8]>,
    /// Its labels without the root.
    labels: u8,
    serial: u32,
    /// All names in canonical order (RFC 4034 section 6.1), the apex first, empty non-terminals too.
    nodes: Box<[Node]>,
    /// The RRsets of all nodes, each node's together and by their types.
    sets: Box<[Set]>,
    /// The names whose addresses a delegation needs, each delegation's together.
    glue: Box<[u32]>,
    /// The labels of the nodes and the records of the sets.
    octets: Box<[u8]>,
    /// Finds nodes by the labels that they have below the apex, in lower case.
    index: HashTable<u32>,
    /// The SOA as it stands in negative answers (RFC 2308 section 3).
    negative_soa: Set,
    denial: Denial,
    /// In seconds since 1970; 0 when it does not. All else stays as it was compiled.
    expires: AtomicU64,
}

/// A name of the zone.
struct Node {
    /// The labels below the apex, in the case in which they came.
    labels_at: u32,
    labels_len: u8,
    kind: Kind,
    sets_len: u16,
    sets_at: u32,
    /// The nearest name above that is a delegation or has a DNAME: what is here is not of this zone.
    cut: u32,
    /// The wildcard right below.
    wildcard: u32,
    glue_at: u32,
    glue_len: u16,
}

/// What a name is for those that are looked up at it or below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Another zone begins here (RFC 1034 section 4.2.1).
    Delegation,
    /// What is below has another name (RFC 6672).
    Dname,
}

/// One of the names of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

impl Zone {
    /// The name of the zone in wire format, in the case in which it came.
    pub fn apex(&self) -> &[u8] {
        &self.apex
    }

    /// The same in lower case.
    pub fn apex_lower(&self) -> &[u8] {
        &self.lower
    }

    /// The serial number of its SOA.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Says when it expires, in seconds since 1970: as a secondary has it, and after each refresh anew.
    pub fn set_expires(&self, expires: u64) {
        self.expires.store(expires, Relaxed);
    }

    /// Seconds until it expires, for EDNS EXPIRE (RFC 7314); `None` when it does not.
    pub fn expires_in(&self, now: u64) -> Option<u32> {
        let expires = self.expires.load(Relaxed);
        (expires > 0).then(|| u32::try_from(expires.saturating_sub(now)).unwrap_or(u32::MAX))
    }

    /// Whether it delegates a name below it: one in wire format and in lower case that ends with its own.
    pub fn delegates(&self, name: &[u8]) -> bool {
        let labels = name.len().checked_sub(self.lower.len()).map(|octets| &name[..octets]);
        labels.and_then(|labels| self.get(labels)).is_some_and(|id| {
            let node = self.node(id);
            node.kind == Kind::Delegation && node.cut == NONE
        })
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The labels of a node below the apex, in the case in which they came.
    pub(crate) fn labels(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        &self.octets[node.labels_at as usize..][..usize::from(node.labels_len)]
    }

    /// The RRsets of a node, by type.
    pub(crate) fn sets(&self, id: NodeId) -> &[Set] {
        let node = self.node(id);
        &self.sets[node.sets_at as usize..][..usize::from(node.sets_len)]
    }

    /// The RRset of a type, if the node has one.
    pub(crate) fn set(&self, id: NodeId, rtype: u16) -> Option<&Set> {
        self.sets(id).iter().find(|set| set.rtype() == rtype)
    }

    pub(crate) fn is_delegation(&self, id: NodeId) -> bool {
        self.node(id).kind == Kind::Delegation
    }

    /// The names whose addresses a delegation needs.
    pub(crate) fn glue(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let node = self.node(id);
        self.glue[node.glue_at as usize..][..usize::from(node.glue_len)]
            .iter()
            .map(|id| NodeId(*id))
    }

    /// Whether a name is at or below a delegation, and `id` is that delegation.
    pub(crate) fn is_below(&self, name: NodeId, id: NodeId) -> bool {
        name == id || self.node(name).cut == id.0
    }

    pub(crate) fn negative_soa(&self) -> &Set {
        &self.negative_soa
    }

    pub(crate) fn denial(&self) -> &Denial {
        &self.denial
    }

    pub(crate) const APEX: NodeId = NodeId(0);
}

/// How labels are hashed: with a key of this process, so that nobody can choose names that collide.
fn hash(lower: &[u8]) -> u64 {
    use std::hash::BuildHasher;
    use std::sync::LazyLock;
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    STATE.hash_one(lower)
}
