//! `[dns]`: the relay as a name server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use sealpost_daemon::config::{ConfigError, Source};
use sealpost_dns::catalog_zone::producer::{Catalog, Unfit};
use sealpost_dns::config::{self, keys, recipients, rules};
use sealpost_dns::config::{Cookies, Key, Peer, RateLimit, Tls, Who, ZoneName};
use sealpost_dns::record::Name;
use sealpost_dns::server;
use sealpost_dns::stream;
use sealpost_dns::transfer::access::Rule;
use sealpost_dns::transfer::notifier::Recipient;
use sealpost_dns::transfer::tsig::TsigKey;
use sealpost_tunnel::MxName;
use serde::Deserialize;
use toml::Spanned;

/// Most names of name servers: what a registry takes.
const MAX_NAMES: usize = 13;

/// Transfers in at once from one box. Few, whatever the operator wants: they hold up that box alone,
/// and boxes that drip would have to be many to hold up others.
const OF_ONE_BOX: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    listen: Vec<SocketAddr>,
    #[serde(default)]
    names: Vec<MxName>,
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
    transfer_to: Vec<Spanned<Who>>,
    #[serde(default)]
    notify: Vec<Spanned<Peer>>,
    #[serde(default)]
    catalog: Option<Spanned<ZoneName>>,
    #[serde(default, rename = "key")]
    keys: Vec<Spanned<Key>>,
    #[serde(default, rename = "zone")]
    zones: Vec<Spanned<ZoneTable>>,
}

/// `[dns.limits]`: what zones and transfers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Records of a zone. Far fewer than a name server of one's own takes: each is checked, for anybody
    /// who has a box.
    pub zone_records: usize,
    /// Octets of a zone.
    pub zone_octets: usize,
    /// Transfers in at once.
    pub transfers_in: NonZeroUsize,
    /// Transfers out at once.
    pub transfers_out: NonZeroUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            zone_records: 10_000,
            zone_octets: 2 * 1024 * 1024,
            transfers_in: const { NonZeroUsize::new(32).unwrap() },
            transfers_out: config::Limits::default().transfers_out,
        }
    }
}

impl From<Limits> for config::Limits {
    fn from(limits: Limits) -> Self {
        let Limits { zone_records, zone_octets, transfers_in, transfers_out } = limits;
        let transfers_in_of_primary = OF_ONE_BOX;
        Self {
            zone_records,
            zone_octets,
            transfers_in,
            transfers_in_of_primary,
            transfers_out,
            ..Self::default()
        }
    }
}

/// `[[dns.zone]]`: what holds for one zone beside what holds for all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneTable {
    name: ZoneName,
    #[serde(default)]
    transfer_to: Vec<Spanned<Who>>,
    #[serde(default)]
    notify: Vec<Spanned<Peer>>,
}

/// The table, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    listen: Vec<SocketAddr>,
    names: Vec<MxName>,
    threads: NonZeroUsize,
    tls: Option<Tls>,
    cookies: Cookies,
    rate_limit: RateLimit,
    limits: Limits,
    keys: Vec<Arc<TsigKey>>,
    policy: Policy,
    catalog: Option<Catalog>,
}

/// Who may have zones from here, and who hears of their changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Policy {
    all: Others,
    /// Of single zones, by their names in lower case, with those of all.
    single: HashMap<Name, Others>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Others {
    transfer_to: Arc<[Rule]>,
    notify: Vec<Recipient>,
}

