//! The keys of a zone, and which of them the parent zone or the owner vouches for.
//!
//! Signatures are checked by hickory's crypto (aws-lc-rs below) over the canonical form that
//! `domain` makes; hickory's own record types are not used, as they lose what they do not know.

use aws_lc_rs::digest;
use bytes::Bytes;
use domain::base::Rtype;
use domain::base::iana::DigestAlgorithm;
use domain::base::rdata::ComposeRecordData;
use domain::rdata::{Dnskey, Ds};
use hickory_proto::dnssec::{Algorithm, PublicKey, PublicKeyBuf};

use super::Refused;
use super::content::{Entry, Named};

/// The algorithms that can be verified: RSA with SHA-256 and SHA-512, ECDSA P-256 and P-384,
/// Ed25519. These are what RFC 9904 asks validators for, without the ones that it retires.
pub(super) const SUPPORTED: [u8; 5] = [8, 10, 13, 14, 15];
/// Most DNSKEY records of a zone: two algorithms, each with keys old, present and next, for two
/// signers.
const MAX_KEYS: usize = 24;
/// The protocol field of all DNSKEY records (RFC 4034 section 2.1.2).
const PROTOCOL: u8 = 3;

/// Who vouches for a zone's keys.
#[derive(Debug, Clone)]
pub enum Trust {
    /// DS records, from the parent zone or from the owner. One that matches is enough, as a parent
    /// has two during a rollover. SHA-256 and SHA-384 count, SHA-1 does not (RFC 9905).
    Ds(Vec<Ds<Bytes>>),
    /// The keys themselves.
    Keys(Vec<Dnskey<Bytes>>),
    /// The zone need not be signed. If it has keys nevertheless, it must be whole by these.
    Unsigned,
}

impl Trust {
    /// A number for the kind and the RDATA of what is pinned.
    pub(super) fn octets(&self) -> (u8, Vec<Vec<u8>>) {
        fn composed<T: ComposeRecordData>(all: &[T]) -> Vec<Vec<u8>> {
            let compose = |data: &T| {
                let mut octets = Vec::new();
                let Ok(()) = data.compose_canonical_rdata(&mut octets);
                octets
            };
            all.iter().map(compose).collect()
        }
        match self {
            Self::Ds(all) => (0, composed(all)),
            Self::Keys(all) => (1, composed(all)),
            Self::Unsigned => (2, Vec::new()),
        }
    }

    fn pins(&self, entry: Entry<'_>, key: &Dnskey<&[u8]>) -> bool {
        match self {
            Self::Ds(all) => all.iter().any(|ds| is_of(ds, entry, key)),
            Self::Keys(all) => all.iter().any(|pinned| pinned == key),
            Self::Unsigned => true,
        }
    }
}

/// Whether a DS is the digest of a key (RFC 4034 section 5.1.4).
fn is_of(ds: &Ds<Bytes>, entry: Entry<'_>, key: &Dnskey<&[u8]>) -> bool {
    let algorithm = match ds.digest_type() {
        DigestAlgorithm::SHA256 => &digest::SHA256,
        DigestAlgorithm::SHA384 => &digest::SHA384,
        _ => return false,
    };
    if ds.key_tag() != key.key_tag() || ds.algorithm() != key.algorithm() {
        return false;
    }
    let mut context = digest::Context::new(algorithm);
    context.update(entry.owner());
    context.update(entry.rdata());
    context.finish().as_ref() == ds.digest().as_ref()
}

/// A key that may sign the zone.
struct Key {
    tag: u16,
    algorithm: u8,
    pinned: bool,
    public: PublicKeyBuf,
}

/// The keys that may sign the zone: those with the flag of zone keys, not revoked (RFC 5011), of an
/// algorithm that is known. Signatures by others are passed over, as a validator does.
pub(super) struct Keys {
    keys: Vec<Key>,
    algorithms: Vec<u8>,
}

/// Which of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Which(usize);

impl Keys {
    /// Reads the keys at the apex; `None` for a zone without, where `trust` allows that.
    pub(super) fn read(apex: Named<'_>, trust: &Trust) -> Result<Option<Self>, Refused> {
        let required = match trust {
            Trust::Ds(all) if all.is_empty() => return Err(Refused::NoAnchor),
            Trust::Keys(all) if all.is_empty() => return Err(Refused::NoAnchor),
            Trust::Ds(_) | Trust::Keys(_) => true,
            Trust::Unsigned => false,
        };
        let rrset = apex.rrset(Rtype::DNSKEY);
        if rrset.len() == 0 {
            return if required { Err(Refused::NoKeys) } else { Ok(None) };
        }
        if rrset.len() > MAX_KEYS {
            return Err(Refused::TooManyKeys { limit: MAX_KEYS });
        }
        let mut keys: Vec<Key> = Vec::new();
        for entry in rrset.entries() {
            let key = entry.parse(Dnskey::<&[u8]>::parse)?;
            let algorithm = key.algorithm().to_int();
            if !(key.is_zone_key()
                && !key.is_revoked()
                && key.protocol() == PROTOCOL
                && SUPPORTED.contains(&algorithm))
            {
                continue;
            }
            let tag = key.key_tag();
            // Signers avoid this; who does not makes each signature cost as many checks as keys.
            if keys.iter().any(|other| (other.tag, other.algorithm) == (tag, algorithm)) {
                return Err(Refused::SameTag { tag });
            }
            let public =
                PublicKeyBuf::new(key.public_key().to_vec(), Algorithm::from_u8(algorithm));
            keys.push(Key { tag, algorithm, pinned: trust.pins(entry, &key), public });
        }
        if !keys.iter().any(|key| key.pinned) {
            return Err(Refused::NotPinned);
        }
        let mut algorithms: Vec<u8> = keys.iter().map(|key| key.algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        Ok(Some(Self { keys, algorithms }))
    }

    /// The key that a signature names.
    pub(super) fn find(&self, tag: u16, algorithm: u8) -> Option<Which> {
        self.keys.iter().position(|key| (key.tag, key.algorithm) == (tag, algorithm)).map(Which)
    }

    /// Whether the key is vouched for.
    pub(super) fn is_pinned(&self, Which(index): Which) -> bool {
        self.keys.get(index).is_some_and(|key| key.pinned)
    }

    /// Whether the key made the signature over `message`.
    pub(super) fn verifies(&self, Which(index): Which, message: &[u8], signature: &[u8]) -> bool {
        self.keys.get(index).is_some_and(|key| key.public.verify(message, signature).is_ok())
    }

    /// The algorithms of the keys, each of which must have signed each RRset (RFC 4035 section 2.2).
    pub(super) fn algorithms(&self) -> &[u8] {
        &self.algorithms
    }
}
