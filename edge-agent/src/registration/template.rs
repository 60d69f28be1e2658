//! A whole `agent.toml` for a box that has none, with comments. Pure.

use std::path::Path;

use sealpost_tunnel::HostPort;

use super::edit::{Entry, quoted, table};

/// Where the guides for mail servers let them listen for the agent.
pub const MAIL_SERVER: &str = "127.0.0.1:2525";

/// The file for a box whose directory is `state`, with `relays`, and a mail server at `service`.
pub fn file(state: &Path, relays: &[Entry], service: &HostPort) -> String {
    let state = quoted(&state.to_string_lossy());
    let service = quoted(service.as_str());
    let relays: String = relays.iter().map(|relay| format!("{}\n", table(relay))).collect();
    format!(
        r#"# Sealpost agent. Check it with:   sealpost-agent check-config
#                 Read it anew:    systemctl reload sealpost-agent   (SIGHUP)
#                 See how it is:   sealpost-agent status
#
# Lines that are commented out show the default.

# The directory for this box's private key. Nobody else may read it.
state = {state}

# One entry for each relay; a tunnel is kept up to each. `sealpost-agent join` adds one,
# `sealpost-agent leave` takes one out.

{relays}# One entry for each service that relays may reach. Nothing else on this box can be reached.
[[service]]
# Mail from other servers always comes for the service "smtp".
name = "smtp"
# Where the mail server listens, HOST:PORT. Best a port of its own that demands the PROXY protocol.
address = {service}
# How the mail server learns the sender's address: the PROXY protocol "v2" or "v1", or "none".
# proxy = "v2"
# A mailbox that is not this server's own. The self-test offers it, and delivers mail only if the
# server refuses it.
# self_test_recipient = "open-relay-test@example.com"

# Health, metrics and status over HTTP, for this machine alone: the address must be loopback.
[admin]
# listen = "127.0.0.1:9026"

[log]
# "text" for people, "json" for one object a line.
# format = "text"
# error, warn, info, debug or trace.
# level = "info"

[limits]
# Connections to services at once, over all relays.
# sessions = 256
# Silence in both directions after which a session is cut.
# idle = "15m"
# How long sessions may go on after SIGTERM. The systemd unit must allow more (TimeoutStopSec).
# drain = "60s"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use sealpost_daemon::config::Source;
    use sealpost_tunnel::Identity;

    fn entry(name: &str) -> Entry {
        let key = Identity::ephemeral().public();
        Entry { name: name.into(), addresses: vec!["relay.example:4433".parse().unwrap()], key }
    }

    #[test]
    fn the_file_loads_and_a_relay_can_be_added_and_taken_out() {
        let state = Path::new("/var/lib/odd \"name\"");
        let text = file(state, &[entry("r1")], &MAIL_SERVER.parse().unwrap());
        let load =
            |text: &str| Config::from_source(&Source::from_text("agent.toml", text)).unwrap();
        let config = load(&text);
        assert_eq!(config.fixed.state, state);
        assert_eq!((config.relays[0].name.as_str(), config.relays.len()), ("r1", 1));
        assert_eq!(config.services[0].address.as_str(), MAIL_SERVER);
        let second = super::super::edit::add(&text, &entry("r2")).unwrap();
        assert_eq!(
            second,
            file(state, &[], &MAIL_SERVER.parse().unwrap()).replacen(
                "\n\n# One entry for each service",
                &format!(
                    "\n\n{}\n{}\n# One entry for each service",
                    table(&as_entry(&load(&second).relays[0])),
                    table(&as_entry(&load(&second).relays[1]))
                ),
                1,
            )
        );
    }

    fn as_entry(relay: &crate::config::Relay) -> Entry {
        Entry { name: relay.name.clone(), addresses: relay.addresses.clone(), key: relay.key }
    }
}
