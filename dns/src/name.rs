//! Names as they are looked up: in lower case, with the places of their labels, and without a heap.

/// Octets of the longest name (RFC 1035 section 2.3.4).
pub const MAX_OCTETS: usize = 255;
/// Labels of the name with the most of them, without the root.
const MAX_LABELS: usize = 127;
/// Octets of the longest label; what is larger is a pointer (RFC 1035 section 4.1.4) or nothing.
pub const MAX_LABEL: u8 = 63;

/// A name in wire format without compression, in lower case.
#[derive(Clone)]
pub struct Lower {
    octets: [u8; MAX_OCTETS],
    len: u8,
    /// Where each label begins, the leftmost first.
    starts: [u8; MAX_LABELS],
    labels: u8,
}

impl Lower {
    /// Reads a name without compression from the beginning of `wire`; none if there is not a whole
    /// one. Its length is `as_wire().len()`.
    pub fn read(wire: &[u8]) -> Option<Self> {
        let mut name = Self { octets: [0; MAX_OCTETS], len: 0, starts: [0; MAX_LABELS], labels: 0 };
        let mut at = 0;
        loop {
            let length = *wire.get(at)?;
            if length == 0 {
                break;
            }
            let end = at + 1 + usize::from(length);
            // The root follows, so that the last octet is never a label's.
            if length > MAX_LABEL || end >= MAX_OCTETS {
                return None;
            }
            name.starts[usize::from(name.labels)] = at as u8;
            name.labels += 1;
            name.octets[at..end].copy_from_slice(wire.get(at..end)?);
            at = end;
        }
        name.len = at as u8 + 1;
        // A length is less than 64 and so never a letter.
        name.octets[..at].make_ascii_lowercase();
        Some(name)
    }

    /// The whole name with its root.
    pub fn as_wire(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    /// Labels without the root.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Where the last `labels` labels begin.
    fn start(&self, labels: usize) -> usize {
        match self.labels().checked_sub(labels) {
            Some(skip) if labels > 0 => usize::from(self.starts[skip]),
            _ => usize::from(self.len) - 1,
        }
    }

    /// The name made of the last `labels` labels, with its root.
    pub fn suffix(&self, labels: usize) -> &[u8] {
        &self.as_wire()[self.start(labels)..]
    }

    /// The labels between the last `labels` labels, which it leaves out, and the last `until`.
    pub fn between(&self, labels: usize, until: usize) -> &[u8] {
        &self.octets[self.start(until)..self.start(labels)]
    }

    /// Whether it ends with the whole of `apex`, a name of `labels` labels in lower case.
    pub fn is_within(&self, apex: &[u8], labels: usize) -> bool {
        self.labels() >= labels && self.suffix(labels) == apex
    }
}

/// The labels of a name in wire format without its root, the leftmost first.
pub fn labels(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = wire.split_first()?;
        if length == 0 || length > MAX_LABEL {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        wire = rest;
        Some(label)
    })
}

/// How many octets of a whole name stand before its last labels `apex`, in whatever case; none if it
/// ends with others.
pub fn before(name: &[u8], apex: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = name.get(at..)?;
        if rest.len() <= apex.len() {
            return rest.eq_ignore_ascii_case(apex).then_some(at);
        }
        let length = *rest.first().filter(|length| (1..=MAX_LABEL).contains(*length))?;
        at += 1 + usize::from(length);
    }
}

/// Ends a label in a [sort key](sort_key).
pub const KEY_END: u8 = 0;
/// What stands in a sort key for an octet that the end could be mistaken for, and itself.
const KEY_ESCAPE: u8 = 1;

/// Octets that compare as names do in canonical order (RFC 4034 section 6.1): the labels from the right
/// in lower case, each ended by a zero. `labels` are those of a name, the leftmost first.
///
/// A comparison label by label would cost thousands of steps for hostile names (127 labels each), times
/// the logarithm of a zone. The octets 0 and 1 inside labels are escaped by a 1, so that the end of a label
/// sorts before all that could go on. A key is a prefix of exactly the keys of the names at and below it.
pub fn sort_key(labels: &[u8], key: &mut Vec<u8>) {
    key.clear();
    append_sort_key(labels, key);
}

