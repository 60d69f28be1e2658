//! Whatever the mail server at home says before TLS; replies are separated by 0xff. TLS begins
//! only after it was offered and accepted, with nothing behind the last reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_agent::deliver::starttls::{MAX_REPLY, Replay, Reply, Step};

fuzz_target!(|input: (u16, &[u8])| {
    let (at, bytes) = input;
    let mut replay = Replay::new("mail.sender.example");
    for (turn, reply) in bytes.split(|&octet| octet == 0xff).enumerate() {
        let (first, _) = reply.split_at(usize::from(at) % (reply.len() + 1));
        // What is already decided about the beginning of a reply must not change.
        let early = Reply::parse(first).map(|parsed| parsed.map(|r| (r.code, r.length)));
        let late = Reply::parse(reply).map(|parsed| parsed.map(|r| (r.code, r.length)));
        assert!(early == late || early == Ok(None));
        match replay.step(reply) {
            Ok(Step::Tls) => {
                assert_eq!(turn, 2);
                assert!(reply.starts_with(b"220") && reply.ends_with(b"\r\n"));
                assert!(bytes.to_ascii_uppercase().windows(8).any(|word| word == b"STARTTLS"));
                return;
            }
            Ok(Step::Send(command)) => {
                assert!(command.ends_with("\r\n") && command.matches('\n').count() == 1);
            }
            Ok(Step::More) => {
                assert!(reply.len() < MAX_REPLY, "a full buffer must decide");
                return;
            }
            Err(_) => return,
        }
    }
});
