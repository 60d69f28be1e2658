//! What has to be known after a restart: which keys there are, which certificate is installed, which
//! order is open, and when to try again after a failure.
//!
//! Without it each start would order a certificate, and a CA that counts orders would soon refuse.

use std::io;
use std::path::{Path, PathBuf};

use sealpost_tunnel::private_file;
use serde::{Deserialize, Serialize};

use super::settings::Algorithm;
use crate::publish::hex;
use crate::zone::plan::KeyDigest;

/// The file in the directory for certificates.
const FILE: &str = "state.json";

/// Everything that is kept. Times are in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The pair that the mail server gets next.
    pub next: Option<Next>,
    /// The pair that was installed last.
    pub current: Option<Current>,
    /// Pairs before it, whose records have not left the zone yet.
    pub retiring: Vec<Retiring>,
    /// An order that the CA has taken and not finished.
    pub order: Option<OpenOrder>,
    /// When the last certificate was issued.
    pub issued_at: Option<u64>,
    /// The owner wants a new certificate now.
    pub forced: bool,
    /// What went wrong last.
    pub trouble: Option<Trouble>,
}

/// A pair that no mail server has shown yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The digest of its public key.
    #[serde(with = "hex")]
    pub key: KeyDigest,
    /// Of which kind it is.
    pub algorithm: Algorithm,
    /// Since when every name server was seen to serve its TLSA records; `None` while one does not.
    pub since: Option<u64>,
    /// Since when all that answer were seen to serve them, whoever is silent beside them.
    #[serde(default)]
    pub answering: Option<u64>,
    /// How long resolvers may know the records without it, in seconds.
    pub kept: u32,
    /// When to ask the name servers again.
    pub ask_at: u64,
    /// How often they were asked in vain.
    pub asked: u32,
    /// Its certificate, once there is one.
    pub issued: Option<Issued>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The names in it, sorted.
    pub names: Vec<String>,
    /// When it begins.
    pub not_before: u64,
    /// When it ends.
    pub not_after: u64,
    /// How the CA calls it when asked for the time of its renewal (RFC 9773 section 4.1).
    pub renewal_id: Option<String>,
    /// The directory of the CA.
    pub directory: String,
}

/// The pair that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The digest of its public key.
    #[serde(with = "hex")]
    pub key: KeyDigest,
    /// Its certificate.
    pub issued: Issued,
    /// How long resolvers may know records of the key.
    pub kept: u32,
    /// When to renew.
    pub renew_at: u64,
    /// When to ask the CA for that time again; `None` where it does not tell.
    pub poll_at: Option<u64>,
    /// Since when the mail server was seen to show it and no key before it.
    pub shown_since: Option<u64>,
    /// When to look at the mail server again.
    pub look_at: u64,
    /// How often it was looked at in vain.
    pub looked: u32,
    /// When the command for the mail server ran last.
    pub reloaded_at: u64,
}

/// A pair that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// The digest of its public key.
    #[serde(with = "hex")]
    pub key: KeyDigest,
    /// How long resolvers may know its records, in seconds.
    pub kept: u32,
}

/// An order at the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// Its URL.
    pub url: String,
    /// The directory of the CA.
    pub directory: String,
    /// The names that it is for.
    pub names: Vec<String>,
}

/// A failure, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What failed, for people.
    pub why: String,
    /// When.
    pub at: u64,
    /// How many times in a row.
    pub failures: u32,
    /// Not to be tried again before.
    pub until: u64,
    /// Whether the CA itself named that time; then not even the owner's wish shortens it.
    pub by_ca: bool,
}

impl Memory {
    /// The keys that have to stand in the zone.
    pub fn keys(&self) -> Vec<KeyDigest> {
        let next = self.next.iter().map(|it| it.key);
        let current = self.current.iter().map(|it| it.key);
        let mut keys: Vec<_> =
            next.chain(current).chain(self.retiring.iter().map(|it| it.key)).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Reads it out of `directory`; empty when there is none.
    pub fn load(directory: &Path) -> io::Result<Self> {
        match private_file::read(&path(directory))? {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_slice(&text).map_err(|error| {
                let path = path(directory);
                io::Error::other(format!("{} cannot be read ({error})", path.display()))
            }),
        }
    }

    /// Writes it into `directory`.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        private_file::replace(&path(directory), &text)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_there_again_and_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Memory::load(directory.path()).unwrap(), Memory::default());
        let mut memory = Memory::default();
        memory.retiring.push(Retiring { key: [0xab; 32], kept: 7 });
        memory.save(directory.path()).unwrap();
        assert_eq!(Memory::load(directory.path()).unwrap(), memory);
        assert_eq!(memory.keys(), [[0xab; 32]]);
        for bad in ["", "{", r#"{"retiring":[{"key":"ab","kept":1}]}"#] {
            private_file::replace(&path(directory.path()), bad.as_bytes()).unwrap();
            let error = Memory::load(directory.path()).unwrap_err().to_string();
            assert!(error.contains("state.json cannot be read"), "{error}");
        }
    }
}
