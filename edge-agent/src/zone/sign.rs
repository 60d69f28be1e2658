//! Signing a zone (RFC 4034, RFC 4035 section 2). Pure but for the randomness in a signature.
//!
//! How long a signature lives is how long a relay or anybody else can replay an old zone, and also
//! how long the box may be away. So signatures live for two weeks by default, and are renewed when a
//! third of that is over: a box that comes back within nine days finds its zone valid. What has not
//! changed keeps its signature until then, so that a change transfers little.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use domain::base::iana::{Class, Rtype};
use domain::base::{Record as AnyRecord, Serial, ToName, Ttl};
use domain::rdata::Soa;
use domain::rdata::dnssec::{ProtoRrsig, Timestamp};
use sealpost_dns::record::{Data, Name, Record};

use super::canonical;
use super::denial::{self, Denial, DenialError};
use super::keys::{self, Keys};
use super::zone_key::{KeyError, PublicKey, ZoneKey};
use super::{content, digest as zone_digest};

const DAY: u64 = 24 * 3600;
/// The shortest life of signatures: time for the daily renewal to fail twice.
pub const MIN_VALIDITY: Duration = Duration::from_secs(4 * DAY);
/// The longest: it is also how long an old zone can be replayed.
pub const MAX_VALIDITY: Duration = Duration::from_secs(35 * DAY);
/// The longest life of an endorsement, which nobody can renew without the key that is elsewhere.
pub const MAX_ENDORSEMENT: Duration = Duration::from_secs(400 * DAY);
/// Signatures begin this long ago, in seconds, for validators whose clocks are behind.
pub(super) const BEFORE: u64 = 3600;
/// By how much the clock may be behind the last signing, in seconds: NTP sets clocks back a little.
const SLACK: u64 = 60;
/// No box was started before: a clock that says so was never set. 2025-01-01, in seconds.
const EARLIEST: u64 = 1_735_689_600;
/// The parts of a signature's life by which the ends of signatures are spread, so that not all are
/// renewed on one day.
const SPREAD: u64 = 10;

/// How to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long signatures live, between [`MIN_VALIDITY`] and [`MAX_VALIDITY`].
    pub validity: Duration,
    /// How the zone proves what it does not have.
    pub denial: Denial,
    /// Whether the zone carries a digest of itself (ZONEMD).
    pub digest: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { validity: Duration::from_secs(14 * DAY), denial: Denial::Nsec, digest: true }
    }
}

/// Why a zone cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The clock was never set.
    #[error("the clock says it is {0} s after 1970, so it was not set: wait for NTP, or set it")]
    ClockUnset(u64),
    /// The clock went back.
    #[error(
        "the clock is {} s behind the time of the last signing, {last} s after 1970: set it. If it \
         was wrong then and is right now, move the zone's signed.zone away and restart the agent",
        last.saturating_sub(*now)
    )]
    ClockBehind {
        /// Seconds since 1970.
        now: u64,
        /// When the zone was signed last, in seconds since 1970.
        last: u64,
    },
    /// Signatures would live too short or too long.
    #[error("signatures must live between 4 and 35 days, and not {} s", .0.as_secs())]
    Validity(Duration),
    /// An endorsement would live too short or too long.
    #[error("the list of keys must be signed for 4 to 400 days, and not {} s", .0.as_secs())]
    Endorsement(Duration),
    /// Nothing to sign with.
    #[error(
        "there is no key that signs {0}: the zone needs one for its records and one for its keys"
    )]
    NoKey(&'static str),
    /// What was signed elsewhere does not name the key that is here.
    #[error(
        "the list of keys that was signed elsewhere lacks the key {0} of this box: sign the list \
         again, with it"
    )]
    NotEndorsed(u16),
    /// What was signed elsewhere ends.
    #[error(
        "the list of keys that was signed elsewhere ends {0} s after 1970: sign it again with the \
         key of the recovery kit"
    )]
    EndorsementEnds(u64),
    /// What was signed elsewhere is something else.
    #[error(
        "the list of keys that was signed elsewhere must hold DNSKEY, CDS and CDNSKEY of {0} with \
         their signatures, and nothing else"
    )]
    ForeignEndorsement(Name),
    /// The records to sign have no SOA.
    #[error("there is no SOA record to sign")]
    NoSoa,
    /// There is no chain of names.
    #[error(transparent)]
    Denial(#[from] DenialError),
    /// A key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A zone as it was signed, which the next signing goes on from. It has to be kept on disk: a box
/// that forgets it may sign with a serial or a clock that goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// All records in canonical order.
    pub records: Vec<Record>,
    /// The serial.
    pub serial: u32,
    /// When it was signed, in seconds since 1970.
    pub signed_at: u64,
}

