//! `[[zone]]`: a domain whose zone this box makes, or takes from a name server of the owner's own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::base::NameBuilder;
use sealpost_daemon::config::{ConfigError, Source};
use sealpost_dns::record::Name;
use sealpost_tunnel::{DomainName, MxName};
use serde::Deserialize;
use toml::Spanned;

use super::dns::DnsKey;
use crate::registration::domain::Domain;
use crate::zone::denial::Denial;
use crate::zone::{Policy, sign};

/// `[[zone]]` as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The domain.
    #[serde(deserialize_with = "domain")]
    pub name: DomainName,
    /// Where people write to about the zone: a mail address.
    #[serde(default)]
    contact: Option<Contact>,
    /// The SPF policy. There is none by default: the box does not know by which ways its owner
    /// sends, and relays' shared addresses, which a policy with `mx` would name, are those of other
    /// boxes too.
    #[serde(default)]
    pub spf: Option<String>,
    /// The DMARC policy.
    #[serde(default)]
    pub dmarc: Option<String>,
    /// Where reports about TLS go.
    #[serde(default)]
    pub tls_reports: Vec<String>,
    /// The keys that sign mail.
    #[serde(default)]
    pub dkim: Vec<DkimFile>,
    /// Zone files with the owner's own records.
    #[serde(default)]
    pub include: Vec<PathBuf>,
    /// The names of its mail exchangers that are not called `mx`, `mx2` and so on. Relays do not
    /// choose them.
    #[serde(default)]
    pub mx: Vec<MxName>,
    /// Name servers beside those of the relays.
    #[serde(default)]
    pub name_servers: Vec<MxName>,
    /// Who may issue certificates; everybody when nobody is named.
    #[serde(default)]
    pub certificate_authorities: Vec<String>,
    /// How the zone proves what it does not have.
    #[serde(default)]
    denial: DenialKind,
    /// How long signatures live.
    #[serde(default = "default_validity", with = "humantime_serde")]
    pub validity: Duration,
    /// How many keys the zone has.
    #[serde(default)]
    pub keys: KeyLayout,
    /// A name server of the owner's own that has the zone, signed; the box then passes it on as it is.
    #[serde(default)]
    pub primary: Option<SocketAddr>,
    /// The key of `[[dns.key]]` that signs what is asked there.
    #[serde(default)]
    pub primary_key: Option<String>,
}

/// A file with the public half of a DKIM key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimFile {
    /// The selector.
    pub selector: String,
    /// The file.
    pub file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DenialKind {
    #[default]
    Nsec,
    Nsec3,
}

/// How many keys a zone has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyLayout {
    /// One that signs everything.
    #[default]
    Combined,
    /// One that the parent knows and that signs the keys, and one that signs the rest.
    Split,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Contact(Name);

impl TryFrom<String> for Contact {
    type Error = String;

    /// A mail address as the name of a SOA record: the part before the @ is one label, with whatever
    /// dots it has (RFC 1035 section 3.3.13).
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("contact = `{text}` is not a mail address");
        let (local, domain) = text.split_once('@').ok_or_else(wrong)?;
        let clean = local.bytes().all(|octet| octet.is_ascii_graphic());
        let domain = domain.parse::<Domain>().ok().filter(|_| clean).ok_or_else(wrong)?;
        let mut builder = NameBuilder::new_bytes();
        builder.append_label(local.as_bytes()).map_err(|_| wrong())?;
        builder.append_origin(&apex(&domain.name)).map(Self).map_err(|_| wrong())
    }
}

/// A domain as a name of DNS.
pub fn apex(domain: &DomainName) -> Name {
    format!("{domain}.").parse().expect("a domain name was checked")
}

fn domain<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DomainName, D::Error> {
    let text = String::deserialize(deserializer)?;
    let domain: Domain = text.parse().map_err(serde::de::Error::custom)?;
    Ok(domain.name)
}

fn default_validity() -> Duration {
    Policy::default().validity
}

impl Zone {
    /// The domain as a name of DNS.
    pub fn apex(&self) -> Name {
        apex(&self.name)
    }

    /// Where people write to about the zone, as a SOA record has it.
    pub fn contact(&self) -> Option<Name> {
        self.contact.as_ref().map(|contact| contact.0.clone())
    }

    /// How to sign it.
    pub fn policy(&self) -> Policy {
        let denial = match self.denial {
            DenialKind::Nsec => Denial::Nsec,
            DenialKind::Nsec3 => Denial::Nsec3,
        };
        Policy { denial, validity: self.validity, ..Policy::default() }
    }

    /// Whether any key is set that means nothing for a zone that is taken as it is.
    fn says_what_is_in_it(&self) -> bool {
        let Self { contact, spf, dmarc, tls_reports, dkim, include, name_servers, .. } = self;
        contact.is_some()
            || spf.is_some()
            || dmarc.is_some()
            || !(tls_reports.is_empty() && dkim.is_empty() && include.is_empty())
            || !(name_servers.is_empty() && self.certificate_authorities.is_empty())
    }
}

/// Checks what can be told without looking at files.
pub(super) fn check(
    source: &Source,
    zones: &[Spanned<Zone>],
    keys: &[DnsKey],
) -> Result<(), ConfigError> {
    for entry in zones {
        let zone = entry.get_ref();
        let error =
            |message: &str, help| Err(source.error(Some(entry.span()), message, Some(help)));
        if !(sign::MIN_VALIDITY..=sign::MAX_VALIDITY).contains(&zone.validity) {
            let message = "signatures must live between 4 and 35 days";
            return error(message, "leave `validity` out for 14 days");
        }
        if let Some(name) = zone.mx.iter().find(|name| !zone.name.covers(name)) {
            let message = format!("the mail exchanger `{name}` is not in {}", zone.name);
            return error(&message, "name the domain itself, or names beneath it");
        }
        if zone.primary.is_some() && zone.says_what_is_in_it() {
            let message = "a zone with a `primary` is passed on as it is there";
            return error(message, "put its records there, or leave `primary` out");
        }
        match (&zone.primary_key, zone.primary) {
            (Some(_), None) => {
                return error(
                    "`primary_key` without `primary`",
                    "name the primary, or leave it out",
                );
            }
            (Some(name), _) if !keys.iter().any(|key| key.name == *name) => {
                let help = "the name must be that of a [[dns.key]]";
                return error(&format!("there is no key named `{name}`"), help);
            }
            _ => {}
        }
    }
    Ok(())
}
