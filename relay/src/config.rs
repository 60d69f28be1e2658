//! The relay's configuration file: its shape, its defaults, and what is wrong with a bad one.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealpost_daemon::config::{ConfigError, LoopbackAddr, Source};
use sealpost_daemon::logging::{Format, Level};
use sealpost_tunnel::{DomainName, HostPort, MxName};
use serde::Deserialize;
use toml::Spanned;

use crate::pairs::PairRoles;
use crate::privacy::{ClientAddresses, Privacy, Sessions};
use crate::proof::ProofSettings;
use crate::registry::OwnPrefix;
use crate::shield::ShieldSettings;
use crate::zones;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hostname: MxName,
    state: PathBuf,
    #[serde(default)]
    registry: Option<RegistryUrl>,
    #[serde(default)]
    box_domain: Option<DomainName>,
    #[serde(default)]
    own_prefix: Option<OwnPrefix>,
    #[serde(default)]
    pairs: Option<Spanned<PairRoles>>,
    smtp: Smtp,
    tunnel: Tunnel,
    #[serde(default)]
    dns: Option<Spanned<zones::settings::Table>>,
    #[serde(default)]
    proof: Proof,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    limits: Option<Spanned<Limits>>,
    #[serde(default)]
    shield: Option<Spanned<ShieldSettings>>,
}

/// The URL of a PostgreSQL database. It may hold a password, so it is not shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryUrl(String);

impl RegistryUrl {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RegistryUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self(text));
        }
        Err("a registry is a URL such as `postgres://sealpost@db.example.net/sealpost`; leave the \
             line out for a file in the state directory"
            .into())
    }
}

impl std::fmt::Debug for RegistryUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("postgres://…")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Smtp {
    listen: Vec<SocketAddr>,
    /// Where senders find this relay, for the boxes' DNS records.
    #[serde(default)]
    announce: Vec<IpAddr>,
}

/// `[tunnel]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunnel {
    listen: Vec<SocketAddr>,
    /// Where invites say that boxes find this relay.
    #[serde(default)]
    announce: Vec<HostPort>,
}

/// `[proof]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Proof {
    resolvers: Vec<SocketAddr>,
    trust_anchor: Option<PathBuf>,
    private_servers: bool,
    #[serde(with = "humantime_serde")]
    every: Duration,
}

impl Default for Proof {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            trust_anchor: None,
            private_servers: false,
            every: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    listen: LoopbackAddr,
    socket: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: LoopbackAddr::on_port(9025), socket: None }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    format: Format,
    level: Level,
    client_addresses: ClientAddresses,
    sessions: Sessions,
}

/// `[limits]`: bounds of counts and of waits. The defaults of the relay stand here alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections from senders, in all.
    pub sessions: usize,
    /// Connections from one /24 (IPv4) or /64 (IPv6).
    pub sessions_per_prefix: usize,
    /// Connections for one box; at most what an agent takes.
    pub sessions_per_box: usize,
    /// From a reply to the end of the sender's next command before TLS: 5 minutes at least (RFC
    /// 5321 section 4.5.3.2.7).
    #[serde(with = "humantime_serde")]
    pub command: Duration,
    /// From 220 to STARTTLS, in all: twice that, as a sender needs two commands.
    #[serde(with = "humantime_serde")]
    pub preamble: Duration,
    /// From STARTTLS to the whole ClientHello.
    #[serde(with = "humantime_serde")]
    pub client_hello: Duration,
    /// How long a ClientHello is held for a box that is away.
    #[serde(with = "humantime_serde")]
    pub park: Duration,
    /// From the offer to the first byte from the mail server at home. More than the agent's own
    /// limit (25 s), so that the agent can say what went wrong; some senders wait 30 s.
    #[serde(with = "humantime_serde")]
    pub home: Duration,
    /// Silence in both directions once TLS runs. More than the 10 minutes for which a sender
    /// waits for the answer to its message (RFC 5321 section 4.5.3.2.6).
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// How long sessions in which a sender waits may go on after SIGTERM. More than the 10 minutes
    /// of section 4.5.3.2.6: who is cut off before sends its message again.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            sessions_per_prefix: 256,
            sessions_per_box: 128,
            command: Duration::from_secs(5 * 60),
            preamble: Duration::from_secs(10 * 60),
            client_hello: Duration::from_secs(10),
            park: Duration::from_secs(20),
            home: Duration::from_secs(29),
            idle: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(11 * 60),
        }
    }
}

