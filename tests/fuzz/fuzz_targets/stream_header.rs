//! Whatever a hostile relay writes in front of a stream, and on the control stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_tunnel::Opening;
use sealpost_tunnel::control::Message;
use sealpost_tunnel::header::MAX_ENCODED;

fuzz_target!(|bytes: &[u8]| {
    match Opening::decode(bytes) {
        Ok(Some((header, taken))) => {
            assert_eq!(header.encode(), &bytes[..taken]);
            assert_eq!(Opening::decode(&bytes[..taken - 1]), Ok(None));
        }
        Ok(None) => assert!(bytes.len() < MAX_ENCODED, "a full buffer must decide"),
        Err(_) => {}
    }
    if let Ok(Some((message, taken))) = Message::decode(bytes) {
        assert!(taken <= bytes.len());
        if !matches!(message, Message::Unknown(_)) {
            let again = message.encode();
            assert_eq!(Message::decode(&again), Ok(Some((message, again.len()))));
        }
    }
});
