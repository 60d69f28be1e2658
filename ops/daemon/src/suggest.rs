//! "Did you mean": the nearest known word to a mistyped one.

/// The field that serde did not know, and those it expected, out of its message
/// ``unknown field `x`, expected one of `a`, `b` ``.
pub(crate) fn for_unknown_field(message: &str) -> Option<String> {
    let mut words = message.strip_prefix("unknown field `")?.split('`');
    let wrong = words.next()?;
    let known: Vec<&str> = words.skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(wrong, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 2).max(1))
        .min();
    Some(match nearest {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None if known.is_empty() => "no field is known here; remove the line".into(),
        None => format!("known here: {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::for_unknown_field;

    #[test]
    fn the_nearest_field_is_named() {
        let message = "unknown field `lisen`, expected one of `listen`, `hostname`";
        assert_eq!(for_unknown_field(message).as_deref(), Some("did you mean `listen`?"));
        let message = "unknown field `tls`, expected `listen` or `hostname`";
        assert_eq!(for_unknown_field(message).as_deref(), Some("known here: listen, hostname"));
        assert_eq!(for_unknown_field("missing field `listen`"), None);
    }
}
