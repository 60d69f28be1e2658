//! `[dns]`: the address at which programs of this machine see and change the zones.

use std::path::PathBuf;

use sealpost_daemon::config::{ConfigError, LoopbackAddr, Source};
use sealpost_dns::record::Name;
use sealpost_dns::transfer::tsig::{Algorithm, TsigKey};
use sealpost_tunnel::{DomainName, private_file};
use serde::Deserialize;
use toml::Spanned;

/// Its port, when the section names none: beside that of multicast DNS, which many machines use.
const PORT: u16 = 5354;

/// `[dns]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Section {
    listen: LoopbackAddr,
    trust_anchor: Option<PathBuf>,
    #[serde(rename = "key")]
    keys: Vec<Spanned<DnsKey>>,
}

impl Default for Section {
    fn default() -> Self {
        Self { listen: LoopbackAddr::on_port(PORT), trust_anchor: None, keys: Vec::new() }
    }
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Where UDP and TCP listen, for this machine alone.
    pub listen: LoopbackAddr,
    /// A file with the DNSKEY records of the root zone in place of those that are built in.
    pub trust_anchor: Option<PathBuf>,
    /// The keys of those who may change something.
    pub keys: Vec<DnsKey>,
}

/// `[[dns.key]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsKey {
    /// What both ends call it.
    pub name: String,
    /// By which hash it signs.
    #[serde(default)]
    algorithm: KeyAlgorithm,
    /// The file with the secret in base64.
    pub secret_file: PathBuf,
    /// What its holder may change.
    #[serde(default)]
    pub update: Update,
    /// In which zones; in all when none is named.
    #[serde(default)]
    pub zones: Vec<DomainName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyAlgorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// What the holder of a key may change by DNS UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// Texts at names that begin with `_acme-challenge`, for clients that obtain certificates.
    #[default]
    Challenges,
    /// All record sets that the agent does not make itself.
    All,
    /// Nothing.
    None,
}

impl DnsKey {
    /// The key with its secret, or what is wrong with it.
    pub fn load(&self) -> Result<TsigKey, String> {
        let path = self.secret_file.display();
        let algorithm = match self.algorithm {
            KeyAlgorithm::HmacSha256 => Algorithm::Sha256,
            KeyAlgorithm::HmacSha384 => Algorithm::Sha384,
            KeyAlgorithm::HmacSha512 => Algorithm::Sha512,
        };
        let found = private_file::read(&self.secret_file);
        let found = found.map_err(|error| format!("cannot use {path}: {error}"))?;
        let found = found.ok_or_else(|| {
            format!("{path} is missing; make it with: (umask 077; head -c 32 /dev/urandom | base64 >{path})")
        })?;
        let text = String::from_utf8(found).map_err(|_| format!("{path} is not text"))?;
        let name = self.wire_name()?;
        TsigKey::from_base64(name, algorithm, &text).map_err(|error| format!("{path}: {error}"))
    }

    /// Its name as it stands in messages.
    pub fn wire_name(&self) -> Result<Name, String> {
        let name: Result<Name, _> = self.name.to_ascii_lowercase().parse();
        name.map_err(|error| format!("`{}` is no name for a key: {error}", self.name))
    }
}

impl Section {
    /// Checks what can be told without looking at files.
    pub(super) fn check(self, source: &Source) -> Result<Dns, ConfigError> {
        super::distinct(source, "key", &self.keys, |key| &key.name)?;
        for key in &self.keys {
            if let Err(message) = key.get_ref().wire_name() {
                return Err(source.error(Some(key.span()), &message, Some("for example certbot")));
            }
        }
        let keys = self.keys.into_iter().map(Spanned::into_inner).collect();
        Ok(Dns { listen: self.listen, trust_anchor: self.trust_anchor, keys })
    }
}
