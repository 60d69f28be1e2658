//! The relay's own key, and how it passes on to the next one.
//!
//! The old key signs that the new one takes its place. These handovers are kept and given to
//! whoever asks, so that a box that was away for long, or an invite that was sent before, still
//! finds its way from the key that it knows. The old private key is not needed for that and goes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sealpost_tunnel::handover::{MAX_CHAIN, Purpose, follows};
use sealpost_tunnel::{Handover, Identity, PublicKey, private_file};

/// The key that is in use, and the way to it from former ones.
#[derive(Debug, Clone)]
pub struct RelayKey {
    /// What the relay proves.
    pub identity: Identity,
    handovers: Vec<Handover>,
}

/// The file with the relay's identity.
pub fn key_path(state: &Path) -> PathBuf {
    state.join("relay.key")
}

fn next_path(state: &Path) -> PathBuf {
    state.join("relay.key.next")
}

fn handovers_path(state: &Path) -> PathBuf {
    state.join("relay.handovers")
}

impl RelayKey {
    /// Reads the key in `state`, or makes one there.
    pub fn load_or_create(state: &Path) -> anyhow::Result<Self> {
        let identity = Identity::load_or_create(&key_path(state))?;
        Ok(Self { identity, handovers: read_handovers(&handovers_path(state))? })
    }

    /// Puts a new key in the place of the present one. Cut off at any moment, it can be repeated.
    pub fn rotate(state: &Path) -> anyhow::Result<Self> {
        let now = Self::load_or_create(state)?;
        let next = Identity::load_or_create(&next_path(state))?;
        let mut handovers = now.handovers;
        let (from, to) = (now.identity.public(), next.public());
        if !handovers.iter().any(|handover| (handover.from, handover.to) == (from, to)) {
            // What led to a key that never came into use leads nowhere.
            handovers.retain(|handover| handover.from != from);
            handovers.push(Handover::sign(Purpose::RelayKey, &now.identity, to, None));
        }
        if handovers.len() > MAX_CHAIN {
            handovers.drain(..handovers.len() - MAX_CHAIN);
        }
        let text = serde_json::to_vec_pretty(&handovers)?;
        let path = handovers_path(state);
        private_file::replace(&path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?;
        // Only now: a key that nobody was told of must not be in use.
        std::fs::rename(next_path(state), key_path(state)).context("cannot replace relay.key")?;
        Ok(Self { identity: next, handovers })
    }

    /// The handovers that lead from `from` to the key in use; none if none do.
    pub fn succession(&self, from: PublicKey) -> Vec<Handover> {
        let start = self.handovers.iter().position(|handover| handover.from == from);
        let chain = start.map_or(&[][..], |start| &self.handovers[start..]);
        if follows(from, chain, self.identity.public()) { chain.to_vec() } else { Vec::new() }
    }
}

fn read_handovers(path: &Path) -> anyhow::Result<Vec<Handover>> {
    let Some(text) =
        private_file::read(path).with_context(|| format!("cannot read {}", path.display()))?
    else {
        return Ok(Vec::new());
    };
    let Ok(handovers) = serde_json::from_slice::<Vec<Handover>>(&text) else {
        bail!(
            "{} is damaged; restore it from a backup, or move it away: boxes that know an older \
             key of this relay alone must then be told the new one by hand",
            path.display()
        );
    };
    Ok(handovers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knows_any_former_key_finds_the_present_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut former = vec![RelayKey::load_or_create(dir.path()).unwrap().identity.public()];
        for _ in 0..5 {
            former.push(RelayKey::rotate(dir.path()).unwrap().identity.public());
        }
        let now = RelayKey::load_or_create(dir.path()).unwrap();
        let present = now.identity.public();
        assert_eq!(former.pop(), Some(present));
        for key in former {
            assert!(follows(key, &now.succession(key), present));
            assert!(!now.succession(key).is_empty());
        }
        assert!(now.succession(Identity::ephemeral().public()).is_empty());
        assert!(now.succession(present).is_empty());
    }

    #[test]
    fn a_rotation_that_was_cut_off_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let first = RelayKey::load_or_create(dir.path()).unwrap().identity.public();
        // All was done but the last step.
        let kept = std::fs::read(key_path(dir.path())).unwrap();
        let second = RelayKey::rotate(dir.path()).unwrap().identity.public();
        std::fs::rename(key_path(dir.path()), next_path(dir.path())).unwrap();
        private_file::create(&key_path(dir.path()), &kept).unwrap();
        let again = RelayKey::load_or_create(dir.path()).unwrap();
        assert_eq!(again.identity.public(), first);
        let done = RelayKey::rotate(dir.path()).unwrap();
        assert_eq!((done.identity.public(), done.handovers.len()), (second, 1));
    }
}