/// What may change while the relay runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The relay's own name, said in its greeting.
    pub hostname: MxName,
    /// Bounds.
    pub limits: Limits,
    /// What stands before boxes whose owners want it.
    pub shield: ShieldSettings,
}

/// What is fixed from start to end.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed {
    /// Where keys are kept.
    pub state: PathBuf,
    /// TCP addresses for senders.
    pub smtp: Vec<SocketAddr>,
    /// UDP addresses for boxes.
    pub tunnel: Vec<SocketAddr>,
    /// HTTP address for the operator.
    pub admin: LoopbackAddr,
    /// Unix socket for the operator's commands.
    pub socket: PathBuf,
    /// The database, if it is not a file in `state`.
    pub registry: Option<RegistryUrl>,
    /// Each box has a name under this.
    pub box_domain: Option<DomainName>,
    /// Each box has an address out of this.
    pub own_prefix: Option<OwnPrefix>,
    /// Which shared addresses tell boxes apart by their order.
    pub pairs: PairRoles,
    /// Where boxes find the relay, for invites.
    pub announce: Vec<HostPort>,
    /// Where senders find the relay, for the boxes' DNS records.
    pub shared: Vec<IpAddr>,
    /// The relay as a name server, if it is one.
    pub dns: Option<zones::settings::Settings>,
    /// How proofs of domains are looked up.
    pub proof: ProofSettings,
    /// How often they are repeated.
    pub proof_every: Duration,
    /// Form of log lines.
    pub log_format: Format,
    /// Level of log lines.
    pub log_level: Level,
    /// What log lines may tell.
    pub privacy: Privacy,
}

/// A configuration that can be used.
pub struct Config {
    /// What is fixed from start to end.
    pub fixed: Fixed,
    /// What may change while the relay runs.
    pub settings: Settings,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_source(&Source::read(path)?)
    }

    /// Checks `source`.
    pub fn from_source(source: &Source) -> Result<Self, ConfigError> {
        let file: File = source.parse()?;
        if let Some(limits) = &file.limits {
            check_limits(source, limits)?;
        }
        if let Some(shield) = &file.shield {
            let wrong = |(message, help)| source.error(Some(shield.span()), message, Some(help));
            shield.get_ref().check().map_err(wrong)?;
        }
        for (list, what) in [(&file.smtp.listen, "smtp"), (&file.tunnel.listen, "tunnel")] {
            if list.is_empty() {
                let message = format!("[{what}] listen names no address");
                return Err(source.error(None, &message, Some("for example [\"[::]:25\"]")));
            }
        }
        if file.proof.every < MIN_EVERY {
            let help = "leave the line out for once a day";
            return Err(source.error(None, "[proof] every is less than a minute", Some(help)));
        }
        let dns = file.dns.map(|dns| zones::settings::Settings::check(source, dns, &file.hostname));
        let pairs = match file.pairs {
            Some(pairs) => checked_pairs(source, pairs, file.own_prefix)?,
            None => PairRoles::default(),
        };
        let announce = if file.tunnel.announce.is_empty() {
            announced(&file.hostname, &file.tunnel.listen)
        } else {
            file.tunnel.announce
        };
        let shared = if file.smtp.announce.is_empty() {
            public(&file.smtp.listen)
        } else {
            file.smtp.announce
        };
        Ok(Self {
            fixed: Fixed {
                shared: pairs.without_a_pair(shared),
                socket: file.admin.socket.unwrap_or_else(|| file.state.join("admin.sock")),
                state: file.state,
                registry: file.registry,
                box_domain: file.box_domain,
                own_prefix: file.own_prefix,
                pairs,
                smtp: file.smtp.listen,
                tunnel: file.tunnel.listen,
                announce,
                admin: file.admin.listen,
                dns: dns.transpose()?,
                proof: ProofSettings {
                    resolvers: file.proof.resolvers,
                    trust_anchor: file.proof.trust_anchor,
                    private_servers: file.proof.private_servers,
                },
                proof_every: file.proof.every,
                log_format: file.log.format,
                log_level: file.log.level,
                privacy: Privacy::new(file.log.client_addresses, file.log.sessions),
            },
            settings: Settings {
                hostname: file.hostname,
                limits: file.limits.map(Spanned::into_inner).unwrap_or_default(),
                shield: file.shield.map(Spanned::into_inner).unwrap_or_default(),
            },
        })
    }
}

