//! The agent's configuration file: its shape, its defaults, and what is wrong with a bad one.

pub mod dns;
pub mod zone;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealpost_daemon::config::{ConfigError, LoopbackAddr, Source};
use sealpost_daemon::logging::{Format, Level};
pub use sealpost_tunnel::HostPort;
use sealpost_tunnel::control::{OFFERS_ZONES, SHIELDED, TRANSPARENT};
use sealpost_tunnel::{PublicKey, RelayRef, ServiceName};
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use crate::certificate::Settings as Acme;
pub use dns::Dns;
pub use zone::Zone;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: PathBuf,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    limits: Limits,
    #[serde(default, rename = "relay")]
    relays: Vec<Spanned<Relay>>,
    #[serde(default, rename = "service")]
    services: Vec<Spanned<Service>>,
    #[serde(default)]
    acme: Option<Spanned<Acme>>,
    #[serde(default, rename = "zone")]
    zones: Vec<Spanned<Zone>>,
    #[serde(default)]
    dns: Option<dns::Section>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    listen: LoopbackAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: LoopbackAddr::on_port(9026) }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    format: Format,
    level: Level,
}

/// `[limits]`: the defaults of the agent stand here alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Streams that are delivered at once, over all relays.
    pub sessions: usize,
    /// Silence in both directions once TLS runs; as at the relay.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// How long sessions in which a sender waits may go on after SIGTERM; as at the relay.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 256,
            idle: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(11 * 60),
        }
    }
}

/// `[[relay]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// What this box's owner calls it.
    pub name: String,
    /// Where it listens; all are tried, the first that answers wins.
    pub addresses: Vec<HostPort>,
    /// The key that it must prove.
    pub key: PublicKey,
    /// Whether it may bring senders with private addresses: for trials within one network alone,
    /// as a mail server may trust such senders.
    #[serde(default)]
    pub private_senders: bool,
    /// What happens to connections to an address that is this box's alone.
    #[serde(default)]
    pub own_address: OwnAddress,
    /// Whether the relay's shield stands before this box.
    #[serde(default)]
    pub shield: bool,
    /// Whether this box has zones for it. Not a key of the file: it follows from whether there is a
    /// `[[zone]]`, and stands here as a tunnel has to be brought up anew when it changes.
    #[serde(skip)]
    pub offers_zones: bool,
}

/// How a relay treats connections to an address that is one box's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnAddress {
    /// The relay greets, and nothing goes on without TLS, so that it never sees mail.
    #[default]
    Sealed,
    /// The mail server at home greets, and mail without TLS passes the relay readable.
    Transparent,
}

impl Relay {
    /// How to reach it.
    pub fn reference(&self) -> RelayRef {
        RelayRef { addresses: self.addresses.clone(), key: self.key }
    }

    /// What the owner chose for it, as bits of [`Hello::capabilities`].
    ///
    /// [`Hello::capabilities`]: sealpost_tunnel::control::Hello
    pub fn capabilities(&self) -> u64 {
        let transparent = self.own_address == OwnAddress::Transparent;
        let bit = |said, bit| if said { bit } else { 0 };
        bit(transparent, TRANSPARENT)
            | bit(self.shield, SHIELDED)
            | bit(self.offers_zones, OFFERS_ZONES)
    }
}

/// `[[service]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// What relays call it.
    pub name: ServiceName,
    /// Where the mail server listens.
    pub address: HostPort,
    /// How the mail server learns the sender's address.
    #[serde(default)]
    pub proxy: Proxy,
    /// A mailbox that is not this server's own, which the self-test offers it.
    #[serde(default = "foreign_recipient")]
    pub self_test_recipient: String,
}

/// The PROXY protocol header in front of a connection to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    #[default]
    V2,
    /// No header: the mail server sees this box's own address as the client.
    None,
}

/// example.com is IANA's (RFC 2606), nobody's mail server has it for its own.
fn foreign_recipient() -> String {
    "open-relay-test@example.com".into()
}

