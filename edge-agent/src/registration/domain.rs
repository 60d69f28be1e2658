//! A domain as a person types it, and the one form of it that relays know. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use sealpost_tunnel::names::{MAX_NAME, NameError};
use sealpost_tunnel::spoken::spoken;
use sealpost_tunnel::{DomainName, MxName};

/// Longest text of a faulty domain that an error repeats.
const MAX_REPEATED: usize = 100;

/// A domain, or a host name within one, in both of its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// As relays and the DNS know it: letters, digits, hyphens.
    pub name: DomainName,
    /// As people write it, where that is another form.
    pub written: Option<String>,
}

/// Why a text is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Nothing there.
    #[error("name a domain, for example `example.org`")]
    Empty,
    /// An address of a web page.
    #[error(
        "`{0}` is the address of a web page; write the domain alone, for example `example.org`"
    )]
    Url(String),
    /// An address of a person.
    #[error("`{0}` is a mail address; the domain is what stands behind the @")]
    Mailbox(String),
    /// More than one word.
    #[error("`{0}` has a space in it; write one domain, for example `example.org`")]
    Space(String),
    /// An IP address.
    #[error("`{0}` is an IP address; mail is addressed to domains")]
    Address(String),
    /// A wildcard.
    #[error("`{0}`: there are no wildcards; claim the domain, and name each MX name with --mx")]
    Wildcard(String),
    /// One label.
    #[error(
        "`{0}` is a single label, such as a top-level domain; a domain has at least two, for example `example.org`"
    )]
    Single(String),
    /// An empty label.
    #[error("`{0}` begins with a dot or has two in a row; was a part left out?")]
    EmptyLabel(String),
    /// Too long.
    #[error(
        "that is too long: a domain has at most {MAX_NAME} octets, and {MAX_LABEL} between two dots"
    )]
    TooLong,
    /// What no domain can have.
    #[error(
        "`{0}` is not a domain: letters of any script, digits, hyphens and dots, for example `example.org`"
    )]
    Characters(String),
    /// What names refuse.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An MX name elsewhere.
    #[error(
        "`{name}` is not in {domain}: an MX name of a claim is the domain itself or a name beneath it, for example `mx.{domain}`"
    )]
    Elsewhere {
        /// The name.
        name: MxName,
        /// The claim.
        domain: DomainName,
    },
}

const MAX_LABEL: usize = 63;

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let text = text.trim();
        let said = || spoken(text, MAX_REPEATED);
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        if text.contains("://") || text.contains('/') {
            return Err(DomainError::Url(said()));
        }
        if text.contains('@') {
            return Err(DomainError::Mailbox(said()));
        }
        if text.contains(char::is_whitespace) {
            return Err(DomainError::Space(said()));
        }
        let host = text.strip_suffix('.').unwrap_or(text);
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err(DomainError::Address(said()));
        }
        if host.contains('*') {
            return Err(DomainError::Wildcard(said()));
        }
        // In any script a label has fewer characters than its A-label has octets.
        if host.chars().count() > MAX_NAME {
            return Err(DomainError::TooLong);
        }
        if host.split('.').any(str::is_empty) {
            return Err(DomainError::EmptyLabel(said()));
        }
        let ascii = Uts46::new()
            .to_ascii(
                host.as_bytes(),
                AsciiDenyList::STD3,
                // Real names such as `r3---sn.example` have hyphens in odd places.
                Hyphens::CheckFirstLast,
                DnsLength::Ignore,
            )
            .map_err(|_| DomainError::Characters(said()))?;
        if ascii.len() > MAX_NAME || ascii.split('.').any(|label| label.len() > MAX_LABEL) {
            return Err(DomainError::TooLong);
        }
        if !ascii.contains('.') {
            return Err(DomainError::Single(said()));
        }
        let name: DomainName = ascii.parse()?;
        Ok(Self { written: written(name.as_str()), name })
    }
}

/// How people write `name`, where that is another form.
fn written(name: &str) -> Option<String> {
    let (written, valid) = idna::domain_to_unicode(name);
    (valid.is_ok() && written != name).then_some(written)
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.written {
            Some(written) => write!(f, "{written} ({})", self.name),
            None => fmt::Display::fmt(&self.name, f),
        }
    }
}

