//! Counts words in streams of bytes that come in pieces. Pure.

use memchr::memmem::Finder;

/// Looks for several words at once.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    words: Vec<(Finder<'a>, u64)>,
    /// The end of the previous piece, in which a word may have begun.
    carried: Vec<u8>,
    bytes: u64,
}

impl<'a> Search<'a> {
    /// A search for `words`, none of them empty.
    pub(crate) fn new(words: impl IntoIterator<Item = &'a str>) -> Self {
        let words = words.into_iter().map(|word| (Finder::new(word), 0)).collect();
        Self { words, carried: Vec::new(), bytes: 0 }
    }

    /// Takes the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        let old = self.carried.len();
        let mut bytes = std::mem::take(&mut self.carried);
        bytes.extend_from_slice(piece);
        let mut longest = 0;
        for (finder, count) in &mut self.words {
            let length = finder.needle().len();
            longest = longest.max(length);
            // What lies wholly in the old part was counted with the previous piece.
            *count += finder.find_iter(&bytes).filter(|at| at + length > old).count() as u64;
        }
        let keep = bytes.len().min(longest.saturating_sub(1));
        self.carried = bytes.split_off(bytes.len() - keep);
    }

    /// The next piece does not follow on the previous one.
    pub(crate) fn gap(&mut self) {
        self.carried.clear();
    }

    /// Bytes looked at.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often each word was found, in the order of `new`.
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        self.words.iter().map(|(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(search: &Search<'_>) -> Vec<u64> {
        search.counts().collect()
    }

    #[test]
    fn finds_words_however_the_stream_is_cut() {
        let text = b"xx marigold yy rose marigold";
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut search = Search::new(["marigold", "rose", "tulip"]);
                search.feed(&text[..first]);
                search.feed(&text[first..second]);
                search.feed(&text[second..]);
                assert_eq!(counts(&search), [2, 1, 0], "cut at {first} and {second}");
                assert_eq!(search.bytes(), text.len() as u64);
            }
        }
    }

    #[test]
    fn finds_nothing_across_a_gap() {
        let mut search = Search::new(["marigold"]);
        search.feed(b"mari");
        search.gap();
        search.feed(b"gold");
        assert_eq!(counts(&search), [0]);
    }
}
