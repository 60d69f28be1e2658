//! Messages that a shared secret signs (TSIG, RFC 8945), one by one and as a stream. Pure: keys,
//! octets and times in, octets and decisions out.
//!
//! Of one's own, because `domain` has it only together with another crypto provider, and
//! `hickory-proto` cannot verify a stream in which only some messages are signed, which BIND sends
//! (section 5.3.1). The record itself is `domain`'s.
//!
//! MACs are full length or refused: nobody who is asked here truncates them, and a short one is
//! weaker (section 5.2.2.1 leaves it to the reader). SHA-1 and MD5 are not there for the same reason.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::{constant_time, hmac};
use bytes::Bytes;
use domain::base::iana::{Class, Rcode, TsigRcode};
use domain::base::name::ToName;
use domain::base::{Message, Rtype, Ttl};
use domain::rdata::tsig::{Time48, Tsig};

use crate::record::Name;

/// How far the clocks of both ends may be apart, in seconds (RFC 8945 section 10 recommends it).
/// A longer time that a peer asks for is not granted.
pub const FUDGE_SECONDS: u16 = 300;
/// Most messages of a stream without a signature between two with one (section 5.3.1).
pub const MAX_UNSIGNED: usize = 99;
/// The shortest secret that is taken, in octets. Below this the secret is easier to guess than the
/// MAC.
pub const MIN_SECRET: usize = 16;
/// The most octets that signing adds to a message: two names, the fixed fields, the longest MAC and
/// the other data of BADTIME.
pub const MAX_OVERHEAD: usize = 255 + 10 + 255 + 16 + 64 + 6;

/// By which hash a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `hmac-sha256`, which everybody has.
    Sha256,
    /// `hmac-sha384`.
    Sha384,
    /// `hmac-sha512`.
    Sha512,
}

/// Why there is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A name that is not known, or is known and too weak.
    #[error("unknown TSIG algorithm {0:?}; use hmac-sha256, hmac-sha384 or hmac-sha512")]
    Algorithm(String),
    /// Not base64.
    #[error("the TSIG secret is not base64")]
    NotBase64,
    /// Shorter than [`MIN_SECRET`].
    #[error(
        "the TSIG secret has {0} octets, but needs {MIN_SECRET} or more; make one with: \
         head -c 32 /dev/urandom | base64"
    )]
    Short(usize),
}

/// A secret that two servers share, with its name. The secret itself is not kept, only the state of
/// HMAC behind it, which the crypto library wipes.
pub struct TsigKey {
    name: Name,
    algorithm: Algorithm,
    secret: hmac::Key,
}

/// The keys of a server by name, in whatever case.
#[derive(Debug, Clone, Default)]
pub struct Keys(HashMap<Name, Arc<TsigKey>>);

/// Why a request is not what its signature says, and what to answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// The message or its TSIG record cannot be read.
    #[error("malformed TSIG or message")]
    Malformed,
    /// No key of that name and algorithm.
    #[error("no TSIG key {0} here with that algorithm")]
    BadKey(Name),
    /// The MAC is another.
    #[error("wrong TSIG signature by key {0}")]
    BadSig(Name),
    /// The MAC is cut short.
    #[error("truncated TSIG signature by key {0}")]
    BadTrunc(Name),
    /// Signed too long ago, or in the future.
    #[error("TSIG signature by key {key} is {off} s off the clock here")]
    BadTime {
        /// The key's name.
        key: Name,
        /// The difference of clocks in seconds.
        off: u64,
    },
}

/// Why a reply is not from the holder of the key, or not for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// The message or its TSIG record cannot be read.
    #[error("malformed TSIG or message in the reply")]
    Malformed,
    /// The first message, the last one, or too many in between have no signature.
    #[error("the reply is not signed with TSIG where it has to be")]
    Unsigned,
    /// A signature by some other key.
    #[error("the reply is signed by another TSIG key")]
    OtherKey,
    /// The MAC is wrong, or cut short.
    #[error("wrong TSIG signature of the reply")]
    BadSig,
    /// Signed too long ago, or in the future.
    #[error("the reply's TSIG signature is {0} s off the clock here; check both clocks")]
    BadTime(u64),
    /// The server says why it did not take the request.
    #[error("the server refused the TSIG signature: {0}")]
    Refused(TsigRcode),
}

