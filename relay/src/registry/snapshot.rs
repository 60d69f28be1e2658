//! One consistent state of the registry, with an index for each question of the data path.
//!
//! The maps are persistent: a snapshot that differs in one box from another shares all the rest
//! with it, so that a change costs what it changes, however many boxes there are.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};
use sealpost_tunnel::{AddressPair, DomainName, MxName, PublicKey};

use super::{Changed, Changes, Effects, OwnPrefix};
use crate::pairs::PairRoles;

/// What the data path knows of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxRecord {
    /// Its number, from which its IPv6 address follows.
    pub id: u64,
    /// What the operator calls it.
    pub name: String,
    /// Who it is.
    pub key: PublicKey,
    /// The MX names that lead to it on any address, from domains that are proved.
    pub mx: Vec<MxName>,
    /// The domains that it has, suspended ones too; none where nobody asks for them.
    pub domains: Vec<DomainName>,
    /// The addresses that were given to it alone.
    pub addresses: Vec<IpAddr>,
    /// The address pairs that were given to it, each at another relay.
    pub pairs: Vec<AddressPair>,
}

/// All boxes at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    revision: u64,
    own_prefix: Option<OwnPrefix>,
    box_domain: Option<DomainName>,
    /// Shared, as a snapshot is made anew with each change.
    pair_roles: Arc<PairRoles>,
    by_id: HashTrieMapSync<u64, Arc<BoxRecord>>,
    by_key: HashTrieMapSync<PublicKey, Arc<BoxRecord>>,
    by_mx: HashTrieMapSync<MxName, Arc<BoxRecord>>,
    by_address: HashTrieMapSync<IpAddr, Arc<BoxRecord>>,
    by_pair: HashTrieMapSync<AddressPair, Arc<BoxRecord>>,
    /// Only where `with_domains`: on a relay without zones it would be memory for nothing.
    by_domain: HashTrieMapSync<DomainName, Arc<BoxRecord>>,
    with_domains: bool,
    retired: HashTrieSetSync<PublicKey>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::empty(None, None, PairRoles::default())
    }
}

impl Snapshot {
    /// No boxes; those to come get an address out of `own_prefix`, a name under `box_domain`, and
    /// are known by the pairs of addresses that `pair_roles` admits.
    pub fn empty(
        own_prefix: Option<OwnPrefix>,
        box_domain: Option<DomainName>,
        pair_roles: impl Into<Arc<PairRoles>>,
    ) -> Self {
        Self {
            revision: 0,
            own_prefix,
            box_domain,
            pair_roles: pair_roles.into(),
            by_id: HashTrieMapSync::new_sync(),
            by_key: HashTrieMapSync::new_sync(),
            by_mx: HashTrieMapSync::new_sync(),
            by_address: HashTrieMapSync::new_sync(),
            by_pair: HashTrieMapSync::new_sync(),
            by_domain: HashTrieMapSync::new_sync(),
            with_domains: false,
            retired: HashTrieSetSync::new_sync(),
        }
    }

    /// This one, which knows whose domains are whose from its first reading on.
    #[must_use]
    pub fn with_domains(self) -> Self {
        Self { with_domains: true, ..self }
    }

    /// Whether it knows that.
    pub fn has_domains(&self) -> bool {
        self.with_domains
    }

