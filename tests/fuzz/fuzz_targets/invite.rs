//! Whatever somebody pastes where an invite, a recovery kit or a relay is asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealpost_tunnel::{DomainName, Invite, Kit, RelayRef};

fuzz_target!(|text: &str| {
    if let Ok(invite) = text.parse::<Invite>() {
        let again: Invite = invite.to_string().parse().expect("its own form is read");
        assert_eq!(again.to_string(), invite.to_string());
    }
    if let Ok(kit) = text.parse::<Kit>() {
        let again: Kit = kit.to_string().parse().expect("its own form is read");
        assert_eq!(again.to_string(), kit.to_string());
    }
    if let Ok(relay) = text.parse::<RelayRef>() {
        assert_eq!(relay.to_string().parse(), Ok(relay));
    }
    if let Ok(domain) = text.parse::<DomainName>() {
        assert_eq!(domain.as_str().parse(), Ok(domain));
    }
});
