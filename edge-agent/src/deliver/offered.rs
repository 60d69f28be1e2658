//! The zones of this box, as relays and programs of this machine have them.
//!
//! Reading takes no lock: a version is never changed, only replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use sealpost_dns::cookie::{Cookies, Secret};
use sealpost_dns::engine::Engine;
use sealpost_dns::record::{Name, Record};
use sealpost_dns::served::Entry;
use sealpost_dns::transfer::access::{Prefix, Rule};
use sealpost_dns::transfer::difference::{Difference, between};
use sealpost_dns::transfer::journal::Journal;
use sealpost_dns::transfer::query::soa_of;
use sealpost_dns::transfer::serve::{Served, Zones};
use sealpost_dns::zone::Zone;

/// One version of a zone.
#[derive(Clone)]
pub struct Version {
    soa: Record,
    records: Arc<[Record]>,
    journal: Journal,
    /// When it may not be served any more, where that is for another server to say.
    expires: Option<Instant>,
}

/// Why a zone cannot be offered.
#[derive(Debug, thiserror::Error)]
#[error("no name server could serve the zone: {0}")]
pub struct NotServable(String);

/// A version that is put together and not yet served.
pub struct Ready {
    apex: Name,
    zone: Zone,
    version: Version,
    /// The version that was served, from which the last step of the journal leads here.
    from: Option<Arc<Version>>,
}

/// All versions that are served now.
pub struct Offered {
    zones: ArcSwap<HashMap<Name, Arc<Version>>>,
    /// Answers other questions about them.
    engine: Arc<Engine>,
    /// Held while one is replaced.
    changing: Mutex<()>,
}

impl Default for Offered {
    fn default() -> Self {
        // Nobody forges addresses of this machine to it, so nothing is limited.
        let cookies = Cookies::new(Secret::random(), None);
        let engine = Arc::new(Engine::new(cookies, None, 1));
        Self { zones: ArcSwap::default(), engine, changing: Mutex::default() }
    }
}

impl Offered {
    /// Puts `records` together as the zone `apex`, to be served until `expires` if that is said. Takes
    /// its time with a large zone, so not to be called where something waits.
    pub fn prepare(
        &self,
        apex: &Name,
        records: &[Record],
        expires: Option<Instant>,
    ) -> Result<Ready, NotServable> {
        let zone = Zone::compile(apex, records).map_err(|error| NotServable(error.to_string()))?;
        let soa = records.iter().find(|record| soa_of(record).is_some()).cloned();
        let soa = soa.ok_or_else(|| NotServable("it has no SOA record".into()))?;
        let from = self.zones.load().get(apex).cloned();
        let mut journal = Journal::default();
        if let Some(last) = &from {
            journal = last.journal.clone();
            match between(&last.records, records) {
                Ok(step) => journal.push(step),
                // The same version, or one that begins anew.
                Err(_) if last.soa != soa => journal.clear(),
                Err(_) => {}
            }
        }
        let version = Version { soa, records: records.into(), journal, expires };
        Ok(Ready { apex: apex.clone(), zone, version, from })
    }

    /// Serves it from now on. Quick.
    pub fn serve(&self, ready: Ready) {
        let Ready { apex, zone, mut version, from } = ready;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zones = HashMap::clone(&self.zones.load());
        let same = match (zones.get(&apex), &from) {
            (Some(now), Some(from)) => Arc::ptr_eq(now, from),
            (None, None) => true,
            _ => false,
        };
        if !same {
            // The steps lead here from another version than the one that was served last.
            version.journal.clear();
        }
        zones.insert(apex, Arc::new(version));
        self.engine.served.insert(Entry::Serving(Arc::new(zone)));
        self.zones.store(Arc::new(zones));
    }

    /// Serves the version that there is until `expires`; `false` when there is none.
    pub fn prolong(&self, apex: &Name, expires: Option<Instant>) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zones = HashMap::clone(&self.zones.load());
        let Some(last) = zones.get(apex) else { return false };
        let version = Version { expires, ..Version::clone(last) };
        zones.insert(apex.clone(), Arc::new(version));
        self.zones.store(Arc::new(zones));
        true
    }

    /// Does not serve the zone any more.
    pub fn withdraw(&self, apex: &Name) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zones = HashMap::clone(&self.zones.load());
        if zones.remove(apex).is_some() {
            self.zones.store(Arc::new(zones));
        }
        self.engine.served.remove(&apex.as_slice().to_ascii_lowercase());
    }

    /// The version that is served now.
    pub fn version(&self, apex: &Name) -> Option<Arc<Version>> {
        self.zones.load().get(apex).cloned().filter(|version| version.expires_in() != Some(0))
    }

    /// What answers questions that are no transfers.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Version {
    /// All records.
    pub fn all(&self) -> &[Record] {
        &self.records
    }
}