/// What is fixed from start to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Where the key is kept.
    pub state: PathBuf,
    /// HTTP address for the owner.
    pub admin: LoopbackAddr,
    /// Bounds.
    pub limits: Limits,
    /// Form of log lines.
    pub log_format: Format,
    /// Level of log lines.
    pub log_level: Level,
    /// Where programs of this machine see and change the zones.
    pub dns: Option<Dns>,
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is fixed from start to end.
    pub fixed: Fixed,
    /// Where to dial.
    pub relays: Vec<Relay>,
    /// Where to deliver.
    pub services: Vec<Service>,
    /// How the mail server's certificate is obtained, if at all.
    pub acme: Option<Acme>,
    /// The domains whose zones come from here.
    pub zones: Vec<Zone>,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_source(&Source::read(path)?)
    }

    /// Checks `source`.
    pub fn from_source(source: &Source) -> Result<Self, ConfigError> {
        let file: File = source.parse()?;
        if file.limits.sessions == 0 || file.limits.idle.is_zero() {
            let help = "leave sessions and idle of [limits] out for the defaults";
            return Err(source.error(None, "a limit of 0 would refuse all mail", Some(help)));
        }
        distinct(source, "relay", &file.relays, |relay| &relay.name)?;
        distinct(source, "service", &file.services, |service| service.name.as_str())?;
        for relay in &file.relays {
            if relay.get_ref().addresses.is_empty() {
                let help = "for example addresses = [\"relay.example.net:4433\"]";
                return Err(source.error(Some(relay.span()), "a relay has no address", Some(help)));
            }
        }
        for service in &file.services {
            check_recipient(source, service)?;
        }
        distinct(source, "zone", &file.zones, |zone| zone.name.as_str())?;
        let dns = file.dns.map(|section| section.check(source)).transpose()?;
        let keys = dns.as_ref().map(|dns| dns.keys.as_slice()).unwrap_or_default();
        zone::check(source, &file.zones, keys)?;
        let offers_zones = !file.zones.is_empty();
        let relays = file.relays.into_iter().map(Spanned::into_inner);
        let made_here = file.zones.iter().any(|zone| zone.get_ref().primary.is_none());
        if let Some(acme) = file.acme.as_ref().filter(|_| !made_here) {
            let help = "add a [[zone]] with the name of your domain, or leave [acme] out";
            let message =
                "certificates are proved through a zone that is made here, and there is none";
            return Err(source.error(Some(acme.span()), message, Some(help)));
        }
        Ok(Self {
            fixed: Fixed {
                state: file.state,
                admin: file.admin.listen,
                limits: file.limits,
                log_format: file.log.format,
                log_level: file.log.level,
                dns,
            },
            relays: relays.map(|relay| Relay { offers_zones, ..relay }).collect(),
            zones: file.zones.into_iter().map(Spanned::into_inner).collect(),
            services: file.services.into_iter().map(Spanned::into_inner).collect(),
            acme: file.acme.map(|acme| Acme::check(source, acme)).transpose()?,
        })
    }
}

fn distinct<T>(
    source: &Source,
    what: &str,
    entries: &[Spanned<T>],
    name: impl Fn(&T) -> &str,
) -> Result<(), ConfigError> {
    for (index, entry) in entries.iter().enumerate() {
        let this = name(entry.get_ref());
        if entries[..index].iter().any(|earlier| name(earlier.get_ref()) == this) {
            let message = format!("there are two {what}s named `{this}`");
            return Err(source.error(Some(entry.span()), &message, Some("give one another name")));
        }
    }
    Ok(())
}

