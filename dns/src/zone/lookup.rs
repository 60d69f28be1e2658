//! Finding names: the algorithm of RFC 1034 section 4.3.2 with the wildcards of RFC 4592.

use super::{Kind, NONE, NodeId, Zone, hash};
use crate::name::{self, Lower};

/// What there is for a name within the zone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// The name itself.
    Exact(NodeId),
    /// The name would be in another zone, which begins at or above it.
    Delegated(NodeId),
    /// A name above it has a DNAME.
    Renamed(NodeId),
    /// Not the name, but a wildcard below its closest encloser.
    Wildcard {
        /// The wildcard.
        at: NodeId,
        /// The closest encloser's labels, with those of the apex.
        encloser: NodeId,
    },
    /// Nothing below its closest encloser.
    Missing {
        /// The closest encloser.
        encloser: NodeId,
    },
}

impl Zone {
    /// Labels of the apex.
    pub(crate) fn apex_labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Labels of a node, with those of the apex.
    pub(crate) fn count_labels(&self, id: NodeId) -> usize {
        self.apex_labels() + name::labels(self.labels(id)).count()
    }

    /// What there is for `name`, which is within the zone. A delegation holds for its own name too, unless
    /// `above`: then the parent's side is asked, as for DS (RFC 4035 section 3.1.4.1).
    pub(crate) fn find(&self, name: &Lower, above: bool) -> Found {
        let apex = self.apex_labels();
        let all = name.labels();
        if let Some(id) = self.get(name.between(apex, all)) {
            let node = self.node(id);
            return match (node.cut, node.kind) {
                (NONE, Kind::Delegation) if !above => Found::Delegated(id),
                (NONE, _) => Found::Exact(id),
                (cut, _) => self.cut(NodeId(cut)),
            };
        }
        // From above, as long as there is something: a name of a hundred labels costs no more than others.
        let mut encloser = Self::APEX;
        if self.node(encloser).kind == Kind::Dname {
            return Found::Renamed(encloser);
        }
        for labels in apex + 1..all {
            let Some(id) = self.get(name.between(apex, labels)) else { break };
            if self.node(id).kind != Kind::Plain {
                return self.cut(id);
            }
            encloser = id;
        }
        match self.node(encloser).wildcard {
            NONE => Found::Missing { encloser },
            at => Found::Wildcard { at: NodeId(at), encloser },
        }
    }

    fn cut(&self, id: NodeId) -> Found {
        match self.node(id).kind {
            Kind::Dname => Found::Renamed(id),
            Kind::Delegation | Kind::Plain => Found::Delegated(id),
        }
    }

    /// The node with these labels below the apex, in lower case.
    pub(super) fn get(&self, labels: &[u8]) -> Option<NodeId> {
        if labels.is_empty() {
            return Some(Self::APEX);
        }
        let same = |id: &u32| self.labels(NodeId(*id)).eq_ignore_ascii_case(labels);
        self.index.find(hash(labels), same).map(|id| NodeId(*id))
    }
}
