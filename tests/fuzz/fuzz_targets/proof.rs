//! Whatever stands in a stranger's TXT record, and whatever name a stranger claims.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_relay::proof::Claimable;
use sealpost_relay::proof::record::{Reading, read, text};

fuzz_target!(|bytes: &[u8]| {
    let strings: Vec<&[u8]> = bytes.chunks(255).collect();
    if let Reading::Box(fingerprint) = read(&strings) {
        assert_eq!(read(&[text(fingerprint)]), Reading::Box(fingerprint));
    }
    if let Ok(domain) = String::from_utf8_lossy(bytes).parse() {
        let _ = Claimable::default().check(&domain);
    }
});
