//! What a peer said in words, as it may stand in a log line or on a terminal.

/// `text` without what could break a line, colour a terminal or turn the direction of writing,
/// and of at most `max` characters.
pub fn spoken(text: &str, max: usize) -> String {
    text.chars().filter(|&c| !c.is_control() && !is_invisible(c)).take(max).collect()
}

/// Characters that show nothing themselves but change how others are shown: separators of lines
/// and paragraphs, zero widths, directions, tags and the byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_and_what_steers_a_terminal_goes() {
        assert_eq!(spoken("näh, 1 \u{1f4e7}!", 100), "näh, 1 \u{1f4e7}!");
        assert_eq!(spoken("a\r\nb\x1b[31mc\u{85}d\u{9b}e", 100), "ab[31mcde");
        assert_eq!(spoken("gro\u{202e}.elpmaxe\u{2066}\u{200b}\u{feff}", 100), "gro.elpmaxe");
        assert_eq!(spoken(&"ä".repeat(1000), 300).chars().count(), 300);
    }
}