/// A request whose signature is good.
#[derive(Debug)]
pub struct Opened {
    /// The message as it was before it was signed.
    pub message: Vec<u8>,
    /// Signs what is answered.
    pub signer: ReplySigner,
}

/// Signs the messages of a reply, each of them.
#[derive(Debug, Clone)]
pub struct ReplySigner {
    key: Arc<TsigKey>,
    previous: Vec<u8>,
    first: bool,
}

/// Verifies the messages of a reply.
#[derive(Debug)]
pub struct ReplyVerifier {
    key: Arc<TsigKey>,
    previous: Vec<u8>,
    first: bool,
    unsigned: usize,
    /// What the next signature covers beside its own message.
    pending: Vec<u8>,
}

impl Algorithm {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// Its name on the wire, as octets.
    fn wire(self) -> &'static [u8] {
        match self {
            Self::Sha256 => b"\x0bhmac-sha256\0",
            Self::Sha384 => b"\x0bhmac-sha384\0",
            Self::Sha512 => b"\x0bhmac-sha512\0",
        }
    }

    fn name(self) -> Name {
        Name::from_octets(Bytes::from_static(self.wire())).expect("a constant name")
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "hmac-sha256",
            Self::Sha384 => "hmac-sha384",
            Self::Sha512 => "hmac-sha512",
        })
    }
}

impl FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha256" => Ok(Self::Sha256),
            "hmac-sha384" => Ok(Self::Sha384),
            "hmac-sha512" => Ok(Self::Sha512),
            _ => Err(KeyError::Algorithm(text.chars().take(64).collect())),
        }
    }
}

impl TsigKey {
    /// A key of a secret in octets.
    pub fn new(name: Name, algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < MIN_SECRET {
            return Err(KeyError::Short(secret.len()));
        }
        let secret = hmac::Key::new(algorithm.hmac(), secret);
        Ok(Self { name, algorithm, secret })
    }

    /// A key of a secret in base64, as all name servers write it.
    pub fn from_base64(name: Name, algorithm: Algorithm, secret: &str) -> Result<Self, KeyError> {
        let octets: Vec<u8> =
            domain::utils::base64::decode(secret.trim()).map_err(|_| KeyError::NotBase64)?;
        Self::new(name, algorithm, &octets)
    }

    /// The name that both ends know it by.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// By which hash it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn mac(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    fn length(&self) -> usize {
        self.algorithm.hmac().tag_len()
    }
}

