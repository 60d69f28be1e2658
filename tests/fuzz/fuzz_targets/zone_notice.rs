//! Whatever a box sends as a notice of a zone, and whatever a relay says to it.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use sealpost_dns::transfer::notify::{self, Decision, NoticeError};
use sealpost_dns::transfer::query::error_reply;
use sealpost_relay::zones::notices;

const DECISIONS: [Decision; 4] =
    [Decision::Refresh, Decision::Busy, Decision::Refused, Decision::NotAuth];

fuzz_target!(|input: &[u8]| {
    let mut stream = input;
    let read = pin!(notices::read(&mut stream));
    // All of it is there.
    let Poll::Ready(read) = read.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for what is there")
    };
    let Ok(message) = read else { return };
    assert!(message.len() <= 4096 && input[2..].starts_with(&message));
    let parsed = notify::parse(&message);
    let id = u16::from_be_bytes([message[0], message[1]]);
    for decision in DECISIONS {
        let Some(reply) = notify::reply(&message, decision) else { continue };
        assert_eq!(notify::parse_reply(&reply, id), Some(decision.rcode()));
        assert_eq!(notify::parse(&reply), Err(NoticeError::Other));
    }
    let _ = error_reply(&message, Decision::Refused.rcode());
    let _ = notify::parse_reply(&message, id);
    let Ok(notice) = parsed else { return };
    assert_eq!(notice.id, id);
    let again = notify::parse(&notify::make(id, &notice.apex, None));
    assert_eq!(again.map(|again| again.apex), Ok(notice.apex));
});