/// Whether the clock can be signed by.
pub fn check_clock(last: Option<&Signed>, now: u64) -> Result<(), SignError> {
    if now < EARLIEST {
        return Err(SignError::ClockUnset(now));
    }
    match last.map(|last| last.signed_at) {
        Some(last) if now + SLACK < last => Err(SignError::ClockBehind { now, last }),
        _ => Ok(()),
    }
}

/// Signs `unsigned`, a zone in canonical order without anything that signing makes, under `serial`.
/// Signatures of `last` are taken over where they fit and have two thirds of their life left.
pub fn sign(
    apex: &Name,
    unsigned: &[Record],
    serial: u32,
    keys: &Keys,
    policy: &Policy,
    last: Option<&Signed>,
    now: u64,
) -> Result<Signed, SignError> {
    check_clock(last, now)?;
    if !(MIN_VALIDITY..=MAX_VALIDITY).contains(&policy.validity) {
        return Err(SignError::Validity(policy.validity));
    }
    let endorsed = check_keys(apex, keys, now)?;
    let mut records: Vec<Record> = unsigned.to_vec();
    let ttl = set_serial(&mut records, serial).ok_or(SignError::NoSoa)?;
    match endorsed {
        Some(list) => records.extend(list.iter().filter(|it| it.rtype() != Rtype::RRSIG).cloned()),
        None => records.extend(keys.records(apex, content::TTL)),
    }
    records.extend(denial::parameters(apex, policy.denial));
    if policy.digest {
        let digest = zone_digest::placeholder(serial);
        let digest = Data::Zonemd(digest);
        records.push(AnyRecord::new(apex.clone(), Class::IN, content::TTL, digest));
    }
    let records = canonical::sort(records);
    let chain = denial::chain(apex, &records, policy.denial, ttl)?;
    let records = canonical::sort([records, chain].concat());

    let signer = Signer { apex, keys, policy, now, last: Reuse::new(last) };
    let mut signatures = Vec::new();
    for (node, standing) in canonical::standings(apex, &records) {
        for set in canonical::sets(node) {
            let rtype = set[0].rtype();
            let elsewhere = endorsed.is_some() && is_list(apex, set);
            let later = zone_digest::is_digest(apex, &set[0]);
            if standing.signs(rtype) && !elsewhere && !later {
                signatures.extend(signer.set(set)?);
            }
        }
    }
    signatures
        .extend(endorsed.into_iter().flatten().filter(|it| it.rtype() == Rtype::RRSIG).cloned());
    let mut records = canonical::sort([records, signatures].concat());
    if policy.digest {
        let digest = zone_digest::compute(apex, serial, &records);
        let place = records.iter_mut().find(|record| zone_digest::is_digest(apex, record));
        if let Some(record) = place {
            *record.data_mut() = Data::Zonemd(digest);
            let set = [record.clone()];
            records.extend(signer.set(&set)?);
        }
        records = canonical::sort(records);
    }
    Ok(Signed { records, serial, signed_at: now })
}

