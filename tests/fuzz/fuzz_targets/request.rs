//! Whatever a stranger asks of a relay's registry, and whatever a hostile relay answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_tunnel::{Answer, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(answer) = Answer::decode(bytes) {
        if let Answer::Refused(refusal) = &answer {
            assert!(!refusal.message.chars().any(char::is_control), "a terminal would obey it");
        }
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
});
