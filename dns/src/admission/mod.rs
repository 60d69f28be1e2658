//! Whole zones in, verified or refused with a reason, before one replaces the last good one.
//!
//! Everything that a tenant or someone between can send comes through here. A zone that is let in
//! can be served without further thought: its shape holds (RFC 1034, 2181, 6672), every
//! authoritative record is signed by a key that the owner pinned (RFC 4035), its denial chain is
//! whole and exact (RFC 4034, 5155), its digest is right (RFC 8976), and it is newer than the one
//! held (RFC 1982).
//!
//! [`admit`] is pure, so that many zones can be admitted at once on as many threads as there are. It
//! takes as long as the signatures take, some 50 µs each. At a restart that would be minutes for
//! 100,000 zones; so what was verified has a [`Seal`], with which a store gives the zone back and is
//! spared the signatures, and only these.
//!
//! What is let in unseen, without a ZONEMD, is what no signature covers: the NS of delegations,
//! glue, and signatures by keys that are not in the zone. The case of names is never looked at.

mod content;
mod denial;
mod keys;
mod meter;
mod nsec;
mod nsec3;
mod order;
mod refused;
mod seal;
mod shape;
mod signatures;
mod wire;
mod zonemd;

#[cfg(test)]
mod tests;

use domain::base::Serial;

use crate::record::{Name, Record};

pub use self::keys::Trust;
pub use self::meter::Meter;
pub use self::refused::{Field, Refused};
pub use self::seal::Seal;
pub use self::wire::{admit_octets, exercise, read_records, write_records};

use self::content::Content;
use self::keys::Keys;
use self::signatures::Check;

/// Most octets of an RRset with its RRSIGs, whatever [`Limits::rrset_octets`] says: a message of
/// 65,535, less a header, a question, an OPT with its options, and the denial with its signatures
/// that goes with an answer from a wildcard.
pub const RRSET_OCTETS: usize = 65_535 - 4_096;

/// What a zone may cost, and how long it must last.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most records.
    pub records: usize,
    /// Most octets of all records in uncompressed wire format. Admission takes about four times as
    /// much memory while it runs.
    pub octets: usize,
    /// Most octets of an RRset with its RRSIGs, uncompressed; [`RRSET_OCTETS`] holds as well.
    pub rrset_octets: usize,
    /// The least seconds for which all signatures must still be valid; 0 asks that they are valid
    /// now. `None` looks at no times: for a zone that was admitted before and is loaded again, as
    /// serving what has expired helps those who do not validate, and harms nobody.
    pub remaining_lifetime: Option<u32>,
}

impl Default for Limits {
    /// 100,000 records, 16 MiB, and a day.
    fn default() -> Self {
        Self {
            records: 100_000,
            octets: 16 * 1024 * 1024,
            rrset_octets: RRSET_OCTETS,
            remaining_lifetime: Some(86_400),
        }
    }
}

/// What is expected of a zone.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Who vouches for its keys.
    pub trust: Trust,
    /// The serial of the zone that is held; the new one must be after it. `None` takes any: for the
    /// first zone, and where the owner asks to begin anew.
    pub previous_serial: Option<u32>,
    /// The seal of the zone that is held or was stored. A zone with this seal has its signatures not
    /// checked again, and may come again with the serial that is held.
    pub seal: Option<Seal>,
    /// What it may cost.
    pub limits: Limits,
}

/// What admission learned about a zone that it let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The serial of its SOA.
    pub serial: u32,
    /// To be kept with the zone, for [`Expect::seal`].
    pub seal: Seal,
    /// When the first RRset loses its last signature, in seconds since 1970; `None` for a zone
    /// without signatures.
    pub valid_until: Option<u64>,
    /// Whether it is the zone that the seal in [`Expect::seal`] was made for.
    pub same: bool,
}

/// Verifies a zone. `records` are all its records in any order, each once: of a transfer's two SOA
/// records only one. `now_unix` is in seconds since 1970.
///
/// After an error the zone that was held before is to be kept.
pub fn admit(
    apex: &Name,
    records: &[Record],
    expect: &Expect,
    now_unix: u64,
) -> Result<Admitted, Refused> {
    let content = Content::new(apex, records, &expect.limits)?;
    let serial = shape::check(&content, &expect.limits)?;
    let seal = Seal::of(apex, &content, &expect.trust);
    let same = expect.seal == Some(seal);
    if let Some(held) = expect.previous_serial {
        goes_on(held, serial, same)?;
    }
    let root = content.apex().ok_or(Refused::NoSoa)?;
    let mut valid_until = None;
    match Keys::read(root, &expect.trust)? {
        None => denial::nothing_of_dnssec(&content)?,
        Some(keys) => {
            let check = Check::new(&keys, apex, &expect.limits, !same, now_unix);
            let left = check.all(&content)?;
            denial::check(&content)?;
            valid_until = Some(now_unix.saturating_add_signed(i64::from(left)));
        }
    }
    zonemd::check(&content, serial)?;
    Ok(Admitted { serial, seal, valid_until, same })
}

/// RFC 1982 section 3.2. Serials half the circle apart are in no order, and so do not go on.
fn goes_on(held: u32, offered: u32, same: bool) -> Result<(), Refused> {
    if Serial::from(offered) > Serial::from(held) || (offered == held && same) {
        return Ok(());
    }
    if offered == held {
        return Err(Refused::SerialSame { serial: held });
    }
    Err(Refused::SerialBack { held, offered })
}
