//! Log lines of the children as hops of the story. Pure.

use crate::logline::LogLine;
use crate::outcomes;
use crate::roles::Role;

/// What a line means to a spectator; `None` for what would only be noise.
pub(crate) fn hop(role: Role, line: &LogLine) -> Option<String> {
    let text = match (role, line.message()) {
        (Role::Sink, "listening") => {
            format!("the mail server at home waits on {}", line.or_dash("address"))
        }
        (Role::Relay, "listening") => match line.text("service")? {
            "smtp" => format!("takes mail on {}", line.or_dash("address")),
            "tunnel" => format!("takes tunnels on {} (QUIC)", line.or_dash("address")),
            _ => return None,
        },
        (Role::Agent, "tunnel up") => {
            format!("dialled out: tunnel to {} is up, keys pinned both ways", line.or_dash("relay"))
        }
        (Role::Relay, "box connected") => format!("box {:?} is here", line.or_dash("box")),
        (Role::Relay, "box gone") => format!("box {:?} is gone", line.or_dash("box")),
        (Role::Agent, "no tunnel") => {
            format!("no tunnel to {}: {}", line.or_dash("relay"), line.or_dash("reason"))
        }
        (Role::Agent, "self-test") => {
            let detail =
                line.text("detail").map(|detail| format!(": {detail}")).unwrap_or_default();
            format!("open-relay self-test {}{detail}", line.or_dash("result"))
        }
        (Role::Relay, "routed") => format!(
            "a ClientHello for {}: that is box {:?} (session {})",
            line.or_dash("sni"),
            line.or_dash("box"),
            line.or_dash("session"),
        ),
        (Role::Agent, "delivering") => format!(
            "takes the sealed stream to the mail server on {} (session {})",
            line.or_dash("to"),
            line.or_dash("session"),
        ),
        (Role::Sink, "stored") => format!(
            "opens the envelope: {} bytes on disk in the Maildir, says 250",
            line.number("bytes").unwrap_or(0),
        ),
        (Role::Relay | Role::Agent, "session") => session(line),
        _ if line.is_complaint() => line.in_words(),
        _ => return None,
    };
    Some(text)
}

fn session(line: &LogLine) -> String {
    let outcome = line.or_dash("outcome");
    format!(
        "session ends: {outcome} ({}), {} bytes in, {} out",
        outcomes::in_words(outcome),
        line.number("bytes_in").unwrap_or(0),
        line.number("bytes_out").unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_matters_and_nothing_else() {
        let told = |role, json: &str| hop(role, &LogLine::parse(json));
        let closing = r#"{"level":"INFO","message":"session","outcome":"carried","bytes_in":7,"bytes_out":8}"#;
        assert_eq!(
            told(Role::Relay, closing).as_deref(),
            Some("session ends: carried (both ends ended in order), 7 bytes in, 8 out")
        );
        assert_eq!(told(Role::Relay, r#"{"level":"INFO","message":"registry loaded"}"#), None);
        assert_eq!(
            told(Role::Agent, r#"{"level":"WARN","message":"relay has another key","relay":"r1"}"#)
                .as_deref(),
            Some("relay has another key relay=r1")
        );
        assert_eq!(
            told(Role::Relay, r#"{"level":"INFO","message":"listening","service":"admin"}"#),
            None
        );
    }
}