/// Signs the list of keys where the key that the parent zone knows is: DNSKEY for `entry` and
/// `zone`, and CDS and CDNSKEY for `entry`. The box takes it over as it is, as
/// [`Keys::offline`]; nothing in it is secret.
pub fn endorse(
    apex: &Name,
    entry: &ZoneKey,
    zone: &[PublicKey],
    validity: Duration,
    now: u64,
) -> Result<Vec<Record>, SignError> {
    check_clock(None, now)?;
    if !(MIN_VALIDITY..=MAX_ENDORSEMENT).contains(&validity) {
        return Err(SignError::Endorsement(validity));
    }
    let shown = zone.iter().map(|key| (key, false));
    let list = keys::list(apex, content::TTL, shown.chain([(entry.public(), true)]));
    let list = canonical::sort(list);
    let life = Life { inception: now - BEFORE, expiration: now + validity.as_secs() };
    let signatures: Result<Vec<_>, _> =
        canonical::sets(&list).map(|set| rrsig(apex, set, entry, life)).collect();
    Ok(canonical::sort([list, signatures?].concat()))
}

/// When the first signature that is not renewed here ends, in seconds since 1970: that of a list of
/// keys which was signed elsewhere. Its owner should be told weeks before.
pub fn endorsement_ends(keys: &Keys, now: u64) -> Option<u64> {
    let list = keys.endorsed.iter().flatten();
    list.filter_map(|record| match record.data() {
        Data::Rrsig(rrsig) => Some(absolute(rrsig.expiration(), now)),
        _ => None,
    })
    .min()
}

/// Whether all kinds of records have a key; the list of keys that was signed elsewhere, if so.
fn check_keys<'a>(
    apex: &Name,
    keys: &'a Keys,
    now: u64,
) -> Result<Option<&'a [Record]>, SignError> {
    if !keys.here.iter().any(|using| using.signs_zone) {
        return Err(SignError::NoKey("its records"));
    }
    let Some(list) = keys.endorsed.as_deref() else {
        let signs = keys.here.iter().any(|using| using.signs_keys);
        return if signs { Ok(None) } else { Err(SignError::NoKey("its keys")) };
    };
    if !list.iter().all(|record| is_list(apex, std::slice::from_ref(record))) {
        return Err(SignError::ForeignEndorsement(apex.clone()));
    }
    let names = |wanted: &PublicKey| {
        list.iter().any(|record| matches!(record.data(), Data::Dnskey(it) if it == wanted.dnskey()))
    };
    if let Some(using) = keys.here.iter().find(|using| !names(using.key.public())) {
        return Err(SignError::NotEndorsed(using.key.public().tag()));
    }
    match endorsement_ends(keys, now) {
        Some(end) if end > now + DAY => Ok(Some(list)),
        Some(end) => Err(SignError::EndorsementEnds(end)),
        None => Err(SignError::ForeignEndorsement(apex.clone())),
    }
}

/// Whether a record set is part of the list of keys, or a signature over it.
fn is_list(apex: &Name, set: &[Record]) -> bool {
    let rtype = match set[0].data() {
        Data::Rrsig(rrsig) => rrsig.type_covered(),
        _ => set[0].rtype(),
    };
    matches!(rtype, Rtype::DNSKEY | Rtype::CDS | Rtype::CDNSKEY) && set[0].owner().name_eq(apex)
}

/// Puts the serial into the SOA; the TTL of the chain of names.
fn set_serial(records: &mut [Record], serial: u32) -> Option<Ttl> {
    let record = records.iter_mut().find(|record| record.rtype() == Rtype::SOA)?;
    let ttl = record.ttl();
    let Data::Soa(soa) = record.data_mut() else { return None };
    let (mname, rname) = (soa.mname().clone(), soa.rname().clone());
    let minimum = soa.minimum();
    *soa =
        Soa::new(mname, rname, Serial(serial), soa.refresh(), soa.retry(), soa.expire(), minimum);
    Some(ttl.min(minimum))
}

/// From when to when a signature lives, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Life {
    inception: u64,
    expiration: u64,
}

struct Signer<'a> {
    apex: &'a Name,
    keys: &'a Keys,
    policy: &'a Policy,
    now: u64,
    last: Reuse<'a>,
}