fn check_recipient(source: &Source, service: &Spanned<Service>) -> Result<(), ConfigError> {
    let recipient = &service.get_ref().self_test_recipient;
    let plain = recipient.bytes().all(|b| b.is_ascii_graphic() && !b"<>\\\"".contains(&b));
    if plain && recipient.split_once('@').is_some_and(|(l, d)| !l.is_empty() && !d.is_empty()) {
        return Ok(());
    }
    let message = format!("self_test_recipient = `{recipient}` is not a mailbox");
    let help = "leave the line out for the default";
    Err(source.error(Some(service.span()), &message, Some(help)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    fn load(text: &str) -> Result<Config, String> {
        let source = Source::from_text("agent.toml", &format!("state = \"/tmp/x\"\n{text}"));
        Config::from_source(&source).map_err(|e| e.to_string())
    }

    fn relay(name: &str, address: &str) -> String {
        let key = Identity::ephemeral().public();
        format!("[[relay]]\nname = \"{name}\"\naddresses = [\"{address}\"]\nkey = \"{key}\"\n")
    }

    #[test]
    fn a_service_speaks_proxy_v2_unless_told_otherwise() {
        let config = load("[[service]]\nname = \"smtp\"\naddress = \"127.0.0.1:25\"\n").unwrap();
        assert_eq!(config.services[0].proxy, Proxy::V2);
        assert_eq!(config.fixed.limits, Limits::default());
    }

    #[test]
    fn several_relays_need_names_of_their_own() {
        assert_eq!(
            load(&[relay("a", "r:1"), relay("b", "[::1]:2")].concat()).unwrap().relays.len(),
            2
        );
        let error = load(&[relay("a", "r:1"), relay("a", "r:2")].concat()).unwrap_err();
        assert!(error.contains("two relays named `a`"), "{error}");
    }

    #[test]
    fn a_zone_needs_a_name_alone() {
        let text = [&relay("a", "r:1"), "[[zone]]\nname = \"Bücher.example\"\n"].concat();
        let config = load(&text).unwrap();
        assert_eq!(config.zones[0].name.as_str(), "xn--bcher-kva.example");
        assert_eq!(config.zones[0].policy(), crate::zone::Policy::default());
        assert_eq!(config.relays[0].capabilities(), OFFERS_ZONES);
        assert_eq!(load(&relay("a", "r:1")).unwrap().relays[0].capabilities(), 0);
    }

    #[test]
    fn what_is_wrong_with_a_zone_is_told_with_its_line() {
        for (line, wanted) in [
            ("validity = \"1d\"", "between 4 and 35 days"),
            ("contact = \"nobody\"", "not a mail address"),
            ("name_servers = [\"-\"]", "agent.toml:"),
            ("primary = \"127.0.0.1:53\"\nspf = \"v=spf1 -all\"", "as it is there"),
            ("primary = \"127.0.0.1:53\"\nprimary_key = \"k\"", "no key named `k`"),
            ("primary_key = \"k\"", "without `primary`"),
            ("denial = \"nsec5\"", "unknown variant"),
        ] {
            let error = load(&format!("[[zone]]\nname = \"a.example\"\n{line}\n")).unwrap_err();
            assert!(error.contains(wanted) && error.contains("agent.toml:"), "{line}: {error}");
        }
        let twice = "[[zone]]\nname = \"a.example\"\n[[zone]]\nname = \"A.example.\"\n";
        assert!(load(twice).unwrap_err().contains("two zones named `a.example`"));
    }

    #[test]
    fn a_contact_is_one_label_and_a_domain() {
        let text = "[[zone]]\nname = \"a.example\"\ncontact = \"first.last@b.example\"\n";
        let contact = load(text).unwrap().zones[0].contact().unwrap();
        assert_eq!(contact.to_string(), "first\\.last.b.example");
    }

    #[test]
    fn keys_for_updates_are_for_challenges_unless_told_otherwise() {
        let text = "[[dns.key]]\nname = \"certbot\"\nsecret_file = \"/etc/x\"\n";
        let dns = load(text).unwrap().fixed.dns.unwrap();
        assert_eq!(dns.keys[0].update, dns::Update::Challenges);
        assert_eq!(dns.listen.get().port(), 5354);
        assert!(load(&text.repeat(2)).unwrap_err().contains("two keys named `certbot`"));
        assert!(load("").unwrap().fixed.dns.is_none());
        assert!(load("[dns]\nlisten = \"192.0.2.1:53\"\n").unwrap_err().contains("loopback"));
    }

    #[test]
    fn addresses_need_a_port() {
        for bad in ["relay.example", "2001:db8::1", ":25", "relay:0", "relay:99999", "relay:x"] {
            let error = load(&relay("a", bad)).unwrap_err();
            assert!(error.contains("HOST:PORT") && error.contains("agent.toml:4:"), "{error}");
        }
    }

    #[test]
    fn a_recipient_cannot_carry_a_command() {
        for bad in ["a@b>\\r\\nDATA", "nobody", "@b", "a@"] {
            let service = format!(
                "[[service]]\nname = \"smtp\"\naddress = \"h:1\"\nself_test_recipient = \"{bad}\"\n"
            );
            assert!(load(&service).unwrap_err().contains("not a mailbox"));
        }
    }
}
