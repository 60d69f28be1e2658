//! Whole zones, as a primary that is nobody's friend would send them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| sealpost_dns::admission::exercise(octets));
