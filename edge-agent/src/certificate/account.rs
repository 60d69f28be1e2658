//! The account at the CA: its key and URI, kept on disk, one for each CA that was ever used.
//!
//! The URI stands in the zone's CAA records: who has a copy of a domain's addresses has no account,
//! and gets no certificate (RFC 8657).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use sealpost_tunnel::private_file;
use serde::{Deserialize, Serialize};

use crate::zone::plan::Authority;

/// The file in the directory for certificates.
const FILE: &str = "account.json";
/// The most names of itself that a CA can have put into CAA records.
const MAX_IDENTITIES: usize = 8;
/// The longest URI of an account, and the longest name of a CA.
const MAX_URI: usize = 512;
const MAX_IDENTITY: usize = 253;

/// The accounts, by the CA's directory.
#[derive(Default, Serialize, Deserialize)]
pub struct Accounts(BTreeMap<String, Entry>);

/// An account.
#[derive(Serialize, Deserialize)]
struct Entry {
    uri: String,
    /// What the CA is called in CAA records, as its directory said.
    identities: Vec<String>,
    /// As the library keeps it: key, URI and directory.
    credentials: serde_json::Value,
}

impl Accounts {
    /// Reads them out of `directory`.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let path = path(directory);
        match private_file::read(&path)? {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_slice(&text).map_err(|error| {
                io::Error::other(format!("{} cannot be read ({error})", path.display()))
            }),
        }
    }

    /// Writes them into `directory`.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        private_file::replace(&path(directory), &text)
    }

    /// The account at the CA with this directory.
    pub fn credentials(&self, ca: &str) -> Option<AccountCredentials> {
        let entry = self.0.get(ca)?;
        serde_json::from_value(entry.credentials.clone()).ok()
    }

    /// The URI of that account.
    pub fn uri(&self, ca: &str) -> Option<&str> {
        self.0.get(ca).map(|entry| entry.uri.as_str())
    }

    /// A new account.
    pub fn put(
        &mut self,
        ca: &str,
        uri: &str,
        credentials: &AccountCredentials,
    ) -> Result<(), serde_json::Error> {
        let entry = Entry {
            uri: uri.into(),
            identities: Vec::new(),
            credentials: serde_json::to_value(credentials)?,
        };
        self.0.insert(ca.into(), entry);
        Ok(())
    }

    /// The CA knows it no more.
    pub fn remove(&mut self, ca: &str) {
        self.0.remove(ca);
    }

    /// What the CA's directory says that it is called; returns whether that is news.
    pub fn identified(&mut self, ca: &str, identities: &[String]) -> bool {
        let Some(entry) = self.0.get_mut(ca) else { return false };
        let usable = identities.iter().filter(|it| is_domain(it)).take(MAX_IDENTITIES);
        let usable: Vec<_> = usable.map(|it| it.to_ascii_lowercase()).collect();
        let news = entry.identities != usable;
        entry.identities = usable;
        news
    }

    /// Who may issue: that CA, for that account. None before there is an account, or where the
    /// directory does not say what the CA is called.
    pub fn authorities(&self, ca: &str) -> Vec<Authority> {
        let Some(entry) = self.0.get(ca).filter(|entry| is_uri(&entry.uri)) else {
            return Vec::new();
        };
        let one = |identity: &String| Authority {
            domain: identity.clone(),
            account: Some(entry.uri.clone()),
        };
        entry.identities.iter().filter(|it| is_domain(it)).map(one).collect()
    }
}

/// What a CA says must not be able to spoil the zone.
fn is_domain(text: &str) -> bool {
    (1..=MAX_IDENTITY).contains(&text.len())
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-'))
}

fn is_uri(text: &str) -> bool {
    text.len() <= MAX_URI
        && text.starts_with("https://")
        && text.bytes().all(|it| it.is_ascii_graphic() && it != b';')
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "https://ca.example/directory";

    fn with(uri: &str) -> Accounts {
        let entry =
            Entry { uri: uri.into(), identities: Vec::new(), credentials: serde_json::Value::Null };
        Accounts(BTreeMap::from([(CA.to_owned(), entry)]))
    }

    #[test]
    fn the_zone_names_a_ca_only_with_an_account() {
        let mut none = Accounts::default();
        assert!(!none.identified(CA, &["ca.example".into()]) && none.authorities(CA).is_empty());
        let mut accounts = with("https://ca.example/acct/1");
        assert!(accounts.authorities(CA).is_empty(), "nobody knows what it is called");
        assert!(accounts.identified(CA, &["CA.example".into(), "x; y".into(), String::new()]));
        assert!(!accounts.identified(CA, &["ca.example".into()]));
        let authorities = accounts.authorities(CA);
        assert_eq!(authorities.len(), 1);
        assert_eq!(authorities[0].account.as_deref(), Some("https://ca.example/acct/1"));
        assert!(accounts.authorities("https://other.example/").is_empty());
    }

    #[test]
    fn what_would_spoil_the_zone_is_left_out() {
        for uri in ["http://ca.example/1", "https://ca.example/1; x", "https://ca.example/\n"] {
            let mut accounts = with(uri);
            accounts.identified(CA, &["ca.example".into()]);
            assert!(accounts.authorities(CA).is_empty(), "{uri}");
        }
        let mut accounts = with("https://ca.example/1");
        accounts.identified(CA, &vec!["ca.example".to_owned(); 100]);
        assert_eq!(accounts.authorities(CA).len(), MAX_IDENTITIES);
    }

    #[test]
    fn accounts_are_kept_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        with("https://ca.example/1").save(directory.path()).unwrap();
        let accounts = Accounts::load(directory.path()).unwrap();
        assert_eq!(accounts.uri(CA), Some("https://ca.example/1"));
        assert!(accounts.credentials(CA).is_none(), "what the library cannot read is no account");
    }
}
