//! What a CA issued: a chain of certificates, the first of which is read. Pure.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::parse_x509_certificate;

use super::pair;
use crate::zone::plan::KeyDigest;

/// The largest chain that is taken, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// The most certificates in it.
const MAX_CERTIFICATES: usize = 10;

/// Why a chain is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It is too long.
    #[error("the CA sent a chain that is far too long")]
    TooLong,
    /// It is no chain.
    #[error("the CA sent something that is no certificate ({0})")]
    Unreadable(String),
    /// It is for another key.
    #[error("the CA sent a certificate for another key")]
    OtherKey,
    /// It lacks a name.
    #[error("the CA sent a certificate without the name {0}")]
    Lacks(String),
    /// It is over already, or ends before it begins.
    #[error("the CA sent a certificate that is not valid now: look at this machine's clock")]
    NotNow,
}

/// What its first certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The digest of its public key.
    pub key: KeyDigest,
    /// The DNS names in it, in lower case, sorted.
    pub names: Vec<String>,
    /// When it begins, in seconds since 1970.
    pub not_before: u64,
    /// When it ends.
    pub not_after: u64,
    /// Its name in questions for the time of renewal (RFC 9773 section 4.1), if it has one.
    pub renewal_id: Option<String>,
}

/// Reads a chain in PEM.
pub fn read(text: &str) -> Result<Leaf, ChainError> {
    if text.len() > MAX_BYTES {
        return Err(ChainError::TooLong);
    }
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(text.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    let certificates =
        certificates.map_err(|error| ChainError::Unreadable(format!("{error:?}")))?;
    if certificates.len() > MAX_CERTIFICATES {
        return Err(ChainError::TooLong);
    }
    let first = certificates.first().ok_or_else(|| ChainError::Unreadable("empty".into()))?;
    leaf(first)
}

fn leaf(der: &CertificateDer<'_>) -> Result<Leaf, ChainError> {
    let unreadable = |error: String| ChainError::Unreadable(error);
    let (_, certificate) =
        parse_x509_certificate(der).map_err(|error| unreadable(error.to_string()))?;
    let names = certificate.iter_extensions().filter_map(|it| match it.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let mut names: Vec<_> = names
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    names.sort();
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    let validity = certificate.validity();
    Ok(Leaf {
        key: pair::of(certificate.public_key().raw),
        names,
        not_before: seconds(validity.not_before.timestamp()),
        not_after: seconds(validity.not_after.timestamp()),
        renewal_id: instant_acme::CertificateIdentifier::try_from(der)
            .ok()
            .map(|it| it.to_string()),
    })
}

impl Leaf {
    /// Whether it is what was ordered, at `now`.
    pub fn check(&self, key: &KeyDigest, names: &[String], now: u64) -> Result<(), ChainError> {
        if self.key != *key {
            return Err(ChainError::OtherKey);
        }
        if let Some(name) = names.iter().find(|name| !self.names.contains(name)) {
            return Err(ChainError::Lacks(name.clone()));
        }
        if self.not_after <= now || self.not_after <= self.not_before {
            return Err(ChainError::NotNow);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};

    #[test]
    fn a_certificate_tells_key_names_and_time() {
        let key = KeyPair::generate().unwrap();
        let params =
            CertificateParams::new(["MX.a.example".to_owned(), "b.example".into()]).unwrap();
        let text = params.self_signed(&key).unwrap().pem();
        let leaf = read(&text).unwrap();
        assert_eq!(leaf.names, ["b.example", "mx.a.example"]);
        let (ours, now) = (pair::of(&key.subject_public_key_info()), leaf.not_before);
        let names = |text: &str| vec![text.to_owned()];
        assert_eq!(leaf.check(&ours, &names("b.example"), now), Ok(()));
        assert_eq!(leaf.check(&[0; 32], &[], now), Err(ChainError::OtherKey));
        let lacks = leaf.check(&ours, &names("c.example"), now);
        assert_eq!(lacks, Err(ChainError::Lacks("c.example".into())));
        assert_eq!(leaf.check(&ours, &[], leaf.not_after), Err(ChainError::NotNow));
        assert_eq!(read(&text.repeat(11)), Err(ChainError::TooLong));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,400}", der: Vec<u8>) {
            let _ = read(&text);
            prop_assert!(leaf(&CertificateDer::from(der)).is_err());
        }
    }
}
