//! `[acme]` of the agent's file: its shape, its defaults, and what is wrong with a bad one.

use std::path::PathBuf;
use std::time::Duration;

use sealpost_daemon::config::{ConfigError, Source};
use sealpost_tunnel::MxName;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::zone::certificate_roll::MARGIN;

/// The most names in a certificate, as Let's Encrypt and most others have it.
pub const MAX_NAMES: usize = 100;

/// `[acme]`: the defaults stand here alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The CA's directory.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// Certificates in PEM that the CA's own HTTPS server is trusted by, in place of the public
    /// ones.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Where the CA may write to: URIs such as `mailto:me@example.org`.
    #[serde(default)]
    pub contact: Vec<String>,
    /// Whether the owner agrees to the CA's terms.
    #[serde(default)]
    pub terms_agreed: bool,
    /// The CA's profile for the certificate.
    #[serde(default)]
    pub profile: Option<String>,
    /// Names beside those of the mail exchangers.
    #[serde(default)]
    pub names: Vec<MxName>,
    /// The kind of key.
    #[serde(default)]
    pub key_type: Algorithm,
    /// Whether CAA records let this CA and account alone issue.
    #[serde(default = "yes")]
    pub caa: bool,
    /// Where the chain is written.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Where the private key is written.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Where both are written into one file, key first.
    #[serde(default)]
    pub combined: Option<PathBuf>,
    /// The user whose the files are.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group of the files.
    #[serde(default)]
    pub group: Option<String>,
    /// The mode of the files.
    #[serde(default)]
    pub mode: Mode,
    /// The command that is run when the files are new: program and arguments.
    #[serde(default)]
    pub reload: Vec<String>,
    /// How long the command may take.
    #[serde(default = "reload_timeout", with = "humantime_serde")]
    pub reload_timeout: Duration,
    /// How long to wait until all name servers serve a challenge. One that does not answer at all is
    /// passed over then.
    #[serde(default = "challenge_timeout", with = "humantime_serde")]
    pub challenge_timeout: Duration,
    /// Added to the time for which resolvers may know the zone without a new key.
    #[serde(default = "margin", with = "humantime_serde")]
    pub margin: Duration,
    /// How long a name server that does not answer is waited for, from when all others serve the
    /// TLSA records of a new key.
    #[serde(default = "pass_over", with = "humantime_serde")]
    pub pass_over: Duration,
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA with P-256, which every mail server of the last ten years knows.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// RSA with 2048 bits, for mail servers that are older.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
}

/// The mode of a file, written as chmod takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(pub u32);

impl Default for Mode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            // A private key for everybody is never meant.
            Ok(mode) if mode & !0o660 == 0 && mode & 0o400 != 0 => Ok(Self(mode)),
            _ => Err(format!("`{text}` is not a mode for a private key: use \"0600\" or \"0640\"")),
        }
    }
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".into()
}

fn yes() -> bool {
    true
}

fn reload_timeout() -> Duration {
    Duration::from_secs(60)
}

fn challenge_timeout() -> Duration {
    Duration::from_secs(10 * 60)
}

fn margin() -> Duration {
    MARGIN
}

/// Longer than a name server usually is away, and than the times after which a secondary asks its
/// primary again.
fn pass_over() -> Duration {
    Duration::from_secs(24 * 3600)
}

impl Settings {
    /// Checks what was read from `source`.
    pub fn check(source: &Source, read: Spanned<Self>) -> Result<Self, ConfigError> {
        let span = read.span();
        let settings = read.into_inner();
        let error =
            |message: &str, help: &str| source.error(Some(span.clone()), message, Some(help));
        if !settings.terms_agreed {
            return Err(error(
                "a CA issues only to those who agree to its terms",
                "read them (their address is in the CA's directory) and set terms_agreed = true",
            ));
        }
        if !settings.directory.starts_with("https://") {
            return Err(error(
                "the directory of a CA is an https:// URL",
                "leave it out for Let's Encrypt",
            ));
        }
        let good = |uri: &String| uri.contains(':') && uri.bytes().all(|it| it.is_ascii_graphic());
        if settings.contact.len() > 5 || !settings.contact.iter().all(good) {
            return Err(error(
                "a contact is a URI, and there are at most five",
                "for example contact = [\"mailto:me@example.org\"]",
            ));
        }
        if settings.names.len() > MAX_NAMES {
            return Err(error("a certificate has at most 100 names", "leave some names out"));
        }
        let files = [&settings.certificate, &settings.key, &settings.combined];
        if files.into_iter().flatten().any(|path| !path.is_absolute()) {
            return Err(error("files are named with their whole path", "begin it with /"));
        }
        if settings.reload.first().is_some_and(|program| !program.starts_with('/')) {
            return Err(error(
                "the program of reload is named with its whole path, as no shell looks for it",
                "for example reload = [\"/usr/bin/systemctl\", \"reload\", \"postfix\"]",
            ));
        }
        Ok(settings)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::certificate) fn settings(text: &str) -> Settings {
        load(&format!("terms_agreed = true\n{text}")).unwrap()
    }

    #[derive(Deserialize)]
    struct File {
        acme: Spanned<Settings>,
    }

    fn load(text: &str) -> Result<Settings, String> {
        let source = Source::from_text("agent.toml", &format!("[acme]\n{text}"));
        let file: File = source.parse().map_err(|error| error.to_string())?;
        Settings::check(&source, file.acme).map_err(|error| error.to_string())
    }

    #[test]
    fn agreement_is_all_that_is_needed() {
        let settings = load("terms_agreed = true").unwrap();
        assert_eq!(settings.key_type, Algorithm::EcdsaP256);
        assert_eq!(settings.mode, Mode(0o600));
        assert!(settings.caa && settings.directory.contains("letsencrypt"));
        let error = load("").unwrap_err();
        assert!(error.contains("agree") && error.contains("terms_agreed = true"), "{error}");
    }

    #[test]
    fn what_would_fail_later_is_refused_at_once() {
        for (line, words) in [
            ("directory = \"http://ca.example/\"", "https://"),
            ("contact = [\"me\"]", "mailto:"),
            ("key_type = \"dsa\"", "rsa-2048"),
            ("mode = \"0644\"", "0640"),
            ("mode = \"rw\"", "0640"),
            ("certificate = \"mail.pem\"", "whole path"),
            ("reload = [\"systemctl\"]", "/usr/bin/systemctl"),
            ("names = [\"a b\"]", "a b"),
            ("challenge_timout = \"1m\"", "challenge_timeout"),
        ] {
            let error = load(&format!("terms_agreed = true\n{line}")).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
