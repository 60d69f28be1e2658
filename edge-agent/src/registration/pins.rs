//! The keys that relays have changed to, with the signatures that say so.
//!
//! The owner's file names the key of each relay. When the relay changes it, the agent follows, and
//! keeps here what the old keys signed: one file for each key of the owner's file, checked anew
//! whenever it is read. So a file that was tampered with leads nowhere.

use std::io;
use std::path::{Path, PathBuf};

use sealpost_tunnel::handover::{Handover, Purpose};
use sealpost_tunnel::{PublicKey, private_file};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// The most changes that are kept of one relay.
const MAX_CHANGES: usize = 128;

/// Where the changes of relays' keys are kept.
#[derive(Debug, Clone)]
pub struct Pins {
    state: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// As in the owner's file.
    pin: PublicKey,
    /// From it to the key in use.
    changes: Vec<Handover>,
}

impl Pins {
    /// In the directory `state`.
    pub fn new(state: &Path) -> Self {
        Self { state: state.into() }
    }

    /// The key that the relay with `pin` in the owner's file must prove now.
    pub fn trusted(&self, pin: PublicKey) -> PublicKey {
        self.read(pin).last().map_or(pin, |change| change.to)
    }

    /// Keeps that the relay with `pin` in the owner's file changed its key further, by `changes`
    /// that the caller has checked.
    pub fn keep(&self, pin: PublicKey, changes: &[Handover]) -> io::Result<()> {
        let changes = [&self.read(pin)[..], changes].concat();
        if changes.len() > MAX_CHANGES {
            return Err(io::Error::other(format!(
                "the relay changed its key more than {MAX_CHANGES} times; ask its operator for its \
                 key and write it into the file"
            )));
        }
        let content = serde_json::to_vec_pretty(&File { pin, changes })?;
        private_file::replace(&self.path(pin), &content)
    }

    fn read(&self, pin: PublicKey) -> Vec<Handover> {
        let path = self.path(pin);
        let reason = match private_file::read(&path) {
            Ok(None) => return Vec::new(),
            Ok(Some(content)) => match serde_json::from_slice::<File>(&content) {
                Ok(file) if file.pin == pin && linked(pin, &file.changes) => return file.changes,
                Ok(_) => "its signatures are not good".into(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        // Nothing is lost: the relay is asked for the changes again.
        warn!(path = %path.display(), reason, "not used");
        Vec::new()
    }

    /// No folder of its own: that would belong to whoever runs the first command.
    fn path(&self, pin: PublicKey) -> PathBuf {
        self.state.join(format!("relay-{}.pin", pin.fingerprint()))
    }
}

/// Whether each change is signed by the key before it.
fn linked(pin: PublicKey, changes: &[Handover]) -> bool {
    let mut current = pin;
    changes.iter().all(|change| {
        let good = change.from == current && change.verify(Purpose::RelayKey, None);
        current = change.to;
        good
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    fn change(from: &Identity, to: &Identity) -> Handover {
        Handover::sign(Purpose::RelayKey, from, to.public(), None)
    }

    #[test]
    fn changes_add_up_and_what_is_not_signed_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path());
        let [a, b, c] = [(); 3].map(|()| Identity::ephemeral());
        let pin = a.public();
        assert_eq!(pins.trusted(pin), pin);
        pins.keep(pin, &[change(&a, &b)]).unwrap();
        assert_eq!(pins.trusted(pin), b.public());
        pins.keep(pin, &[change(&b, &c)]).unwrap();
        assert_eq!(pins.trusted(pin), c.public());
        assert_eq!(pins.trusted(b.public()), b.public(), "kept for the key in the file alone");

        let path = pins.path(pin);
        let forged = Handover { to: Identity::ephemeral().public(), ..change(&a, &b) };
        for bad in [
            "{".to_owned(),
            serde_json::to_string(&File { pin, changes: vec![forged] }).unwrap(),
            serde_json::to_string(&File { pin: b.public(), changes: vec![change(&b, &c)] })
                .unwrap(),
        ] {
            private_file::replace(&path, bad.as_bytes()).unwrap();
            assert_eq!(pins.trusted(pin), pin, "{bad}");
        }
    }
}
