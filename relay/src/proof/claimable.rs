//! Which names a box may claim at all, whatever its proof says. Pure.
//!
//! The proof shows who runs a domain. It cannot show that a name misleads nobody, that it means
//! the same everywhere, or that it is one household's and not a whole country's: that is decided
//! here, before anything is asked.

use sealpost_tunnel::{DomainName, MxName};

use super::international::{self, Flaw};
use super::record::LABEL;

/// Longest name in front of which there is room for the label of the record.
const MAX_DOMAIN: usize = sealpost_tunnel::names::MAX_NAME - LABEL.len() - 1;

/// Top names that do not mean the same everywhere, or are not in the DNS, and what they are.
///
/// `example` and `test` are not here, although they are as reserved (RFC 6761): nobody serves them
/// to others, the root zone denies them with a signature, and trying things out is what they are
/// for. They can be proved only where the operator set up a root of his own.
const SPECIAL: [(&str, &str); 8] = [
    ("localhost", "each machine's name for itself (RFC 6761)"),
    ("local", "for machines on one's own network (RFC 6762)"),
    ("internal", "for networks that are cut off from the internet"),
    ("home.arpa", "for each home's own machines (RFC 8375)"),
    ("arpa", "for the workings of the internet (RFC 3172)"),
    ("invalid", "to be a name that never exists (RFC 6761)"),
    ("onion", "for Tor, which does not use the DNS (RFC 7686)"),
    ("alt", "for names outside the DNS (RFC 9476)"),
];

/// Why a name cannot be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotClaimable {
    /// There is no room for the record.
    #[error(
        "`{0}` is too long: with the record's label in front it has more than 253 characters; \
         claim a shorter name above it"
    )]
    TooLong(DomainName),
    /// No international name, although a label says so.
    #[error(
        "`{0}` is not a valid international domain name (IDNA): a label that begins with `xn--`, \
         or has `--` in third place, is no spelling that a registry would give out; check how the \
         name is written"
    )]
    Idna(DomainName),
    /// Letters that look alike can be mixed into a name that looks like another.
    #[error(
        "`{0}` has a label that mixes scripts (such as Latin and Cyrillic letters), which could be \
         taken for another name; claim a name in one script"
    )]
    MixedScripts(DomainName),
    /// The names beneath it are other people's.
    #[error(
        "`{0}` is a public suffix: the names beneath it belong to different people; claim your own \
         name beneath it"
    )]
    PublicSuffix(DomainName),
    /// Not a name of the DNS that means the same everywhere.
    #[error(
        "names that end in `{suffix}` are {meaning}, so `{name}` cannot get mail from others; claim a name of your own"
    )]
    Special {
        /// What was asked for.
        name: DomainName,
        /// Its end.
        suffix: &'static str,
        /// What that is for.
        meaning: &'static str,
    },
    /// The relay's own, or beneath it.
    #[error("`{0}` belongs to this relay; claim a domain of your own")]
    Own(DomainName),
}

/// Decides which names may be claimed from this relay.
#[derive(Debug, Clone, Default)]
pub struct Claimable {
    own: Vec<DomainName>,
}

impl Claimable {
    /// `own` are the names that the relay itself goes by: its host name, and the domain of the
    /// weaker names of its boxes.
    pub fn new(own: Vec<DomainName>) -> Self {
        Self { own }
    }

    /// Whether `name` may be claimed, if its proof is found.
    pub fn check(&self, name: &DomainName) -> Result<(), NotClaimable> {
        if name.as_str().len() > MAX_DOMAIN {
            return Err(NotClaimable::TooLong(name.clone()));
        }
        check_special(name)?;
        international::check(name).map_err(|flaw| match flaw {
            Flaw::Spelling => NotClaimable::Idna(name.clone()),
            Flaw::MixedScripts => NotClaimable::MixedScripts(name.clone()),
        })?;
        if is_public_suffix(name) {
            return Err(NotClaimable::PublicSuffix(name.clone()));
        }
        for own in &self.own {
            if name == own || name.is_beneath(own) {
                return Err(NotClaimable::Own(name.clone()));
            }
        }
        Ok(())
    }

    /// Whether `mx` is one of the relay's own names or beneath one: no claim gives such a name.
    pub fn is_own(&self, mx: &MxName) -> bool {
        self.own.iter().any(|own| own.covers(mx))
    }
}