impl Settings {
    /// Checks the table of a relay that is called `hostname`.
    pub fn check(
        source: &Source,
        table: Spanned<Table>,
        hostname: &MxName,
    ) -> Result<Self, ConfigError> {
        let span = table.span();
        let wrong =
            |message: &str, help: &str| source.error(Some(span.clone()), message, Some(help));
        let table = table.into_inner();
        if table.listen.is_empty() {
            let help = "name the addresses of this machine, as listen = [\"192.0.2.1:53\"]";
            return Err(wrong("[dns] listen names no address", help));
        }
        if table.names.len() > MAX_NAMES {
            return Err(wrong(
                "[dns] names has more than 13 names",
                "NS records of so many do not fit into one answer",
            ));
        }
        if table.limits.zone_records == 0 || table.limits.zone_octets == 0 {
            let help = "leave the line out for the default";
            return Err(wrong("a limit of 0 would refuse all zones", help));
        }
        let keys = keys(source, &table.keys)?;
        let all = Others {
            transfer_to: rules(source, table.transfer_to, &keys)?.into(),
            notify: recipients(source, table.notify, &keys)?,
        };
        let made = |catalog: Spanned<ZoneName>| {
            let (span, name) = (catalog.span(), catalog.into_inner());
            let made = Catalog::new(name.name().clone(), &all.transfer_to, all.notify.clone());
            let help = match &made {
                Err(Unfit::NoKey) => Some("add { key = \"…\" } to [dns] transfer_to"),
                _ => None,
            };
            made.map_err(|error| source.error(Some(span), &error.to_string(), help))
        };
        let catalog = table.catalog.map(made).transpose()?;
        let mut single = HashMap::new();
        for entry in table.zones {
            let (span, zone) = (entry.span(), entry.into_inner());
            let own = rules(source, zone.transfer_to, &keys)?;
            let mut others = all.clone();
            others.transfer_to = all.transfer_to.iter().cloned().chain(own).collect();
            others.notify.extend(recipients(source, zone.notify, &keys)?);
            if single.insert(zone.name.name().clone(), others).is_some() {
                return Err(source.error(Some(span), "there is a zone of this name already", None));
            }
        }
        let mut keys: Vec<_> = keys.into_values().collect();
        keys.sort_by_cached_key(|key| key.name().to_string());
        let names = if table.names.is_empty() { vec![hostname.clone()] } else { table.names };
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            listen: table.listen,
            names,
            threads: table.threads.unwrap_or(cores),
            tls: table.tls,
            cookies: table.cookies,
            rate_limit: table.rate_limit,
            limits: table.limits,
            keys,
            policy: Policy { all, single },
            catalog,
        })
    }

    /// The catalog of all zones.
    pub(super) fn catalog(&self) -> Option<Catalog> {
        self.catalog.clone()
    }

    /// Open files of the name server at the most: its sockets, and the connections that anybody may
    /// open to it.
    pub fn files(&self) -> u64 {
        let of_address = self.threads.get().saturating_add(1);
        let tls = self.tls.as_ref().map_or(0, |tls| 2 * tls.listen.len());
        let sockets = self.listen.len().saturating_mul(of_address).saturating_add(tls);
        let connections = stream::Settings::default().connections;
        u64::try_from(sockets.saturating_add(connections)).unwrap_or(u64::MAX)
    }

    /// For the name server, which keeps its zones in `state`; for each zone; and the names for NS
    /// records.
    pub(super) fn split(self, state: &Path) -> (server::Settings, Policy, Vec<MxName>) {
        let Self { listen, threads, tls, cookies, rate_limit, limits, keys, policy, names, .. } =
            self;
        let (state, limits, keys) = (state.to_owned(), limits.into(), keys.into_iter().collect());
        let server =
            server::Settings { state, listen, threads, tls, cookies, rate_limit, limits, keys };
        (server, policy, names)
    }
}

impl Policy {
    /// Who may transfer the zone `apex`, and who hears of its changes.
    pub(super) fn of(&self, apex: &Name) -> (Arc<[Rule]>, Vec<Recipient>) {
        let Others { transfer_to, notify } = self.single.get(apex).unwrap_or(&self.all).clone();
        (transfer_to, notify)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        #[derive(Deserialize)]
        struct File {
            dns: Spanned<Table>,
        }
        let source = Source::from_text("relay.toml", text);
        let file: File = source.parse().unwrap();
        let hostname = "relay.example.net".parse().unwrap();
        Settings::check(&source, file.dns, &hostname).unwrap()
    }

    #[test]
    fn a_short_table_gets_the_relays_name_and_limits_for_strangers() {
        let settings = settings("[dns]\nlisten = [\"127.0.0.1:0\"]\nthreads = 2\n");
        assert_eq!(settings.files(), 3 + 4096);
        let (server, policy, names) = settings.split(Path::new("/state"));
        assert_eq!(names, ["relay.example.net".parse().unwrap()]);
        assert_eq!((server.limits.zone_records, server.limits.zone_octets), (10_000, 2_097_152));
        assert_eq!(server.limits.transfers_in_of_primary, OF_ONE_BOX);
        assert_eq!(policy, Policy::default());
    }

    #[test]
    fn a_zone_has_what_is_for_it_beside_what_is_for_all() {
        let text = "[dns]\nlisten = [\"127.0.0.1:0\"]\n\
             transfer_to = [{ from = \"192.0.2.0/24\" }]\nnotify = [{ address = \"192.0.2.1:53\" }]\n\
             [[dns.zone]]\nname = \"Home.Example\"\ntransfer_to = [{ from = \"198.51.100.1\" }]\n\
             notify = [{ address = \"198.51.100.1:53\" }]\n";
        let (_, policy, _) = settings(text).split(Path::new("/state"));
        let counts = |apex: &str| {
            let (transfer_to, notify) = policy.of(&apex.parse().unwrap());
            (transfer_to.len(), notify.len())
        };
        assert_eq!(counts("home.example"), (2, 2));
        assert_eq!(counts("www.home.example"), (1, 1));
        assert_eq!(counts("other.example"), (1, 1));
    }
}
