//! Names in other letters than ASCII's: whether their A-labels are what they seem. Pure.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use sealpost_tunnel::DomainName;
use unicode_security::{MixedScript, RestrictionLevel, RestrictionLevelDetection};

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// No registry would give it out spelled so.
    Spelling,
    /// A label in several scripts, which may look like another name.
    MixedScripts,
}

/// A name must survive the way to Unicode and back unchanged (UTS 46, strictly), and no label may
/// mix scripts beyond what UTS 39 calls highly restrictive: Latin beside Chinese, Japanese or
/// Korean is everyday writing, Latin beside Cyrillic or Greek is not.
pub(super) fn check(name: &DomainName) -> Result<(), Flaw> {
    let uts46 = Uts46::new();
    let (unicode, valid) =
        uts46.to_unicode(name.as_str().as_bytes(), AsciiDenyList::STD3, Hyphens::Check);
    let back =
        uts46.to_ascii(unicode.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify);
    if valid.is_err() || !back.is_ok_and(|ascii| ascii == name.as_str()) {
        return Err(Flaw::Spelling);
    }
    let plain = |label: &str| {
        label.is_single_script()
            || label.check_restriction_level(RestrictionLevel::HighlyRestrictive)
    };
    if !unicode.split('.').all(plain) {
        return Err(Flaw::MixedScripts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_that_only_look_international_are_refused() {
        for bad in [
            "xn--.example",
            "xn--a.example",
            "xn--abc-.example",
            // Not the shortest spelling: decodes to ASCII.
            "xn--abc-.org",
            // Decodes to a letter that is another one's form, and to a joiner that joins nothing.
            "xn--zn7c.example",
            "xn--ab-m1t.example",
            "xn--99999999999.example",
            "ab--cd.example",
        ] {
            let checked = bad.parse().map(|domain| check(&domain));
            // Some are no host names to begin with.
            assert!(matches!(checked, Ok(Err(Flaw::Spelling)) | Err(_)), "{bad}: {checked:?}");
        }
    }

    #[test]
    fn mixed_scripts_are_refused() {
        for bad in [
            "pаypal.com",
            "exаmple.org",
            "googlе.com",
            "αbc.gr",
            "abcдеф.example",
            "mail.bοx.example",
        ] {
            let ascii = idna::domain_to_ascii(bad).unwrap();
            assert_eq!(check(&ascii.parse().unwrap()), Err(Flaw::MixedScripts), "{bad} {ascii}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "(xn--)?[a-z0-9-]{0,20}\\.[a-z]{2,6}") {
            if let Ok(domain) = noise.parse() {
                let _ = check(&domain);
            }
        }
    }
}