impl PartialEq for TsigKey {
    /// Whether both sign alike.
    fn eq(&self, other: &Self) -> bool {
        let alike = || self.mac(&[]) == other.mac(&[]);
        self.name == other.name && self.algorithm == other.algorithm && alike()
    }
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TsigKey")
            .field("name", &self.name)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl FromIterator<TsigKey> for Keys {
    fn from_iter<T: IntoIterator<Item = TsigKey>>(keys: T) -> Self {
        Self(keys.into_iter().map(|key| (key.name.clone(), Arc::new(key))).collect())
    }
}

impl FromIterator<Arc<TsigKey>> for Keys {
    fn from_iter<T: IntoIterator<Item = Arc<TsigKey>>>(keys: T) -> Self {
        Self(keys.into_iter().map(|key| (key.name.clone(), key)).collect())
    }
}

impl Keys {
    /// The key of that name.
    pub fn find(&self, name: &Name) -> Option<&Arc<TsigKey>> {
        self.0.get(name)
    }
}

/// Signs a request, and gives what verifies the reply. `now` is in Unix seconds.
pub fn sign_request(message: &mut Vec<u8>, key: &Arc<TsigKey>, now: u64) -> ReplyVerifier {
    let stamp = Stamp::of(key, id(message), now);
    let mac = key.mac(&[message, &stamp.variables()]);
    stamp.append(message, &mac);
    ReplyVerifier { key: key.clone(), previous: mac, first: true, unsigned: 0, pending: Vec::new() }
}

/// Verifies a request: `None` when it is not signed at all.
pub fn open_request(message: &[u8], keys: &Keys, now: u64) -> Result<Option<Opened>, RequestFault> {
    let Some(Taken { body, stamp, mac }) =
        split(message).map_err(|Unreadable| RequestFault::Malformed)?
    else {
        return Ok(None);
    };
    let bad_key = || RequestFault::BadKey(stamp.key.clone());
    let key = keys.find(&stamp.key).ok_or_else(bad_key)?;
    if stamp.algorithm != key.algorithm.name() {
        return Err(bad_key());
    }
    if mac.len() != key.length() {
        // Section 5.2.2.1: what is longer, or shorter than half, is no MAC at all.
        return Err(if mac.len() > key.length() || mac.len() < (key.length() / 2).max(10) {
            RequestFault::Malformed
        } else {
            RequestFault::BadTrunc(stamp.key)
        });
    }
    let expected = key.mac(&[&body, &stamp.variables()]);
    if constant_time::verify_slices_are_equal(&expected, &mac).is_err() {
        return Err(RequestFault::BadSig(stamp.key));
    }
    if let Some(off) = stamp.off(now) {
        return Err(RequestFault::BadTime { key: stamp.key, off });
    }
    let signer = ReplySigner { key: key.clone(), previous: mac, first: true };
    Ok(Some(Opened { message: body, signer }))
}

/// What to answer to a request whose signature is not good (section 5.2): its question, NOTAUTH and
/// the reason. `None` when not even that can be read; then FORMERR is the answer.
pub fn fault_reply(query: &[u8], fault: &RequestFault, keys: &Keys, now: u64) -> Option<Vec<u8>> {
    let Taken { body, stamp, mac } = split(query).ok()??;
    let mut reply = super::query::error_reply(&body, Rcode::NOTAUTH)?;
    let error = match fault {
        RequestFault::Malformed => return None,
        RequestFault::BadKey(_) => TsigRcode::BADKEY,
        RequestFault::BadSig(_) => TsigRcode::BADSIG,
        RequestFault::BadTrunc(_) => TsigRcode::BADTRUNC,
        RequestFault::BadTime { .. } => TsigRcode::BADTIME,
    };
    let mut answer = Stamp { error, ..stamp };
    answer.original_id = id(&reply);
    // Only for BADTIME is the client known to hold the key, so only there the reply is signed; it
    // repeats the client's time and tells ours (section 5.2.3).
    let signature = match keys.find(&answer.key).filter(|_| error == TsigRcode::BADTIME) {
        Some(key) => {
            answer.other = now.to_be_bytes()[2..].to_vec();
            key.mac(&[&prefixed(&mac), &reply, &answer.variables()])
        }
        None => Vec::new(),
    };
    answer.append(&mut reply, &signature);
    Some(reply)
}

impl ReplySigner {
    /// The name of the key that the request was signed with.
    pub fn key_name(&self) -> &Name {
        &self.key.name
    }

    /// Signs the next message of the reply. The message must leave [`MAX_OVERHEAD`] octets.
    pub fn sign(&mut self, message: &mut Vec<u8>, now: u64) {
        let stamp = Stamp::of(&self.key, id(message), now);
        let covered = if self.first { stamp.variables() } else { stamp.timers().to_vec() };
        let mac = self.key.mac(&[&prefixed(&self.previous), message, &covered]);
        stamp.append(message, &mac);
        self.previous = mac;
        self.first = false;
    }
}

impl ReplyVerifier {
    /// Verifies the next message of the reply and gives it as it was before it was signed. A
    /// message inside a stream may be unsigned; it can be trusted once [`Self::settled`] says so.
    pub fn verify(&mut self, message: &[u8], now: u64) -> Result<Vec<u8>, ReplyFault> {
        let Some(Taken { body, stamp, mac }) =
            split(message).map_err(|Unreadable| ReplyFault::Malformed)?
        else {
            if self.first || self.unsigned >= MAX_UNSIGNED {
                return Err(ReplyFault::Unsigned);
            }
            self.unsigned += 1;
            self.pending.extend_from_slice(message);
            return Ok(message.to_vec());
        };
        if stamp.key != self.key.name || stamp.algorithm != self.key.algorithm.name() {
            return Err(ReplyFault::OtherKey);
        }
        if mac.is_empty() && stamp.error != TsigRcode::NOERROR {
            return Err(ReplyFault::Refused(stamp.error));
        }
        let covered = if self.first { stamp.variables() } else { stamp.timers().to_vec() };
        let expected = self.key.mac(&[&prefixed(&self.previous), &self.pending, &body, &covered]);
        if constant_time::verify_slices_are_equal(&expected, &mac).is_err() {
            return Err(ReplyFault::BadSig);
        }
        if stamp.error != TsigRcode::NOERROR {
            return Err(ReplyFault::Refused(stamp.error));
        }
        if let Some(off) = stamp.off(now) {
            return Err(ReplyFault::BadTime(off));
        }
        self.previous = mac;
        self.first = false;
        self.unsigned = 0;
        self.pending.clear();
        Ok(body)
    }