/// The same behind what `key` has already.
pub fn append_sort_key(labels: &[u8], key: &mut Vec<u8>) {
    // Octets rather than numbers of the machine's size, which take eight times as long to clear.
    let mut starts = [0u8; MAX_LABELS];
    let mut count = 0;
    let mut at = 0;
    for label in self::labels(labels).take(MAX_LABELS) {
        starts[count] = at as u8;
        count += 1;
        at += label.len() + 1;
    }
    for start in starts[..count].iter().map(|start| usize::from(*start)).rev() {
        let label = &labels[start + 1..][..usize::from(labels[start])];
        for octet in label.iter().map(u8::to_ascii_lowercase) {
            if octet <= KEY_ESCAPE {
                key.push(KEY_ESCAPE);
            }
            key.push(if octet <= KEY_ESCAPE { octet + KEY_ESCAPE } else { octet });
        }
        key.push(KEY_END);
    }
}

/// Makes of the key of a name below the one with the last `labels` labels of it the key of the wildcard
/// below that (RFC 4592 section 2.1.1).
pub fn wildcard_key(labels: usize, key: &mut Vec<u8>) {
    // No label has a zero in a key.
    let mut ends = key.iter().enumerate().filter(|(_, octet)| **octet == 0).map(|(at, _)| at + 1);
    let end = labels.checked_sub(1).map_or(Some(0), |before| ends.nth(before));
    key.truncate(end.unwrap_or(key.len()));
    key.extend_from_slice(b"*\0");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend(label.bytes());
        }
        wire.push(0);
        wire
    }

    #[test]
    fn a_name_is_read_and_taken_apart() {
        let name = Lower::read(&wire("Www.Example.COM")).unwrap();
        assert_eq!(name.as_wire(), wire("www.example.com"));
        assert_eq!(name.labels(), 3);
        assert_eq!(name.suffix(2), wire("example.com"));
        assert_eq!(name.suffix(3), name.as_wire());
        assert_eq!(name.suffix(0), [0]);
        assert_eq!(name.between(2, 3), b"\x03www");
        assert_eq!(name.between(2, 2), b"");
        assert!(name.is_within(&wire("example.com"), 2));
        assert!(!name.is_within(&wire("ample.com"), 2));
        assert_eq!(Lower::read(&[0]).unwrap().as_wire(), [0]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [&b""[..], b"\x03ab", b"\x03abc", b"\xc0\x0c", b"\x40"] {
            assert!(Lower::read(bad).is_none(), "{bad:?}");
        }
        let mut longest: Vec<u8> = b"\x01a".repeat(127);
        longest.push(0);
        assert_eq!(Lower::read(&longest).unwrap().as_wire().len(), 255);
        longest.splice(..0, *b"\x01a");
        assert!(Lower::read(&longest).is_none());
    }

    #[test]
    fn what_stands_before_an_apex_is_counted() {
        let apex = wire("example.com");
        assert_eq!(before(&wire("Www.Example.COM"), &apex), Some(4));
        assert_eq!(before(&apex, &apex), Some(0));
        assert_eq!(before(&wire("www.example.com"), &[0]), Some(16));
        for other in ["com", "wwwexample.com", "www.example.org", ""] {
            assert_eq!(before(&wire(other), &apex), None, "{other}");
        }
        for bad in [&b""[..], b"\xc0\x0c", b"\x05ab\x07example\x03com\x00"] {
            assert_eq!(before(bad, &apex), None);
        }
    }

    #[test]
    fn keys_have_the_canonical_order() {
        // The example of RFC 4034 section 6.1.
        let order: [&[u8]; 8] = [
            b"\x07example\x00",
            b"\x01a\x07example\x00",
            b"\x08yljkjljk\x01a\x07example\x00",
            b"\x01Z\x01a\x07example\x00",
            b"\x04zABC\x01a\x07EXAMPLE\x00",
            b"\x01z\x07example\x00",
            b"\x01\x01\x01z\x07example\x00",
            b"\x01\xc8\x01z\x07example\x00",
        ];
        let key = |name: &[u8]| {
            let mut key = Vec::new();
            sort_key(name, &mut key);
            key
        };
        let keys: Vec<_> = order.into_iter().map(key).collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn the_key_of_a_wildcard_is_that_of_its_name() {
        let key = |name: &[u8]| {
            let mut key = Vec::new();
            sort_key(name, &mut key);
            key
        };
        for (labels, wildcard) in [
            (0, &b"\x01*"[..]),
            (1, b"\x01*\x03\x00\x01b"),
            (2, b"\x01*\x01Z\x03\x00\x01b"),
            (3, b"\x01*\x02\x00\x01\x01Z\x03\x00\x01b"),
        ] {
            let mut below = key(b"\x01x\x02\x00\x01\x01Z\x03\x00\x01b");
            wildcard_key(labels, &mut below);
            assert_eq!(below, key(wildcard), "{labels}");
        }
    }
}
