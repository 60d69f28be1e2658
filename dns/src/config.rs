//! The configuration file of `sealpost-dns`: its shape, its defaults, and what is wrong with a bad one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domain::base::iana::{DigestAlgorithm, SecurityAlgorithm};
use domain::rdata::Ds;
use sealpost_daemon::config::{ConfigError, LoopbackAddr, Source};
use sealpost_daemon::logging::{Format, Level};
use serde::Deserialize;
use serde::de::Error as _;
use toml::Spanned;

use crate::record::Name;
use crate::secondaries;
use crate::server::Settings;
use crate::transfer::access::{Prefix, Rule};
use crate::transfer::attempt::Primary;
use crate::transfer::notifier::Recipient;
use crate::transfer::tsig::{Algorithm, Keys, TsigKey};
use crate::trust::Trust;

/// Largest file with a secret, in octets.
const MAX_SECRET: u64 = 4096;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: PathBuf,
    listen: Vec<SocketAddr>,
    #[serde(default)]
    threads: Option<NonZeroUsize>,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    cookies: Cookies,
    #[serde(default)]
    rate_limit: RateLimit,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    log: Log,
    #[serde(default, rename = "key")]
    keys: Vec<Spanned<Key>>,
    #[serde(default, rename = "zone")]
    zones: Vec<Spanned<ZoneEntry>>,
    #[serde(default, rename = "catalog")]
    catalogs: Vec<Spanned<CatalogEntry>>,
}

/// `[tls]`: DNS over TLS and over QUIC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Where both listen.
    pub listen: Vec<SocketAddr>,
    /// The chain in PEM.
    pub certificate: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
}

/// `[cookies]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookies {
    /// A file with the secret that all servers of an address share. Without it each makes its own.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Of the secret before or after, whose cookies are good too.
    #[serde(default)]
    pub other_secret_file: Option<PathBuf>,
}

/// `[rate_limit]`: answers a second to one network over UDP; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// With records of the name.
    pub answers: u32,
    /// To the servers of another zone.
    pub referrals: u32,
    /// Names without the type.
    pub no_data: u32,
    /// Names that are not there.
    pub nx_domain: u32,
    /// Refusals and errors.
    pub errors: u32,
    /// Every how manieth answer over the limit is sent without records; 0 is none.
    pub slip: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { answers: 500, referrals: 200, no_data: 200, nx_domain: 200, errors: 50, slip: 2 }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Records of a zone.
    pub zone_records: usize,
    /// Octets of a zone.
    pub zone_octets: usize,
    /// Transfers in at once.
    pub transfers_in: NonZeroUsize,
    /// Of these, from one primary.
    pub transfers_in_of_primary: NonZeroUsize,
    /// Transfers out at once.
    pub transfers_out: NonZeroUsize,
    /// Zones that a catalog may name.
    pub catalog_members: usize,
    /// Zones a minute that go because a catalog does not name them any more.
    pub catalog_removals: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            zone_records: 100_000,
            zone_octets: 16 * 1024 * 1024,
            transfers_in: const { NonZeroUsize::new(16).unwrap() },
            transfers_in_of_primary: const { NonZeroUsize::new(4).unwrap() },
            transfers_out: const { NonZeroUsize::new(64).unwrap() },
            catalog_members: 250_000,
            catalog_removals: const { NonZeroU32::new(100).unwrap() },
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    listen: LoopbackAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: LoopbackAddr::on_port(9053) }
    }
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    format: Format,
    level: Level,
}

/// `[[key]]`: a TSIG key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    name: ZoneName,
    #[serde(default)]
    algorithm: KeyAlgorithm,
    secret_file: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyAlgorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// A name as it is written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ZoneName(pub(crate) Name);

impl ZoneName {
    /// In lower case.
    pub fn name(&self) -> &Name {
        &self.0
    }
}

impl TryFrom<String> for ZoneName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.parse::<Name>().map_err(|error| format!("{text:?} is no name: {error}"))?;
        // Keys and zones are found by their names, which have one spelling here.
        let lower = name.as_slice().to_ascii_lowercase();
        Name::from_octets(lower.into()).map(Self).map_err(|error| error.to_string())
    }
}