    /// Whether all messages so far are covered by a signature. The last one of a stream must be
    /// signed itself (section 5.3.1), so at the end it has to be.
    pub fn settled(&self) -> bool {
        !self.first && self.unsigned == 0
    }
}

/// A TSIG record without its MAC.
#[derive(Debug, Clone)]
struct Stamp {
    key: Name,
    algorithm: Name,
    time: u64,
    fudge: u16,
    original_id: u16,
    error: TsigRcode,
    other: Vec<u8>,
}

/// A message that was signed, taken apart.
struct Taken {
    /// As it was before.
    body: Vec<u8>,
    stamp: Stamp,
    mac: Vec<u8>,
}

struct Unreadable;

impl Stamp {
    fn of(key: &TsigKey, original_id: u16, now: u64) -> Self {
        Self {
            key: key.name.clone(),
            algorithm: key.algorithm.name(),
            time: now & 0xffff_ffff_ffff,
            fudge: FUDGE_SECONDS,
            original_id,
            error: TsigRcode::NOERROR,
            other: Vec::new(),
        }
    }

    /// How far it is from `now` in seconds, when that is too far.
    fn off(&self, now: u64) -> Option<u64> {
        let off = self.time.abs_diff(now);
        (off > u64::from(self.fudge.min(FUDGE_SECONDS))).then_some(off)
    }

    /// What a MAC covers of the record (section 4.3.3).
    fn variables(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put_canonical(&self.key, &mut out);
        out.extend_from_slice(&Class::ANY.to_int().to_be_bytes());
        out.extend_from_slice(&0_u32.to_be_bytes());
        put_canonical(&self.algorithm, &mut out);
        out.extend_from_slice(&self.timers());
        out.extend_from_slice(&self.error.to_int().to_be_bytes());
        let length = u16::try_from(self.other.len()).expect("read from a field of 16 bits");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.other);
        out
    }

    /// What it covers from the second message of a stream on (section 5.3.1).
    fn timers(&self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..6].copy_from_slice(&self.time.to_be_bytes()[2..]);
        out[6..].copy_from_slice(&self.fudge.to_be_bytes());
        out
    }

    fn append(&self, message: &mut Vec<u8>, mac: &[u8]) {
        message.extend_from_slice(self.key.as_slice());
        message.extend_from_slice(&Rtype::TSIG.to_int().to_be_bytes());
        message.extend_from_slice(&Class::ANY.to_int().to_be_bytes());
        message.extend_from_slice(&Ttl::from_secs(0).as_secs().to_be_bytes());
        let rdata = [
            self.algorithm.as_slice(),
            &self.timers(),
            &field_length(mac),
            mac,
            &self.original_id.to_be_bytes(),
            &self.error.to_int().to_be_bytes(),
            &field_length(&self.other),
            &self.other,
        ]
        .concat();
        message.extend_from_slice(&field_length(&rdata));
        message.extend_from_slice(&rdata);
        let count = u16::from_be_bytes([message[10], message[11]]).saturating_add(1);
        message[10..12].copy_from_slice(&count.to_be_bytes());
    }
}

