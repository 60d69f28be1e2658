//! Reads a configuration file, and says of a bad one what is wrong, where, and what to do.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::suggest;

/// Largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Why a configuration file cannot be used; displays with the offending line.
#[derive(Debug)]
pub struct ConfigError(String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// An address that only this machine reaches: where health, metrics and status are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SocketAddr")]
pub struct LoopbackAddr(SocketAddr);

impl LoopbackAddr {
    /// 127.0.0.1 with `port`.
    pub fn on_port(port: u16) -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// As any address.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<SocketAddr> for LoopbackAddr {
    type Error = String;

    fn try_from(address: SocketAddr) -> Result<Self, String> {
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(format!(
                "{address} is not loopback; metrics and status are for this machine alone, so use \
                 127.0.0.1 or [::1]"
            ))
        }
    }
}

/// A configuration file's text with its name, so that errors can show the place.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |e: &dyn std::fmt::Display| {
            ConfigError(format!(
                "cannot read {}: {e}\nhelp: name the file with --config FILE",
                path.display()
            ))
        };
        let size = std::fs::metadata(path).map_err(|e| unreadable(&e))?.len();
        if size > MAX_BYTES {
            return Err(unreadable(&format!("{size} bytes are too many for a configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(&e))?;
        Ok(Self { path: path.into(), text })
    }

    /// A text that stands in no file; `name` is what errors call it.
    pub fn from_text(name: &str, text: &str) -> Self {
        Self { path: name.into(), text: text.into() }
    }

    /// Reads the text as a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|e| {
            let help = suggest::for_unknown_field(e.message());
            self.error(e.span(), e.message(), help.as_deref())
        })
    }

    /// An error at `span`, bytes of the text as [`toml::Spanned`] gives them.
    pub fn error(
        &self,
        span: Option<Range<usize>>,
        message: &str,
        help: Option<&str>,
    ) -> ConfigError {
        let mut out = format!("{}: {}", self.path.display(), message.trim_end());
        if let Some(span) = span {
            let before = &self.text[..span.start.min(self.text.len())];
            let number = before.matches('\n').count() + 1;
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            let line = self.text[line_start..].lines().next().unwrap_or_default();
            let column = before[line_start..].chars().count();
            let within = span.len().min(line.len().saturating_sub(span.start - line_start)).max(1);
            let gutter = number.to_string();
            out = format!("{}:{number}: {}", self.path.display(), message.trim_end());
            let _ = write!(
                out,
                "\n {gutter} | {line}\n {:w$} | {:column$}{}",
                "",
                "",
                "^".repeat(within),
                w = gutter.len(),
            );
        }
        if let Some(help) = help {
            let _ = write!(out, "\nhelp: {help}");
        }
        ConfigError(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Shape {
        listen: String,
        limit: Option<u32>,
    }

    #[test]
    fn an_unknown_key_shows_its_line_and_the_nearest_known_one() {
        let source = Source::from_text("relay.toml", "listen = \"x\"\nlimt = 3\n");
        let error = source.parse::<Shape>().unwrap_err().to_string();
        assert!(error.starts_with("relay.toml:2: unknown field `limt`"), "{error}");
        assert!(error.contains(" 2 | limt = 3\n   | ^^^^\n"), "{error}");
        assert!(error.ends_with("help: did you mean `limit`?"), "{error}");
    }

    #[test]
    fn a_wrong_type_shows_its_line() {
        let source = Source::from_text("relay.toml", "listen = \"x\"\nlimit = \"many\"\n");
        let error = source.parse::<Shape>().unwrap_err().to_string();
        assert!(error.starts_with("relay.toml:2: invalid type"), "{error}");
    }

    #[test]
    fn an_address_that_others_reach_is_no_place_for_metrics() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Admin {
            listen: LoopbackAddr,
        }
        for bad in ["0.0.0.0:9025", "192.0.2.1:9025", "[::]:9025"] {
            let source = Source::from_text("x", &format!("listen = \"{bad}\"\n"));
            let error = source.parse::<Admin>().unwrap_err().to_string();
            assert!(error.starts_with("x:1: ") && error.contains("is not loopback"), "{error}");
        }
        let source = Source::from_text("x", "listen = \"[::1]:9025\"\n");
        assert!(source.parse::<Admin>().is_ok());
    }

    #[test]
    fn spans_at_the_end_and_over_lines_do_not_panic() {
        let source = Source::from_text("x", "a = [\n 1,\n 2\n");
        assert!(source.parse::<Shape>().is_err());
        source.error(Some(0..14), "m", None);
        source.error(Some(14..14), "m", None);
    }

    #[test]
    fn a_missing_file_says_how_to_name_one() {
        let error = Source::read(Path::new("/nonexistent/relay.toml")).unwrap_err().to_string();
        assert!(error.contains("--config"), "{error}");
    }
}