/// `[[zone]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneEntry {
    name: ZoneName,
    primaries: Vec<Spanned<Peer>>,
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    transfer_to: Vec<Spanned<Who>>,
    #[serde(default)]
    notify: Vec<Spanned<Peer>>,
}

/// `[[catalog]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogEntry {
    name: ZoneName,
    primaries: Vec<Spanned<Peer>>,
    #[serde(default)]
    without_key: bool,
    #[serde(default)]
    zone_primaries: Vec<Spanned<Peer>>,
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    transfer_to: Vec<Spanned<Who>>,
    #[serde(default)]
    notify: Vec<Spanned<Peer>>,
}

/// A server, and the key for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    address: SocketAddr,
    #[serde(default)]
    key: Option<ZoneName>,
}

/// Who may transfer a zone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    #[serde(default)]
    key: Option<ZoneName>,
    #[serde(default)]
    from: Option<String>,
}

impl TryFrom<toml::Value> for Trust {
    type Error = toml::de::Error;

    fn try_from(value: toml::Value) -> Result<Self, toml::de::Error> {
        const FORM: &str = "trust is \"first-seen\", \"unsigned\" or a list of DS records such as \
                            [\"12345 13 2 49FD46E6C4B45C55D4AC…\"]";
        match value {
            toml::Value::String(text) if text == "first-seen" => Ok(Self::FirstSeen),
            toml::Value::String(text) if text == "unsigned" => Ok(Self::Unsigned),
            toml::Value::Array(list) if !list.is_empty() => {
                let read = |one: &toml::Value| one.as_str().and_then(read_ds);
                let all: Option<Vec<_>> = list.iter().map(read).collect();
                all.map(Self::Ds).ok_or_else(|| toml::de::Error::custom(FORM))
            }
            _ => Err(toml::de::Error::custom(FORM)),
        }
    }
}

/// A DS record's data as in a zone file (RFC 4034 section 5.3).
fn read_ds(text: &str) -> Option<Ds<Bytes>> {
    let mut words = text.split_whitespace();
    let tag = words.next()?.parse().ok()?;
    let algorithm = SecurityAlgorithm::from_int(words.next()?.parse().ok()?);
    let kind = DigestAlgorithm::from_int(words.next()?.parse().ok()?);
    let digits: String = words.collect();
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    let digest: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
    Ds::new(tag, algorithm, kind, digest?.into()).ok()
}

/// A zone of the file, from primaries by TCP.
pub type Zone = secondaries::Zone<SocketAddr>;

/// A catalog zone of the file (RFC 9432).
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    /// The catalog itself.
    pub zone: Zone,
    /// What its members are but for their names.
    template: Zone,
}

impl Catalog {
    /// The zone of this name, which it names.
    pub fn member(&self, name: Name) -> Zone {
        Zone { name, ..self.template.clone() }
    }
}

/// What is read at the start only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The state directory.
    pub state: PathBuf,
    /// Where UDP and TCP listen.
    pub listen: Vec<SocketAddr>,
    /// Threads that answer datagrams, for each address.
    pub threads: NonZeroUsize,
    /// DNS over TLS and QUIC.
    pub tls: Option<Tls>,
    /// `[cookies]`
    pub cookies: Cookies,
    /// `[rate_limit]`
    pub rate_limit: RateLimit,
    /// `[limits]`
    pub limits: Limits,
    /// Where health and metrics are.
    pub admin: LoopbackAddr,
    /// How the log is written.
    pub log_format: Format,
    /// From which level on.
    pub log_level: Level,
}

impl Fixed {
    /// For the name server, with these keys.
    pub fn settings(&self, keys: Keys) -> Settings {
        let Self { state, listen, threads, tls, cookies, rate_limit, limits, .. } = self.clone();
        Settings { state, listen, threads, tls, cookies, rate_limit, limits, keys }
    }
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Config {
    /// What a reload does not change.
    pub fixed: Fixed,
    /// All TSIG keys.
    pub keys: Keys,
    /// All zones.
    pub zones: Vec<Zone>,
    /// All catalogs.
    pub catalogs: Vec<Catalog>,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::read(&Source::read(path)?)
    }

