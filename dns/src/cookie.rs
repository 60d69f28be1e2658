//! DNS cookies (RFC 7873) in the form that servers of different make can share (RFC 9018).
//!
//! A cookie shows that the client gets what is sent to its address, so it is not a victim whose address
//! was forged, and its answers need no rate limit. The server keeps nothing: the cookie is a keyed hash
//! over the client's own cookie, its address and the time.
//!
//! Name servers that answer at one address (anycast), and better all of a fleet, must have the same
//! secret (RFC 9018 section 5); one alone can make its own at start. To change a secret without
//! refusing anybody, every server first learns the new one beside the old, then uses it: the other one
//! is still accepted.
//!
//! Pure: octets and seconds in, octets and verdicts out.

use std::hash::Hasher;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use siphasher::sip::SipHasher24;
use thiserror::Error;

/// Octets of a client cookie.
pub const CLIENT_LEN: usize = 8;
/// Octets of the cookie that this server gives: the client's part and its own.
pub const COOKIE_LEN: usize = 24;
/// Octets of a secret (RFC 9018 section 4: a key of SipHash).
pub const SECRET_LEN: usize = 16;

/// Octets that the server's part may have (RFC 7873 section 4), whoever made it.
const SERVER_LENS: std::ops::RangeInclusive<usize> = 8..=32;
const VERSION: u8 = 1;
/// Oldest cookie that is good, in seconds (RFC 9018 section 4.3).
const OLDEST: u32 = 3600;
/// Age from which a client gets a new one, in seconds (RFC 9018 section 4.3: half an hour).
const RENEW: u32 = 1800;
/// How far ahead a sibling's clock may be, in seconds (RFC 9018 section 4.3).
const AHEAD: u32 = 300;

/// What the server's cookies are made with.
#[derive(Clone)]
pub struct Secret([u8; SECRET_LEN]);

/// A secret that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SecretError {
    /// It does not have 32 hexadecimal digits.
    #[error("a cookie secret has 32 hexadecimal digits; make one with `openssl rand -hex 16`")]
    Digits,
}

/// The secret for new cookies, and another one whose cookies are good too.
#[derive(Clone)]
pub struct Cookies {
    current: Secret,
    other: Option<Secret>,
}

/// What a client's COOKIE option is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The client has only its own part: it gets one of ours with its answer.
    ClientOnly([u8; CLIENT_LEN]),
    /// The client can be reached at its address. What it has can be sent back as it is.
    Valid([u8; CLIENT_LEN]),
    /// As `Valid`, and it is time for a new one.
    ValidButRenew([u8; CLIENT_LEN]),
    /// Not ours, too old, or from the future. To be treated as if the client had only its own part, or
    /// answered with BADCOOKIE and a new one (RFC 7873 section 5.2.4).
    Bad([u8; CLIENT_LEN]),
    /// The option has a length that is not allowed: FORMERR (RFC 7873 section 5.2.2).
    Malformed,
}

impl Secret {
    /// One that nobody else has.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// One that is shared with other servers, as in their configuration: BIND's `cookie-secret`, NSD's
    /// and Knot's are the same 32 digits.
    pub fn from_hex(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.len() != SECRET_LEN * 2 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(SecretError::Digits);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| SecretError::Digits)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Cookies {
    /// Makes cookies with `current` and accepts those of `other` too.
    pub fn new(current: Secret, other: Option<Secret>) -> Self {
        Self { current, other }
    }

    /// The COOKIE option's data for a client, at `now` in seconds since 1970 (which may wrap).
    pub fn make(&self, client: [u8; CLIENT_LEN], address: IpAddr, now: u32) -> [u8; COOKIE_LEN] {
        let mut cookie = [0; COOKIE_LEN];
        cookie[..8].copy_from_slice(&client);
        cookie[8] = VERSION;
        cookie[12..16].copy_from_slice(&now.to_be_bytes());
        let hash = self.current.hash(&cookie, address);
        cookie[16..].copy_from_slice(&hash);
        cookie
    }

    /// What the COOKIE option's data `option` is worth, when it comes from `address` at `now`.
    pub fn verify(&self, option: &[u8], address: IpAddr, now: u32) -> Verdict {
        let Some((client, server)) = option.split_first_chunk::<CLIENT_LEN>() else {
            return Verdict::Malformed;
        };
        let client = *client;
        if server.is_empty() {
            return Verdict::ClientOnly(client);
        }
        if !SERVER_LENS.contains(&server.len()) {
            return Verdict::Malformed;
        }
        let Ok(cookie) = <&[u8; COOKIE_LEN]>::try_from(option) else {
            return Verdict::Bad(client);
        };
        // The age first: it costs nothing. Serial arithmetic, as the clock wraps in 2106.
        let made = u32::from_be_bytes([cookie[12], cookie[13], cookie[14], cookie[15]]);
        let (age, ahead) = (now.wrapping_sub(made), made.wrapping_sub(now));
        if cookie[8] != VERSION || (age > OLDEST && ahead > AHEAD) {
            return Verdict::Bad(client);
        }
        let of_current = self.current.made(cookie, address);
        if of_current && (age <= RENEW || ahead <= AHEAD) {
            Verdict::Valid(client)
        } else if of_current || self.other.as_ref().is_some_and(|other| other.made(cookie, address))
        {
            Verdict::ValidButRenew(client)
        } else {
            Verdict::Bad(client)
        }
    }
}

impl Secret {
    fn made(&self, cookie: &[u8; COOKIE_LEN], address: IpAddr) -> bool {
        verify_slices_are_equal(&self.hash(cookie, address), &cookie[16..]).is_ok()
    }