impl Signer<'_> {
    /// The signatures of a record set.
    fn set(&self, set: &[Record]) -> Result<Vec<Record>, SignError> {
        let list = is_list(self.apex, set);
        let signs = self.keys.here.iter().filter(|using| match list {
            true => using.signs_keys,
            false => using.signs_zone,
        });
        let old = self.last.signatures(set);
        signs
            .map(|using| {
                let key = &using.key;
                match old.iter().find(|old| self.is_good(old, key.public())) {
                    Some(old) => Ok((*old).clone()),
                    None => rrsig(self.apex, set, key, self.life(set)),
                }
            })
            .collect()
    }

    /// Whether a signature can stay.
    fn is_good(&self, signature: &Record, key: &PublicKey) -> bool {
        let Data::Rrsig(rrsig) = signature.data() else { return false };
        let left = absolute(rrsig.expiration(), self.now).saturating_sub(self.now);
        rrsig.key_tag() == key.tag()
            && rrsig.algorithm() == key.dnskey().algorithm()
            && absolute(rrsig.inception(), self.now) <= self.now
            && left >= self.policy.validity.as_secs() * 2 / 3
    }

    /// A signature's life. It ends somewhat early, by a part that is always the same for a record
    /// set and differs between them.
    fn life(&self, set: &[Record]) -> Life {
        let validity = self.policy.validity.as_secs();
        let mut seed = canonical::name(set[0].owner());
        seed.extend(set[0].rtype().to_int().to_be_bytes());
        let seed = digest(&SHA256, &seed);
        let mut octets = [0; 8];
        octets.copy_from_slice(&seed.as_ref()[..8]);
        let early = u64::from_be_bytes(octets) % (validity / SPREAD);
        Life { inception: self.now - BEFORE, expiration: self.now + validity - early }
    }
}

/// The signatures of the last zone, by what they cover.
struct Reuse<'a>(HashMap<(Vec<u8>, Rtype), Covered<'a>>);

/// A record set as it was signed, and how.
struct Covered<'a> {
    octets: Vec<u8>,
    signatures: Vec<&'a Record>,
}

impl<'a> Reuse<'a> {
    fn new(last: Option<&'a Signed>) -> Self {
        let records = last.map(|last| &last.records[..]).unwrap_or_default();
        let mut covered = HashMap::new();
        for node in canonical::nodes(records) {
            let name = canonical::name(node[0].owner());
            for set in canonical::sets(node).filter(|set| set[0].rtype() != Rtype::RRSIG) {
                let key = (name.clone(), set[0].rtype());
                covered.insert(key, Covered { octets: octets(set), signatures: Vec::new() });
            }
            for record in node {
                let Data::Rrsig(rrsig) = record.data() else { continue };
                if let Some(over) = covered.get_mut(&(name.clone(), rrsig.type_covered())) {
                    over.signatures.push(record);
                }
            }
        }
        Self(covered)
    }

    /// The last signatures over exactly this set.
    fn signatures(&self, set: &[Record]) -> &[&'a Record] {
        let found = self.0.get(&(canonical::name(set[0].owner()), set[0].rtype()));
        match found {
            Some(last) if last.octets == octets(set) => &last.signatures,
            _ => &[],
        }
    }
}

/// A record set as it is signed.
fn octets(set: &[Record]) -> Vec<u8> {
    let mut octets = Vec::new();
    set.iter().for_each(|record| canonical::record(record, &mut octets));
    octets
}

/// A signature over a record set in canonical order (RFC 4034 section 3.1.8.1).
fn rrsig(apex: &Name, set: &[Record], key: &ZoneKey, life: Life) -> Result<Record, SignError> {
    let (owner, ttl) = (set[0].owner(), set[0].ttl());
    // Times wrap around and are compared as serials are, so the low 32 bits count.
    let time = |seconds: u64| Timestamp::from(seconds as u32);
    let head = ProtoRrsig::new(
        set[0].rtype(),
        key.public().dnskey().algorithm(),
        owner.rrsig_label_count(),
        ttl,
        time(life.expiration),
        time(life.inception),
        key.public().tag(),
        apex.clone(),
    );
    let mut message = Vec::new();
    let Ok(()) = head.compose_canonical(&mut message);
    message.extend(octets(set));
    let rrsig = head.into_rrsig(key.sign(&message)?).expect("a signature is short");
    Ok(AnyRecord::new(owner.clone(), Class::IN, ttl, Data::Rrsig(rrsig)))
}

