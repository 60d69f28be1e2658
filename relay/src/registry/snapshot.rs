//! One consistent state of the registry, with an index for each question of the data path.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use sealpost_tunnel::{MxName, PublicKey};

/// What the registry knows of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxRecord {
    /// What the operator calls it.
    pub name: String,
    /// Who it is.
    pub key: PublicKey,
    /// The MX names that lead to it on any address.
    pub mx: Vec<MxName>,
    /// The addresses that belong to it alone.
    pub addresses: Vec<IpAddr>,
}

/// Two boxes lay claim to the same thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} belongs to two boxes, `{first}` and `{second}`; each may have one owner")]
pub struct Conflict {
    /// The thing: a name, key, MX name or address.
    pub what: String,
    /// The box that stands first.
    pub first: String,
    /// The box that came second.
    pub second: String,
    /// The position of the second box in what [`Snapshot::build`] was given.
    pub index: usize,
}

/// All boxes at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    by_key: HashMap<PublicKey, Arc<BoxRecord>>,
    by_mx: HashMap<MxName, Arc<BoxRecord>>,
    by_address: HashMap<IpAddr, Arc<BoxRecord>>,
}

impl Snapshot {
    /// Indexes `records`, which must not conflict.
    pub fn build(records: Vec<BoxRecord>) -> Result<Self, Conflict> {
        let mut snapshot = Self::default();
        let mut by_name = HashMap::new();
        for (index, record) in records.into_iter().enumerate() {
            let record = Arc::new(record);
            let claim = Claim { record: &record, index };
            claim.enter(&mut by_name, record.name.clone(), |name| format!("the name `{name}`"))?;
            claim.enter(&mut snapshot.by_key, record.key, |key| format!("the key `{key}`"))?;
            for mx in &record.mx {
                claim.enter(&mut snapshot.by_mx, mx.clone(), |mx| format!("the MX name `{mx}`"))?;
            }
            for address in &record.addresses {
                // An IPv4 client of an IPv6 socket must meet the same entry.
                let address = address.to_canonical();
                claim.enter(&mut snapshot.by_address, address, |a| format!("the address {a}"))?;
            }
        }
        Ok(snapshot)
    }

    /// The box that holds `key`.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Arc<BoxRecord>> {
        self.by_key.get(key)
    }

    /// The box that `name` leads to.
    pub fn by_mx(&self, name: &MxName) -> Option<&Arc<BoxRecord>> {
        self.by_mx.get(name)
    }

    /// The box that `address` belongs to; none when the address is shared.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<BoxRecord>> {
        self.by_address.get(&address.to_canonical())
    }

    /// All boxes, in no order.
    pub fn boxes(&self) -> impl Iterator<Item = &Arc<BoxRecord>> {
        self.by_key.values()
    }
}

struct Claim<'a> {
    record: &'a Arc<BoxRecord>,
    index: usize,
}

impl Claim<'_> {
    fn enter<K: Eq + Hash>(
        &self,
        map: &mut HashMap<K, Arc<BoxRecord>>,
        key: K,
        describe: impl Fn(&K) -> String,
    ) -> Result<(), Conflict> {
        match map.entry(key) {
            Entry::Vacant(place) => {
                place.insert(self.record.clone());
                Ok(())
            }
            Entry::Occupied(taken) => Err(Conflict {
                what: describe(taken.key()),
                first: taken.get().name.clone(),
                second: self.record.name.clone(),
                index: self.index,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    fn record(name: &str, mx: &str, address: &str) -> BoxRecord {
        BoxRecord {
            name: name.into(),
            key: Identity::ephemeral().public(),
            mx: vec![mx.parse().unwrap()],
            addresses: vec![address.parse().unwrap()],
        }
    }

    #[test]
    fn a_box_is_found_by_key_name_and_address() {
        let alice = record("alice", "mx.alice.example", "192.0.2.1");
        let snapshot = Snapshot::build(vec![alice.clone()]).unwrap();
        assert_eq!(**snapshot.by_key(&alice.key).unwrap(), alice);
        assert_eq!(**snapshot.by_mx(&alice.mx[0]).unwrap(), alice);
        assert!(snapshot.by_address("::ffff:192.0.2.1".parse().unwrap()).is_some());
        assert!(snapshot.by_address("192.0.2.2".parse().unwrap()).is_none());
    }

    #[test]
    fn nothing_has_two_owners() {
        let alice = record("alice", "mx.alice.example", "192.0.2.1");
        for (twin, what) in [
            (record("alice", "b.example", "::1"), "the name `alice`"),
            (record("b", "mx.alice.example", "::1"), "the MX name `mx.alice.example`"),
            (record("b", "b.example", "192.0.2.1"), "the address 192.0.2.1"),
        ] {
            let conflict = Snapshot::build(vec![alice.clone(), twin]).unwrap_err();
            assert_eq!((conflict.what.as_str(), conflict.index), (what, 1));
        }
        let twin = BoxRecord { key: alice.key, ..record("b", "b.example", "::1") };
        assert!(Snapshot::build(vec![alice, twin]).unwrap_err().what.contains("the key"));
    }
}