    /// The revision of the registry that this is.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The box that holds `key`.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Arc<BoxRecord>> {
        self.by_key.get(key)
    }

    /// The box that `name` leads to.
    pub fn by_mx(&self, name: &MxName) -> Option<&Arc<BoxRecord>> {
        self.by_mx.get(name)
    }

    /// The box that has `domain`, suspended or not.
    pub fn by_domain(&self, domain: &DomainName) -> Option<&Arc<BoxRecord>> {
        self.by_domain.get(domain)
    }

    /// The box that `address` belongs to; none when the address is shared.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<BoxRecord>> {
        let address = address.to_canonical();
        match self.own_prefix.and_then(|prefix| prefix.id(address)) {
            Some(id) => self.by_id.get(&id),
            None => self.by_address.get(&address),
        }
    }

    /// The box that `pair` was given to.
    pub fn by_pair(&self, pair: &AddressPair) -> Option<&Arc<BoxRecord>> {
        self.by_pair.get(pair)
    }

    /// Which addresses of this relay play which part in pairs.
    pub fn pair_roles(&self) -> &PairRoles {
        &self.pair_roles
    }

    /// The pair of `record` at this relay.
    pub fn pair_of(&self, record: &BoxRecord) -> Option<AddressPair> {
        record.pairs.iter().find(|pair| self.pair_roles.have(pair)).copied()
    }

    /// Whether a pair of this relay is given to nobody.
    pub fn has_free_pair(&self) -> bool {
        self.pair_roles.all().any(|pair| self.by_pair(&pair).is_none())
    }

    /// Whether `key` was a box's key and is not accepted any more.
    pub fn is_retired(&self, key: &PublicKey) -> bool {
        self.retired.contains(key)
    }

    /// How many boxes there are.
    pub fn len(&self) -> usize {
        self.by_key.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All boxes, in no order.
    pub fn boxes(&self) -> impl Iterator<Item = &Arc<BoxRecord>> {
        self.by_key.values()
    }

    /// The name under the relay's own domain, weaker than one under the owner's.
    pub fn own_name(&self, name: &str) -> Option<MxName> {
        format!("{name}.{}", self.box_domain.as_ref()?).parse().ok()
    }

    /// All addresses that belong to a box alone.
    pub fn addresses(&self, record: &BoxRecord) -> Vec<IpAddr> {
        let own = self.own_prefix.and_then(|prefix| prefix.address(record.id));
        own.map(IpAddr::V6).into_iter().chain(record.addresses.iter().copied()).collect()
    }

    /// This snapshot with `changes`, and what they mean for boxes that are connected.
    pub fn after(&self, changes: Changes) -> (Self, Effects) {
        let mut next = if changes.whole {
            // Whatever the database says, a key that was shut out once stays shut out: it may
            // have been restored from a backup, or have lost its last changes failing over.
            Self {
                retired: self.retired.clone(),
                with_domains: self.with_domains,
                ..Self::empty(self.own_prefix, self.box_domain.clone(), self.pair_roles.clone())
            }
        } else {
            self.clone()
        };
        let mut effects = Effects::default();
        next.revision = changes.revision;
        for retired in &changes.retired {
            next.retired.insert_mut(retired.key);
        }
        let rotated = |key: &PublicKey| {
            changes.retired.iter().any(|retired| retired.rotated && retired.key == *key)
        };
        let before: Vec<Arc<BoxRecord>> = if changes.whole {
            self.boxes().cloned().collect()
        } else {
            let ids = changes.boxes.iter().map(Changed::id);
            ids.filter_map(|id| self.by_id.get(&id).cloned()).collect()
        };
        // All that goes, goes first: a name may pass from one box to another in one change.
        for changed in &changes.boxes {
            next.remove(changed.id());
        }
        for changed in changes.boxes {
            let Changed::Active(record) = changed else { continue };
            if next.retired.contains(&record.key) {
                effects.conflicts.push(format!("the key of the box `{}`, shut out", record.name));
                continue;
            }
            next.insert(Arc::new(record), &mut effects.conflicts);
        }
        for before in before {
            let moved = |domain: &&DomainName| {
                next.by_domain(domain).is_none_or(|record| record.key != before.key)
            };
            effects.moved.extend(before.domains.iter().filter(moved).cloned());
            match next.by_key(&before.key) {
                None if !changes.whole && rotated(&before.key) => effects.rotated.push(before.key),
                None => effects.gone.push(before.key),
                // What is told to the owner may have changed where the record did not.
                Some(now) if !changes.whole || *now != before => effects.changed.push(before.key),
                Some(_) => {}
            }
        }
        (next, effects)
    }

    fn insert(&mut self, record: Arc<BoxRecord>, conflicts: &mut Vec<String>) {
        if let Some(holder) = self.by_key.get(&record.key) {
            conflicts.push(format!("the key of the boxes `{}` and `{}`", holder.name, record.name));
            return;
        }
        for mx in record.mx.iter().cloned().chain(self.own_name(&record.name)) {
            enter(&mut self.by_mx, mx, &record, conflicts);
        }
        for domain in &record.domains {
            enter(&mut self.by_domain, domain.clone(), &record, conflicts);
        }
        for address in &record.addresses {
            // An IPv4 client of an IPv6 socket must meet the same entry.
            enter(&mut self.by_address, address.to_canonical(), &record, conflicts);
        }
        // Those of other relays say nothing here, and one in which the parts were other ones than
        // they are now could be mistaken for another box's.
        if let Some(pair) = self.pair_of(&record) {
            enter(&mut self.by_pair, pair, &record, conflicts);
        }
        self.by_key.insert_mut(record.key, record.clone());
        self.by_id.insert_mut(record.id, record);
    }

    fn remove(&mut self, id: u64) {
        let Some(record) = self.by_id.get(&id).cloned() else { return };
        self.by_id.remove_mut(&id);
        self.by_key.remove_mut(&record.key);
        for mx in record.mx.iter().cloned().chain(self.own_name(&record.name)) {
            leave(&mut self.by_mx, &mx, id);
        }
        for domain in &record.domains {
            leave(&mut self.by_domain, domain, id);
        }
        for address in &record.addresses {
            leave(&mut self.by_address, &address.to_canonical(), id);
        }
        if let Some(pair) = self.pair_of(&record) {
            leave(&mut self.by_pair, &pair, id);
        }
    }
}

