//! Takes changes of a zone's keys on, by what its name servers and its parent say.
//!
//! One task looks at all zones now and then: the steps are hours apart. The same step is taken by the
//! command that shows how far it is. Who makes the zone finds other keys and signs anew.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::Rtype;
use domain::rdata::Ds;
use hickory_proto::dnssec::TrustAnchors;
use sealpost_dns::record::{Data, Name, Record};
use sealpost_tunnel::DomainName;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::roll::{Pair, Roll, RollError, Seen};
use super::store::{Store, zones};
use super::zone_key_roll::{ZoneKeyRoll, version};
use super::{Shared, now as seconds};
use crate::config::zone::apex;
use crate::lookup::delegation::Resolvers;
use crate::lookup::exchange::Silence;
use crate::lookup::resolvers::{FILE, for_way};
use crate::lookup::survey::{Request, Survey, Zone, survey};
use crate::lookup::validated::confirm;
use crate::zone::key_roll::Step;
use crate::zone::serial::is_newer;
use crate::zone::zone_key::Role;
use crate::zone::{ZoneKey, recall};

/// Between two looks at all zones, with up to a half more.
const LOOK: Duration = Duration::from_secs(5 * 60);

/// How far a change is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What was done and seen.
    pub roll: Roll,
    /// The keys.
    pub pair: Pair,
    /// What the world said just now.
    pub seen: Seen,
    /// Whether it ended just now.
    pub ended: bool,
}

/// Follows all changes until told to stop.
pub(super) async fn watch(shared: Arc<Shared>) {
    loop {
        let pause = LOOK.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        for domain in changing(&shared.state) {
            let looked = follow(&shared, &domain);
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = looked => {}
            }
        }
    }
}

async fn follow(shared: &Shared, domain: &DomainName) {
    // A command may have begun it, or taken it on.
    shared.remake(domain);
    let store = Store::new(&shared.state, domain);
    let way = Arc::new(Resolvers::new(for_way(&[], Path::new(FILE))));
    match step(&store, &apex(domain), way, &shared.anchors).await {
        Ok(None) => {}
        Ok(Some(now)) if now.ended => info!(zone = %domain, "the key was changed"),
        Ok(Some(now)) => {
            info!(zone = %domain, next = ?now.roll.next(seconds()), "changing the key");
        }
        Err(error) => warn!(zone = %domain, %error, "cannot go on changing the key"),
    }
    let way = Arc::new(Resolvers::new(for_way(&[], Path::new(FILE))));
    match zone_step(&store, &apex(domain), way).await {
        Ok(None) => {}
        Ok(Some((_, true))) => info!(zone = %domain, "the key of the records was changed"),
        Ok(Some((roll, false))) => {
            info!(zone = %domain, next = ?roll.next(seconds()), "changing the key of the records");
        }
        Err(error) => {
            warn!(zone = %domain, %error, "cannot go on changing the key of the records");
        }
    }
    shared.remake(domain);
}

/// The zones under `state` whose key is being changed.
fn changing(state: &Path) -> Vec<DomainName> {
    let Ok(entries) = std::fs::read_dir(zones(state)) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let domains = names.filter_map(|name| name.parse().ok());
    let changes = |domain: &DomainName| {
        let store = Store::new(state, domain);
        store.next_entry_key().exists() || store.next_zone_key().exists()
    };
    domains.filter(changes).collect()
}

/// Asks, and takes the step that may be taken; `None` when no change is under way.
pub async fn step(
    store: &Store,
    apex: &Name,
    way: Arc<Resolvers>,
    anchors: &Arc<TrustAnchors>,
) -> Result<Option<Progress>, RollError> {
    let Some(looked) = look(store, apex, way, anchors).await? else { return Ok(None) };
    let (store, apex) = (store.clone(), apex.clone());
    let taken = spawn_blocking(move || {
        let Progress { roll, pair, seen, .. } = &looked;
        if let Some((roll, ended)) = store.advance_roll(roll, pair, seen, &apex, seconds())? {
            return Ok(Some(Progress { roll, ended, ..looked }));
        }
        // Somebody else was faster. How it stands now, of which nothing was seen yet.
        let Some(roll) = store.roll()? else { return Ok(None) };
        let pair = store.roll_pair(&roll)?;
        Ok(pair.map(|pair| Progress { roll, pair, seen: Seen::default(), ended: false }))
    });
    taken.await.unwrap_or_else(|fault| Err(RollError::Fault(fault.to_string())))
}

