//! The last steps of a zone, kept for secondaries that are not far behind (RFC 1995 section 5). Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::difference::Difference;
use super::query::serial_of;

/// Most steps that are kept of a zone.
pub const MAX_STEPS: usize = 20;
/// Most octets of records that are kept of a zone's steps.
pub const MAX_OCTETS: usize = 1 << 20;

/// The last steps of a zone, for clients that are not far behind.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    steps: VecDeque<(Arc<Difference>, usize)>,
    octets: usize,
}

impl Journal {
    /// Remembers the newest step. What does not continue the steps so far makes them worthless, and
    /// the oldest go when there are too many.
    pub fn push(&mut self, step: Difference) {
        if self.steps.back().is_some_and(|(last, _)| last.to != step.from) {
            self.clear();
        }
        let octets = step.octets();
        self.octets += octets;
        self.steps.push_back((Arc::new(step), octets));
        while self.steps.len() > MAX_STEPS || self.octets > MAX_OCTETS {
            let Some((_, octets)) = self.steps.pop_front() else { break };
            self.octets -= octets;
        }
    }

    /// Forgets all, as after a change that is no step.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.octets = 0;
    }

    /// The steps from the version with this serial to the newest; `None` when that one is not known
    /// any more, or is the newest.
    pub fn since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        let first = self.steps.iter().position(|(step, _)| serial_of(&step.from) == serial)?;
        Some(self.steps.iter().skip(first).map(|(step, _)| step.clone()).collect())
    }

    /// Octets of records that are kept.
    pub fn octets(&self) -> usize {
        self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::transfer::difference::{apply, between};
    use crate::transfer::fixture::zone;

    fn sorted(zone: &[Record]) -> Vec<String> {
        let mut lines: Vec<_> = zone.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_journal_keeps_the_last_steps_and_only_those_that_continue() {
        let mut journal = Journal::default();
        let versions: Vec<_> = (1..=30).map(|serial| zone(serial, serial as usize % 3)).collect();
        for pair in versions.windows(2) {
            journal.push(between(&pair[0], &pair[1]).unwrap());
        }
        assert!(journal.since(9).is_none() && journal.since(30).is_none());
        let steps: Vec<_> =
            journal.since(10).unwrap().iter().map(|step| Difference::clone(step)).collect();
        assert_eq!(steps.len(), MAX_STEPS);
        assert_eq!(sorted(&apply(&versions[9], &steps).unwrap()), sorted(&versions[29]));
        assert_eq!(journal.since(29).unwrap().len(), 1);
        journal.push(between(&zone(40, 1), &zone(41, 2)).unwrap());
        assert!(journal.since(29).is_none());
        assert_eq!(journal.since(40).unwrap().len(), 1);
    }

    #[test]
    fn the_journal_is_bounded_in_octets() {
        let mut journal = Journal::default();
        let (small, large) = (zone(1, 1), zone(2, 5000));
        let step = between(&small, &large).unwrap();
        assert!(step.octets() > MAX_OCTETS);
        journal.push(step);
        assert_eq!(journal.octets(), 0);
        assert!(journal.since(1).is_none());
    }
}