/// The relay's own name, with the first port on which it waits for boxes.
fn announced(hostname: &MxName, listen: &[SocketAddr]) -> Vec<HostPort> {
    let port = listen.first().map_or(0, SocketAddr::port);
    HostPort::try_from(format!("{hostname}:{port}")).into_iter().collect()
}

/// The listed addresses that others can connect to; none where the relay listens on all it has.
fn public(listen: &[SocketAddr]) -> Vec<IpAddr> {
    let ip = listen.iter().map(SocketAddr::ip);
    ip.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).collect()
}

fn checked_pairs(
    source: &Source,
    pairs: Spanned<PairRoles>,
    own_prefix: Option<OwnPrefix>,
) -> Result<PairRoles, ConfigError> {
    let span = pairs.span();
    let wrong = |message: &str| {
        let help = "for example first = [\"198.51.100.2\"] and second = [\"198.51.100.3\"]";
        source.error(Some(span.clone()), message, Some(help))
    };
    let pairs = pairs.into_inner().checked().map_err(|error| wrong(&error.to_string()))?;
    let owned = |address: &&IpAddr| own_prefix.is_some_and(|own| own.id(**address).is_some());
    match pairs.first.iter().chain(&pairs.second).find(owned) {
        Some(address) => Err(wrong(&format!("{address} in [pairs] is in own_prefix"))),
        None => Ok(pairs),
    }
}

fn check_limits(source: &Source, limits: &Spanned<Limits>) -> Result<(), ConfigError> {
    let Limits { sessions, sessions_per_prefix, sessions_per_box, .. } = *limits.get_ref();
    let Limits { command, preamble, client_hello, park, home, idle, .. } = *limits.get_ref();
    let zero = [sessions, sessions_per_prefix, sessions_per_box].contains(&0)
        || [command, preamble, client_hello, home, idle].contains(&Duration::ZERO);
    let agent = usize::try_from(sealpost_tunnel::quic::RELAY_STREAMS).unwrap_or(usize::MAX);
    let (message, help) = if zero {
        ("a limit of 0 would refuse all mail", "leave the line out for the default")
    } else if sessions_per_box > agent {
        ("sessions_per_box is more than the 1024 that an agent takes", "use at most 1024")
    } else if park > MAX_PARK {
        ("park is longer than senders wait for an answer to their ClientHello", "use at most 25s")
    } else {
        return Ok(());
    };
    Err(source.error(Some(limits.span()), message, Some(help)))
}

