//! Why a zone is not taken: each variant names what is wrong and where, so that the owner who reads
//! it in a log can find the record.

use domain::base::Rtype;
use domain::base::iana::Class;

use crate::record::Name;
use crate::zone::TooManyIterations;

use super::keys::SUPPORTED;

/// Why a zone was refused. The zone that was held before stays in service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// More records than [`super::Limits::records`].
    #[error("the zone has more than {limit} records")]
    TooManyRecords {
        /// The limit, in records.
        limit: usize,
    },
    /// More octets than [`super::Limits::octets`].
    #[error("the zone has more than {limit} octets")]
    TooManyOctets {
        /// The limit, in octets of uncompressed wire format.
        limit: usize,
    },
    /// Octets that are no records, where a zone is read from its wire form.
    #[error("the octets from {offset} on are no record")]
    NoRecord {
        /// Where the record begins.
        offset: usize,
    },
    /// A record of another zone.
    #[error("{name} is outside the zone {apex}")]
    OutsideZone {
        /// The record's owner.
        name: Name,
        /// The zone.
        apex: Name,
    },
    /// A class other than IN.
    #[error("{name} has a record of class {class}; only IN is served")]
    NotIn {
        /// The record's owner.
        name: Name,
        /// The record's class.
        class: Class,
    },
    /// RDATA that its own type does not allow.
    #[error("the RDATA of {name} {rtype} is malformed")]
    Malformed {
        /// The record's owner.
        name: Name,
        /// The record's type.
        rtype: Rtype,
    },
    /// A type that exists in messages only (RFC 6895 section 3.1).
    #[error("{name} has a record of type {rtype}, which is not for zones")]
    NotForZones {
        /// The record's owner.
        name: Name,
        /// The record's type.
        rtype: Rtype,
    },
    /// The same record twice (RFC 2181 section 5), apart from the case of names.
    #[error("a record {name} {rtype} comes twice")]
    Twice {
        /// The record's owner.
        name: Name,
        /// The record's type.
        rtype: Rtype,
    },
    /// No SOA at the apex.
    #[error("the zone has no SOA")]
    NoSoa,
    /// Two different SOA records.
    #[error("the zone has more than one SOA")]
    ManySoa,
    /// An SOA below the apex.
    #[error("{name} has an SOA, but is not the apex")]
    SoaBelowApex {
        /// The SOA's owner.
        name: Name,
    },
    /// No NS at the apex.
    #[error("the apex has no NS")]
    NoNs,
    /// A DS at the apex; it belongs into the parent zone (RFC 4035 section 2.4).
    #[error("the apex has a DS, which belongs into the parent zone")]
    DsAtApex,
    /// A CNAME beside other data (RFC 1034 section 3.6.2, RFC 4034 section 3).
    #[error("{name} has a CNAME and {rtype}; a CNAME stands alone")]
    CnameBeside {
        /// The owner of both.
        name: Name,
        /// What stands beside the CNAME.
        rtype: Rtype,
    },
    /// More than one CNAME or DNAME of one owner (RFC 2181 section 10.1, RFC 6672 section 2.4).
    #[error("{name} has more than one {rtype}")]
    ManyAliases {
        /// The owner.
        name: Name,
        /// CNAME or DNAME.
        rtype: Rtype,
    },
    /// A DNAME at a delegation (RFC 6672 section 2.3).
    #[error("{name} has a DNAME and is delegated")]
    DnameAtCut {
        /// The owner of both.
        name: Name,
    },
    /// A wildcard with NS records, which mean nothing (RFC 4592 section 4.2) and which BIND, as a
    /// secondary, would not load.
    #[error("{name} is a wildcard and has NS records")]
    WildcardCut {
        /// The wildcard.
        name: Name,
    },
    /// A record below a DNAME (RFC 6672 section 2.4).
    #[error("{name} is below the DNAME of {dname}")]
    BelowDname {
        /// The record's owner.
        name: Name,
        /// The DNAME's owner.
        dname: Name,
    },
    /// The TTLs of an RRset differ (RFC 2181 section 5.2).
    #[error("the records {name} {rtype} have different TTLs")]
    Ttls {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
    },
    /// An RRset that does not fit into one answer with its signatures.
    #[error("the records {name} {rtype} take {octets} octets, more than {limit}")]
    RrsetTooLarge {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// Octets with the RRSIGs, uncompressed.
        octets: usize,
        /// The limit, in octets.
        limit: usize,
    },
    /// The serial is not after the one held (RFC 1982 section 3.2).
    #[error("serial {offered} is not after {held}, which is held")]
    SerialBack {
        /// The serial held.
        held: u32,
        /// The serial of the zone refused.
        offered: u32,
    },
    /// The serial held, with other content.
    #[error("serial {serial} is held with other content; raise the serial")]
    SerialSame {
        /// The serial of both.
        serial: u32,
    },
    /// The caller gave neither a DS nor a key.
    #[error("no DS and no key is known for the zone")]
    NoAnchor,
    /// A zone that must be signed has no DNSKEY.
    #[error("the zone has no DNSKEY")]
    NoKeys,
    /// More keys than a zone needs, which only serves to make verification dear.
    #[error("the zone has more than {limit} keys")]
    TooManyKeys {
        /// The limit, in keys.
        limit: usize,
    },
    /// Two keys with one tag, which makes each signature cost two checks (CVE-2023-50387).
    #[error("two keys of the zone have the tag {tag}; make another key")]
    SameTag {
        /// The tag.
        tag: u16,
    },
    /// No key of the zone is one that may sign it.
    #[error(
        "no key of the zone matches the pinned DS or key (algorithms {SUPPORTED:?}, DS of SHA-256 \
         or SHA-384)"
    )]
    NotPinned,
    /// The DNSKEY set is signed, but not by the pinned key.
    #[error("the DNSKEY records are not signed by the pinned key")]
    KeysNotSigned,
    /// DNSSEC records in a zone without DNSKEY.
    #[error("{name} has {rtype}, but the zone has no DNSKEY")]
    WithoutKeys {
        /// The record's owner.
        name: Name,
        /// Its type.
        rtype: Rtype,
    },
    /// An authoritative RRset has no signature.
    #[error("the records {name} {rtype} are not signed")]
    Unsigned {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
    },
    /// An RRset lacks the signature of one of the zone's algorithms (RFC 4035 section 2.2).
    #[error("the records {name} {rtype} are not signed with algorithm {algorithm}")]
    AlgorithmMissing {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// The algorithm's number.
        algorithm: u8,
    },
    /// A signature by a key of the zone is wrong.
    #[error("the signature of {name} {rtype} by key {tag} is wrong")]
    BadSignature {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// The key's tag.
        tag: u16,
    },
    /// A field of a signature does not fit the records that it covers (RFC 4035 section 2.2).
    #[error("the signature of {name} {rtype} has another {field} than the records")]
    Field {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// Which.
        field: Field,
    },
    /// All signatures of an RRset have ended.
    #[error("the signature of {name} {rtype} has ended at {expiration}; sign the zone again")]
    Expired {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// The end, in seconds since 1970 modulo 2^32.
        expiration: u32,
    },
    /// The signatures of an RRset have not begun.
    #[error("the signature of {name} {rtype} begins at {inception}; check the signer's clock")]
    NotYetValid {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// The begin, in seconds since 1970 modulo 2^32.
        inception: u32,
    },
    /// The signatures of an RRset end too soon.
    #[error("the signature of {name} {rtype} ends in {left} s, less than {least} s; sign again")]
    EndsSoon {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// Seconds until it ends.
        left: u32,
        /// [`super::Limits::remaining_lifetime`].
        least: u32,
    },
    /// More signatures over an RRset than a zone needs.
    #[error("the records {name} {rtype} have more than {limit} signatures")]
    TooManySignatures {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
        /// The limit, in signatures.
        limit: usize,
    },
    /// A signature over records that are not there.
    #[error("{name} has a signature over {rtype}, but no such records")]
    SignatureOfNothing {
        /// The signature's owner.
        name: Name,
        /// The type covered.
        rtype: Rtype,
    },
    /// A signature over a delegation's NS or over glue (RFC 4035 section 2.2).
    #[error("{name} {rtype} is signed, but belongs to another zone")]
    SignedNotOurs {
        /// The RRset's owner.
        name: Name,
        /// The RRset's type.
        rtype: Rtype,
    },
    /// A signed zone without NSEC and NSEC3.
    #[error("the zone has neither NSEC nor NSEC3")]
    NoDenial,
    /// NSEC and NSEC3 in one zone.
    #[error("the zone has both NSEC and NSEC3")]
    BothDenials,
    /// A name without NSEC.
    #[error("{name} has no NSEC")]
    NsecMissing {
        /// The name.
        name: Name,
    },
    /// More than one NSEC of a name, or NSEC3 of a hash.
    #[error("{name} has more than one {rtype}")]
    DenialTwice {
        /// The owner.
        name: Name,
        /// NSEC or NSEC3.
        rtype: Rtype,
    },
    /// An NSEC below a delegation.
    #[error("{name} has an NSEC, but is below a delegation")]
    NsecNotOurs {
        /// The NSEC's owner.
        name: Name,
    },
    /// The chain does not go on to the next name.
    #[error("the {rtype} of {name} does not lead to the next name of the zone")]
    NextName {
        /// The record's owner.
        name: Name,
        /// NSEC or NSEC3.
        rtype: Rtype,
    },
    /// The type bitmap does not say what is there.
    #[error("the {rtype} for {name} lists other types than the name has")]
    Types {
        /// The name for which the record speaks.
        name: Name,
        /// NSEC or NSEC3.
        rtype: Rtype,
    },
    /// Not exactly one NSEC3PARAM that can be used.
    #[error("an NSEC3 zone needs one NSEC3PARAM with SHA-1 and no flags at its apex")]
    Nsec3Param,
    /// More iterations than validators follow (RFC 9276 section 3.2).
    #[error(transparent)]
    Iterations(#[from] TooManyIterations),
    /// An NSEC3 with parameters other than the zone's, unknown flags or an owner that is no hash.
    #[error("the NSEC3 of {name} does not fit the zone's NSEC3PARAM")]
    Nsec3Fields {
        /// The NSEC3's owner.
        name: Name,
    },
    /// A name without NSEC3, which is not covered by opt-out either.
    #[error("{name} has no NSEC3")]
    Nsec3Missing {
        /// The name, which may be an empty non-terminal.
        name: Name,
    },
    /// An NSEC3 that is the hash of no name of the zone.
    #[error("the NSEC3 of {name} belongs to no name of the zone")]
    Nsec3Stray {
        /// The NSEC3's owner.
        name: Name,
    },
    /// More empty non-terminals than records, which only serves to make hashing dear.
    #[error("the zone has more than {limit} names to hash")]
    TooManyNames {
        /// The limit, in names.
        limit: usize,
    },
    /// A ZONEMD for another serial (RFC 8976 section 4).
    #[error("the ZONEMD is for serial {zonemd}, the zone has {serial}")]
    ZonemdSerial {
        /// The serial in the ZONEMD.
        zonemd: u32,
        /// The serial of the zone.
        serial: u32,
    },
    /// Two ZONEMD with the same scheme and algorithm (RFC 8976 section 2).
    #[error("the zone has two ZONEMD of hash algorithm {algorithm}")]
    ZonemdTwice {
        /// The hash algorithm's number.
        algorithm: u8,
    },
    /// The digest is not that of the records.
    #[error("the ZONEMD of hash algorithm {algorithm} is not the digest of the zone")]
    ZonemdDigest {
        /// The hash algorithm's number.
        algorithm: u8,
    },
}

/// A field of an RRSIG that must say the same as the records that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The signer must be the zone.
    Signer,
    /// The count of labels must be the owner's: a zone holds wildcards, not what comes of them.
    Labels,
    /// The original TTL, or the RRSIG's own TTL.
    Ttl,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Signer => "signer",
            Self::Labels => "count of labels",
            Self::Ttl => "TTL",
        })
    }
}
