//! What a zone is made of: facts that the box knows, without a word of DNS syntax.

use std::net::IpAddr;

use sealpost_dns::record::Name;

use super::included::Included;

/// The SHA-256 digest of a certificate's public key (its DER `SubjectPublicKeyInfo`), as TLSA 3 1 1
/// has it.
pub type KeyDigest = [u8; 32];

/// A domain, and everything that its zone says.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The domain.
    pub apex: Name,
    /// Where people write to about the zone, with the `@` as a dot; `hostmaster` by default.
    pub contact: Option<Name>,
    /// The name servers, the first of which is told to be the primary.
    pub name_servers: Vec<Host>,
    /// The mail exchangers.
    pub exchangers: Vec<Exchanger>,
    /// The public keys of the mail server's certificates: all that it may show now, and the next.
    /// Who decides on them is [`super::certificate_roll`].
    pub certificate_keys: Vec<KeyDigest>,
    /// The keys that sign mail.
    pub dkim: Vec<Dkim>,
    /// The SPF policy, such as `v=spf1 mx -all`.
    pub spf: Option<String>,
    /// The DMARC policy, such as `v=DMARC1; p=reject`.
    pub dmarc: Option<String>,
    /// Where reports about TLS go (RFC 8460): `mailto:` or `https:` URIs.
    pub tls_reports: Vec<String>,
    /// MTA-STS, only where the policy can be fetched: senders that find the record and no policy
    /// keep asking.
    pub mta_sts: Option<MtaSts>,
    /// Who may issue certificates. When there is none, everybody may.
    pub authorities: Vec<Authority>,
    /// What certificate authorities want to see now.
    pub challenges: Vec<Challenge>,
    /// Other texts that the box publishes, such as the proof that it may have the domain.
    pub texts: Vec<Text>,
    /// The owner's own records.
    pub own: Vec<Included>,
}

impl Plan {
    /// A domain about which nothing is said yet.
    pub fn new(apex: Name) -> Self {
        Self {
            apex,
            contact: None,
            name_servers: Vec::new(),
            exchangers: Vec::new(),
            certificate_keys: Vec::new(),
            dkim: Vec::new(),
            spf: None,
            dmarc: None,
            tls_reports: Vec::new(),
            mta_sts: None,
            authorities: Vec::new(),
            challenges: Vec::new(),
            texts: Vec::new(),
            own: Vec::new(),
        }
    }
}

/// A host. Its addresses are published only where its name is in the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A mail exchanger: a name for one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanger {
    /// Senders try low ones first.
    pub preference: u16,
    /// Its name, and the relay's addresses or this box's own ones there.
    pub host: Host,
}

/// A key that signs mail (RFC 6376).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dkim {
    /// The selector, one label or more.
    pub selector: String,
    /// What the mail server wants published, such as `v=DKIM1; k=rsa; p=…`.
    pub text: String,
}

/// An MTA-STS policy that can be fetched (RFC 8461).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtaSts {
    /// Changes with the policy: 1 to 32 letters and digits.
    pub id: String,
    /// Where `mta-sts` in the zone answers.
    pub addresses: Vec<IpAddr>,
}

/// A certificate authority, and the one account there that may ask (RFC 8659, RFC 8657).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its domain, such as `letsencrypt.org`.
    pub domain: String,
    /// The URI of the account. Without it the authority takes anyone's orders.
    pub account: Option<String>,
}

/// What an authority looks for under `_acme-challenge` (RFC 8555 section 8.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The name that the certificate is for.
    pub name: Name,
    /// The digest of the key authorization, as base64url.
    pub digest: String,
}

/// A text at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The name.
    pub name: Name,
    /// The text, of any length.
    pub text: String,
}
