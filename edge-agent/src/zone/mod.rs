//! The owner's zone: made of facts that the box knows, signed here, and given to name servers that
//! can serve it and not change it.
//!
//! [`build`] is all of it: a [`plan::Plan`] in, a signed and verified zone out. Nothing here opens a
//! socket or looks at a clock, and only [`keys`] touches files.
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
pub mod included;
pub mod keys;
pub mod plan;
pub mod serial;
pub mod sign;

pub use keys::{Keys, ZoneKey};
pub use plan::Plan;
pub use sign::{Policy, Signed};

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
/// signed last, wherever it was published: its serial, its signatures and its time are gone on from.
///
/// To be called when anything in the plan changed, and every day.
pub fn build(
    plan: &Plan,
    keys: &Keys,
    policy: &Policy,
    last: Option<&Signed>,
    now: u64,
) -> Result<Built, BuildError> {
    sign::check_clock(last, now)?;
    let agents = content::records(plan, 0)?;
    let unsigned = conflicts::merge(&plan.apex, agents, &plan.own)?;
    let ds = keys.ds(&plan.apex);
    let sign = |serial, last| sign::sign(&plan.apex, &unsigned, serial, keys, policy, last, now);
    let verify = |zone: &Signed| check::verify(&plan.apex, &zone.records, &ds, now);

    // Under the same serial it is the same zone, unless something changed or a signature is old.
    let mut settled = None;
    if let Some(last) = last {
        let same = sign(last.serial, Some(last))?;
        if same.records == last.records
            && let Ok(verified) = verify(&same)
        {
            return Ok(Built { zone: last.clone(), ds, changed: false, verified });
        }
        settled = Some(same);
    }
    let serial = serial::next(last.map(|last| last.serial), now);
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
