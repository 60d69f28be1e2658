//! ClientHellos of real TLS libraries, whole, in every prefix, in every split and in several
//! records: what the relay reads in them never depends on how they arrive.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use sealpost_relay::ingress::client_hello::{Hello, HelloError, HelloReader, MAX_HELLO};
use sealpost_relay::route::Sni;

type Verdict = Result<Option<Hello>, HelloError>;

macro_rules! captured {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/hellos/", $name, ".bin")).as_slice()
    };
}

/// Each captured hello, whom it names, and whether it can speak mail.
fn captured() -> Vec<(&'static str, &'static [u8], Sni, bool)> {
    let home = || Sni::Name("mx.home.example".parse().unwrap());
    vec![
        ("openssl", captured!("openssl-3-sni"), home(), true),
        ("openssl, TLS 1.2", captured!("openssl-3-tls12"), home(), true),
        ("openssl, no name", captured!("openssl-3-no-sni"), Sni::Absent, true),
        // RFC 6066 forbids addresses; the TLS library skips them as if nothing was said.
        ("openssl, address", captured!("openssl-3-address"), Sni::Absent, true),
        ("openssl, underscore", captured!("openssl-3-underscore"), Sni::Bad, true),
        ("openssl, one label", captured!("openssl-3-dummy"), Sni::Bad, true),
        ("openssl, ALPN of the web", captured!("openssl-3-alpn-http"), home(), false),
        ("openssl, ALPN with smtp", captured!("openssl-3-alpn-smtp"), home(), true),
        ("gnutls", captured!("gnutls-sni"), home(), true),
        ("gnutls, no name", captured!("gnutls-no-sni"), Sni::Absent, true),
        ("rustls, post-quantum", captured!("rustls-post-quantum"), home(), true),
    ]
}

/// What is read when `pieces` arrive one after the other.
fn read(pieces: &[&[u8]]) -> Verdict {
    let (mut reader, mut wire) = (HelloReader::default(), Vec::new());
    for piece in pieces {
        wire.extend_from_slice(piece);
        match reader.read(&wire) {
            Ok(None) => {}
            verdict => return verdict,
        }
    }
    Ok(None)
}

/// The same handshake message in records of at most `size` octets.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    hello[5..]
        .chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&hello[..3], &length, part].concat()
        })
        .collect()
}

#[test]
fn real_hellos_say_whom_they_mean() {
    for (name, bytes, sni, speaks_mail) in captured() {
        assert_eq!(read(&[bytes]), Ok(Some(Hello { sni, speaks_mail })), "{name}");
    }
}

#[test]
fn every_prefix_asks_for_more() {
    for (name, bytes, ..) in captured() {
        for end in 0..bytes.len() {
            assert_eq!(read(&[&bytes[..end]]), Ok(None), "{name}, {end} octets");
        }
    }
}

#[test]
fn every_split_gives_the_same_verdict() {
    for (name, bytes, ..) in captured() {
        let whole = read(&[bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..at], &bytes[at..]]), whole, "{name} split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), whole, "{name} octet by octet");
    }
}

#[test]
fn a_hello_in_several_records_is_read_like_one() {
    for (name, bytes, ..) in captured() {
        let whole = read(&[bytes]);
        for size in [1, 100, bytes.len().div_ceil(3)] {
            let records = in_records(bytes, size);
            if records.len() <= MAX_HELLO {
                assert_eq!(read(&[&records]), whole, "{name} in records of {size}");
            }
        }
    }
}

#[test]
fn what_follows_the_hello_changes_nothing() {
    // A ChangeCipherSpec record, as TLS 1.3 clients in compatibility mode send it.
    let behind = [20, 3, 3, 0, 1, 1];
    for (name, bytes, ..) in captured() {
        let wire = [bytes, &behind].concat();
        assert_eq!(read(&[&wire]), read(&[bytes]), "{name}");
    }
}

#[test]
fn what_is_not_tls_is_told_by_its_first_octets() {
    for noise in [&b"EHLO again\r\n"[..], b"\0", b"\x16\x02", b"\x15\x03\x01"] {
        assert_eq!(read(&[noise]), Err(HelloError::NotTls));
        let single: Vec<&[u8]> = noise.chunks(1).collect();
        assert_eq!(read(&single), Err(HelloError::NotTls));
    }
}

#[test]
fn a_hello_without_an_end_is_bounded() {
    // A handshake message that claims to be 60,000 octets long, in full records.
    let mut message = vec![1, 0, 0xea, 0x60];
    message.resize(60_000, 0);
    let endless = in_records(&[&[22, 3, 1, 0, 0][..], &message].concat(), 16_000);
    assert_eq!(read(&[&endless]), Err(HelloError::TooLong));
    let pieces: Vec<&[u8]> = endless.chunks(7).collect();
    assert_eq!(read(&pieces), Err(HelloError::TooLong));
    assert_eq!(read(&[&endless[..MAX_HELLO]]), Err(HelloError::TooLong));
    assert_eq!(read(&[&endless[..MAX_HELLO - 1]]), Ok(None));
}

#[test]
fn a_hello_that_cannot_be_read_names_nobody() {
    let unreadable = Ok(Some(Hello { sni: Sni::Unreadable, speaks_mail: true }));
    // A ServerHello, and a ClientHello that ends inside its random number.
    for message in [&[2, 0, 0, 2, 3, 3][..], &[1, 0, 0, 4, 3, 3, 0, 0]] {
        let length = u8::try_from(message.len()).unwrap();
        let wire = [&[22, 3, 1, 0, length][..], message].concat();
        assert_eq!(read(&[&wire]), unreadable);
    }
}
