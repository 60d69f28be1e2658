//! The outcomes of sessions in words. Pure.

/// What an outcome in a closing line means. The words are for spectators; the book has the full
/// table.
pub(crate) fn in_words(outcome: &str) -> &'static str {
    match outcome {
        "carried" => "both ends ended in order",
        "sender-reset" => "the sender tore the connection down",
        "home-reset" => "the mail server at home tore the connection down",
        "relay-reset" => "the relay tore the stream down",
        "idle" => "nobody said anything for too long",
        "tunnel-lost" => "the tunnel broke",
        "quit" => "the sender said QUIT before any mail",
        "disconnected" => "the sender left before any mail",
        "plaintext-refused" => "the sender wanted to send without TLS",
        "not-tls" => "what came after STARTTLS was not TLS",
        "hello-malformed" => "the ClientHello makes no sense",
        "sni-absent" => "the ClientHello names no server, and this address is shared",
        "sni-bad" => "the name in the ClientHello is no host name",
        "sni-unknown" => "no box has the name in the ClientHello",
        "box-offline" => "the name is known, but its box is not connected",
        "service-unknown" => "the agent's file names no such service",
        "service-withheld" => "the agent does not deliver before the self-test has passed",
        "home-unreachable" => "nothing answers at the mail server's address",
        "home-refused" => "the mail server at home refused the conversation",
        "home-no-starttls" => "the mail server at home offers no STARTTLS",
        "home-injection" => "there were bytes between the mail server's 220 and TLS",
        "home-timeout" => "the mail server at home took too long",
        "draining" => "the relay is shutting down",
        _ => "see the book's table of outcomes",
    }
}