/// Takes the TSIG record off a message: the message before it was signed, the record, its MAC.
/// `None` when there is no such record. It may only be the last one (section 5.1).
fn split(message: &[u8]) -> Result<Option<Taken>, Unreadable> {
    let parsed = Message::from_slice(message).map_err(|_| Unreadable)?;
    let mut left = parsed.header_counts().arcount();
    if left == 0 {
        return Ok(None);
    }
    let mut section = parsed.additional().map_err(|_| Unreadable)?;
    loop {
        let position = section.pos();
        let Some(record) = section.next() else {
            return Ok(None);
        };
        let record = record.map_err(|_| Unreadable)?;
        left -= 1;
        if record.rtype() != Rtype::TSIG {
            continue;
        }
        if left != 0
            || section.pos() != message.len()
            || record.class() != Class::ANY
            || record.ttl() != Ttl::from_secs(0)
        {
            return Err(Unreadable);
        }
        let key: Name = record.owner().to_name();
        let data = record.into_record::<Tsig<_, _>>().map_err(|_| Unreadable)?.ok_or(Unreadable)?;
        let tsig = data.data();
        let stamp = Stamp {
            key,
            algorithm: tsig.algorithm().to_name(),
            time: seconds(tsig.time_signed()),
            fudge: tsig.fudge(),
            original_id: tsig.original_id(),
            error: tsig.error(),
            other: AsRef::<[u8]>::as_ref(tsig.other()).to_vec(),
        };
        let mac = tsig.mac_slice().to_vec();
        let mut body = message[..position].to_vec();
        body[..2].copy_from_slice(&stamp.original_id.to_be_bytes());
        body[10..12].copy_from_slice(&(parsed.header_counts().arcount() - 1).to_be_bytes());
        return Ok(Some(Taken { body, stamp, mac }));
    }
}

fn seconds(time: Time48) -> u64 {
    let octets = time.into_octets();
    octets.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet))
}

fn put_canonical(name: &Name, out: &mut Vec<u8>) {
    // Lengths of labels are below 64, so lowering them changes nothing.
    out.extend(name.as_slice().iter().map(u8::to_ascii_lowercase));
}

fn field_length(field: &[u8]) -> [u8; 2] {
    u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes()
}

fn prefixed(mac: &[u8]) -> Vec<u8> {
    [&field_length(mac), mac].concat()
}

fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::query;

    const NOW: u64 = 1_790_000_000;

    fn name(text: &str) -> Name {
        Name::bytes_from_str(text).unwrap()
    }

    fn key(text: &str, algorithm: Algorithm) -> TsigKey {
        TsigKey::new(name(text), algorithm, &[7; 32]).unwrap()
    }

    fn keys() -> Keys {
        [key("one.", Algorithm::Sha256), key("two.", Algorithm::Sha512)].into_iter().collect()
    }

    fn question() -> Vec<u8> {
        query::axfr(77, &name("example.org"))
    }

    #[test]
    fn what_one_end_signs_the_other_opens_in_both_directions() {
        for text in ["one.", "TWO."] {
            let keys = keys();
            let mut message = question();
            let mut verifier = sign_request(&mut message, keys.find(&name(text)).unwrap(), NOW);
            let mut opened = open_request(&message, &keys, NOW + 299).unwrap().unwrap();
            assert_eq!(opened.message, question());
            assert!(!verifier.settled());
            for _ in 0..3 {
                let mut reply = question();
                opened.signer.sign(&mut reply, NOW + 1);
                assert_eq!(verifier.verify(&reply, NOW + 2).unwrap(), question());
                assert!(verifier.settled());
            }
        }
    }

    #[test]
    fn a_stream_may_have_unsigned_messages_inside_but_not_at_its_ends_nor_too_many() {
        let keys = keys();
        let mut message = question();
        let key = keys.find(&name("one.")).unwrap();
        let mut verifier = sign_request(&mut message, key, NOW);
        let mut signer = open_request(&message, &keys, NOW).unwrap().unwrap().signer;
        assert_eq!(verifier.verify(&question(), NOW), Err(ReplyFault::Unsigned));
        let mut reply = question();
        signer.sign(&mut reply, NOW);
        verifier.verify(&reply, NOW).unwrap();
        verifier.verify(&question(), NOW).unwrap();
        assert!(!verifier.settled());
        // The next signature covers the message before it too.
        let mut last = question();
        let stamp = Stamp::of(key, 77, NOW);
        let mac = key.mac(&[&prefixed(&signer.previous), &question(), &last, &stamp.timers()]);
        stamp.append(&mut last, &mac);
        verifier.verify(&last, NOW).unwrap();
        assert!(verifier.settled());
        for _ in 0..MAX_UNSIGNED {
            verifier.verify(&question(), NOW).unwrap();
        }
        assert_eq!(verifier.verify(&question(), NOW), Err(ReplyFault::Unsigned));
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        let keys = keys();
        let mut message = question();
        sign_request(&mut message, keys.find(&name("one.")).unwrap(), NOW);
        for bit in 0..message.len() * 8 {
            // The identity of a message may change on the way; its original one is signed.
            if bit < 16 {
                continue;
            }
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = open_request(&changed, &keys, NOW);
            if let Ok(Some(opened)) = opened {
                // Only the case of a name in the TSIG record itself is free.
                assert_eq!(opened.message, question(), "bit {bit}");
                assert!(changed[bit / 8].eq_ignore_ascii_case(&message[bit / 8]), "bit {bit}");
            }
        }
    }

    #[test]
    fn faults_are_told_apart_and_answered_as_the_rfc_says() {
        let keys = keys();
        let stranger = Arc::new(key("three.", Algorithm::Sha256));
        let liar = Arc::new(TsigKey::new(name("one."), Algorithm::Sha256, &[8; 32]).unwrap());
        let other_hash = Arc::new(key("one.", Algorithm::Sha384));
        let holder = keys.find(&name("one.")).unwrap();
        for (key, now, error) in [
            (&stranger, NOW, TsigRcode::BADKEY),
            (&other_hash, NOW, TsigRcode::BADKEY),
            (&liar, NOW, TsigRcode::BADSIG),
            (holder, NOW + 301, TsigRcode::BADTIME),
            (holder, NOW - 301, TsigRcode::BADTIME),
        ] {
            let mut message = question();
            let mut verifier = sign_request(&mut message, key, now);
            let fault = open_request(&message, &keys, NOW).unwrap_err();
            let reply = fault_reply(&message, &fault, &keys, NOW).unwrap();
            assert_eq!(reply[3] & 15, 9, "NOTAUTH");
            assert_eq!(verifier.verify(&reply, now), Err(ReplyFault::Refused(error)));
        }
        assert!(matches!(open_request(&question(), &keys, NOW), Ok(None)));
    }

    #[test]
    fn a_truncated_mac_is_named_and_a_stub_of_one_is_malformed() {
        let keys = keys();
        let key = keys.find(&name("one.")).unwrap();
        for (length, expected) in [
            (16, RequestFault::BadTrunc(name("one."))),
            (15, RequestFault::Malformed),
            (33, RequestFault::Malformed),
        ] {
            let mut message = question();
            Stamp::of(key, 77, NOW).append(&mut message, &vec![1; length]);
            assert_eq!(open_request(&message, &keys, NOW).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_key_never_shows_its_secret() {
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=";
        let key = TsigKey::from_base64(name("k."), Algorithm::Sha256, secret).unwrap();
        let alone = format!("{key:?}");
        let shown = format!("{alone} {:?}", Keys::from_iter([key]));
        assert!(!shown.contains("secret") && !shown.contains("115"), "{shown}");
        let short = TsigKey::from_base64(name("k."), Algorithm::Sha256, "c2VjcmV0");
        assert_eq!(short.unwrap_err(), KeyError::Short(6));
        assert!(TsigKey::from_base64(name("k."), Algorithm::Sha256, "!").is_err());
        assert!("hmac-md5.sig-alg.reg.int".parse::<Algorithm>().is_err());
        assert_eq!("HMAC-SHA384.".parse(), Ok(Algorithm::Sha384));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = open_request(&octets, &keys(), NOW);
            let _ = fault_reply(&octets, &RequestFault::BadSig(name("one.")), &keys(), NOW);
        }

        #[test]
        fn a_damaged_tail_is_read_without_a_panic(at in 0_usize..120, value in any::<u8>()) {
            let keys = keys();
            let mut message = question();
            let mut verifier = sign_request(&mut message, keys.find(&name("one.")).unwrap(), NOW);
            let at = at % message.len();
            message[at] = value;
            let _ = open_request(&message, &keys, NOW);
            let _ = verifier.verify(&message, NOW);
            let _ = fault_reply(&message, &RequestFault::BadSig(name("one.")), &keys, NOW);
        }
    }
}
