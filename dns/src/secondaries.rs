//! The zones that come from elsewhere: what is here of each, and what becomes of a new version. It is
//! admitted, compiled, kept on disk and served, in this order, and at the first trouble the old one
//! stays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use domain::rdata::{Dnskey, ZoneRecordData};
use tracing::warn;

use crate::admission::{self, Expect, Seal, admit};
use crate::catalog::{Catalog, Entry};
use crate::config::{self, Limits};
use crate::engine::Engine;
use crate::record::{Name, Record};
use crate::store::{Kept, Store};
use crate::transfer::access::{Prefix, Rule};
use crate::transfer::attempt::{Keeper, Primary, Secondary};
use crate::transfer::difference::{Difference, between};
use crate::transfer::inbound;
use crate::transfer::journal::Journal;
use crate::transfer::notifier::{self, Outgoing};
use crate::transfer::refresh;
use crate::transfer::serve::{Served, Zones};
use crate::transfer::timers::Standing;
use crate::zone::Zone;

/// All zones of a configuration.
pub struct Secondaries {
    engine: Arc<Engine>,
    store: Store,
    limits: Limits,
    zones: HashMap<Name, Held>,
    notifier: notifier::Handle,
    refresher: OnceLock<refresh::Handle>,
}

/// A zone, and what is here of it.
struct Held {
    zone: config::Zone,
    transfer_to: Arc<[Rule]>,
    primaries: Arc<[Rule]>,
    here: Mutex<Option<Arc<Version>>>,
}

/// A version of a zone.
struct Version {
    zone: Arc<Zone>,
    soa: Record,
    standing: Standing,
    /// Of one that was admitted by this process.
    seal: Option<Seal>,
    journal: Arc<Journal>,
}

impl Held {
    fn here(&self) -> Option<Arc<Version>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, version: Version) {
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(version));
    }
}

/// A name as zones are found by: names compare without case, and these are written alike too.
fn lower(apex: &Name) -> Vec<u8> {
    apex.as_slice().to_ascii_lowercase()
}

impl Secondaries {
    /// Those of `zones`, none of them here yet.
    pub fn new(
        engine: Arc<Engine>,
        store: Store,
        limits: Limits,
        zones: Vec<config::Zone>,
        notifier: notifier::Handle,
    ) -> Self {
        let held = |zone: config::Zone| {
            let from = zone.primaries.iter().map(|server| {
                let ip = server.address.ip();
                Rule::From(Prefix::new(ip, if ip.is_ipv4() { 32 } else { 128 }))
            });
            let primaries = from.collect();
            let transfer_to = zone.transfer_to.clone().into();
            (zone.name.clone(), Held { zone, transfer_to, primaries, here: Mutex::default() })
        };
        let zones: HashMap<Name, Held> = zones.into_iter().map(held).collect();
        for name in zones.keys() {
            // Nobody else's view of it is right until it comes.
            engine.catalog.insert(Entry::Expired(lower(name).into()));
        }
        Self { engine, store, limits, zones, notifier, refresher: OnceLock::new() }
    }

    fn catalog(&self) -> &Catalog {
        &self.engine.catalog
    }

    /// Reads what was kept on disk, and serves what has not expired at `now` in seconds since 1970. Blocks.
    pub fn load(&self, threads: usize, now: u64) -> Result<usize, crate::store::StoreError> {
        let loaded = std::sync::atomic::AtomicUsize::new(0);
        self.store.load_all(threads, |kept| match kept {
            Ok(kept) => match self.restore(kept, now) {
                Ok(true) => {
                    loaded.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(false) => {}
                Err(error) => warn!(%error, "a zone that was kept cannot be served"),
            },
            Err(error) => warn!(%error, "a zone that was kept cannot be read"),
        })?;
        Ok(loaded.into_inner())
    }

    fn restore(&self, kept: Kept, now: u64) -> anyhow::Result<bool> {
        let Some(held) = self.zones.get(&kept.apex) else { return Ok(false) };
        let zone = Arc::new(Zone::compile(&kept.apex, &kept.records)?);
        let Some(soa) = kept.records.into_iter().next() else { return Ok(false) };
        if now < kept.standing.expires {
            self.catalog().insert(Entry::Serving(zone.clone()));
        }
        let (standing, journal) = (kept.standing, Arc::default());
        held.set(Version { zone, soa, standing, seal: None, journal });
        Ok(true)
    }

    /// Hands all zones to who keeps them fresh.
    pub async fn follow(&self, refresher: refresh::Handle) {
        let _ = self.refresher.set(refresher.clone());
        let limits = inbound::Limits {
            records: self.limits.zone_records,
            octets: self.limits.zone_octets,
            ..inbound::Limits::default()
        };
        for held in self.zones.values() {
            let primary = |server: &config::Server| Primary {
                address: server.address,
                key: server.key.clone(),
            };
            let secondary = Secondary {
                apex: held.zone.name.clone(),
                primaries: held.zone.primaries.iter().map(primary).collect(),
                limits,
            };
            let kept = held.here().map(|version| (version.soa.clone(), version.standing));
            refresher.add(secondary, kept).await;
        }
    }

    /// How many zones there are, and how many of them are served.
    pub fn count(&self, now: u64) -> (usize, usize) {
        let served =
            |held: &&Held| held.here().is_some_and(|version| now < version.standing.expires);
        (self.zones.len(), self.zones.values().filter(served).count())
    }

    /// Admits, compiles and keeps a new version. Blocks.
    fn take(&self, held: &Held, records: &[Record], standing: Standing) -> anyhow::Result<Version> {
        let apex = &held.zone.name;
        let here = held.here();
        let expect = self.expect(held, here.as_deref(), records);
        let admitted = admit(apex, records, &expect, standing.refreshed)?;
        let zone = Arc::new(Zone::compile(apex, records)?);
        let soa = records
            .iter()
            .find(|record| matches!(record.data(), ZoneRecordData::Soa(_)))
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("the zone has no SOA"))?;
        let journal = here.map_or_else(Arc::default, |here| {
            let mut journal = Journal::clone(&here.journal);
            match between(&here.zone.records(), records) {
                Ok(step) => journal.push(step),
                Err(_) => journal.clear(),
            }
            Arc::new(journal)
        });
        self.store.save(apex, records, standing)?;
        let seal = Some(admitted.seal);
        Ok(Version { zone, soa, standing, seal, journal })
    }

