//! The serial number of a zone, by which its name servers notice that it changed. Pure.
//!
//! A serial that goes back makes every name server keep the old zone until it expires, so the
//! clock proposes and the last serial decides.

/// The serial after `last`: the time where that is newer, otherwise one more (RFC 1982). `now` is
/// in seconds since 1970. A zone with more than one change a second runs ahead of the clock and is
/// caught up with later.
pub fn next(last: Option<u32>, now: u64) -> u32 {
    // Only the low 32 bits count, as serials wrap around.
    let time = now as u32;
    let serial = match last {
        Some(last) if !is_newer(time, last) => last.wrapping_add(1),
        _ => time,
    };
    // Zero is a serial like others, but not to all software.
    serial.max(1)
}

/// Whether `serial` comes after `other` (RFC 1982 section 3.2). Of two serials that are as far apart
/// as can be neither does.
pub fn is_newer(serial: u32, other: u32) -> bool {
    (serial.wrapping_sub(other) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_clock_proposes_and_the_last_serial_decides() {
        assert_eq!(next(None, 1_700_000_000), 1_700_000_000);
        assert_eq!(next(Some(1_600_000_000), 1_700_000_000), 1_700_000_000);
        assert_eq!(next(Some(1_700_000_000), 1_700_000_000), 1_700_000_001);
        assert_eq!(next(Some(2_026_112_201), 1_790_000_000), 2_026_112_202, "dates are ahead");
        assert_eq!(next(Some(u32::MAX), 1 << 32), 1, "wrapped around, zero left out");
    }

    proptest! {
        #[test]
        fn it_never_goes_back(last: u32, now: u64) {
            prop_assert!(is_newer(next(Some(last), now), last));
        }
    }
}
