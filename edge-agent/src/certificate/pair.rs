//! Pairs of keys for certificates, and where they are kept until the mail server has them.
//!
//! A pair is made long before its certificate, as its digest has to be in the zone first. Each has
//! files of its own, named by its digest, so that none ever takes another's place.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    PublicKeyData, RsaKeySize,
};
use sealpost_tunnel::private_file;

use super::settings::Algorithm;
use crate::publish::hex;
use crate::zone::plan::KeyDigest;

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// It cannot be made or used.
    #[error("the key for the certificate: {0}")]
    Key(#[from] rcgen::Error),
    /// Its file cannot be read or written.
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    /// Its file has gone.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
}

/// A pair of keys.
pub struct Pair(KeyPair);

impl Pair {
    /// A new one. RSA takes a second or so, so not to be called where something waits.
    pub fn generate(algorithm: Algorithm) -> Result<Self, PairError> {
        Ok(Self(match algorithm {
            Algorithm::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Algorithm::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        }))
    }

    /// The one with this digest in `directory`.
    pub fn load(directory: &Path, key: &KeyDigest) -> Result<Self, PairError> {
        let path = key_file(directory, key);
        let read =
            private_file::read(&path).map_err(|error| PairError::File(path.clone(), error))?;
        let text = read.ok_or_else(|| PairError::Missing(path.clone()))?;
        let text = String::from_utf8(text)
            .map_err(|error| PairError::File(path.clone(), io::Error::other(error)))?;
        let pair = Self(KeyPair::from_pem(&text)?);
        match pair.digest() == *key {
            true => Ok(pair),
            false => Err(PairError::File(path, io::Error::other("it is another key"))),
        }
    }

    /// Writes it into `directory`.
    pub fn save(&self, directory: &Path) -> Result<(), PairError> {
        let path = key_file(directory, &self.digest());
        private_file::create(&path, self.pem().as_bytes())
            .map_err(|error| PairError::File(path, error))
    }

    /// SHA-256 of the public key, as TLSA 3 1 1 has it.
    pub fn digest(&self) -> KeyDigest {
        of(&self.0.subject_public_key_info())
    }

    /// The private key as text.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The request for a certificate with `names`, in DER.
    pub fn request(&self, names: &[String]) -> Result<Vec<u8>, PairError> {
        let mut params = CertificateParams::new(names)?;
        // Names of people and places prove nothing, and CAs leave them out.
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }
}

/// The digest of a public key in DER.
pub fn of(public_key: &[u8]) -> KeyDigest {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest(&SHA256, public_key).as_ref());
    octets
}

/// Where the certificate for a key waits for its installation.
pub fn chain_file(directory: &Path, key: &KeyDigest) -> PathBuf {
    directory.join(format!("{}.pem", hex::text(key)))
}

fn key_file(directory: &Path, key: &KeyDigest) -> PathBuf {
    directory.join(format!("{}.key", hex::text(key)))
}

/// Removes what is kept of a key.
pub fn forget(directory: &Path, key: &KeyDigest) {
    for path in [key_file(directory, key), chain_file(directory, key)] {
        // What is not there needs no removing, and what cannot be removed does no harm.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::plan::KeyDigest;

    #[test]
    fn a_pair_is_the_same_when_it_is_read_again() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Rsa2048] {
            let directory = tempfile::tempdir().unwrap();
            let pair = Pair::generate(algorithm).unwrap();
            let key = pair.digest();
            pair.save(directory.path()).unwrap();
            let again = Pair::load(directory.path(), &key).unwrap();
            assert_eq!((again.digest(), again.pem()), (key, pair.pem()));
            assert!(!again.request(&["mx.a.example".into()]).unwrap().is_empty());
            forget(directory.path(), &key);
            assert!(matches!(Pair::load(directory.path(), &key), Err(PairError::Missing(_))));
        }
    }

    #[test]
    fn another_key_under_its_name_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let pair = Pair::generate(Algorithm::EcdsaP256).unwrap();
        pair.save(directory.path()).unwrap();
        let other: KeyDigest = [7; 32];
        std::fs::rename(
            key_file(directory.path(), &pair.digest()),
            key_file(directory.path(), &other),
        )
        .unwrap();
        let error = Pair::load(directory.path(), &other).err().unwrap().to_string();
        assert!(error.contains("another key"), "{error}");
    }
}
