//! The relay's configuration file: its shape, its defaults, and what is wrong with a bad one.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealpost_daemon::config::{ConfigError, LoopbackAddr, Source};
use sealpost_daemon::logging::{Format, Level};
use sealpost_tunnel::{MxName, PublicKey};
use serde::Deserialize;
use toml::Spanned;

use crate::privacy::{ClientAddresses, Privacy, Sessions};
use crate::registry::{BoxRecord, Snapshot};

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hostname: MxName,
    state: PathBuf,
    smtp: Listen,
    tunnel: Listen,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    limits: Option<Spanned<Limits>>,
    #[serde(default, rename = "box")]
    boxes: Vec<Spanned<BoxEntry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    listen: Vec<SocketAddr>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    listen: LoopbackAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: LoopbackAddr::on_port(9025) }
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
    /// From 220 to STARTTLS, in all.
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
    /// How long open sessions may go on after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            sessions_per_prefix: 256,
            sessions_per_box: 128,
            preamble: Duration::from_secs(60),
            client_hello: Duration::from_secs(10),
            park: Duration::from_secs(20),
            home: Duration::from_secs(29),
            idle: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(60),
        }
    }
}

/// `[[box]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoxEntry {
    name: String,
    key: PublicKey,
    #[serde(default)]
    mx: Vec<MxName>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

/// What may change while the relay runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The relay's own name, said in its greeting.
    pub hostname: String,
    /// Bounds.
    pub limits: Limits,
}

/// What is fixed from start to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Where keys are kept.
    pub state: PathBuf,
    /// TCP addresses for senders.
    pub smtp: Vec<SocketAddr>,
    /// UDP addresses for boxes.
    pub tunnel: Vec<SocketAddr>,
    /// HTTP address for the operator.
    pub admin: LoopbackAddr,
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
    /// The boxes and what is theirs.
    pub boxes: Snapshot,
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
        for (list, what) in [(&file.smtp, "smtp"), (&file.tunnel, "tunnel")] {
            if list.listen.is_empty() {
                let message = format!("[{what}] listen names no address");
                return Err(source.error(None, &message, Some("for example [\"[::]:25\"]")));
            }
        }
        let spans: Vec<_> = file.boxes.iter().map(Spanned::span).collect();
        let records = file
            .boxes
            .into_iter()
            .map(|entry| {
                let BoxEntry { name, key, mx, addresses } = entry.into_inner();
                BoxRecord { name, key, mx, addresses }
            })
            .collect();
        let boxes = Snapshot::build(records).map_err(|conflict| {
            source.error(spans.get(conflict.index).cloned(), &conflict.to_string(), None)
        })?;
        Ok(Self {
            fixed: Fixed {
                state: file.state,
                smtp: file.smtp.listen,
                tunnel: file.tunnel.listen,
                admin: file.admin.listen,
                log_format: file.log.format,
                log_level: file.log.level,
                privacy: Privacy::new(file.log.client_addresses, file.log.sessions),
            },
            settings: Settings {
                hostname: file.hostname.to_string(),
                limits: file.limits.map(Spanned::into_inner).unwrap_or_default(),
            },
            boxes,
        })
    }
}

fn check_limits(source: &Source, limits: &Spanned<Limits>) -> Result<(), ConfigError> {
    let Limits { sessions, sessions_per_prefix, sessions_per_box, .. } = *limits.get_ref();
    let Limits { preamble, client_hello, park, home, idle, .. } = *limits.get_ref();
    let zero = [sessions, sessions_per_prefix, sessions_per_box].contains(&0)
        || [preamble, client_hello, home, idle].contains(&Duration::ZERO);
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

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    const HEAD: &str = "hostname = \"relay.example\"\nstate = \"/tmp/x\"\n\
        smtp.listen = [\"127.0.0.1:0\"]\ntunnel.listen = [\"127.0.0.1:0\"]\n";

    fn load(more: &str) -> Result<Config, String> {
        let source = Source::from_text("relay.toml", &format!("{HEAD}{more}"));
        Config::from_source(&source).map_err(|e| e.to_string())
    }

    fn entry(name: &str, mx: &str) -> String {
        let key = Identity::ephemeral().public();
        format!("[[box]]\nname = \"{name}\"\nkey = \"{key}\"\nmx = [\"{mx}\"]\n")
    }

    #[test]
    fn a_short_file_gets_the_defaults() {
        let config = load(&entry("alice", "mx.alice.example")).unwrap();
        assert_eq!(config.settings.limits, Limits::default());
        assert_eq!(config.fixed.admin, LoopbackAddr::on_port(9025));
        assert_eq!(config.boxes.boxes().count(), 1);
    }

    #[test]
    fn a_name_of_two_boxes_shows_the_second() {
        let twice = [entry("alice", "mx.a.example"), entry("bob", "mx.a.example")].concat();
        let error = load(&twice).err().unwrap();
        assert!(error.contains("relay.toml:9:") || error.contains("relay.toml:10:"), "{error}");
        assert!(error.contains("`mx.a.example` belongs to two boxes"), "{error}");
    }

    #[test]
    fn bad_values_show_their_line_and_the_cure() {
        for (more, place, word) in [
            ("[limits]\nsesions = 1\n", ":6:", "did you mean `sessions`?"),
            ("[limits]\nsessions = 0\n", ":5:", "leave the line out"),
            ("[limits]\npark = \"60s\"\n", ":5:", "at most 25s"),
            ("[[box]]\nname = \"a\"\nkey = \"x\"\n", ":7:", "ed25519:"),
            ("[log]\nlevel = \"loud\"\n", ":6:", "unknown variant"),
        ] {
            let error = load(more).err().unwrap();
            assert!(error.contains(place) && error.contains(word), "{error}");
        }
        let key = Identity::ephemeral().public();
        let entry = format!("[[box]]\nname = \"a\"\nkey = \"{key}\"\nmx = [\"a_b.example\"]\n");
        assert!(load(&entry).err().unwrap().contains("not a host name"));
    }
}
