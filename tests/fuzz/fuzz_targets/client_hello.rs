//! Whatever comes where a ClientHello belongs: the verdict does not depend on the segments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_relay::ingress::client_hello::{Hello, HelloError, HelloReader, MAX_HELLO};

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Hello>, HelloError> {
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

fuzz_target!(|input: (u16, &[u8])| {
    let (at, bytes) = input;
    let whole = read([bytes]);
    assert!(bytes.len() < MAX_HELLO || whole != Ok(None), "a full buffer must decide");
    let (first, second) = bytes.split_at(usize::from(at) % (bytes.len() + 1));
    assert_eq!(read([first, second]), whole);
    assert_eq!(read(bytes.chunks(1)), whole);
});