/// Asks, and changes nothing.
pub async fn look(
    store: &Store,
    apex: &Name,
    way: Arc<Resolvers>,
    anchors: &Arc<TrustAnchors>,
) -> Result<Option<Progress>, RollError> {
    let Some(roll) = store.roll()? else { return Ok(None) };
    let Some(pair) = store.roll_pair(&roll)? else { return Ok(None) };
    let records = store.zone(apex).ok().flatten().unwrap_or_default();
    let request = Request {
        domain: apex.clone(),
        name_servers: name_servers(apex, &records),
        sets: vec![(apex.clone(), Rtype::DNSKEY)],
        resolvers: Vec::new(),
    };
    let mut seen = seen(&survey(Arc::clone(&way), request).await, &pair);
    // An old key goes for good because of this, so it takes more than the word of who is on the way. While
    // the parent names it nothing happens, so that needs no proof.
    if let Some(ds) = &seen.ds
        && !ds.iter().any(|ds| pair.goes.is_named_by(apex, ds))
        && let Err(why) = confirm(&way, anchors, apex, ds).await
    {
        (seen.ds, seen.unproved) = (None, Some(why));
    }
    Ok(Some(Progress { roll, pair, seen, ended: false }))
}

/// Asks whether the world has what a change of the key that signs the records waits for, and takes the
/// step that may be taken. How it stands then, and whether it has ended; `None` when none is under way.
pub async fn zone_step(
    store: &Store,
    apex: &Name,
    way: Arc<Resolvers>,
) -> Result<Option<(ZoneKeyRoll, bool)>, RollError> {
    let Some(roll) = store.zone_roll()? else { return Ok(None) };
    let Some(next) = ZoneKey::load(&store.next_zone_key(), Role::Zone)? else { return Ok(None) };
    let records = store.zone(apex).ok().flatten().unwrap_or_default();
    let request = Request {
        domain: apex.clone(),
        name_servers: name_servers(apex, &records),
        sets: Vec::new(),
        resolvers: Vec::new(),
    };
    let served = match recall(records.clone()) {
        Some(last) => served(&survey(way, request).await, last.serial),
        None => false,
    };
    let seen = version(apex, &records, next.public(), served);
    let store = store.clone();
    let taken = spawn_blocking(move || match store.advance_zone_roll(&roll, seen, seconds())? {
        Some(stepped) => Ok(Some(stepped)),
        None => Ok(store.zone_roll()?.map(|roll| (roll, false))),
    });
    taken.await.unwrap_or_else(|fault| Err(RollError::Fault(fault.to_string())))
}

/// Whether every name server has the version `serial` or a newer one. Whoever this box has no way to is
/// left out; whoever is silent may say anything to others.
fn served(survey: &Survey, serial: u32) -> bool {
    let asked = survey.servers.iter().filter(|(_, said)| *said != Err(Silence::NoWay));
    let mut asked = asked.peekable();
    let has = |zone: &Zone| {
        zone.authoritative && zone.serial.is_some_and(|theirs| !is_newer(serial, theirs))
    };
    asked.peek().is_some() && asked.all(|(_, said)| said.as_ref().is_ok_and(has))
}

/// The names of the name servers of the zone `records`.
pub fn name_servers(apex: &Name, records: &[Record]) -> Vec<Name> {
    let own = records.iter().filter(|record| record.owner() == apex);
    let names = own.filter_map(|record| match record.data() {
        Data::Ns(ns) => Some(ns.nsdname().clone()),
        _ => None,
    });
    names.collect()
}

/// What the answers mean. Whoever this box has no way to is left out; whoever is silent may say
/// anything to others.
fn seen(survey: &Survey, pair: &Pair) -> Seen {
    let both = [&pair.stays, &pair.goes].map(|key| Data::from(key.dnskey().clone()));
    let asked = survey.servers.iter().filter(|(_, said)| *said != Err(Silence::NoWay));
    let said: Vec<Option<bool>> = asked
        .map(|(_, said)| {
            let keys = said.as_ref().ok()?.sets.first()?.as_ref().ok()?;
            Some(both.iter().all(|key| keys.contains(key)))
        })
        .collect();
    let both_served = if said.contains(&Some(false)) {
        Some(false)
    } else if said.is_empty() || said.contains(&None) {
        None
    } else {
        Some(true)
    };
    let mut found = Seen { both_served, ..Seen::default() };
    let Ok(parent) = &survey.parent else { return found };
    let asked = parent.servers.iter().filter(|(_, said)| *said != Err(Silence::NoWay));
    let said: Vec<_> = asked.map(|(_, said)| said.as_ref().ok()).collect();
    let data = |ds: &[Ds<Bytes>]| ds.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    if let Some(Some(first)) = said.first()
        && said.iter().all(|it| it.is_some_and(|it| data(&it.ds) == data(&first.ds)))
    {
        found.ds_ttl = said.iter().flatten().map(|it| it.ds_ttl).max().unwrap_or_default();
        found.ds = Some(first.ds.clone());
    }
    found
}

