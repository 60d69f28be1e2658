//! What the authority section of an answer proves to a validating resolver (RFC 4035 section 3.1.3,
//! RFC 5155 section 7.2).

use super::Answer;
use super::writer::{Full, Owner, Section};
use crate::name::{Lower, MAX_OCTETS, sort_key, wildcard_key};
use crate::zone::{Denial, NodeId, Nsec3, Set, rtype};

/// Whose record it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    /// A name of the zone.
    Node(NodeId),
    /// The label of a hash, right below the apex.
    Hash([u8; 33]),
}

impl<'z> Answer<'z, '_> {
    /// That there is no such name, and no wildcard for it.
    pub(super) fn prove_no_name(&mut self, name: &Lower, encloser: usize) {
        if !self.dnssec {
            return;
        }
        match self.zone.denial() {
            Denial::Unsigned => {}
            Denial::Nsec { .. } => {
                self.cover(self.labels_of(name, name.labels()));
                // The key of the wildcard begins as that of the name.
                wildcard_key(encloser - self.zone.apex_labels(), &mut self.scratch.key);
                self.cover_key();
            }
            Denial::Nsec3(nsec3) => {
                let proved = self.prove_encloser(nsec3, name, encloser);
                self.hashed(nsec3.covering(&wildcard(name.suffix(proved))));
            }
        }
    }

    /// That a wildcard was right to answer: there is no name closer than it.
    pub(super) fn prove_no_closer(&mut self, name: &Lower, encloser: usize) {
        if !self.dnssec {
            return;
        }
        match self.zone.denial() {
            Denial::Unsigned => {}
            Denial::Nsec { .. } => self.cover(self.labels_of(name, name.labels())),
            Denial::Nsec3(nsec3) => self.hashed(nsec3.covering(name.suffix(encloser + 1))),
        }
    }

    /// That `node`, which answers for `name`, has nothing of the type; it is a wildcard if there is a
    /// closest encloser.
    pub(super) fn prove_no_type(&mut self, name: &Lower, node: NodeId, encloser: Option<usize>) {
        if !self.dnssec {
            return;
        }
        match self.zone.denial() {
            Denial::Unsigned => {}
            // Of an empty non-terminal the one before it says that the next name is below it.
            Denial::Nsec { .. } => self.cover(self.zone.labels(node)),
            Denial::Nsec3(nsec3) => match encloser {
                Some(encloser) => {
                    self.hashed(nsec3.matching(name.suffix(encloser)));
                    self.hashed(nsec3.matching(&wildcard(name.suffix(encloser))));
                }
                None => match nsec3.matching(name.as_wire()) {
                    Some(found) => self.hashed(Some(found)),
                    // Behind an opt-out there may be none (RFC 5155 section 7.2.4).
                    None => {
                        self.prove_encloser(nsec3, name, name.labels());
                    }
                },
            },
        }
    }

    /// That the zone that begins at `cut`, which has `labels` labels, is not signed.
    pub(super) fn prove_unsigned(&mut self, name: &Lower, labels: usize, cut: NodeId) {
        match self.zone.denial() {
            Denial::Unsigned => {}
            Denial::Nsec { .. } => self.cover(self.zone.labels(cut)),
            Denial::Nsec3(nsec3) => {
                let Some(at) = Lower::read(name.suffix(labels)) else { return };
                match nsec3.matching(at.as_wire()) {
                    Some(found) => self.hashed(Some(found)),
                    None => {
                        self.prove_encloser(nsec3, &at, labels);
                    }
                }
            }
        }
    }

    /// The closest encloser, and that there is nothing closer: how many labels the one that was proved has.
    fn prove_encloser(&mut self, nsec3: &'z Nsec3, name: &Lower, from: usize) -> usize {
        let apex = self.zone.apex_labels();
        let Some((labels, found)) = nsec3.encloser(name, from, apex) else { return apex };
        self.hashed(Some(found));
        if labels < name.labels() {
            self.hashed(nsec3.covering(name.suffix(labels + 1)));
        }
        labels
    }

    /// The NSEC record that matches or covers these labels below the apex.
    fn cover(&mut self, labels: &[u8]) {
        sort_key(labels, &mut self.scratch.key);
        self.cover_key();
    }

    /// The NSEC record that matches or covers the name whose key was made last.
    fn cover_key(&mut self) {
        let Some(node) = self.zone.nsec(&self.scratch.key) else { return };
        if let Some(set) = self.zone.set(node, rtype::NSEC) {
            self.add(Owned::Node(node), set);
        }
    }

    fn hashed(&mut self, found: Option<&'z ([u8; 20], [u8; 33], Set)>) {
        if let Some((_, label, set)) = found {
            self.add(Owned::Hash(*label), set);
        }
    }

    fn add(&mut self, owner: Owned, set: &Set) {
        let proofs = &mut self.scratch.proofs;
        if proofs.iter().all(|(other, _)| *other != owner) {
            proofs.push((owner, *set));
        }
    }

    /// Writes what was gathered.
    pub(super) fn finish_proofs(&mut self) -> Result<(), Full> {
        for at in 0..self.scratch.proofs.len() {
            let (owner, set) = self.scratch.proofs[at];
            let owner = match &owner {
                Owned::Node(node) => Owner::Below(self.zone.labels(*node)),
                Owned::Hash(label) => Owner::Below(label),
            };
            self.put(Section::Authority, owner, &set)?;
        }
        self.scratch.proofs.clear();
        Ok(())
    }

    /// The labels below the apex that the last `labels` labels of `name` begin with.
    fn labels_of<'n>(&self, name: &'n Lower, labels: usize) -> &'n [u8] {
        name.between(self.zone.apex_labels(), labels)
    }
}

/// The wildcard below a name, which has room for one more label: it is closer than the name of a question.
struct Wildcard {
    octets: [u8; MAX_OCTETS + 2],
    len: usize,
}

fn wildcard(name: &[u8]) -> Wildcard {
    let mut octets = [0; MAX_OCTETS + 2];
    octets[..2].copy_from_slice(b"\x01*");
    octets[2..][..name.len()].copy_from_slice(name);
    Wildcard { octets, len: name.len() + 2 }
}

impl std::ops::Deref for Wildcard {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}
