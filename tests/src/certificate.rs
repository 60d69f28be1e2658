//! The home mail server's key and certificate, made anew for each scenario.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
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
        let fingerprint = digest(&SHA256, &key.subject_public_key_info());
        let hex: String = fingerprint.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Certificate {
            certificate: certificate.pem(),
            der: certificate.der().clone(),
            key: key.serialize_pem(),
            tlsa: format!("3 1 1 {hex}"),
        })
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
