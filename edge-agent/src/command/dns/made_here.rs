//! A zone that this box makes, as it is on disk.

use std::path::PathBuf;

use anyhow::{Context, bail};
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::DomainName;

use super::judge::{KeysOfKit, MadeHere, Wanted, important};
use super::registrar::Entry;
use crate::config::{Config, Zone};
use crate::publish::facts::{Facts, Relay, facts};
use crate::publish::now as seconds;
use crate::publish::roll_watch::name_servers;
use crate::publish::store::Store;
use crate::registration::domain::Domain as Typed;
use crate::status::date;
use crate::zone::endorsement::warning;
use crate::zone::sign::endorsement_ends;
use crate::zone::zone_key::PublicKey;
use crate::zone::{Signed, recall};

/// The flag of a key that the parent zone may know (RFC 4034 section 2.1.1).
const ENTRY: u16 = 1;

/// A zone of the owner's file.
pub(super) struct Kept<'a> {
    pub(super) config: &'a Config,
    pub(super) zone: &'a Zone,
    pub(super) store: Store,
    pub(super) apex: Name,
    /// The last version; `None` while there is none.
    pub(super) last: Option<Signed>,
}

/// What the parent zone should know.
pub(super) struct ForParent {
    pub(super) name_servers: Vec<Name>,
    /// The keys that it should name.
    pub(super) announced: Vec<PublicKey>,
    /// The keys that it may name.
    pub(super) valid: Vec<PublicKey>,
}

impl<'a> Kept<'a> {
    /// The zones of the file, or that of `wanted`.
    pub(super) fn all(config: &'a Config, wanted: Option<&Typed>) -> anyhow::Result<Vec<Self>> {
        let zones = config.zones.iter();
        let fits = |zone: &&Zone| wanted.is_none_or(|wanted| wanted.name == zone.name);
        zones.filter(fits).map(|zone| Self::read(config, zone)).collect()
    }

    /// The zone of `wanted`, which must be in the file.
    pub(super) fn one(config: &'a Config, wanted: &Typed) -> anyhow::Result<Self> {
        let Some(zone) = config.zones.iter().find(|zone| zone.name == wanted.name) else {
            bail!(
                "this box makes no zone for {wanted}: the file has no [[zone]] with that name. \
                 `sealpost-agent domain add {} --zone` adds it; for a DNS elsewhere see \
                 `sealpost-agent dns {}`",
                wanted.name,
                wanted.name
            );
        };
        Self::read(config, zone)
    }

    fn read(config: &'a Config, zone: &'a Zone) -> anyhow::Result<Self> {
        let store = Store::new(&config.fixed.state, &zone.name);
        let apex = zone.apex();
        let last = store.zone(&apex)?.and_then(recall);
        Ok(Self { config, zone, store, apex, last })
    }

    pub(super) fn domain(&self) -> &DomainName {
        &self.zone.name
    }

    pub(super) fn records(&self) -> &[Record] {
        self.last.as_ref().map(|last| last.records.as_slice()).unwrap_or_default()
    }

    /// What relays said last, without asking them.
    pub(super) fn facts(&self) -> Facts {
        let mut memory = self.store.memory().relays;
        let relay = |relay: &crate::config::Relay| Relay {
            name: relay.name.clone(),
            private_addresses: relay.private_senders,
            standing: memory.remove(&relay.name).map(|heard| heard.standing),
        };
        let relays: Vec<_> = self.config.relays.iter().map(relay).collect();
        facts(self.domain(), &self.zone.mx, &relays)
    }

    /// What the parent zone should know. Makes the key where there is none.
    pub(super) fn for_parent(&self) -> anyhow::Result<ForParent> {
        let mut name_servers = name_servers(&self.apex, self.records());
        if name_servers.is_empty() {
            name_servers = self.facts().name_servers.into_iter().map(|host| host.name).collect();
        }
        if self.zone.primary.is_some() {
            let keys = self.keys_of_primary()?;
            return Ok(ForParent { name_servers, announced: keys.clone(), valid: keys });
        }
        let keys = self.store.keys(self.zone.keys)?;
        Ok(ForParent { name_servers, announced: keys.announced(), valid: keys.entries() })
    }

    /// The keys of a zone that is signed elsewhere, by their flags.
    fn keys_of_primary(&self) -> anyhow::Result<Vec<PublicKey>> {
        let own = self.records().iter().filter(|record| *record.owner() == self.apex);
        let keys = own.filter_map(|record| match record.data() {
            Data::Dnskey(key) if key.flags() & ENTRY != 0 => Some(PublicKey::new(key.clone())),
            _ => None,
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            bail!("the zone of {} has not come from its primary yet", self.domain());
        }
        Ok(keys)
    }

    /// What the world should say.
    pub(super) fn wanted(&self) -> anyhow::Result<Wanted> {
        let last = self.last.as_ref().with_context(|| {
            format!(
                "the zone of {} has not been made yet. Does the agent run, and has it reached a relay? \
                 sealpost-agent status",
                self.domain()
            )
        })?;
        let ForParent { name_servers, announced, valid } = self.for_parent()?;
        let keys_until = match self.zone.primary {
            Some(_) => None,
            None => endorsement_ends(&self.store.keys(self.zone.keys)?, seconds()),
        };
        let keys = keys_until.map(|ends| KeysOfKit {
            until: date(ends),
            warning: warning(self.domain().as_str(), ends, seconds()),
        });
        let made_here = MadeHere { name_servers, announced, valid, serial: last.serial, keys };
        let sets = important(&self.apex, &last.records);
        Ok(Wanted { apex: self.apex.clone(), made_here: Some(made_here), sets })
    }

    /// The files with its keys.
    pub(super) fn key_files(&self) -> Vec<PathBuf> {
        let store = &self.store;
        let files =
            [store.entry_key(), store.next_entry_key(), store.zone_key(), store.next_zone_key()];
        files.into_iter().filter(|file| file.exists()).collect()
    }
}

impl ForParent {
    pub(super) fn entry<'a>(&'a self, apex: &'a Name) -> Entry<'a> {
        Entry { apex, name_servers: &self.name_servers, keys: &self.announced }
    }
}
