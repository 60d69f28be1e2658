//! All keys of a zone and what each is for.
//!
//! One key signs everything by default. Those who want the key that the parent zone knows away from
//! the box have a second one here, and sign the short list of keys elsewhere.

use bytes::Bytes;
use domain::base::iana::{Class, DigestAlgorithm, SecurityAlgorithm};
use domain::base::{Record as AnyRecord, Ttl};
use domain::rdata::{Cdnskey, Cds, Dnskey, Ds};
use sealpost_dns::record::{Data, Name, Record};

use super::zone_key::{PROTOCOL, PublicKey, ZoneKey};

/// A key in use, and for what.
#[derive(Debug)]
pub struct Use {
    /// The key.
    pub key: ZoneKey,
    /// Whether it signs all but the list of keys.
    pub signs_zone: bool,
    /// Whether it signs the list of keys.
    pub signs_keys: bool,
    /// Whether the parent zone is asked to name it, and no key that is not announced.
    pub announced: bool,
}

/// All keys of a zone. More than one of a kind is for the time in which one takes over.
#[derive(Debug, Default)]
pub struct Keys {
    /// Those whose secret is on this box.
    pub here: Vec<Use>,
    /// Others that the zone shows and that sign nothing: the next one, so that it is known in time,
    /// or the last one, so that its signatures can be verified until they are forgotten.
    pub shown: Vec<PublicKey>,
    /// The list of keys as it was signed elsewhere, when the key that signs it is not here. It then
    /// stands in the zone as it is. [`super::sign::endorse`] makes it.
    pub endorsed: Option<Vec<Record>>,
    /// Whether the parent zone is asked to forget all keys, before an owner takes the zone to where
    /// it is not signed. It stays signed until the parent's DS is gone and forgotten. Has no effect
    /// on a list that was signed elsewhere.
    pub withdrawn: bool,
}

impl Keys {
    /// One key for everything, the default.
    pub fn combined(key: ZoneKey) -> Self {
        let key = Use { key, signs_zone: true, signs_keys: true, announced: true };
        Self { here: vec![key], ..Self::default() }
    }

    /// Two keys, both here.
    pub fn split(entry: ZoneKey, zone: ZoneKey) -> Self {
        let entry = Use { key: entry, signs_zone: false, signs_keys: true, announced: true };
        let zone = Use { key: zone, signs_zone: true, signs_keys: false, announced: false };
        Self { here: vec![entry, zone], ..Self::default() }
    }

    /// Two keys, of which the one that the parent zone knows is elsewhere.
    pub fn offline(endorsed: Vec<Record>, zone: ZoneKey) -> Self {
        let zone = Use { key: zone, signs_zone: true, signs_keys: false, announced: false };
        Self { here: vec![zone], endorsed: Some(endorsed), ..Self::default() }
    }

    /// The list of keys for the zone, and what it asks of its parent: DNSKEY, CDS and CDNSKEY
    /// without signatures. Registries read either of the last two (RFC 7344, RFC 8078).
    pub fn records(&self, apex: &Name, ttl: Ttl) -> Vec<Record> {
        let announces = |using: &Use| using.announced && !self.withdrawn;
        let here = self.here.iter().map(|using| (using.key.public(), announces(using)));
        let shown = self.shown.iter().map(|key| (key, false));
        let mut records = list(apex, ttl, here.chain(shown));
        if self.withdrawn {
            records.extend(withdrawal(apex, ttl));
        }
        records
    }

    /// What the parent zone should say.
    pub fn ds(&self, apex: &Name) -> Vec<Ds<Bytes>> {
        self.announced().iter().map(|key| key.ds(apex)).collect()
    }

    /// What the parent zone may say: all that leads to a valid zone.
    pub fn valid_ds(&self, apex: &Name) -> Vec<Ds<Bytes>> {
        self.entries().iter().map(|key| key.ds(apex)).collect()
    }

    /// The keys that the parent zone should name.
    pub fn announced(&self) -> Vec<PublicKey> {
        let announced = self.here.iter().filter(|using| using.announced && !self.withdrawn);
        announced.map(|using| using.key.public().clone()).chain(self.endorsers()).collect()
    }

