//! Which keys the mail server at home shows in TLS, asked as senders ask: for a name, and for each
//! kind of key, as a server with an RSA and an ECDSA certificate chooses by what a sender knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use sealpost_tunnel::MxName;
use sealpost_tunnel::spoken::spoken;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::stranger::{self, DEADLINE, any_certificate, signatures};
use crate::config::Service;

/// The longest reason that is repeated, in characters.
const MAX_REASON: usize = 300;

/// What a certificate tells a sender who asked for a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Shown {
    /// SHA-256 of the public key (SubjectPublicKeyInfo), as a TLSA record 3 1 1 has it.
    pub key: String,
    /// Whether the certificate is for the name.
    pub names_it: bool,
}

/// What the mail server of `service` shows to senders that ask for each of `names`, or why it
/// cannot be told.
pub async fn shown(
    service: &Service,
    names: impl IntoIterator<Item = MxName>,
) -> Result<BTreeMap<MxName, Vec<Shown>>, String> {
    let mut all = BTreeMap::new();
    // One after the other: the mail server may count what comes from one address at once.
    for name in names {
        let shown = shown_for(service, &name).await.map_err(|error| spoken(&error, MAX_REASON))?;
        all.insert(name, shown);
    }
    Ok(all)
}

/// What it shows to one sender that asks for `name` and knows all kinds of keys. One connection.
pub async fn glimpse(service: &Service, name: &MxName) -> Result<Shown, String> {
    let tcp = stranger::up_to_tls(service).await.map_err(|error| error.to_string())?;
    match timeout(DEADLINE, certificate(tcp, name, signatures())).await {
        Ok(certificate) => look(&certificate?, name),
        Err(_) => Err("the mail server did not answer in time".into()),
    }
}

async fn shown_for(service: &Service, name: &MxName) -> Result<Vec<Shown>, String> {
    let (rsa, others) = signatures().into_iter().partition::<Vec<_>, _>(|scheme| is_rsa(*scheme));
    let mut found = Vec::new();
    let mut refused = None;
    for signatures in [others, rsa] {
        let tcp = stranger::up_to_tls(service).await.map_err(|error| error.to_string())?;
        match timeout(DEADLINE, certificate(tcp, name, signatures)).await {
            Ok(Ok(certificate)) => found.push(look(&certificate, name)?),
            // Most servers have a key of one kind alone.
            Ok(Err(error)) => drop(refused.get_or_insert(error)),
            Err(_) => return Err("the mail server did not answer in time".into()),
        }
    }
    found.sort();
    found.dedup();
    match (found.is_empty(), refused) {
        (true, Some(error)) => Err(format!("TLS with the mail server failed: {error}")),
        _ => Ok(found),
    }
}

fn is_rsa(scheme: SignatureScheme) -> bool {
    scheme.as_str().is_some_and(|name| name.starts_with("RSA_"))
}

/// The server's own certificate, as a sender gets it that asks for `name`.
async fn certificate(
    tcp: TcpStream,
    name: &MxName,
    signatures: Vec<SignatureScheme>,
) -> Result<CertificateDer<'static>, String> {
    let asked = ServerName::try_from(name.to_string()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(any_certificate(signatures)));
    let mut tls = connector.connect(asked, tcp).await.map_err(|error| error.to_string())?;
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let own = certificates.first().cloned().map(CertificateDer::into_owned);
    // What comes of the farewell changes nothing.
    let _ = tls.write_all(b"QUIT\r\n").await;
    let _ = tls.shutdown().await;
    own.ok_or_else(|| "no certificate was shown".into())
}

fn look(certificate: &CertificateDer<'_>, name: &MxName) -> Result<Shown, String> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|error| format!("the mail server's certificate cannot be read: {error}"))?;
    let asked = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
    let fingerprint = digest(&SHA256, &parsed.subject_public_key_info());
    Ok(Shown {
        key: fingerprint.as_ref().iter().map(|octet| format!("{octet:02x}")).collect(),
        names_it: verify_server_name(&parsed, &asked).is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};

    #[test]
    fn a_certificate_tells_its_key_and_whom_it_is_for() {
        let key = KeyPair::generate().unwrap();
        let names = ["mx.a.example", "*.b.example"].map(String::from);
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let fingerprint = digest(&SHA256, &key.subject_public_key_info());
        for (name, named) in
            [("mx.a.example", true), ("mx3.b.example", true), ("mx2.a.example", false)]
        {
            let shown = look(made.der(), &name.parse().unwrap()).unwrap();
            assert_eq!((shown.names_it, shown.key.len()), (named, 64), "{name}");
            assert!(shown.key.starts_with(&format!("{:02x}", fingerprint.as_ref()[0])));
        }
        let junk = CertificateDer::from(vec![0x30, 0]);
        assert!(look(&junk, &"mx.a.example".parse().unwrap()).is_err());
    }

    #[test]
    fn each_kind_of_signature_is_asked_for_once() {
        let (rsa, others) = signatures().into_iter().partition::<Vec<_>, _>(|s| is_rsa(*s));
        assert!(rsa.contains(&SignatureScheme::RSA_PSS_SHA256));
        assert!(rsa.contains(&SignatureScheme::RSA_PKCS1_SHA256));
        assert!(others.contains(&SignatureScheme::ECDSA_NISTP256_SHA256));
        assert!(others.contains(&SignatureScheme::ED25519));
    }
}
