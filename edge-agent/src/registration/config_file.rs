//! `agent.toml` on disk: made once, changed in place of the old one, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use sealpost_daemon::config::{ConfigError, Source};
use sealpost_tunnel::{DomainName, MxName};

use super::edit::{self, EditError, Entry};
use crate::config::{Config, Relay};

/// Mode of a new file: it holds no secret, and the agent reads it as another user.
const MODE: u32 = 0o644;
/// Mode of a directory that is made for it.
const DIRECTORY_MODE: u32 = 0o755;

/// Why the file is not changed. It is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read or written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Of the file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its text cannot be changed.
    #[error("cannot change {}: {source}", path.display())]
    Edit {
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: EditError,
    },
    /// It cannot be used before the change.
    #[error(transparent)]
    Before(ConfigError),
    /// It could not be used after the change.
    #[error("the change would spoil the file, so it was not made: {0}")]
    After(String),
}

/// The owner's configuration file.
#[derive(Debug)]
pub struct ConfigFile {
    /// Behind a symbolic link, so that the link stays.
    path: PathBuf,
}

impl ConfigFile {
    /// The file at `path`, which need not exist.
    pub fn at(path: &Path) -> io::Result<Self> {
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path)?,
            Err(error) => return Err(error),
        };
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Finds out whether it could be written, before anything is done that cannot be undone.
    pub fn try_writing(&self) -> Result<(), ConfigFileError> {
        self.make_directory()
            .and_then(|()| {
                let beside = self.beside();
                open_new(&beside)?;
                fs::remove_file(&beside)
            })
            .map_err(|source| self.error(source))
    }

    /// Writes the file, of which there is none yet.
    pub fn create(&self, text: &str) -> Result<(), ConfigFileError> {
        let _lock = self.make_directory().and_then(|()| self.lock()).map_err(|e| self.error(e))?;
        if self.exists() {
            return Err(self.error(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "somebody else has just made it; run the command again",
            )));
        }
        check(text)?;
        self.write(text, None).map_err(|e| self.error(e))
    }

    /// Adds `entry`; `false` when a relay of that name and key stands there.
    pub fn add(&self, entry: &Entry) -> Result<bool, ConfigFileError> {
        let same = |name: &str, key| name == entry.name && key == entry.key;
        self.change(|before, text| {
            if before.relays.iter().any(|relay| same(&relay.name, relay.key)) {
                return Ok(None);
            }
            edit::add(text, entry).map(Some)
        })
    }

    /// Adds a zone for `domain`; `false` when one stands there.
    pub fn add_zone(&self, domain: &DomainName, mx: &[MxName]) -> Result<bool, ConfigFileError> {
        self.change(|before, text| {
            if before.zones.iter().any(|zone| zone.name == *domain) {
                return Ok(None);
            }
            edit::add_zone(text, domain, mx).map(Some)
        })
    }

    /// Takes the zone of `domain` out; `false` when there is none. Its keys stay where they are.
    pub fn remove_zone(&self, domain: &DomainName) -> Result<bool, ConfigFileError> {
        self.change(|before, text| {
            if !before.zones.iter().any(|zone| zone.name == *domain) {
                return Ok(None);
            }
            edit::remove_zone(text, domain).map(Some)
        })
    }

    /// Takes the relay called `name` out; `false` when there is none.
    pub fn remove(&self, name: &str) -> Result<bool, ConfigFileError> {
        self.change(|before, text| {
            if !before.relays.iter().any(|relay| relay.name == name) {
                return Ok(None);
            }
            edit::remove(text, name).map(Some)
        })
    }

    /// Replaces the file by what `edit` makes of it, when that can be used and differs in one relay
    /// or zone alone. The text is read under a lock that all such commands take.
    fn change(
        &self,
        edit: impl FnOnce(&Config, &str) -> Result<Option<String>, EditError>,
    ) -> Result<bool, ConfigFileError> {
        let _lock = self.lock().map_err(|e| self.error(e))?;
        let before = Config::load(&self.path).map_err(ConfigFileError::Before)?;
        let text = fs::read_to_string(&self.path).map_err(|e| self.error(e))?;
        let edited = edit(&before, &text)
            .map_err(|source| ConfigFileError::Edit { path: self.path.clone(), source })?;
        let Some(edited) = edited else {
            return Ok(false);
        };
        let after = check(&edited)?;
        let others_stay = before.services == after.services && before.fixed == after.fixed;
        let changes = differ(&written(&before.relays), &written(&after.relays))
            + differ(&before.zones, &after.zones);
        if !others_stay || changes != 1 {
            let why = "more than one relay or zone would change";
            return Err(ConfigFileError::After(why.into()));
        }
        let meta = fs::metadata(&self.path).map_err(|e| self.error(e))?;
        self.write(&edited, Some(&meta)).map(|()| true).map_err(|e| self.error(e))
    }

    /// Whole, or not at all: written beside, synced, renamed. `like` is whose mode and owner it
    /// gets.
    fn write(&self, text: &str, like: Option<&fs::Metadata>) -> io::Result<()> {
        let beside = self.beside();
        let written = (|| {
            let mut file = open_new(&beside)?;
            file.write_all(text.as_bytes())?;
            if let Some(like) = like {
                let made = file.metadata()?;
                if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
                    fchown(&file, Some(like.uid()), Some(like.gid()))?;
                }
            }
            // Behind the change of owner, which may take bits away; and the umask does not count.
            let mode = like.map_or(MODE, |like| like.mode() & 0o7777);
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            File::open(self.directory())?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn make_directory(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(self.directory())
    }

    /// Held while the file is read and replaced; on the directory, as the file is another one
    /// afterwards.
    fn lock(&self) -> io::Result<File> {
        let directory = File::open(self.directory())?;
        directory.lock()?;
        Ok(directory)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn beside(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.new-{}", std::process::id()))
    }

    fn error(&self, source: io::Error) -> ConfigFileError {
        ConfigFileError::File { path: self.path.clone(), source }
    }
}

/// Relays without what is not written there, as it follows from the zones.
fn written(relays: &[Relay]) -> Vec<Relay> {
    relays.iter().map(|relay| Relay { offers_zones: false, ..relay.clone() }).collect()
}

/// How many there are in one and not in the other.
fn differ<T: PartialEq>(before: &[T], after: &[T]) -> usize {
    let missing =
        |these: &[T], others: &[T]| these.iter().filter(|it| !others.contains(it)).count();
    missing(before, after) + missing(after, before)
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn check(text: &str) -> Result<Config, ConfigFileError> {
    Config::from_source(&Source::from_text("agent.toml", text))
        .map_err(|error| ConfigFileError::After(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    fn entry(name: &str) -> Entry {
        let key = Identity::ephemeral().public();
        Entry { name: name.into(), addresses: vec!["r.example:4433".parse().unwrap()], key }
    }

    fn listing(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_changed_in_place_with_its_mode_and_behind_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real.toml");
        let link = dir.path().join("agent.toml");
        fs::write(&real, "# mine\nstate = \"/x\"\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let file = ConfigFile::at(&link).unwrap();
        file.try_writing().unwrap();
        let entry = entry("r1");
        assert!(file.add(&entry).unwrap());
        assert!(!file.add(&entry).unwrap(), "adding it again changes nothing");
        let text = fs::read_to_string(&real).unwrap();
        assert!(text.starts_with("# mine\nstate = \"/x\"\n") && text.contains("name = \"r1\""));
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(file.remove("r1").unwrap());
        assert!(!file.remove("r1").unwrap());
        assert_eq!(listing(dir.path()).len(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_used_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        for broken in ["state = ", "stat = \"/x\"\n", "state = \"/x\"\n[[relay]]\nname = \"a\"\n"] {
            fs::write(&path, broken).unwrap();
            let file = ConfigFile::at(&path).unwrap();
            assert!(matches!(file.add(&entry("r1")), Err(ConfigFileError::Before(_))), "{broken}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
            assert_eq!(listing(dir.path()), ["agent.toml"]);
        }
        // Another relay has the name: the change would make a file that cannot be used.
        let text = format!("state = \"/x\"\n{}", edit::table(&entry("r1")));
        fs::write(&path, &text).unwrap();
        let file = ConfigFile::at(&path).unwrap();
        assert!(matches!(file.add(&entry("r1")), Err(ConfigFileError::After(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_zone_is_added_once_and_taken_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let before = format!("state = \"/x\"\n{}", edit::table(&entry("r1")));
        fs::write(&path, &before).unwrap();
        let file = ConfigFile::at(&path).unwrap();
        let domain = "a.example".parse().unwrap();
        let mx = ["mail.a.example".parse().unwrap()];
        assert!(file.add_zone(&domain, &mx).unwrap());
        assert!(!file.add_zone(&domain, &[]).unwrap());
        let zones = Config::load(&path).unwrap().zones;
        assert_eq!((zones.len(), zones[0].mx.as_slice()), (1, &mx[..]));
        assert!(file.remove_zone(&domain).unwrap() && !file.remove_zone(&domain).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), before.trim_end());
    }

    #[test]
    fn a_new_file_can_be_read_by_all_and_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/agent.toml");
        let file = ConfigFile::at(&path).unwrap();
        file.try_writing().unwrap();
        assert!(!file.exists());
        file.create("state = \"/x\"\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert!(file.create("state = \"/y\"\n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "state = \"/x\"\n");
    }
}