    fn read(source: &Source) -> Result<Self, ConfigError> {
        let file: File = source.parse()?;
        if file.listen.is_empty() {
            let help = "name the addresses of this machine, as listen = [\"192.0.2.1:53\"]";
            return Err(source.error(None, "`listen` is empty", Some(help)));
        }
        let keys = keys(source, &file.keys)?;
        let mut zones = Vec::with_capacity(file.zones.len());
        let mut names = std::collections::HashSet::new();
        for entry in file.zones {
            let span = entry.span();
            let zone = entry.into_inner();
            if !names.insert(zone.name.0.clone()) {
                return Err(source.error(Some(span), "there is a zone of this name already", None));
            }
            if zone.primaries.is_empty() {
                let help = "name the server that it comes from, as \
                            primaries = [{ address = \"192.0.2.53:53\" }]";
                return Err(source.error(Some(span), "the zone has no primaries", Some(help)));
            }
            let primaries = primaries(source, zone.primaries, &keys)?;
            zones.push(Zone {
                name: zone.name.0,
                owner: None,
                notices_from: notices_from(&primaries),
                primaries,
                trust: zone.trust,
                transfer_to: rules(source, zone.transfer_to, &keys)?.into(),
                notify: recipients(source, zone.notify, &keys)?,
            });
        }
        let mut catalogs = Vec::with_capacity(file.catalogs.len());
        for entry in file.catalogs {
            let span = entry.span();
            let catalog = entry.into_inner();
            if !names.insert(catalog.name.0.clone()) {
                let message = "there is a zone or catalog of this name already";
                return Err(source.error(Some(span), message, None));
            }
            catalogs.push(catalog.check(source, &span, &keys)?);
        }
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let fixed = Fixed {
            state: file.state,
            listen: file.listen,
            threads: file.threads.unwrap_or(cores),
            tls: file.tls,
            cookies: file.cookies,
            rate_limit: file.rate_limit,
            limits: file.limits,
            admin: file.admin.listen,
            log_format: file.log.format,
            log_level: file.log.level,
        };
        Ok(Self { fixed, keys: keys.into_values().collect(), zones, catalogs })
    }
}

impl CatalogEntry {
    fn check(
        self,
        source: &Source,
        span: &std::ops::Range<usize>,
        keys: &ByName,
    ) -> Result<Catalog, ConfigError> {
        let wrong =
            |message: &str, help: &str| source.error(Some(span.clone()), message, Some(help));
        let from = primaries(source, self.primaries, keys)?;
        if from.is_empty() {
            let help = "name the server that it comes from, as \
                        primaries = [{ address = \"192.0.2.53:53\", key = \"fleet\" }]";
            return Err(wrong("the catalog has no primaries", help));
        }
        if !self.without_key && from.iter().any(|primary| primary.key.is_none()) {
            let help = "give each of its primaries a key: a catalog says what is served here. Where \
                        nobody can come between, without_key = true does without";
            return Err(wrong("a primary of the catalog has no key", help));
        }
        let of_members = match primaries(source, self.zone_primaries, keys)? {
            none if none.is_empty() => from.clone(),
            primaries => primaries,
        };
        let zone = Zone {
            name: self.name.0,
            owner: None,
            notices_from: notices_from(&from),
            primaries: from,
            trust: Trust::Unsigned,
            transfer_to: Arc::default(),
            notify: Vec::new(),
        };
        let template = Zone {
            name: Name::root_bytes(),
            owner: None,
            notices_from: notices_from(&of_members),
            primaries: of_members,
            trust: self.trust,
            transfer_to: rules(source, self.transfer_to, keys)?.into(),
            notify: recipients(source, self.notify, keys)?,
        };
        Ok(Catalog { zone, template })
    }
}

fn primaries(
    source: &Source,
    peers: Vec<Spanned<Peer>>,
    keys: &ByName,
) -> Result<Vec<Primary<SocketAddr>>, ConfigError> {
    servers(source, peers, keys, |peer, key| Primary { peer, key })
}