impl Changed {
    fn id(&self) -> u64 {
        match self {
            Self::Active(record) => record.id,
            Self::Gone(id) => *id,
        }
    }
}

fn enter<K: Hash + Eq + Clone + std::fmt::Display>(
    map: &mut HashTrieMapSync<K, Arc<BoxRecord>>,
    key: K,
    record: &Arc<BoxRecord>,
    conflicts: &mut Vec<String>,
) {
    if let Some(holder) = map.get(&key).filter(|holder| holder.id != record.id) {
        conflicts.push(format!("`{key}` of the boxes `{}` and `{}`", holder.name, record.name));
        // A guess would bring mail to the wrong one.
        map.remove_mut(&key);
    } else {
        map.insert_mut(key, record.clone());
    }
}

fn leave<K: Hash + Eq>(map: &mut HashTrieMapSync<K, Arc<BoxRecord>>, key: &K, id: u64) {
    if map.get(key).is_some_and(|holder| holder.id == id) {
        map.remove_mut(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Retired;
    use sealpost_tunnel::Identity;

    fn record(id: u64, name: &str, mx: &str, address: &str) -> BoxRecord {
        BoxRecord {
            id,
            name: name.into(),
            key: Identity::ephemeral().public(),
            mx: vec![mx.parse().unwrap()],
            domains: vec![],
            addresses: vec![address.parse().unwrap()],
            pairs: vec![],
        }
    }

    fn changes(revision: u64, boxes: Vec<Changed>) -> Changes {
        Changes { revision, whole: false, boxes, retired: vec![] }
    }

    fn shut_out(key: PublicKey) -> Retired {
        Retired { key, rotated: false }
    }

    fn of(records: &[&BoxRecord]) -> Snapshot {
        let boxes = records.iter().map(|&record| Changed::Active(record.clone())).collect();
        let (snapshot, effects) = Snapshot::default().after(changes(1, boxes));
        assert_eq!(effects, Effects::default());
        snapshot
    }

    #[test]
    fn a_box_is_found_by_key_name_and_address() {
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let snapshot = of(&[&alice]);
        assert_eq!(**snapshot.by_key(&alice.key).unwrap(), alice);
        assert_eq!(**snapshot.by_mx(&alice.mx[0]).unwrap(), alice);
        assert!(snapshot.by_address("::ffff:192.0.2.1".parse().unwrap()).is_some());
        assert!(snapshot.by_address("192.0.2.2".parse().unwrap()).is_none());
    }

    #[test]
    fn a_prefix_and_a_domain_of_the_relay_give_each_box_an_address_and_a_name() {
        let prefix = "2001:db8:1:2::/64".parse().unwrap();
        let empty = Snapshot::empty(
            Some(prefix),
            Some("box.relay.example".parse().unwrap()),
            PairRoles::default(),
        );
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let boxes = vec![Changed::Active(alice.clone())];
        let (snapshot, _) = empty.after(changes(1, boxes));
        let found = |address: &str| snapshot.by_address(address.parse().unwrap()).is_some();
        assert!(found("2001:db8:1:2::100") && found("192.0.2.1"));
        assert!(!found("2001:db8:1:2::101") && !found("2001:db8:1:3::100"));
        assert!(snapshot.by_mx(&"alice.box.relay.example".parse().unwrap()).is_some());
        assert_eq!(snapshot.addresses(&alice).len(), 2);
        let (gone, _) = snapshot.after(changes(2, vec![Changed::Gone(256)]));
        assert!(gone.by_address("2001:db8:1:2::100".parse().unwrap()).is_none());
        assert!(gone.by_mx(&"alice.box.relay.example".parse().unwrap()).is_none());
    }

    #[test]
    fn what_two_boxes_have_leads_nowhere() {
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let bob = record(257, "bob", "mx.alice.example", "192.0.2.1");
        let boxes = vec![Changed::Active(alice.clone()), Changed::Active(bob)];
        let (snapshot, effects) = Snapshot::default().after(changes(1, boxes));
        assert_eq!(effects.conflicts.len(), 2);
        assert!(snapshot.by_mx(&alice.mx[0]).is_none());
        assert!(snapshot.by_address(alice.addresses[0]).is_none());
    }

    #[test]
    fn a_name_passes_from_one_box_to_another_in_one_change() {
        let mut alice = record(256, "alice", "mx.shop.example", "192.0.2.1");
        let mut bob = record(257, "bob", "mx.bob.example", "192.0.2.2");
        let before = of(&[&alice, &bob]);
        bob.mx.append(&mut alice.mx);
        for order in [[&alice, &bob], [&bob, &alice]] {
            let boxes = order.map(|record| Changed::Active(record.clone())).into();
            let (after, effects) = before.after(changes(2, boxes));
            assert_eq!(after.by_mx(&bob.mx[1]).unwrap().name, "bob");
            assert_eq!((effects.changed.len(), effects.conflicts.len()), (2, 0));
        }
        assert_eq!(before.by_mx(&bob.mx[1]).unwrap().name, "alice");
    }

    #[test]
    fn a_new_key_makes_the_old_one_go() {
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let before = of(&[&alice]);
        let new = BoxRecord { key: Identity::ephemeral().public(), ..alice.clone() };
        for rotated in [true, false] {
            let retired = vec![Retired { key: alice.key, rotated }];
            let boxes = vec![Changed::Active(new.clone())];
            let (_, effects) = before.after(Changes { retired, ..changes(2, boxes) });
            let (gone, going) = (effects.gone.as_slice(), effects.rotated.as_slice());
            let expected: (&[_], &[_]) = (&[alice.key], &[]);
            assert_eq!(if rotated { (going, gone) } else { (gone, going) }, expected);
        }
        let retired = vec![Retired { key: alice.key, rotated: true }];
        let boxes = vec![Changed::Active(new.clone())];
        let (after, _) = before.after(Changes { retired, ..changes(2, boxes) });
        assert!(after.is_retired(&alice.key) && after.by_key(&alice.key).is_none());
        assert_eq!(after.by_mx(&alice.mx[0]).unwrap().key, new.key);
    }

    #[test]
    fn domains_that_pass_to_another_key_or_to_nobody_are_told() {
        let domain = |text: &str| text.parse::<DomainName>().unwrap();
        let alice = BoxRecord {
            domains: vec![domain("alice.example"), domain("shop.example")],
            ..record(256, "alice", "mx.alice.example", "192.0.2.1")
        };
        let bob = record(257, "bob", "mx.bob.example", "192.0.2.2");
        let before = of(&[&alice, &bob]);
        assert_eq!(before.by_domain(&domain("shop.example")).unwrap().key, alice.key);
        let with = |record: &BoxRecord, domains: &[&str]| {
            let domains = domains.iter().map(|text| domain(text)).collect();
            Changed::Active(BoxRecord { domains, ..record.clone() })
        };
        let changed = vec![with(&bob, &["shop.example"]), with(&alice, &["alice.example"])];
        let (after, effects) = before.after(changes(2, changed));
        assert_eq!(effects.moved, [domain("shop.example")]);
        assert_eq!(after.by_domain(&domain("shop.example")).unwrap().key, bob.key);
        // A new key of the same box.
        let new = BoxRecord { key: Identity::ephemeral().public(), ..alice.clone() };
        let (_, effects) = before.after(changes(2, vec![Changed::Active(new)]));
        assert_eq!(effects.moved, alice.domains);
        let (gone, effects) = before.after(changes(2, vec![Changed::Gone(256)]));
        assert_eq!(effects.moved, alice.domains);
        assert!(gone.by_domain(&domain("alice.example")).is_none());
    }

    #[test]
    fn a_database_that_went_back_in_time_brings_no_revoked_box_back() {
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let bob = record(257, "bob", "mx.bob.example", "192.0.2.2");
        let gone =
            Changes { retired: vec![shut_out(alice.key)], ..changes(9, vec![Changed::Gone(256)]) };
        let (revoked, _) = of(&[&alice, &bob]).after(gone);
        let boxes = vec![Changed::Active(alice.clone()), Changed::Active(bob.clone())];
        let (restored, effects) = revoked.after(Changes { whole: true, ..changes(5, boxes) });
        assert!(restored.by_key(&alice.key).is_none() && restored.by_mx(&alice.mx[0]).is_none());
        assert!(restored.by_key(&bob.key).is_some());
        assert_eq!((effects.conflicts.len(), restored.revision()), (1, 5));
    }

    #[test]
    fn a_whole_reading_tells_what_is_gone() {
        let alice = record(256, "alice", "mx.alice.example", "192.0.2.1");
        let bob = record(257, "bob", "mx.bob.example", "192.0.2.2");
        let before = of(&[&alice, &bob]);
        let boxes = vec![Changed::Active(bob.clone())];
        let (_, effects) = before.after(Changes { whole: true, ..changes(3, boxes) });
        assert_eq!(effects, Effects { gone: vec![alice.key], ..Effects::default() });
    }
}
