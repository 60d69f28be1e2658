//! Who a relay or a box is: an Ed25519 key, and nothing else.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::handover::Signature;
use crate::private_file;
use crate::quic::crypto_provider;

/// What precedes the 32 key bytes in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What precedes the 32 octets of the seed in a PKCS#8 private key (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const TEXT_PREFIX: &str = "ed25519:";

/// An Ed25519 public key; as text `ed25519:` and 43 characters of unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// Why a text or a TLS key is no [`PublicKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The text does not begin with `ed25519:`.
    #[error("a key begins with `ed25519:`; the other side prints it with its `key` command")]
    Prefix,
    /// What follows is not 32 bytes of unpadded base64url.
    #[error("a key has 43 characters of A-Z a-z 0-9 - _ behind `ed25519:`; was it cut off?")]
    Base64,
    /// The key offered in TLS is of another kind.
    #[error("the peer's key is not an Ed25519 raw public key (RFC 7250)")]
    Spki,
}

impl PublicKey {
    /// From the `SubjectPublicKeyInfo` that the TLS handshake carries (RFC 7250 section 3).
    pub fn from_spki(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let key = spki.strip_prefix(&SPKI_PREFIX).ok_or(PublicKeyError::Spki)?;
        Ok(Self(key.try_into().map_err(|_| PublicKeyError::Spki)?))
    }

    /// The key as a DER `SubjectPublicKeyInfo` of 44 bytes.
    pub fn to_spki(self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The 32 octets of the key itself.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(TEXT_PREFIX).ok_or(PublicKeyError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| PublicKeyError::Base64)?;
        Ok(Self(bytes.try_into().map_err(|_| PublicKeyError::Base64)?))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read, written, or others may read it.
    #[error("cannot use the key file {}: {source}", path.display())]
    File {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{} holds no Ed25519 private key in PEM (PKCS#8); restore it from a backup, or move it \
         away to get a new key, which the other side must then be told",
        path.display()
    )]
    Content {
        /// The key file.
        path: PathBuf,
    },
    /// There is a key already where a new one should be made.
    #[error(
        "{} is there already and is not overwritten, as a lost key cannot be made again; move it \
         away first",
        path.display()
    )]
    Exists {
        /// The key file.
        path: PathBuf,
    },
}

/// What an Ed25519 private key is made from (RFC 8032 section 5.1.5). Its text is never written
/// but in a recovery kit.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A fresh, random one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    pub(crate) fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(hidden)")
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.fill(0);
        // Best effort: tells the compiler that somebody looks, so that it does not leave it out.
        std::hint::black_box(&self.0);
    }
}

/// A private key with its public half, ready for TLS.
#[derive(Debug, Clone)]
pub struct Identity {
    public: PublicKey,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads the key at `path`, or makes one there (PEM, mode 0600) when there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(found) = Self::load(path)? {
            return Ok(found);
        }
        match Self::create(path) {
            // Somebody else made it in between: theirs is the key.
            Err(IdentityError::Exists { path }) => Self::load(&path)?.ok_or_else(|| {
                IdentityError::File { path, source: io::ErrorKind::NotFound.into() }
            }),
            other => other,
        }
    }

    /// Reads the key at `path`, or `None` when there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let found = private_file::read(path)
            .map_err(|source| IdentityError::File { path: path.into(), source })?;
        let Some(pem) = found else {
            return Ok(None);
        };
        let content_error = || IdentityError::Content { path: path.into() };
        let pem = String::from_utf8(pem).map_err(|_| content_error())?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|_| content_error())?;
        Self::from_pkcs8(pair.serialize_der()).map(Some).ok_or_else(content_error)
    }

    /// Makes a key at `path` (PEM, mode 0600), where there must be no file.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let pair = generate();
        private_file::create(path, pair.serialize_pem().as_bytes()).map_err(
            |source| match source.kind() {
                io::ErrorKind::AlreadyExists => IdentityError::Exists { path: path.into() },
                _ => IdentityError::File { path: path.into(), source },
            },
        )?;
        Ok(Self::from_pkcs8(pair.serialize_der()).expect("a generated key is Ed25519"))
    }

    /// A fresh key, and what it can be made from again.
    pub fn generate() -> (Self, Seed) {
        let seed = Seed::random();
        (Self::from_seed(&seed), seed)
    }

    /// The key that is made from `seed`.
    pub fn from_seed(seed: &Seed) -> Self {
        let der = [&PKCS8_PREFIX[..], seed.as_bytes()].concat();
        Self::from_pkcs8(der).expect("every seed gives a key")
    }

    /// A fresh key that is written nowhere.
    pub fn ephemeral() -> Self {
        Self::generate().0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key as rustls wants it: the raw public key stands where a certificate would.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// Signs `statement`, which must begin with a context that TLS never signs.
    pub(crate) fn sign(&self, statement: &[u8]) -> Signature {
        let signer = self.certified.key.choose_scheme(&[SignatureScheme::ED25519]);
        let signature = signer.and_then(|signer| signer.sign(statement).ok());
        let octets = signature.and_then(|octets| octets.try_into().ok());
        Signature::new(octets.expect("an Ed25519 key signs anything, in 64 octets"))
    }

    fn from_pkcs8(der: Vec<u8>) -> Option<Self> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        let signer = crypto_provider().key_provider.load_private_key(der).ok()?;
        if signer.algorithm() != rustls::SignatureAlgorithm::ED25519 {
            return None;
        }
        let public = PublicKey::from_spki(&signer.public_key()?).ok()?;
        let spki = CertificateDer::from(public.to_spki());
        Some(Self { public, certified: Arc::new(CertifiedKey::new(vec![spki], signer)) })
    }
}

fn generate() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("the system's randomness works")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_public_key_survives_text_and_spki() {
        let key = Identity::ephemeral().public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(PublicKey::from_spki(&key.to_spki()), Ok(key));
    }

    #[test]
    fn mistyped_keys_say_what_is_wrong() {
        let text = Identity::ephemeral().public().to_string();
        assert_eq!(text[8..].parse::<PublicKey>(), Err(PublicKeyError::Prefix));
        assert_eq!(text[..30].parse::<PublicKey>(), Err(PublicKeyError::Base64));
        assert_eq!(format!("{text}A").parse::<PublicKey>(), Err(PublicKeyError::Base64));
        assert_eq!(PublicKey::from_spki(&[0; 44]), Err(PublicKeyError::Spki));
    }

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/agent.key");
        let first = Identity::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_create(&path).unwrap().public(), first.public());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        Identity::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_missing_key_is_none_and_a_present_one_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        assert!(Identity::load(&path).unwrap().is_none());
        let made = Identity::create(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().unwrap().public(), made.public());
        let error = Identity::create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
        assert!(error.to_string().contains("move it away first"), "{error}");
        assert_eq!(Identity::load(&path).unwrap().unwrap().public(), made.public());
    }

    #[test]
    fn a_seed_gives_the_key_of_the_standard() {
        // RFC 8032 section 7.1, test 1.
        let octets = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let octets: Vec<u8> =
            (0..32).map(|i| u8::from_str_radix(&octets[2 * i..2 * i + 2], 16).unwrap()).collect();
        let seed = Seed::new(octets.try_into().unwrap());
        assert_eq!(
            Identity::from_seed(&seed).public().to_string(),
            "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
        );
        assert_eq!(format!("{seed:?}"), "Seed(hidden)");
        let (made, seed) = Identity::generate();
        assert_eq!(Identity::from_seed(&seed).public(), made.public());
    }

    #[test]
    fn a_file_with_something_else_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        private_file::create(&path, b"not a key").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Content { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }
}