/// A time out of 32 bits, as the one that is nearest to `now` (RFC 4034 section 3.1.5).
fn absolute(time: Timestamp, now: u64) -> u64 {
    let ahead = time.into_int().wrapping_sub(now as u32) as i32;
    now.saturating_add_signed(ahead.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::canonical::tests::records;
    use crate::zone::keys::Use;
    use crate::zone::zone_key::Role;

    const NOW: u64 = 1_790_000_000;

    fn zone() -> (Name, Vec<Record>) {
        let text = "@ 3600 SOA ns h 0 14400 3600 2419200 300\n@ 3600 NS ns\nns 300 A 192.0.2.1\n\
            www 60 A 192.0.2.2\nwww 60 A 192.0.2.3\nmail 60 MX 10 ns\n";
        ("example.".parse().unwrap(), canonical::sort(records("example.", text)))
    }

    fn keys() -> Keys {
        Keys::combined(ZoneKey::generate(Role::Entry).unwrap())
    }

    fn signed(
        keys: &Keys,
        policy: &Policy,
        last: Option<&Signed>,
        now: u64,
    ) -> Result<Signed, SignError> {
        let (apex, unsigned) = zone();
        sign(&apex, &unsigned, 7, keys, policy, last, now)
    }

    fn lives(zone: &Signed) -> Vec<(u64, u64)> {
        let rrsigs = zone.records.iter().filter_map(|record| match record.data() {
            Data::Rrsig(rrsig) => Some(rrsig),
            _ => None,
        });
        rrsigs.map(|it| (absolute(it.inception(), NOW), absolute(it.expiration(), NOW))).collect()
    }

    #[test]
    fn signatures_begin_an_hour_ago_and_end_at_different_times_within_the_last_tenth() {
        let zone = signed(&keys(), &Policy::default(), None, NOW).unwrap();
        let lives = lives(&zone);
        assert!(lives.iter().all(|(begin, _)| *begin == NOW - 3600));
        let full = 14 * DAY;
        assert!(lives.iter().all(|(_, end)| (NOW + full * 9 / 10..=NOW + full).contains(end)));
        let mut ends: Vec<_> = lives.iter().map(|(_, end)| end).collect();
        ends.sort();
        ends.dedup();
        assert!(ends.len() > lives.len() / 2);
    }

    #[test]
    fn signatures_stay_until_a_third_of_their_life_is_over() {
        let (keys, policy) = (keys(), Policy::default());
        let first = signed(&keys, &policy, None, NOW).unwrap();
        let again = signed(&keys, &policy, Some(&first), NOW + DAY).unwrap();
        assert_eq!(again.records, first.records);
        let later = signed(&keys, &policy, Some(&first), NOW + 4 * DAY).unwrap();
        let kept = later.records.iter().filter(|it| first.records.contains(it)).count();
        let all = signed(&keys, &policy, Some(&first), NOW + 5 * DAY).unwrap();
        assert!(lives(&all).iter().all(|(begin, _)| *begin > NOW));
        assert!(kept < first.records.len(), "some are renewed");
        // Every signature has two thirds of its life left after each signing.
        let least = lives(&later).iter().map(|(_, end)| end - NOW - 4 * DAY).min().unwrap();
        assert!(least >= 14 * DAY * 2 / 3);
    }

    #[test]
    fn what_changed_is_signed_again_and_only_that() {
        let (keys, policy) = (keys(), Policy::default());
        let first = signed(&keys, &policy, None, NOW).unwrap();
        let (apex, mut unsigned) = zone();
        unsigned.retain(|record| !record.to_string().contains("192.0.2.3"));
        let next = sign(&apex, &unsigned, 8, &keys, &policy, Some(&first), NOW + 1).unwrap();
        let fresh: Vec<_> = next
            .records
            .iter()
            .filter(|it| it.rtype() == Rtype::RRSIG && !first.records.contains(it))
            .map(|it| it.to_string().split(' ').nth(4).unwrap().to_owned())
            .collect();
        assert_eq!(fresh, ["SOA", "ZONEMD", "A"]);
    }

    #[test]
    fn another_key_signs_anew() {
        let policy = Policy::default();
        let first = signed(&keys(), &policy, None, NOW).unwrap();
        let next = signed(&keys(), &policy, Some(&first), NOW).unwrap();
        assert!(
            next.records
                .iter()
                .filter(|it| it.rtype() == Rtype::RRSIG)
                .all(|it| !first.records.contains(it))
        );
    }

    #[test]
    fn a_clock_that_is_behind_does_not_sign() {
        let (keys, policy) = (keys(), Policy::default());
        let first = signed(&keys, &policy, None, NOW).unwrap();
        assert!(signed(&keys, &policy, Some(&first), NOW - SLACK).is_ok());
        let error = signed(&keys, &policy, Some(&first), NOW - DAY).unwrap_err();
        assert!(matches!(error, SignError::ClockBehind { .. }));
        assert!(error.to_string().contains("86400 s behind"), "{error}");
        assert!(matches!(signed(&keys, &policy, None, 5), Err(SignError::ClockUnset(5))));
    }

    #[test]
    fn a_life_out_of_bounds_is_refused() {
        for days in [0, 3, 36] {
            let policy = Policy { validity: Duration::from_secs(days * DAY), ..Policy::default() };
            assert!(matches!(signed(&keys(), &policy, None, NOW), Err(SignError::Validity(_))));
        }
    }

    #[test]
    fn keys_must_be_there_for_everything() {
        let no_keys = Keys::default();
        let policy = Policy::default();
        assert!(matches!(signed(&no_keys, &policy, None, NOW), Err(SignError::NoKey(_))));
        let key = ZoneKey::generate(Role::Zone).unwrap();
        let one = Use { key, signs_zone: true, signs_keys: false, announced: false };
        let keys = Keys { here: vec![one], ..Keys::default() };
        assert!(matches!(signed(&keys, &policy, None, NOW), Err(SignError::NoKey("its keys"))));
    }

    #[test]
    fn a_list_that_was_signed_elsewhere_must_name_this_key_and_be_valid() {
        let (apex, _) = zone();
        let policy = Policy::default();
        let entry = ZoneKey::generate(Role::Entry).unwrap();
        let key = || ZoneKey::generate(Role::Zone).unwrap();
        let year = Duration::from_secs(365 * DAY);
        let list = |zone: &[PublicKey]| endorse(&apex, &entry, zone, year, NOW).unwrap();

        let here = key();
        let good = list(&[here.public().clone(), key().public().clone()]);
        let keys = Keys::offline(good.clone(), here);
        assert_eq!(keys.ds(&apex), [entry.public().ds(&apex)]);
        let zone = signed(&keys, &policy, None, NOW).unwrap();
        assert!(good.iter().all(|record| zone.records.contains(record)));
        assert_eq!(endorsement_ends(&keys, NOW), Some(NOW + 365 * DAY));
        let late = signed(&keys, &policy, None, NOW + 365 * DAY).unwrap_err();
        assert!(matches!(late, SignError::EndorsementEnds(_)), "{late}");

        let other = Keys::offline(list(&[]), key());
        assert!(matches!(signed(&other, &policy, None, NOW), Err(SignError::NotEndorsed(_))));
        let (_, foreign) = super::tests::zone();
        let foreign = Keys::offline(foreign, key());
        let error = signed(&foreign, &policy, None, NOW).unwrap_err();
        assert!(matches!(error, SignError::ForeignEndorsement(_)));
        assert!(endorse(&apex, &entry, &[], 2 * year, NOW).is_err());
    }
}
