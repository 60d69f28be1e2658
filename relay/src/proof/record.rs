//! The TXT record by which a domain names its box: bytes in, a reading out. Pure.

use sealpost_tunnel::Fingerprint;

/// The label in front of the domain.
pub const LABEL: &str = "_sealpost";
/// How the record begins: the name and the version of what follows.
const TAG: &str = "sealpost1";
const BOX: &str = "box";

/// What one TXT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It is about something else, such as another service that the owner proves the domain to.
    Foreign,
    /// It is meant for a Sealpost relay, but cannot be used.
    Faulty(Fault),
    /// The domain's mail belongs to the box with this key.
    Box(Fingerprint),
}

/// What is wrong with a record that begins as ours. Each text continues "the record …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is nothing that names a box.
    #[error("has no `box=`")]
    NoBox,
    /// It is not clear which box is meant.
    #[error("has more than one `box=`; each box needs a record of its own")]
    SeveralBoxes,
    /// Cut off or mistyped.
    #[error("has a `box=` without the 43 characters of a fingerprint, as if it was cut off")]
    Fingerprint,
    /// Some web forms add the quotation marks by themselves.
    #[error("has quotation marks in its text; enter it without them")]
    Quoted,
    /// Neither the tag nor `key=value`.
    #[error("has a word that is not of the form `key=value`")]
    Word,
}

/// The text of the record that names the box with this key.
pub fn text(box_key: Fingerprint) -> String {
    format!("{TAG} {BOX}={box_key}")
}

/// Reads one TXT record, whose strings belong together (RFC 7208 section 3.3 joins them so too).
/// Words that a later version may add are skipped.
pub fn read<S: AsRef<[u8]>>(strings: &[S]) -> Reading {
    let bytes: Vec<u8> = strings.iter().flat_map(|s| s.as_ref().iter().copied()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let bare = first.trim_matches('"');
    if !bare.eq_ignore_ascii_case(TAG) {
        return Reading::Foreign;
    }
    if text.contains('"') {
        return Reading::Faulty(Fault::Quoted);
    }
    match named_box(words) {
        Ok(fingerprint) => Reading::Box(fingerprint),
        Err(fault) => Reading::Faulty(fault),
    }
}

fn named_box<'a>(words: impl Iterator<Item = &'a str>) -> Result<Fingerprint, Fault> {
    let mut found = None;
    for word in words {
        let (key, value) = word.split_once('=').ok_or(Fault::Word)?;
        if key.eq_ignore_ascii_case(BOX) && found.replace(value).is_some() {
            return Err(Fault::SeveralBoxes);
        }
    }
    found.ok_or(Fault::NoBox)?.parse().map_err(|_| Fault::Fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sealpost_tunnel::Identity;

    fn key() -> Fingerprint {
        "IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI".parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(text(key()), "sealpost1 box=IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI");
        assert_eq!(read(&[text(key())]), Reading::Box(key()));
    }

    #[test]
    fn spaces_case_of_the_tag_and_later_words_do_not_matter() {
        let key = key();
        for good in [
            format!("SealPost1 box={key}"),
            format!("  sealpost1 \t box={key}  "),
            format!("sealpost1 BOX={key} since=2 note="),
            format!("sealpost1 since=2 box={key}"),
        ] {
            assert_eq!(read(&[&good]), Reading::Box(key), "{good}");
        }
    }

    #[test]
    fn other_records_are_foreign() {
        for other in [
            "",
            " ",
            "v=spf1 -all",
            "sealpost",
            "sealpost2 box=x",
            "sealpost10 box=x",
            "box=IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI",
            "xsealpost1 box=IWoRrwT2DAa4ZjBLA-7K9xcmzPkjlkUEPeqNhV2MScI",
        ] {
            assert_eq!(read(&[other]), Reading::Foreign, "{other}");
        }
        assert_eq!(read::<&str>(&[]), Reading::Foreign);
        assert_eq!(read(&[b"\xff\xfe\0"]), Reading::Foreign);
    }

    #[test]
    fn a_record_of_ours_that_is_faulty_says_what_is_wrong() {
        let key = key();
        for (text, fault) in [
            ("sealpost1".to_owned(), Fault::NoBox),
            ("sealpost1 since=2".to_owned(), Fault::NoBox),
            ("sealpost1 box=".to_owned(), Fault::Fingerprint),
            ("sealpost1 box=IWoRrwT2DAa4ZjBLA-7K9xcmz".to_owned(), Fault::Fingerprint),
            (format!("sealpost1 box={}", key.to_string().to_lowercase()), Fault::Fingerprint),
            (format!("sealpost1 box={key}A"), Fault::Fingerprint),
            (format!("sealpost1 box={key} box={key}"), Fault::SeveralBoxes),
            (format!("sealpost1 box = {key}"), Fault::Word),
            (format!("sealpost1 {key}"), Fault::Word),
            (format!("\"sealpost1 box={key}\""), Fault::Quoted),
            (format!("sealpost1 box=\"{key}\""), Fault::Quoted),
        ] {
            assert_eq!(read(&[&text]), Reading::Faulty(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_record_may_be_cut_into_strings_anywhere(cuts in prop::collection::vec(0usize..57, 0..6)) {
            let key = Identity::ephemeral().public().fingerprint();
            let text = text(key);
            let mut cuts = cuts;
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let strings: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&strings), Reading::Box(key));
        }

        #[test]
        fn noise_never_panics_and_names_no_box(strings in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..80), 0..4),
        ) {
            prop_assert!(!matches!(read(&strings), Reading::Box(_)));
        }
    }
}