fn check_special(name: &DomainName) -> Result<(), NotClaimable> {
    let ends_in = |suffix: &str| {
        let front = name.as_str().strip_suffix(suffix);
        front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
    };
    match SPECIAL.iter().find(|(suffix, _)| ends_in(suffix)) {
        Some(&(suffix, meaning)) => {
            Err(NotClaimable::Special { name: name.clone(), suffix, meaning })
        }
        None => Ok(()),
    }
}

/// By the Public Suffix List, its section of private domains included. A name is also refused when
/// the list says that every name right beneath it is a suffix.
fn is_public_suffix(name: &DomainName) -> bool {
    let beneath = format!("a.{name}");
    psl::domain(name.as_str().as_bytes()).is_none() || psl::domain(beneath.as_bytes()).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    fn check(text: &str) -> Result<(), NotClaimable> {
        let own = ["relay.sealpost.net", "box.relay.sealpost.net", "mail.sealpost.org"];
        Claimable::new(own.map(name).to_vec()).check(&name(text))
    }

    /// The A-labels of a name in Unicode, whatever a registry would say to it.
    fn idn(text: &str) -> String {
        idna::domain_to_ascii(text).unwrap()
    }

    #[test]
    fn people_may_claim_their_domains() {
        for good in [
            "example.org",
            "a.b.c.example.co.uk",
            "home.example",
            "sender.test",
            "example.test",
            "alice.github.io",
            "sealpost.com",
            "locale.org",
            "local.org",
            "myonion.org",
            "3com.com",
            "a--b.org",
            &idn("bücher.de"),
            &idn("faß.de"),
            &idn("почта.рф"),
            &idn("россия-24.рф"),
            &idn("ελλάδα.gr"),
            &idn("例え.jp"),
            &idn("tokyoタワー.jp"),
            &idn("ABC株式会社.jp"),
            &idn("한국abc.kr"),
            &idn("中文.香港"),
            &idn("مثال.example"),
            &idn("ᏣᎳᎩ.example"),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn public_suffixes_are_nobodys() {
        for bad in [
            "co.uk",
            "github.io",
            "blogspot.com",
            "com.au",
            "foo.ck",
            "kawasaki.jp",
            "anything.kawasaki.jp",
            "compute.amazonaws.com",
            &idn("公司.cn"),
            &idn("公司.香港"),
        ] {
            assert!(matches!(check(bad), Err(NotClaimable::PublicSuffix(_))), "{bad}");
        }
        assert_eq!(check("www.ck"), Ok(()));
        assert_eq!(check("city.kawasaki.jp"), Ok(()));
    }

    #[test]
    fn names_that_mean_something_else_everywhere_are_refused() {
        for bad in [
            "foo.localhost",
            "printer.local",
            "nas.internal",
            "mail.home.arpa",
            "home.arpa",
            "2.0.192.in-addr.arpa",
            "foo.invalid",
            "abc.onion",
            "foo.alt",
        ] {
            assert!(matches!(check(bad), Err(NotClaimable::Special { .. })), "{bad}");
        }
        let text = check("mail.home.arpa").unwrap_err().to_string();
        assert!(text.contains("`home.arpa` are for each home's own machines"), "{text}");
    }

    #[test]
    fn the_relays_own_names_are_nobody_elses() {
        for own in ["relay.sealpost.net", "a.relay.sealpost.net", "box.relay.sealpost.net"] {
            assert_eq!(check(own), Err(NotClaimable::Own(name(own))), "{own}");
        }
        // An operator's own domain is often the one above; only the relay's names do not come
        // with it (`is_own`).
        assert_eq!(check("sealpost.net"), Ok(()));
        assert_eq!(check("sealpost.org"), Ok(()));
        assert_eq!(check("other.sealpost.net"), Ok(()));
        assert_eq!(check("xrelay.sealpost.net"), Ok(()));
        let policy = Claimable::new(vec![name("relay.sealpost.net")]);
        assert!(policy.is_own(&"relay.sealpost.net".parse().unwrap()));
        assert!(policy.is_own(&"mx.relay.sealpost.net".parse().unwrap()));
        assert!(!policy.is_own(&"mx.sealpost.net".parse().unwrap()));
    }

    #[test]
    fn the_record_must_fit_in_front() {
        let label = "a".repeat(60);
        let long = format!("{label}.{label}.{label}.{}.org", "a".repeat(56));
        assert_eq!(long.len(), MAX_DOMAIN);
        assert_eq!(check(&long), Ok(()));
        let longer = format!("a{long}");
        assert!(matches!(check(&longer), Err(NotClaimable::TooLong(_))));
    }
}