/// Their addresses, with all of their bits.
fn notices_from(primaries: &[Primary<SocketAddr>]) -> Arc<[Rule]> {
    let alone = |primary: &Primary<SocketAddr>| Rule::From(Prefix::new(primary.peer.ip(), 128));
    primaries.iter().map(alone).collect()
}

/// TSIG keys by their names.
pub type ByName = HashMap<Name, Arc<TsigKey>>;

/// The keys of a file, with their secrets.
pub fn keys(source: &Source, entries: &[Spanned<Key>]) -> Result<ByName, ConfigError> {
    let mut keys = ByName::new();
    for entry in entries {
        let (span, key) = (entry.span(), entry.get_ref());
        let secret = secret(&key.secret_file)
            .map_err(|message| source.error(Some(span.clone()), &message, None))?;
        let name = key.name.0.clone();
        let key = TsigKey::from_base64(name.clone(), key.algorithm.into(), &secret)
            .map_err(|error| source.error(Some(span.clone()), &error.to_string(), None))?;
        if keys.insert(name, Arc::new(key)).is_some() {
            return Err(source.error(Some(span), "there is a key of this name already", None));
        }
    }
    Ok(keys)
}

/// Those who are to hear of changes.
pub fn recipients(
    source: &Source,
    peers: Vec<Spanned<Peer>>,
    keys: &ByName,
) -> Result<Vec<Recipient>, ConfigError> {
    servers(source, peers, keys, |address, key| Recipient { address, key })
}

/// What `make` makes of each address and the key for it.
fn servers<T>(
    source: &Source,
    peers: Vec<Spanned<Peer>>,
    keys: &ByName,
    make: impl Fn(SocketAddr, Option<Arc<TsigKey>>) -> T,
) -> Result<Vec<T>, ConfigError> {
    let server = |peer: Spanned<Peer>| {
        let span = peer.span();
        let Peer { address, key } = peer.into_inner();
        let key = key.map(|name| known(source, &span, &name, keys)).transpose()?;
        Ok(make(address, key))
    };
    peers.into_iter().map(server).collect()
}

fn known(
    source: &Source,
    span: &std::ops::Range<usize>,
    name: &ZoneName,
    keys: &ByName,
) -> Result<Arc<TsigKey>, ConfigError> {
    keys.get(&name.0).cloned().ok_or_else(|| {
        let message = format!("there is no key {:?}", name.0.to_string());
        source.error(Some(span.clone()), &message, Some("give it a [[key]] of its own"))
    })
}

/// Those who may transfer a zone.
pub fn rules(
    source: &Source,
    whos: Vec<Spanned<Who>>,
    keys: &ByName,
) -> Result<Vec<Rule>, ConfigError> {
    let rule = |who: Spanned<Who>| {
        let span = who.span();
        let Who { key, from } = who.into_inner();
        let key = key.map(|name| known(source, &span, &name, keys).map(|_| name.0)).transpose()?;
        let from = from
            .map(|from| from.parse::<Prefix>())
            .transpose()
            .map_err(|error| source.error(Some(span.clone()), &error.to_string(), None))?;
        match (key, from) {
            (Some(key), Some(from)) => Ok(Rule::KeyFrom(key, from)),
            (Some(key), None) => Ok(Rule::Key(key)),
            (None, Some(from)) => Ok(Rule::From(from)),
            (None, None) => {
                let help = "write { key = \"…\" }, { from = \"192.0.2.0/24\" } or both";
                Err(source.error(Some(span), "this admits nobody", Some(help)))
            }
        }
    };
    whos.into_iter().map(rule).collect()
}

impl From<KeyAlgorithm> for Algorithm {
    fn from(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::HmacSha256 => Self::Sha256,
            KeyAlgorithm::HmacSha384 => Self::Sha384,
            KeyAlgorithm::HmacSha512 => Self::Sha512,
        }
    }
}

/// The one line of a file with a secret, which nobody else may read.
pub fn secret(path: &Path) -> Result<String, String> {
    use std::os::unix::fs::PermissionsExt;
    let unreadable =
        |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if metadata.len() > MAX_SECRET {
        return Err(unreadable(&"it is too long for a secret"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others can read {0}; use: chmod 600 {0}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    Ok(text.trim().to_owned())
}
