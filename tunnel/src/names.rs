//! The small words of the tunnel: names that are checked once, where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spoken::spoken;

/// Longest host name in octets, without the final dot (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 253;
/// Longest EHLO argument that is kept (RFC 5321 section 4.5.3.1.2 allows 255 octets).
pub const MAX_EHLO: usize = 255;
const MAX_LABEL: usize = 63;
const MAX_SERVICE: usize = 32;
const MAX_BOX: usize = 32;
/// Longest text of a faulty name that an error repeats: more than any name has.
const MAX_REPEATED: usize = 300;

/// Why a text is no name of the asked kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a host name.
    #[error(
        "`{0}` is not a host name of at least two labels in letters, digits and hyphens \
         (write international names as `xn--…`)"
    )]
    Mx(String),
    /// Not a domain.
    #[error(
        "`{0}` is not a domain of at least two labels in letters, digits and hyphens, such as \
         `example.org` (write international names as `xn--…`)"
    )]
    Domain(String),
    /// Not a box name.
    #[error(
        "`{0}` is not a box name: 1 to 32 of a-z, 0-9 and hyphen, no hyphen at the ends, none as \
         third and fourth character, for example `alice`"
    )]
    Box(String),
    /// An IP address where a name must stand.
    #[error("`{0}` is an IP address; a host name is needed here")]
    Address(String),
    /// Not a service name.
    #[error("`{0}` is not a service name: 1 to 32 of a-z, 0-9 and hyphen, for example `smtp`")]
    Service(String),
}

/// The host name of an MX record: lower case, A-labels, no final dot, no underscore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MxName(Box<str>);

impl MxName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        host_name(text, NameError::Mx).map(Self)
    }
}

/// The one form of a host name, or `otherwise` of how it was written.
fn host_name(text: &str, otherwise: fn(String) -> NameError) -> Result<Box<str>, NameError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(NameError::Address(text.into()));
    }
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits alone is how an IPv4 address in odd notation looks.
    let numeric_end =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let valid =
        name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(label) && !numeric_end;
    if !valid {
        return Err(otherwise(spoken(text, MAX_REPEATED)));
    }
    Ok(name.to_ascii_lowercase().into())
}

