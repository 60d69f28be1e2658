//! The owner's zone: made of facts that the box knows, signed here, and given to name servers that
//! can serve it and not change it.
//!
//! [`build`] is all of it: a [`plan::Plan`] in, a signed and verified zone out. Nothing here opens a
//! socket or looks at a clock, and only [`zone_key`] touches files.
//!
//! The signer is our own on top of `domain`'s canonical forms: that library's signing needs *ring*
//! or OpenSSL, and hickory's signs delegations and glue, which verifiers object to.

use bytes::Bytes;
use domain::base::Serial;
use domain::rdata::Ds;
use sealpost_dns::record::{Data, Record};

pub mod canonical;
pub mod certificate_roll;
pub mod check;
pub mod conflicts;
pub mod content;
pub mod denial;
pub mod digest;
pub mod endorsement;
pub mod included;
pub mod key_kit;
pub mod key_roll;
pub mod keys;
pub mod master_file;
pub mod plan;
pub mod serial;
pub mod sign;
pub mod zone_key;

pub use keys::Keys;
pub use plan::Plan;
pub use sign::{Policy, Signed};
pub use zone_key::ZoneKey;

/// Why there is no zone to publish. The last one stays in service.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The facts make no zone.
    #[error(transparent)]
    Content(#[from] content::ContentError),
    /// The records do not agree.
    #[error(transparent)]
    Conflict(#[from] conflicts::Conflict),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] sign::SignError),
    /// It was signed wrongly.
    #[error(transparent)]
    Check(#[from] check::CheckError),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The zone.
    pub zone: Signed,
    /// What the parent zone should say.
    pub ds: Vec<Ds<Bytes>>,
    /// Whether it differs from the last one. What does not is not published again.
    pub changed: bool,
    /// What was verified.
    pub verified: check::Verified,
}

/// Builds, signs and verifies a zone at `now`, in seconds since 1970. `last` is the zone that was
/// signed last: its serial, its signatures and its time are gone on from. `seen` is the newest serial
/// that any name server of the zone has, if one was asked: it is newer than the last one after a
/// restored backup, or when the zone was served elsewhere before, and then the zone overtakes it.
///
/// To be called when anything in the plan changed, and every day.
pub fn build(
    plan: &Plan,
    keys: &Keys,
    policy: &Policy,
    last: Option<&Signed>,
    seen: Option<u32>,
    now: u64,
) -> Result<Built, BuildError> {
    sign::check_clock(last, now)?;
    let agents = content::records(plan, 0)?;
    let unsigned = conflicts::merge(&plan.apex, agents, &plan.own)?;
    let valid_ds = keys.valid_ds(&plan.apex);
    let ds = keys.ds(&plan.apex);
    let sign = |serial, last| sign::sign(&plan.apex, &unsigned, serial, keys, policy, last, now);
    let verify = |zone: &Signed| check::verify(&plan.apex, &zone.records, &valid_ds, now);

    // Under the same serial it is the same zone, unless something changed or a signature is old.
    let overtaken = |last: &Signed| seen.is_some_and(|seen| serial::is_newer(seen, last.serial));
    let mut settled = None;
    if let Some(last) = last {
        let same = sign(last.serial, Some(last))?;
        if same.records == last.records
            && !overtaken(last)
            && let Ok(verified) = verify(&same)
        {
            return Ok(Built { zone: last.clone(), ds, changed: false, verified });
        }
        settled = Some(same);
    }
    let newest = match last {
        Some(last) if !overtaken(last) => Some(last.serial),
        _ => seen.or(last.map(|last| last.serial)),
    };
    let serial = serial::next(newest, now);
    let zone = sign(serial, settled.as_ref())?;
    let (zone, verified) = match verify(&zone) {
        Ok(verified) => (zone, verified),
        // A signature that was kept may have been spoilt on disk. Fresh ones are made by what is
        // here alone.
        Err(_) if last.is_some() => {
            let fresh = sign(serial, None)?;
            let verified = verify(&fresh)?;
            (fresh, verified)
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Built { zone, ds, changed: true, verified })
}

/// The last zone out of its records, as a store or a name server has them; `None` when they have no
/// SOA. When it was signed shows in its newest signature, which begins an hour before.
pub fn recall(records: Vec<Record>) -> Option<Signed> {
    let soa = records.iter().find_map(|record| match record.data() {
        Data::Soa(soa) => Some(soa.serial()),
        _ => None,
    });
    let Serial(serial) = soa?;
    let begun = records.iter().filter_map(|record| match record.data() {
        Data::Rrsig(rrsig) => Some(u64::from(rrsig.inception().into_int())),
        _ => None,
    });
    let signed_at = begun.max().unwrap_or_default() + sign::BEFORE;
    Some(Signed { records: canonical::sort(records), serial, signed_at })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::plan::{Challenge, Exchanger, Host};
    use super::zone_key::Role;
    use super::*;
    use crate::zone::denial::Denial;

    const NOW: u64 = 1_790_000_000;
    const DAY: u64 = 24 * 3600;

    fn plan() -> Plan {
        let host = |name: &str| Host {
            name: name.parse().unwrap(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
        };
        let mut plan = Plan::new("a.example.".parse().unwrap());
        plan.name_servers = vec![host("ns1.a.example."), host("ns2.b.example.")];
        plan.exchangers = vec![Exchanger { preference: 10, host: host("mx.a.example.") }];
        plan
    }

    fn keys() -> Keys {
        Keys::combined(ZoneKey::generate(Role::Entry).unwrap())
    }

    #[test]
    fn nothing_new_is_not_published_again_and_everything_else_has_a_higher_serial() {
        let (mut plan, keys, policy) = (plan(), keys(), Policy::default());
        let first = build(&plan, &keys, &policy, None, None, NOW).unwrap();
        assert!(first.changed);
        let again = build(&plan, &keys, &policy, Some(&first.zone), None, NOW + DAY).unwrap();
        assert!(!again.changed);
        assert_eq!(again.zone, first.zone);

        let name = plan.apex.clone();
        plan.challenges.push(Challenge { name, digest: "abc".into() });
        let with = build(&plan, &keys, &policy, Some(&first.zone), None, NOW).unwrap();
        assert!(with.changed && with.zone.serial == first.zone.serial + 1);
        plan.challenges.clear();
        let without = build(&plan, &keys, &policy, Some(&with.zone), None, NOW + 1).unwrap();
        assert!(without.changed && without.zone.serial == first.zone.serial + 2);

        let renewed =
            build(&plan, &keys, &policy, Some(&without.zone), None, NOW + 5 * DAY).unwrap();
        assert!(renewed.changed, "signatures are renewed");
        assert_eq!(u64::from(renewed.zone.serial), NOW + 5 * DAY);
    }

    #[test]
    fn a_year_of_days_on_and_off_keeps_two_thirds_of_every_life() {
        let (plan, keys, policy) = (plan(), keys(), Policy::default());
        let mut last: Option<Signed> = None;
        for day in (0..365).filter(|day| day % 50 < 40) {
            let now = NOW + day * DAY;
            let built = build(&plan, &keys, &policy, last.as_ref(), None, now).unwrap();
            let later = now + policy.validity.as_secs() * 2 / 3 - 1;
            check::verify(&plan.apex, &built.zone.records, &built.ds, later).unwrap();
            last = Some(built.zone);
        }
    }

    #[test]
    fn a_spoilt_memory_heals_and_a_recalled_one_is_as_good() {
        let (plan, keys, policy) = (plan(), keys(), Policy::default());
        let first = build(&plan, &keys, &policy, None, None, NOW).unwrap().zone;
        assert_eq!(recall(first.records.clone()).unwrap(), first);

        let mut spoilt = first.clone();
        for record in &mut spoilt.records {
            if let Data::Rrsig(rrsig) = record.data_mut() {
                let mut signature = rrsig.signature().to_vec();
                signature[5] ^= 1;
                *rrsig = domain::rdata::Rrsig::new(
                    rrsig.type_covered(),
                    rrsig.algorithm(),
                    rrsig.labels(),
                    rrsig.original_ttl(),
                    rrsig.expiration(),
                    rrsig.inception(),
                    rrsig.key_tag(),
                    rrsig.signer_name().clone(),
                    signature.into(),
                )
                .unwrap();
            }
        }
        let healed = build(&plan, &keys, &policy, Some(&spoilt), None, NOW + 1).unwrap();
        assert!(healed.changed && healed.zone.serial == first.serial + 1);
        assert!(recall(Vec::new()).is_none());
    }

    #[test]
    fn a_clock_that_was_ahead_is_recovered_from_with_a_higher_serial() {
        let (plan, keys, policy) = (plan(), keys(), Policy::default());
        let ahead = NOW + 5000 * DAY;
        let mut wrong = build(&plan, &keys, &policy, None, None, ahead).unwrap().zone;
        assert!(build(&plan, &keys, &policy, Some(&wrong), None, NOW).is_err());
        wrong.signed_at = 0;
        let right = build(&plan, &keys, &policy, Some(&wrong), None, NOW).unwrap().zone;
        assert_eq!(right.serial, wrong.serial + 1);
    }

    #[test]
    fn a_serial_that_was_seen_elsewhere_is_overtaken() {
        let (plan, keys, policy) = (plan(), keys(), Policy::default());
        let dated = 2_026_112_201;
        let first = build(&plan, &keys, &policy, None, Some(dated), NOW).unwrap().zone;
        assert_eq!(first.serial, dated + 1);
        let again = build(&plan, &keys, &policy, Some(&first), Some(first.serial), NOW).unwrap();
        assert!(!again.changed);
        let other = build(&plan, &keys, &policy, Some(&first), Some(dated + 50), NOW).unwrap();
        assert!(other.changed && other.zone.serial == dated + 51);
        let behind = build(&plan, &keys, &policy, Some(&first), Some(7), NOW).unwrap();
        assert!(!behind.changed, "a name server that has an old zone gets the present one");
    }

    #[test]
    fn a_zone_that_asks_to_be_forgotten_is_valid() {
        let (plan, mut keys, policy) = (plan(), keys(), Policy::default());
        keys.withdrawn = true;
        let built = build(&plan, &keys, &policy, None, None, NOW).unwrap();
        assert!(built.ds.is_empty());
    }

    #[test]
    fn a_change_of_the_way_to_sign_is_a_change() {
        let (plan, keys, policy) = (plan(), keys(), Policy::default());
        let first = build(&plan, &keys, &policy, None, None, NOW).unwrap();
        for policy in [
            Policy { denial: Denial::Nsec3, ..policy.clone() },
            Policy { digest: false, ..policy.clone() },
            Policy { validity: Duration::from_secs(35 * DAY), ..policy.clone() },
        ] {
            assert!(build(&plan, &keys, &policy, Some(&first.zone), None, NOW).unwrap().changed);
        }
        let other = self::keys();
        assert!(build(&plan, &other, &policy, Some(&first.zone), None, NOW).unwrap().changed);
    }

    /// Lines of zone files, right and wrong, in which names meet often.
    fn lines() -> impl Strategy<Value = String> {
        let name = "((a|b|\\*|X)\\.){0,2}(a|b|c|D|mx|_x)";
        let data = prop_oneof![
            Just("A 192.0.2.7"),
            Just("AAAA 2001:db8::7"),
            Just("TXT \"x\" y"),
            Just("MX 5 A.b"),
            Just("NS ns.elsewhere."),
            Just("NS a.b"),
            Just("DS 1 13 2 0000000000000000000000000000000000000000000000000000000000000000"),
            Just("CNAME Other.example."),
            Just("DNAME Other.example."),
            Just("TYPE65280 \\# 2 0a0B"),
            Just("SRV 1 2 3 Target.example."),
            Just("RP Who.example. What.example."),
            Just("HTTPS 1 . alpn=h2"),
            Just("CAA 0 issue \"x\""),
        ];
        (name, 0..9000u32, data).prop_map(|(name, ttl, data)| format!("{name} {ttl} {data}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever the owner writes is refused by name or gives a zone that verifies.
        #[test]
        fn what_is_not_refused_verifies(
            lines in prop::collection::vec(lines(), 0..12),
            nsec3: bool,
        ) {
            let mut plan = plan();
            // Each line is kept that agrees with those before it.
            for line in lines {
                let own = included::parse(line.as_bytes(), "own".as_ref(), &plan.apex).unwrap();
                let before = plan.own.clone();
                plan.own.extend(own);
                let agents = content::records(&plan, 0).unwrap();
                if conflicts::merge(&plan.apex, agents, &plan.own).is_err() {
                    plan.own = before;
                }
            }
            let denial = if nsec3 { Denial::Nsec3 } else { Denial::Nsec };
            let policy = Policy { denial, ..Policy::default() };
            let built = build(&plan, &keys(), &policy, None, None, NOW).unwrap();
            // And no record can be missing from it.
            for (place, missing) in built.zone.records.iter().enumerate() {
                let mut records = built.zone.records.clone();
                records.remove(place);
                let checked = check::verify(&plan.apex, &records, &built.ds, NOW);
                prop_assert!(checked.is_err(), "{missing}");
            }
        }
    }
}