    fn expect(&self, held: &Held, here: Option<&Version>, records: &[Record]) -> Expect {
        let trust = match &held.zone.trust {
            config::Trust::Ds(ds) => admission::Trust::Ds(ds.clone()),
            config::Trust::Unsigned => admission::Trust::Unsigned,
            // Of the version that is here; of the first one its own.
            config::Trust::FirstSeen => {
                let own = || keys(&held.zone.name, records);
                let known = here.map(|here| keys(&held.zone.name, &here.zone.records()));
                admission::Trust::Keys(known.unwrap_or_else(own))
            }
        };
        Expect {
            trust,
            previous_serial: here.map(|here| here.zone.serial()),
            seal: here.and_then(|here| here.seal),
            limits: admission::Limits {
                records: self.limits.zone_records,
                octets: self.limits.zone_octets,
                ..admission::Limits::default()
            },
        }
    }
}

/// The keys of a zone.
fn keys(apex: &Name, records: &[Record]) -> Vec<Dnskey<Bytes>> {
    let of_apex = records.iter().filter(|record| record.owner() == apex);
    let key = |record: &Record| match record.data() {
        ZoneRecordData::Dnskey(key) => Some(key.clone()),
        _ => None,
    };
    of_apex.filter_map(key).collect()
}

/// As the tasks of transfers know them.
#[derive(Clone)]
pub struct Shelf(pub Arc<Secondaries>);

impl Keeper for Shelf {
    fn soa(&self, apex: &Name) -> Option<Record> {
        Some(self.0.zones.get(apex)?.here()?.soa.clone())
    }

    fn records(&self, apex: &Name) -> Option<Vec<Record>> {
        Some(self.0.zones.get(apex)?.here()?.zone.records())
    }

    async fn accept(
        &self,
        apex: &Name,
        records: Vec<Record>,
        standing: Standing,
    ) -> Result<(), String> {
        let (all, name) = (self.0.clone(), apex.clone());
        let work = move || {
            let held = all.zones.get(&name).ok_or("the zone is not configured any more")?;
            let taken = all.take(held, &records, standing);
            let version = taken.map_err(|error| format!("{error:#}"))?;
            all.catalog().insert(Entry::Serving(version.zone.clone()));
            let soa = version.soa.clone();
            held.set(version);
            Ok::<_, String>(soa)
        };
        // Signatures take time, and other zones and streams want theirs.
        let done = tokio::task::spawn_blocking(work).await;
        let soa = done.map_err(|error| error.to_string()).flatten().inspect_err(|error| {
            warn!(zone = %apex, error, "a new version is refused, the old one stays");
        })?;
        let Some(held) = self.0.zones.get(apex) else { return Ok(()) };
        for server in &held.zone.notify {
            let (to, key) = (server.address, server.key.clone());
            let notice = Outgoing { apex: apex.clone(), soa: soa.clone(), to, key };
            self.0.notifier.send(notice).await;
        }
        Ok(())
    }

    async fn confirm(&self, apex: &Name, standing: Standing) {
        let Some(held) = self.0.zones.get(apex) else { return };
        let Some(here) = held.here() else { return };
        let (zone, soa) = (here.zone.clone(), here.soa.clone());
        self.0.catalog().insert(Entry::Serving(zone.clone()));
        held.set(Version { zone, soa, standing, seal: here.seal, journal: here.journal.clone() });
        let (all, name) = (self.0.clone(), apex.clone());
        let kept = tokio::task::spawn_blocking(move || all.store.confirm(&name, standing)).await;
        if let Ok(Err(error)) = kept {
            warn!(zone = %apex, %error, "cannot keep when the zone was confirmed");
        }
    }

    fn expire(&self, apex: &Name) {
        self.0.catalog().insert(Entry::Expired(lower(apex).into()));
    }
}

impl Zones for Shelf {
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
        let version = self.0.zones.get(apex)?.here()?;
        (unix_now() < version.standing.expires).then_some(version as Arc<dyn Served>)
    }

    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
        self.0.zones.get(apex).map(|held| held.transfer_to.clone()).unwrap_or_default()
    }

    fn primaries(&self, apex: &Name) -> Option<Arc<[Rule]>> {
        self.0.zones.get(apex).map(|held| held.primaries.clone())
    }

    fn notified(&self, apex: &Name, serial: Option<u32>) {
        let here = self.0.zones.get(apex).and_then(|held| held.here());
        // A hint alone: nobody vouches for it, so that only an equal one is believed.
        if here.is_some_and(|here| Some(here.zone.serial()) == serial) {
            return;
        }
        if let Some(refresher) = self.0.refresher.get() {
            refresher.notified(apex.clone());
        }
    }
}

impl Served for Version {
    fn soa(&self) -> Record {
        self.soa.clone()
    }

    fn records(&self) -> Vec<Record> {
        self.zone.records()
    }

    fn expires_in(&self) -> Option<u32> {
        u32::try_from(self.standing.expires.saturating_sub(unix_now())).ok()
    }

    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        self.journal.since(serial)
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