impl From<DomainName> for Domain {
    fn from(name: DomainName) -> Self {
        Self { written: written(name.as_str()), name }
    }
}

impl Domain {
    /// An MX name in this domain, as a person types it.
    pub fn mx(&self, text: &str) -> Result<MxName, DomainError> {
        let name: MxName = text.parse::<Domain>()?.name.as_str().parse()?;
        if self.name.covers(&name) {
            Ok(name)
        } else {
            Err(DomainError::Elsewhere { name, domain: self.name.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Result<Domain, DomainError> {
        text.parse()
    }

    #[test]
    fn a_domain_of_any_script_has_one_form() {
        for (text, name) in [
            ("example.org", "example.org"),
            (" Example.ORG. ", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("例え。jp", "xn--r8jz45g.jp"),
            ("r3---sn.example", "r3---sn.example"),
        ] {
            assert_eq!(domain(text).unwrap().name.as_str(), name, "{text}");
        }
        let both = domain("bücher.example").unwrap();
        assert_eq!(both.to_string(), "bücher.example (xn--bcher-kva.example)");
        assert_eq!(domain("xn--bcher-kva.example").unwrap(), both);
        assert_eq!(domain("example.org").unwrap().to_string(), "example.org");
    }

    #[test]
    fn what_is_no_domain_says_what_it_is() {
        let long = format!("{}example.org", "a.".repeat(150));
        let unicode = format!("{}.example", "ü".repeat(60));
        type Wanted = fn(&DomainError) -> bool;
        let cases: [(&str, Wanted); 20] = [
            ("", |e| matches!(e, DomainError::Empty)),
            (".", |e| matches!(e, DomainError::EmptyLabel(_))),
            ("https://example.org", |e| matches!(e, DomainError::Url(_))),
            ("example.org/mail", |e| matches!(e, DomainError::Url(_))),
            ("user@example.org", |e| matches!(e, DomainError::Mailbox(_))),
            ("example.org example.net", |e| matches!(e, DomainError::Space(_))),
            ("192.0.2.1", |e| matches!(e, DomainError::Address(_))),
            ("2001:db8::1", |e| matches!(e, DomainError::Address(_))),
            ("[192.0.2.1]", |e| matches!(e, DomainError::Address(_))),
            ("*.example.org", |e| matches!(e, DomainError::Wildcard(_))),
            ("com", |e| matches!(e, DomainError::Single(_))),
            ("com.", |e| matches!(e, DomainError::Single(_))),
            ("example..org", |e| matches!(e, DomainError::EmptyLabel(_))),
            ("example.org..", |e| matches!(e, DomainError::EmptyLabel(_))),
            (&long, |e| matches!(e, DomainError::TooLong)),
            (&unicode, |e| matches!(e, DomainError::TooLong)),
            ("_dmarc.example.org", |e| matches!(e, DomainError::Characters(_))),
            ("ex\u{202e}ample.org", |e| matches!(e, DomainError::Characters(_))),
            ("xn--zzzzzz.example", |e| matches!(e, DomainError::Characters(_))),
            ("example.1", |e| matches!(e, DomainError::Name(_))),
        ];
        for (text, wanted) in cases {
            let error = domain(text).unwrap_err();
            assert!(wanted(&error), "{text:?}: {error:?}");
            assert!(!error.to_string().contains('\u{202e}'));
        }
    }

    #[test]
    fn mx_names_stand_within_the_domain() {
        let domain = domain("bücher.example").unwrap();
        assert_eq!(
            domain.mx("Mail.Bücher.example.").unwrap().as_str(),
            "mail.xn--bcher-kva.example"
        );
        assert_eq!(domain.mx("bücher.example").unwrap().as_str(), "xn--bcher-kva.example");
        let error = domain.mx("mx.example.org").unwrap_err().to_string();
        assert!(error.contains("mx.xn--bcher-kva.example"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(noise in "\\PC{0,80}|[a-z0-9.@/*-]{0,80}") {
            if let Ok(domain) = domain(&noise) {
                proptest::prop_assert_eq!(domain.name.as_str().parse::<Domain>().unwrap().name, domain.name);
            }
        }
    }
}
