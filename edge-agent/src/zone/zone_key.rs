//! A key that signs a zone. It is made at home and stays there.
//!
//! Algorithm 13 (ECDSA P-256 with SHA-256, RFC 6605), which every validator knows and RFC 8624
//! recommends.
//!
//! Files are in BIND's private key format, which BIND, Knot and ldns read: an owner can take a zone
//! elsewhere without changing its keys.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, ECDH_P256};
use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::base::iana::{DigestAlgorithm, SecurityAlgorithm};
use domain::rdata::{Dnskey, Ds};
use sealpost_dns::record::Name;
use sealpost_tunnel::private_file;

use super::canonical;

/// The algorithm of all keys here.
pub const ALGORITHM: SecurityAlgorithm = SecurityAlgorithm::ECDSAP256SHA256;
/// The only protocol there is (RFC 4034 section 2.1.2).
pub(super) const PROTOCOL: u8 = 3;
/// The point of an uncompressed public key begins so; DNSKEY leaves it out (RFC 6605 section 4).
const UNCOMPRESSED: u8 = 4;

/// What a key is for, which its flags tell (RFC 4034 section 2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Known to the parent zone: signs the list of keys, and in most zones everything else too.
    Entry,
    /// Signs everything but the list of keys.
    Zone,
}

impl Role {
    /// The flags of its DNSKEY.
    pub fn flags(self) -> u16 {
        match self {
            Self::Entry => 257,
            Self::Zone => 256,
        }
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is one already.
    #[error("{} is there already: move it away if the zone is to have another key", .0.display())]
    Exists(PathBuf),
    /// The file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it is no such key.
    #[error(
        "{} is not a private key of algorithm 13 (ECDSAP256SHA256) in BIND's format: restore it \
         from a backup",
        .0.display()
    )]
    Content(PathBuf),
    /// The cryptographic library failed, which it does not for reasons of ours.
    #[error("the cryptographic library refused to work; restart, and look at the system's entropy")]
    Crypto,
}

/// A key that can sign.
pub struct ZoneKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneKey").field(&self.public).finish()
    }
}

/// The public half of a key, as it stands in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    dnskey: Dnskey<Bytes>,
    tag: u16,
}

impl PublicKey {
    /// What a DNSKEY says, which need not be of an algorithm that is used here.
    pub fn new(dnskey: Dnskey<Bytes>) -> Self {
        let tag = dnskey.key_tag();
        Self { dnskey, tag }
    }

    /// For the zone itself.
    pub fn dnskey(&self) -> &Dnskey<Bytes> {
        &self.dnskey
    }

    /// The number by which signatures name it. Two keys may have the same.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// For the parent zone (RFC 4034 section 5, RFC 4509).
    pub fn ds(&self, apex: &Name) -> Ds<Bytes> {
        Ds::new(self.tag, self.dnskey.algorithm(), DigestAlgorithm::SHA256, self.digest(apex))
            .expect("a digest is short")
    }

    /// Whether `ds` in the parent zone names this key. Registries that are given the key make a DS of
    /// it by themselves, with a digest of their choice.
    pub fn is_named_by(&self, apex: &Name, ds: &Ds<Bytes>) -> bool {
        let by = match ds.digest_type() {
            DigestAlgorithm::SHA1 => &SHA1_FOR_LEGACY_USE_ONLY,
            DigestAlgorithm::SHA256 => &SHA256,
            DigestAlgorithm::SHA384 => &SHA384,
            _ => return false,
        };
        ds.key_tag() == self.tag
            && ds.algorithm() == self.dnskey.algorithm()
            && self.digest_by(by, apex) == ds.digest()
    }

    fn digest(&self, apex: &Name) -> Bytes {
        self.digest_by(&SHA256, apex)
    }

    fn digest_by(&self, by: &'static Algorithm, apex: &Name) -> Bytes {
        let mut octets = canonical::name(apex);
        octets.extend(self.dnskey.flags().to_be_bytes());
        octets.extend([self.dnskey.protocol(), self.dnskey.algorithm().to_int()]);
        octets.extend(self.dnskey.public_key());
        Bytes::copy_from_slice(digest(by, &octets).as_ref())
    }
}