impl Served for Version {
    fn soa(&self) -> Record {
        self.soa.clone()
    }

    fn records(&self) -> Vec<Record> {
        self.records.to_vec()
    }

    fn expires_in(&self) -> Option<u32> {
        let Some(expires) = self.expires else {
            return soa_of(&self.soa).map(|soa| soa.expire().as_secs());
        };
        let left = expires.saturating_duration_since(Instant::now()).as_secs();
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn steps_since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        self.journal.since(serial)
    }
}

/// The zones as relays may have them: all of them, as they are to be told to the world, and nobody
/// there says that they changed.
pub struct ForRelays(pub Arc<Offered>);

impl Zones for ForRelays {
    fn find(&self, apex: &Name) -> Option<Arc<dyn Served>> {
        self.0.version(apex).map(|version| version as Arc<dyn Served>)
    }

    fn transfer_rules(&self, apex: &Name) -> Arc<[Rule]> {
        // What is not here is refused, rather than said to be broken.
        if self.0.version(apex).is_some() { everybody() } else { Arc::new([]) }
    }

    fn primaries(&self, _: &Name) -> Option<Arc<[Rule]>> {
        None
    }

    fn notified(&self, _: &Name, _: Option<u32>) -> bool {
        true
    }
}

/// Whoever got as far as to ask.
pub fn everybody() -> Arc<[Rule]> {
    let any = |address: &str| Rule::From(Prefix::new(address.parse().expect("an address"), 0));
    Arc::new([any("0.0.0.0"), any("::")])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::zone::included;

    fn zone(serial: u32, more: &str) -> Vec<Record> {
        let text = format!("@ SOA ns h {serial} 4 3 77 5\n@ NS ns.elsewhere.\n{more}\n");
        let found = included::parse(text.as_bytes(), "z".as_ref(), &apex()).unwrap();
        found.into_iter().map(|it| it.record).collect()
    }

    fn offer(offered: &Offered, records: &[Record], expires: Option<Instant>) {
        offered.serve(offered.prepare(&apex(), records, expires).unwrap());
    }

    fn apex() -> Name {
        "a.example.".parse().unwrap()
    }

    #[test]
    fn a_version_takes_the_place_of_the_last_with_what_changed() {
        let offered = Offered::default();
        offer(&offered, &zone(1, ""), None);
        offer(&offered, &zone(2, "x TXT y"), None);
        offer(&offered, &zone(2, "x TXT y"), None);
        let now = offered.version(&"A.Example.".parse().unwrap()).unwrap();
        assert_eq!(now.expires_in(), Some(77));
        let steps = now.steps_since(1).unwrap();
        assert_eq!((steps.len(), steps[0].added.len()), (1, 1));
        assert!(offered.version(&"b.example.".parse().unwrap()).is_none());
        offered.withdraw(&apex());
        assert!(offered.version(&apex()).is_none());
    }

    #[test]
    fn what_expired_is_not_served_and_what_is_no_zone_is_not_offered() {
        let offered = Offered::default();
        assert!(!offered.prolong(&apex(), None));
        offer(&offered, &zone(1, ""), Some(Instant::now()));
        assert!(offered.version(&apex()).is_none());
        assert!(offered.prepare(&apex(), &zone(1, "")[1..], None).is_err());
        // The primary said that it has the same still.
        assert!(offered.prolong(&apex(), Some(Instant::now() + Duration::from_secs(60))));
        assert!(offered.version(&apex()).is_some());
    }

    #[test]
    fn a_step_from_what_is_not_served_any_more_is_not_told() {
        let offered = Offered::default();
        offer(&offered, &zone(1, ""), None);
        let late = offered.prepare(&apex(), &zone(3, ""), None).unwrap();
        offer(&offered, &zone(2, "x TXT y"), None);
        offered.serve(late);
        let now = offered.version(&apex()).unwrap();
        assert!(now.steps_since(1).is_none() && now.steps_since(2).is_none());
        assert_eq!(now.soa(), zone(3, "")[0]);
    }

    #[test]
    fn a_version_that_begins_anew_forgets_what_changed_before() {
        let offered = Offered::default();
        for (serial, more) in [(5, ""), (6, "x TXT y"), (3, "")] {
            offer(&offered, &zone(serial, more), None);
        }
        assert!(offered.version(&apex()).unwrap().steps_since(5).is_none());
    }
}
