//! The keys of this box: the one in use, and the one that is to take its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use arc_swap::ArcSwap;
use sealpost_tunnel::identity::IdentityError;
use sealpost_tunnel::{Identity, PublicKey, private_file};
use tracing::warn;

/// The file with the key in use.
pub fn key_path(state: &Path) -> PathBuf {
    state.join("agent.key")
}

/// The file with the key that some relays know already while a rotation is not finished.
pub fn next_key_path(state: &Path) -> PathBuf {
    state.join("agent.key.next")
}

/// Which key to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// The one in use.
    #[default]
    Present,
    /// The one that is to take its place; as [`Which::Present`] when there is none.
    Next,
}

impl Which {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Present => Self::Next,
            Self::Next => Self::Present,
        }
    }
}

/// The keys as a running agent uses them: read at each dial, so that a rotation needs no restart.
pub struct Keys {
    state: PathBuf,
    last: ArcSwap<Identity>,
}

impl Keys {
    /// Reads the key in `state`, or makes one there.
    pub fn open(state: &Path) -> Result<Self, IdentityError> {
        let last = ArcSwap::from_pointee(Identity::load_or_create(&key_path(state))?);
        Ok(Self { state: state.into(), last })
    }

    /// The public half of this box's recovery kit, where one was made.
    pub fn kit(&self) -> Option<PublicKey> {
        recovery(&self.state).ok().flatten()
    }

    /// The key to prove now. A file that was lost or cannot be read while the agent runs does not
    /// stop mail: the key that was read last goes on.
    pub fn read(&self, which: Which) -> Arc<Identity> {
        match read(&self.state, which) {
            Ok(Some(identity)) => self.last.store(Arc::new(identity)),
            Ok(None) => {
                let path = key_path(&self.state);
                warn!(path = %path.display(), "the key file is gone; its key is used until the end");
            }
            Err(error) => warn!(%error, "the key that was read before is used"),
        }
        self.last.load_full()
    }

    /// All keys that relays may know: in the middle of a rotation there are two.
    pub fn all(&self) -> Vec<PublicKey> {
        let next = read(&self.state, Which::Next).ok().flatten().map(|key| key.public());
        let present = read(&self.state, Which::Present).ok().flatten().map(|key| key.public());
        let mut all = vec![present.unwrap_or_else(|| self.last())];
        all.extend(next.filter(|next| !all.contains(next)));
        all
    }

    /// The key that was proved last.
    pub fn last(&self) -> PublicKey {
        self.last.load().public()
    }
}

/// Reads a key of the box whose directory is `state`; `None` when it has none.
pub fn read(state: &Path, which: Which) -> Result<Option<Identity>, IdentityError> {
    if which == Which::Next
        && let Some(next) = Identity::load(&next_key_path(state))?
    {
        return Ok(Some(next));
    }
    Identity::load(&key_path(state))
}

/// The key that is to take the place of the present one: of a rotation that was not finished, or a
/// fresh one.
pub fn next(state: &Path) -> Result<Identity, IdentityError> {
    Identity::load_or_create(&next_key_path(state))
}

/// Puts the next key in the place of the present one, for good.
pub fn promote(state: &Path) -> io::Result<()> {
    fs::rename(next_key_path(state), key_path(state))?;
    fs::File::open(state)?.sync_all()
}

/// Why there is no key to recover with.
#[derive(Debug, thiserror::Error)]
pub enum FreshKeyError {
    /// There is one already, from elsewhere.
    #[error(
        "{} is there already, so this box is not bare. A key that others may have should not be \
         used again: move the file away, then recover",
        .0.display()
    )]
    NotBare(PathBuf),
    /// The key cannot be made or read.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// What belongs to it cannot.
    #[error(transparent)]
    Public(#[from] PublicFileError),
}

/// A fresh key for a bare box; or the one that an earlier attempt to recover made there.
pub fn fresh(state: &Path) -> Result<Identity, FreshKeyError> {
    let path = key_path(state);
    let made = state.join("recovered.pub");
    let Some(found) = Identity::load(&path)? else {
        let fresh = Identity::create(&path)?;
        keep_public(&made, fresh.public())?;
        return Ok(fresh);
    };
    match read_public(&made)? {
        Some(public) if public == found.public() => Ok(found),
        _ => Err(FreshKeyError::NotBare(path)),
    }
}

/// Why a file with a public key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {reason}", path.display())]
pub struct PublicFileError {
    path: PathBuf,
    reason: String,
}

/// The public half of this box's recovery key, when its owner made a kit.
pub fn recovery(state: &Path) -> Result<Option<PublicKey>, PublicFileError> {
    read_public(&recovery_path(state))
}

/// Keeps the public half of this box's recovery key, so that relays joined later hear of it.
pub fn keep_recovery(state: &Path, key: PublicKey) -> Result<(), PublicFileError> {
    keep_public(&recovery_path(state), key)
}

fn recovery_path(state: &Path) -> PathBuf {
    state.join("recovery.pub")
}

fn read_public(path: &Path) -> Result<Option<PublicKey>, PublicFileError> {
    let error = |reason: String| PublicFileError { path: path.into(), reason };
    let Some(content) = private_file::read(path).map_err(|e| error(e.to_string()))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    text.trim().parse().map(Some).map_err(|e| error(format!("{e}")))
}

fn keep_public(path: &Path, key: PublicKey) -> Result<(), PublicFileError> {
    private_file::replace(path, format!("{key}\n").as_bytes())
        .map_err(|e| PublicFileError { path: path.into(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_agent_sees_a_new_key_and_survives_a_lost_one() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let first = keys.last();
        assert_eq!(keys.read(Which::Next).public(), first, "there is no other");
        let next = Identity::create(&next_key_path(dir.path())).unwrap().public();
        assert_eq!(keys.read(Which::Next).public(), next);
        assert_eq!(keys.read(Which::Present).public(), first);
        std::fs::rename(next_key_path(dir.path()), key_path(dir.path())).unwrap();
        assert_eq!(keys.read(Which::Present).public(), next);
        std::fs::remove_file(key_path(dir.path())).unwrap();
        assert_eq!(keys.read(Which::Present).public(), next);
        assert_eq!(keys.last(), next);
    }

    #[test]
    fn a_bare_box_gets_one_fresh_key_and_another_box_none() {
        let dir = tempfile::tempdir().unwrap();
        let first = fresh(dir.path()).unwrap().public();
        assert_eq!(fresh(dir.path()).unwrap().public(), first, "a second attempt");
        next(dir.path()).unwrap();
        promote(dir.path()).unwrap();
        assert!(matches!(fresh(dir.path()), Err(FreshKeyError::NotBare(_))));
        assert_ne!(read(dir.path(), Which::Present).unwrap().unwrap().public(), first);

        assert_eq!(recovery(dir.path()).unwrap(), None);
        keep_recovery(dir.path(), first).unwrap();
        assert_eq!(recovery(dir.path()).unwrap(), Some(first));
        private_file::replace(&recovery_path(dir.path()), b"junk").unwrap();
        assert!(recovery(dir.path()).unwrap_err().to_string().contains("recovery.pub"));
    }
}
