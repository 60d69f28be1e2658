//! Whatever a sender says before TLS, in whatever segments: never 5xx, never 454, and the end
//! does not depend on the segments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_relay::ingress::Outcome;
use sealpost_relay::ingress::preamble::{MAX_LINE, Preamble, Step};

#[derive(Debug, PartialEq)]
enum End {
    Open,
    Tls,
    Closed(Outcome),
}

fn play(pieces: &[&[u8]]) -> (String, End) {
    let mut preamble = Preamble::new("relay.example", false);
    let (mut replies, mut buffer) = (preamble.greeting(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match preamble.step(&buffer) {
                Step::More => {
                    assert!(buffer.len() < MAX_LINE, "a full buffer must decide");
                    break;
                }
                Step::Reply { consumed, reply } => {
                    assert!(consumed > 0);
                    buffer.drain(..consumed);
                    replies.push_str(&reply);
                }
                Step::StartTls { reply } => {
                    assert!(buffer.to_ascii_uppercase().starts_with(b"STARTTLS"));
                    return (replies + reply, End::Tls);
                }
                Step::Close { reply, outcome } => return (replies + reply, End::Closed(outcome)),
            }
        }
    }
    (replies, End::Open)
}

fuzz_target!(|input: (u16, &[u8])| {
    let (at, bytes) = input;
    let whole = play(&[bytes]);
    for line in whole.0.lines() {
        assert!(line.starts_with(['2', '4']) && !line.starts_with("454"), "{line}");
    }
    // Whether something stands behind STARTTLS is all that may depend on the segments.
    if !bytes.to_ascii_uppercase().windows(8).any(|word| word == b"STARTTLS") {
        let (first, second) = bytes.split_at(usize::from(at) % (bytes.len() + 1));
        assert_eq!(play(&[first, second]), whole);
    }
});