    /// The keys that it may name: those that sign the list of keys.
    pub fn entries(&self) -> Vec<PublicKey> {
        let here = self.here.iter().filter(|using| using.signs_keys);
        here.map(|using| using.key.public().clone()).chain(self.endorsers()).collect()
    }

    /// Those that a list which was signed elsewhere asks the parent to name (CDNSKEY).
    fn endorsers(&self) -> impl Iterator<Item = PublicKey> {
        self.endorsed.iter().flatten().filter_map(|record| {
            let Data::Cdnskey(key) = record.data() else { return None };
            let public = key.public_key().clone();
            let dnskey = Dnskey::new(key.flags(), key.protocol(), key.algorithm(), public);
            dnskey.ok().map(PublicKey::new)
        })
    }
}

/// What asks the parent zone to forget all keys (RFC 8078 section 4).
fn withdrawal(apex: &Name, ttl: Ttl) -> Vec<Record> {
    const NOTHING: Bytes = Bytes::from_static(&[0]);
    let none = SecurityAlgorithm::from_int(0);
    let cds = Cds::new(0, none, DigestAlgorithm::from_int(0), NOTHING);
    let cdnskey = Cdnskey::new(0, PROTOCOL, none, NOTHING);
    let data: [Option<Data>; 2] = [cds.ok().map(Into::into), cdnskey.ok().map(Into::into)];
    let record = |data| AnyRecord::new(apex.clone(), Class::IN, ttl, data);
    data.into_iter().flatten().map(record).collect()
}

/// DNSKEY for each of `keys`, and CDS and CDNSKEY for those that are announced.
pub(super) fn list<'a>(
    apex: &Name,
    ttl: Ttl,
    keys: impl Iterator<Item = (&'a PublicKey, bool)>,
) -> Vec<Record> {
    let mut records = Vec::new();
    let mut push = |data| records.push(AnyRecord::new(apex.clone(), Class::IN, ttl, data));
    for (key, announced) in keys {
        let dnskey = key.dnskey().clone();
        push(dnskey.clone().into());
        if announced {
            let (flags, protocol) = (dnskey.flags(), dnskey.protocol());
            let algorithm = dnskey.algorithm();
            let cdnskey = Cdnskey::new(flags, protocol, algorithm, dnskey.into_public_key());
            push(cdnskey.expect("as long as the DNSKEY").into());
            let ds = key.ds(apex);
            let cds = Cds::new(ds.key_tag(), algorithm, ds.digest_type(), ds.digest().clone());
            push(cds.expect("as long as the DS").into());
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::zone_key::Role;

    fn shown(keys: &Keys) -> Vec<String> {
        let records = keys.records(&"a.example.".parse().unwrap(), Ttl::HOUR);
        records.iter().map(|record| format!("{} {}", record.rtype(), record.data())).collect()
    }

    #[test]
    fn only_the_announced_key_is_named_to_the_parent() {
        let key = |role| ZoneKey::generate(role).unwrap();
        let keys = Keys::split(key(Role::Entry), key(Role::Zone));
        let apex = "a.example.".parse().unwrap();
        let lines = shown(&keys);
        assert_eq!(lines.len(), 4, "{lines:?}");
        let entry = keys.here[0].key.public();
        assert_eq!(keys.ds(&apex), [entry.ds(&apex)]);
        assert!(lines.contains(&format!("CDS {}", entry.ds(&apex))), "{lines:?}");
    }

    #[test]
    fn a_withdrawal_is_as_the_rfc_says_and_the_zone_stays_valid() {
        let mut keys = Keys::combined(ZoneKey::generate(Role::Entry).unwrap());
        keys.withdrawn = true;
        let lines = shown(&keys);
        assert!(lines.contains(&"CDS 0 0 0 00".into()), "{lines:?}");
        assert!(lines.contains(&"CDNSKEY 0 3 0 AA==".into()), "{lines:?}");
        let apex = "a.example.".parse().unwrap();
        assert!(keys.ds(&apex).is_empty() && keys.valid_ds(&apex).len() == 1);
    }
}