impl TryFrom<String> for MxName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MxName> for String {
    fn from(name: MxName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for MxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A domain that mail is addressed to: lower case, A-labels, at least two, no final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(Box<str>);

impl DomainName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` is this domain itself or stands beneath it.
    pub fn covers(&self, name: &MxName) -> bool {
        self.0 == name.0 || beneath(&name.0, &self.0)
    }

    /// Whether this domain stands beneath `other` and is not `other` itself.
    pub fn is_beneath(&self, other: &DomainName) -> bool {
        beneath(&self.0, &other.0)
    }
}

fn beneath(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|labels| labels.ends_with('.'))
}

impl FromStr for DomainName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        host_name(text, NameError::Domain).map(Self)
    }
}

impl TryFrom<String> for DomainName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a relay's operator calls a box: a DNS label, so that it can stand in front of the relay's
/// own domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BoxName(Box<str>);

impl BoxName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BoxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let octet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=MAX_BOX).contains(&text.len())
            && text.bytes().all(octet)
            && !text.starts_with('-')
            && !text.ends_with('-')
            // Such a label is an international name in disguise (RFC 5890 section 2.3.1).
            && text.get(2..4) != Some("--");
        if valid { Ok(Self(text.into())) } else { Err(NameError::Box(spoken(text, MAX_REPEATED))) }
    }
}

impl TryFrom<String> for BoxName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<BoxName> for String {
    fn from(name: BoxName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for BoxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a stream is for, for example `smtp`; the agent's own file says where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Box<str>);

impl ServiceName {
    /// Mail from other servers: port 25.
    pub fn smtp() -> Self {
        Self("smtp".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let octet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=MAX_SERVICE).contains(&text.len()) && text.bytes().all(octet) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Service(spoken(text, MAX_REPEATED)))
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that a sender gave in EHLO or HELO, cleaned: printable ASCII without spaces, so
/// that it can be said again to another server and written to a log. Empty when none was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EhloName(Box<str>);

impl EhloName {
    /// Keeps of `argument` what may stand in an EHLO command, at most [`MAX_EHLO`] octets.
    pub fn cleaned(argument: &[u8]) -> Self {
        let kept = argument.iter().filter(|b| b.is_ascii_graphic()).take(MAX_EHLO);
        Self(kept.map(|&b| char::from(b)).collect::<String>().into())
    }

    /// The name as text; may be empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EhloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One connection from a sender, by the same 16 hex digits in the logs of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 8]);

impl SessionId {
    /// A fresh, random one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mx_names_are_exact_and_lower_case() {
        assert_eq!("Mx.Home.Example.".parse::<MxName>().unwrap().as_str(), "mx.home.example");
        assert!("xn--bcher-kva.example".parse::<MxName>().is_ok());
    }

    #[test]
    fn what_is_no_host_name_is_no_mx_name() {
        let label = "a".repeat(64);
        let long = format!("{}example", "a.".repeat(124));
        for bad in [
            "",
            ".",
            "localhost",
            "a..b",
            "-a.example",
            "a-.example",
            "a_b.example",
            "*.example",
            "bücher.example",
            "mx.example/",
            "1.2.3",
            "0x7f.1",
            "mx.example\0",
            " mx.example",
            &format!("{label}.example"),
            &long,
        ] {
            assert!(matches!(bad.parse::<MxName>(), Err(NameError::Mx(_))), "{bad:?}");
        }
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert!(matches!(address.parse::<MxName>(), Err(NameError::Address(_))), "{address}");
        }
    }

    #[test]
    fn a_domain_covers_itself_and_whole_labels_beneath_it() {
        let domain: DomainName = "Example.ORG.".parse().unwrap();
        assert_eq!(domain.as_str(), "example.org");
        for (name, covered) in [
            ("example.org", true),
            ("mx.example.org", true),
            ("a.b.example.org", true),
            ("badexample.org", false),
            ("mx.badexample.org", false),
            ("example.org.evil.example", false),
            ("mx.org", false),
        ] {
            assert_eq!(domain.covers(&name.parse().unwrap()), covered, "{name}");
            let other: DomainName = name.parse().unwrap();
            assert_eq!(other.is_beneath(&domain), covered && name != "example.org", "{name}");
        }
    }

    #[test]
    fn what_is_no_domain_is_refused_with_an_example() {
        let long = "a".repeat(300);
        for bad in ["org", "", "*.example.org", "example..org", "bücher.example", &long] {
            let error = bad.parse::<DomainName>().unwrap_err();
            assert!(matches!(error, NameError::Domain(_)), "{bad:?}");
            assert!(error.to_string().contains("`example.org`"), "{error}");
        }
        assert!(matches!("192.0.2.1".parse::<DomainName>(), Err(NameError::Address(_))));
    }

    #[test]
    fn an_error_repeats_no_more_than_a_line_of_what_was_written() {
        let error = format!("\x1b[2J\n{}", "ä".repeat(5000)).parse::<DomainName>().unwrap_err();
        let text = error.to_string();
        assert!(text.chars().count() < 500 && !text.contains(['\n', '\x1b']), "{text}");
    }

    #[test]
    fn box_names_are_plain_labels() {
        let longest = "a".repeat(MAX_BOX);
        for good in ["a", "alice", "box-7", "7", "a--b", &longest] {
            assert_eq!(good.parse::<BoxName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(MAX_BOX + 1);
        for bad in ["", "-", "-a", "a-", "Alice", "a.b", "a_b", "ä", "xn--4ca", "a b", &long] {
            assert!(matches!(bad.parse::<BoxName>(), Err(NameError::Box(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_has_one_form_and_noise_never_panics(
            noise in "\\PC{0,40}|[a-zA-Z0-9.-]{0,40}",
        ) {
            if let Ok(name) = noise.parse::<DomainName>() {
                prop_assert_eq!(name.as_str().parse(), Ok(name));
            }
            if let Ok(name) = noise.parse::<MxName>() {
                prop_assert_eq!(name.as_str().parse(), Ok(name));
            }
            if let Ok(name) = noise.parse::<BoxName>() {
                prop_assert_eq!(name.as_str(), &noise);
            }
            let _ = noise.parse::<ServiceName>();
        }
    }

    #[test]
    fn an_ehlo_name_cannot_carry_another_command() {
        let name = EhloName::cleaned(b"mail.example\r\nMAIL FROM:<>\0\x7f\xff");
        assert_eq!(name.as_str(), "mail.exampleMAILFROM:<>");
        assert_eq!(EhloName::cleaned(&[b'a'; 1000]).as_str().len(), MAX_EHLO);
    }

    #[test]
    fn service_names_are_short_and_plain() {
        assert!("smtp".parse::<ServiceName>().is_ok());
        for bad in ["", "SMTP", "a b", "127.0.0.1:25", &"a".repeat(33)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }
}
