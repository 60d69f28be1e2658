//! The home mail server's key and certificate, made anew for each scenario.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;

use crate::machine::Machine;

/// Where [`Certificate::install`] puts the private key.
pub const KEY_FILE: &str = "/etc/ssl/home/key.pem";
/// Where [`Certificate::install`] puts the certificate.
pub const CERTIFICATE_FILE: &str = "/etc/ssl/home/certificate.pem";

/// A self-signed certificate. Only DANE can trust it, so a sender that calls the connection
/// verified has compared it with the TLSA record and nothing stood in between.
#[derive(Debug)]
pub struct Certificate {
    certificate: String,
    der: CertificateDer<'static>,
    key: String,
    tlsa: String,
}

impl Certificate {
    /// A new one for `name`.
    pub fn for_name(name: &str) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.self_signed(&key)?;
        Ok(Certificate::of(&key, &certificate))
    }

    fn of(key: &KeyPair, certificate: &rcgen::Certificate) -> Certificate {
        let fingerprint = digest(&SHA256, &key.subject_public_key_info());
        let hex: String = fingerprint.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Certificate {
            certificate: certificate.pem(),
            der: certificate.der().clone(),
            key: key.serialize_pem(),
            tlsa: format!("3 1 1 {hex}"),
        }
    }

    /// The TLSA record's data that pins this certificate's key.
    pub fn tlsa(&self) -> &str {
        &self.tlsa
    }

    /// The certificate itself, for a client that trusts nothing else.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Writes key and certificate to where the mail servers of the scenarios look.
    pub fn install(&self, machine: &Machine) -> Result<()> {
        machine.write(KEY_FILE, &self.key)?;
        machine.write(CERTIFICATE_FILE, &self.certificate)
    }
}

/// An authority for senders that trust one, beside or instead of DANE.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([])?;
        // A certificate that names itself as its issuer would be believed to have signed itself.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate, as those who trust it keep it.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate for all of these names.
    pub fn certify(&self, names: &[String]) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        Ok(Certificate::of(&key, &certificate))
    }
}