/// What a change waits for, in words.
pub fn waits_for(step: Step, announced: bool) -> String {
    match step {
        Step::AwaitServers => "all name servers to have the zone with both keys".into(),
        Step::AwaitParent => "the parent zone to name the one key that stays, and no other".into(),
        Step::Wait(left) => {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            format!("caches to forget what was before: {left}")
        }
        Step::Go if announced => "nothing: the old key may go".into(),
        Step::Go => "nothing: the parent may be asked for the new key".into(),
    }
}

/// The same for the key that signs the records.
pub fn waits_for_zone_key(step: Step) -> String {
    match step {
        Step::AwaitServers => "all name servers to have the newest version of the zone".into(),
        Step::Wait(_) => waits_for(step, false),
        Step::AwaitParent | Step::Go => "nothing: the next step may be taken".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::delegation::{Server, Unknown};
    use crate::lookup::survey::{Delegation, Parent};
    use crate::zone::zone_key::PublicKey;
    use domain::base::iana::Rcode;

    fn key() -> PublicKey {
        ZoneKey::generate(Role::Entry).unwrap().public().clone()
    }

    #[test]
    fn whoever_is_silent_may_have_the_old_and_who_has_no_way_does_not_count() {
        let pair = Pair { stays: key(), goes: key() };
        let apex: Name = "a.example.".parse().unwrap();
        let server = || Server { name: apex.clone(), address: Ok([192, 0, 2, 1].into()) };
        let keys = |keys: &[&PublicKey]| {
            let sets = vec![Ok(keys.iter().map(|key| key.dnskey().clone().into()).collect())];
            Ok(Zone { rcode: Rcode::NOERROR, authoritative: true, serial: Some(1), sets })
        };
        let named = |key: &PublicKey| {
            Ok(Delegation { name_servers: vec![], ds: vec![key.ds(&apex)], ds_ttl: 5 })
        };
        let said = |servers: Vec<Result<Zone, Silence>>,
                    parents: Vec<Result<Delegation, Silence>>| {
            let servers = servers.into_iter().map(|said| (server(), said)).collect();
            let parents = parents.into_iter().map(|said| (server(), said)).collect();
            let parent = Ok(Parent { zone: apex.clone(), servers: parents });
            seen(&Survey { parent, servers, resolvers: vec![] }, &pair)
        };
        let both = || keys(&[&pair.goes, &pair.stays]);
        let all = said(vec![both(), both(), Err(Silence::NoWay)], vec![named(&pair.stays)]);
        assert_eq!(all.both_served, Some(true));
        assert_eq!((all.ds.unwrap().len(), all.ds_ttl), (1, 5));
        let one = said(vec![both(), keys(&[&pair.goes])], vec![]);
        assert_eq!((one.both_served, one.ds), (Some(false), None));
        let silent =
            said(vec![both(), Err(Silence::None)], vec![named(&pair.stays), Err(Silence::None)]);
        assert_eq!((silent.both_served, silent.ds), (None, None));
        let differ = said(vec![], vec![named(&pair.stays), named(&pair.goes)]);
        assert_eq!((differ.both_served, differ.ds), (None, None));
    }

    #[test]
    fn a_version_is_served_when_every_server_that_can_be_asked_has_it() {
        let apex: Name = "a.example.".parse().unwrap();
        let said = |servers: &[Result<u32, Silence>]| {
            let server = || Server { name: apex.clone(), address: Ok([192, 0, 2, 1].into()) };
            let zone = |serial| Zone {
                rcode: Rcode::NOERROR,
                authoritative: true,
                serial: Some(serial),
                sets: Vec::new(),
            };
            let servers = servers.iter().cloned().map(|said| (server(), said.map(zone))).collect();
            served(&Survey { parent: Err(Unknown::Absent), servers, resolvers: vec![] }, 7)
        };
        assert!(said(&[Ok(7), Ok(8), Err(Silence::NoWay)]));
        for not in [&[Ok(7), Ok(6)][..], &[Ok(7), Err(Silence::None)], &[], &[Err(Silence::NoWay)]]
        {
            assert!(!said(not), "{not:?}");
        }
    }

    #[test]
    fn zones_are_found_whose_key_changes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(changing(dir.path()).is_empty());
        for domain in ["a.example", "b.example"] {
            let store = Store::new(dir.path(), &domain.parse().unwrap());
            store.keys(crate::config::zone::KeyLayout::Combined).unwrap();
            if domain == "b.example" {
                let records = crate::zone::canonical::tests::records("b.example.", "@ NS x.\n");
                store.begin_roll(&records, 1).unwrap();
            }
        }
        assert_eq!(changing(dir.path()), ["b.example".parse().unwrap()]);
    }
}