/// The most impatient sender known waits 30 s for an answer to its ClientHello.
const MAX_PARK: Duration = Duration::from_secs(25);
/// Name servers of others are not for polling.
const MIN_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "hostname = \"relay.example\"\nstate = \"/tmp/x\"\n\
        smtp.listen = [\"127.0.0.1:0\"]\ntunnel.listen = [\"127.0.0.1:0\"]\n";

    fn load(more: &str) -> Result<Config, String> {
        let source = Source::from_text("relay.toml", &format!("{HEAD}{more}"));
        Config::from_source(&source).map_err(|e| e.to_string())
    }

    #[test]
    fn a_short_file_gets_the_defaults() {
        let Config { fixed, settings } = load("").unwrap();
        assert_eq!(settings.limits, Limits::default());
        assert_eq!(fixed.admin, LoopbackAddr::on_port(9025));
        assert_eq!(fixed.socket, Path::new("/tmp/x/admin.sock"));
        assert_eq!(fixed.proof_every, Duration::from_secs(86_400));
    }

    #[test]
    fn invites_name_the_relay_by_its_own_name_unless_told_otherwise() {
        let head =
            HEAD.replace("tunnel.listen = [\"127.0.0.1:0\"]", "tunnel.listen = [\"[::]:4433\"]");
        let source = Source::from_text("relay.toml", &head);
        let announce = Config::from_source(&source).unwrap().fixed.announce;
        assert_eq!(announce[0].as_str(), "relay.example:4433");
        let told = load("tunnel.announce = [\"192.0.2.1:4433\"]\n").unwrap().fixed.announce;
        assert_eq!(told[0].as_str(), "192.0.2.1:4433");
    }

    #[test]
    fn a_relay_is_no_name_server_unless_told_so() {
        assert_eq!(load("").unwrap().fixed.dns, None);
        assert!(load("[dns]\nlisten = [\"127.0.0.1:0\"]\n").unwrap().fixed.dns.is_some());
    }

    #[test]
    fn the_password_of_the_registry_is_not_shown() {
        let config = load("registry = \"postgres://relay:secret@db.example/x\"\n").unwrap();
        assert!(!format!("{:?}", config.fixed).contains("secret"));
    }

    #[test]
    fn bad_values_show_their_line_and_the_cure() {
        for (more, place, word) in [
            ("[dns]\nlisten = []\n", ":5:", "listen = [\"192.0.2.1:53\"]"),
            ("[dns]\nlisen = []\n", ":6:", "did you mean `listen`?"),
            ("[dns]\n", ":5:", "listen"),
            (
                "[dns]\nlisten = [\"127.0.0.1:0\"]\nnotify = [{ address = \"192.0.2.1:53\", key = \"k\" }]\n",
                ":7:",
                "give it a [[key]]",
            ),
            (
                "[dns]\nlisten = [\"127.0.0.1:0\"]\nlimits.zone_records = 0\n",
                ":5:",
                "leave the line out",
            ),
            (
                "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.zone]]\nname = \"a.example\"\n\
                 [[dns.zone]]\nname = \"A.example.\"\n",
                ":9:",
                "a zone of this name already",
            ),
            (
                "[dns]\nlisten = [\"127.0.0.1:0\"]\ncatalog = \"catalog.example\"\n\
                 transfer_to = [{ from = \"192.0.2.1\" }]\n",
                ":7:",
                "add { key",
            ),
            ("[limits]\nsesions = 1\n", ":6:", "did you mean `sessions`?"),
            ("[limits]\nsessions = 0\n", ":5:", "leave the line out"),
            ("[limits]\npark = \"60s\"\n", ":5:", "at most 25s"),
            ("[shield]\ngreet_pause = \"11s\"\n", ":5:", "at most 10s"),
            ("[shield]\nlists = [\"a_b\"]\n", ":6:", "not a"),
            ("[shield]\nprefix_rate = { per_minute = 0 }\n", ":6:", "nonzero"),
            ("[shield]\nbox_rate = { per_hour = 9 }\n", ":6:", "did you mean `per_minute`?"),
            ("registry = \"mysql://db/x\"\n", ":5:", "postgres://"),
            ("own_prefix = \"2001:db8::/16\"\n", ":5:", "48 to 96"),
            ("[pairs]\nfirst = [\"192.0.2.1\"]\nsecond = []\n", ":5:", "at least one"),
            ("[pairs]\nfirst = [\"192.0.2.1\"]\nsecond = [\"192.0.2.1\"]\n", ":5:", "twice"),
            ("box_domain = \"a_b\"\n", ":5:", "not a"),
            ("[proof]\nresolvers = [\"9.9.9.9\"]\n", ":6:", "socket address"),
            ("[log]\nlevel = \"loud\"\n", ":6:", "unknown variant"),
        ] {
            let error = load(more).err().unwrap();
            assert!(error.contains(place) && error.contains(word), "{error}");
        }
    }
}