impl ZoneKey {
    /// A fresh key.
    pub fn generate(role: Role) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::from_pair(pair.map_err(|_| KeyError::Crypto)?, role).ok_or(KeyError::Crypto)
    }

    /// The key at `path`, or a fresh one that is written there.
    pub fn load_or_create(path: &Path, role: Role) -> Result<Self, KeyError> {
        if let Some(found) = Self::load(path, role)? {
            return Ok(found);
        }
        match Self::create(path, role) {
            // Somebody else made it in between: theirs is the key.
            Err(KeyError::Exists(path)) => Self::load(&path, role)?
                .ok_or_else(|| KeyError::File { path, source: io::ErrorKind::NotFound.into() }),
            other => other,
        }
    }

    /// Makes a key at `path` (mode 0600), where there must be no file.
    pub fn create(path: &Path, role: Role) -> Result<Self, KeyError> {
        let key = Self::generate(role)?;
        private_file::create(path, key.to_text()?.as_bytes()).map_err(|source| {
            match source.kind() {
                io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
                _ => KeyError::File { path: path.into(), source },
            }
        })?;
        Ok(key)
    }

    /// Reads the key at `path`; `None` when there is no file. A file that others may read is
    /// refused.
    pub fn load(path: &Path, role: Role) -> Result<Option<Self>, KeyError> {
        let found = private_file::read(path)
            .map_err(|source| KeyError::File { path: path.into(), source })?;
        let Some(text) = found else { return Ok(None) };
        let text = std::str::from_utf8(&text).ok();
        let key = text.and_then(|text| Self::from_text(text, role));
        key.map(Some).ok_or_else(|| KeyError::Content(path.into()))
    }

    /// Reads a key in BIND's format; `None` when it is not one of algorithm 13.
    pub fn from_text(text: &str, role: Role) -> Option<Self> {
        let field = |wanted: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = fields.filter(|(name, _)| name.trim() == wanted);
            values.next().map(|(_, value)| value.trim())
        };
        let version = field("Private-key-format")?;
        let algorithm = field("Algorithm")?.split_ascii_whitespace().next()?;
        if !version.starts_with("v1.") || algorithm != ALGORITHM.to_int().to_string() {
            return None;
        }
        let scalar = STANDARD.decode(field("PrivateKey")?).ok()?;
        let public = agreement::PrivateKey::from_private_key(&ECDH_P256, &scalar).ok()?;
        let public = public.compute_public_key().ok()?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &scalar,
            public.as_ref(),
        );
        Self::from_pair(pair.ok()?, role)
    }

    /// The key in BIND's format. It is the secret itself.
    pub fn to_text(&self) -> Result<String, KeyError> {
        let scalar: EcPrivateKeyBin<'_> =
            self.pair.private_key().as_be_bytes().map_err(|_| KeyError::Crypto)?;
        Ok(format!(
            "Private-key-format: v1.3\nAlgorithm: {} (ECDSAP256SHA256)\nPrivateKey: {}\n",
            ALGORITHM.to_int(),
            STANDARD.encode(scalar.as_ref()),
        ))
    }

    fn from_pair(pair: EcdsaKeyPair, role: Role) -> Option<Self> {
        let point = pair.public_key().as_ref().strip_prefix(&[UNCOMPRESSED])?;
        let point = Bytes::copy_from_slice(point);
        let dnskey = Dnskey::new(role.flags(), PROTOCOL, ALGORITHM, point).ok()?;
        Some(Self { pair, public: PublicKey::new(dnskey) })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs octets, as r and s of 32 octets each.
    pub fn sign(&self, octets: &[u8]) -> Result<Bytes, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), octets);
        let signature = signature.map_err(|_| KeyError::Crypto)?;
        Ok(Bytes::copy_from_slice(signature.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// RFC 6605 section 6.1.
    const RFC: &str = "Private-key-format: v1.2\nAlgorithm: 13 (ECDSAP256SHA256)\n\
        PrivateKey: GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=\n";

    #[test]
    fn the_key_of_the_rfc_has_the_tag_and_the_ds_of_the_rfc() {
        let key = ZoneKey::from_text(RFC, Role::Entry).unwrap();
        assert_eq!(
            STANDARD.encode(key.public().dnskey().public_key()),
            "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA=="
        );
        assert_eq!(key.public().tag(), 55648);
        let ds = key.public().ds(&"Example.NET.".parse().unwrap());
        assert_eq!(
            ds.to_string().to_ascii_lowercase(),
            "55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17"
        );
        let again = ZoneKey::from_text(&key.to_text().unwrap(), Role::Entry).unwrap();
        assert_eq!(again.public(), key.public());
    }

    #[test]
    fn the_registry_may_choose_the_digest() {
        let key = ZoneKey::from_text(RFC, Role::Entry).unwrap();
        let (key, apex) = (key.public(), "example.net.".parse().unwrap());
        let types = [
            (DigestAlgorithm::SHA1, &SHA1_FOR_LEGACY_USE_ONLY),
            (DigestAlgorithm::SHA256, &SHA256),
            (DigestAlgorithm::SHA384, &SHA384),
        ];
        for (digest_type, by) in types {
            let ds = |octets| Ds::new(key.tag(), ALGORITHM, digest_type, octets).unwrap();
            assert!(key.is_named_by(&apex, &ds(key.digest_by(by, &apex))));
            assert!(
                !key.is_named_by(&"example.org.".parse().unwrap(), &ds(key.digest_by(by, &apex)))
            );
            assert!(!key.is_named_by(&apex, &ds(Bytes::from_static(b"x"))));
        }
    }

    #[test]
    fn a_key_file_is_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone.key");
        assert!(ZoneKey::load(&path, Role::Zone).unwrap().is_none());
        let key = ZoneKey::load_or_create(&path, Role::Zone).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = ZoneKey::load_or_create(&path, Role::Zone).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(again.public().dnskey().flags(), 256);
        assert!(matches!(ZoneKey::create(&path, Role::Zone), Err(KeyError::Exists(_))));
        assert!(!format!("{key:?}").contains(&key.to_text().unwrap()[60..]));
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone.key");
        for content in
            ["", "PrivateKey: AAAA\n", &RFC.replace("13", "15"), &RFC.replace("GU6S", "")]
        {
            private_file::replace(&path, content.as_bytes()).unwrap();
            let error = ZoneKey::load(&path, Role::Entry).unwrap_err();
            assert!(matches!(error, KeyError::Content(_)), "{content}");
        }
        let zero =
            RFC.replace("GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=", &STANDARD.encode([0; 32]));
        assert!(ZoneKey::from_text(&zero, Role::Entry).is_none());
    }
}