    /// Over all but the hash itself; the reserved octets count as they are (RFC 9018 section 4.4).
    fn hash(&self, cookie: &[u8; COOKIE_LEN], address: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&cookie[..16]);
        match address.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    fn client(hex: &str) -> [u8; 8] {
        octets(hex)[..8].try_into().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn one(secret: &str) -> Cookies {
        Cookies::new(Secret::from_hex(secret).unwrap(), None)
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    // RFC 9018 appendix A.1.
    #[test]
    fn a_new_client_learns_a_cookie() {
        let (cookies, address) = (one(SECRET), ip("198.51.100.100"));
        let client = client("2464c4abcf10c957");
        assert_eq!(cookies.verify(&client, address, 0), Verdict::ClientOnly(client));
        let expected = octets("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!(cookies.make(client, address, 1_559_731_985).as_slice(), expected);
        let mapped = ip("::ffff:198.51.100.100");
        assert_eq!(cookies.make(client, mapped, 1_559_731_985).as_slice(), expected);
    }

    // RFC 9018 appendix A.2.
    #[test]
    fn after_forty_minutes_it_gets_a_new_one() {
        let (cookies, address) = (one(SECRET), ip("198.51.100.100"));
        let old = octets("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        let client = client("2464c4abcf10c957");
        let now = 1_559_734_385;
        assert_eq!(cookies.verify(&old, address, now), Verdict::ValidButRenew(client));
        let expected = octets("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        assert_eq!(cookies.make(client, address, now).as_slice(), expected);
    }

    // RFC 9018 appendix A.3.
    #[test]
    fn reserved_octets_of_another_make_are_hashed_as_they_are() {
        let (cookies, address) = (one(SECRET), ip("203.0.113.203"));
        let old = octets("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        let client = client("fc93fc62807ddb86");
        assert_eq!(cookies.verify(&old, address, 0x5cf7_8f71 + 60), Verdict::Valid(client));
        let expected = octets("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e");
        assert_eq!(cookies.make(client, address, 1_559_734_700).as_slice(), expected);
    }

    // RFC 9018 appendix A.4.
    #[test]
    fn a_cookie_of_the_former_secret_is_good_and_replaced() {
        let new = Secret::from_hex("445536bcd2513298075a5d379663c962").unwrap();
        let old = Secret::from_hex("dd3bdf9344b678b185a6f5cb60fca715").unwrap();
        let cookies = Cookies::new(new.clone(), Some(old));
        let address = ip("2001:db8:220:1:59de:d0f4:8769:82b8");
        let had = octets("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let client = client("22681ab97d52c298");
        let now = 1_559_741_961;
        assert_eq!(cookies.verify(&had, address, now), Verdict::ValidButRenew(client));
        let expected = octets("22681ab97d52c298010000005cf7c609a6bb79d16625507a");
        assert_eq!(cookies.make(client, address, now).as_slice(), expected);
        assert_eq!(Cookies::new(new, None).verify(&had, address, now), Verdict::Bad(client));
    }

    #[test]
    fn the_window_is_an_hour_back_and_five_minutes_ahead_also_when_the_clock_wraps() {
        let (cookies, address) = (one(SECRET), ip("192.0.2.1"));
        for made in [1_800_000_000, 100, u32::MAX - 100] {
            let cookie = cookies.make([7; 8], address, made);
            let at = |age: i32| cookies.verify(&cookie, address, made.wrapping_add_signed(age));
            for age in [-300, 0, 1800] {
                assert_eq!(at(age), Verdict::Valid([7; 8]), "{made} {age}");
            }
            for age in [1801, 3600] {
                assert_eq!(at(age), Verdict::ValidButRenew([7; 8]), "{made} {age}");
            }
            for age in [-301, 3601, i32::MIN] {
                assert_eq!(at(age), Verdict::Bad([7; 8]), "{made} {age}");
            }
        }
    }

    #[test]
    fn a_cookie_is_good_at_its_own_address_only() {
        let cookies = Cookies::new(Secret::random(), Some(Secret::random()));
        let cookie = cookies.make([1; 8], ip("192.0.2.1"), 1000);
        assert_eq!(cookies.verify(&cookie, ip("192.0.2.1"), 1000), Verdict::Valid([1; 8]));
        assert_eq!(cookies.verify(&cookie, ip("192.0.2.2"), 1000), Verdict::Bad([1; 8]));
    }

    #[test]
    fn secrets_are_32_digits() {
        assert!(Secret::from_hex(" 000102030405060708090a0b0c0d0e0f\n").is_ok());
        for wrong in
            ["", "00", "g00102030405060708090a0b0c0d0e0f", "+0010203040506070809a0b0c0d0e0f0"]
        {
            assert_eq!(Secret::from_hex(wrong).err(), Some(SecretError::Digits));
        }
    }

    proptest! {
        #[test]
        fn lengths_decide_what_is_malformed(option in proptest::collection::vec(any::<u8>(), 0..50)) {
            let verdict = one(SECRET).verify(&option, ip("192.0.2.1"), 1);
            match option.len() {
                8 => prop_assert!(matches!(verdict, Verdict::ClientOnly(_))),
                16..=40 => prop_assert!(matches!(verdict, Verdict::Bad(_))),
                _ => prop_assert_eq!(verdict, Verdict::Malformed),
            }
        }

        #[test]
        fn one_flipped_bit_makes_it_bad(bit in 0usize..192, now in any::<u32>()) {
            let (cookies, address) = (one(SECRET), ip("2001:db8::1"));
            let mut cookie = cookies.make([9; 8], address, now);
            cookie[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(cookies.verify(&cookie, address, now), Verdict::Bad(_)));
        }
    }
}
