//! How a session ended: the field `outcome` of its closing line and the label of its counter.

use sealpost_tunnel::ResetCode;

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal;)+) => {
        /// How a session ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Outcome {
            /// Every outcome, so that each counter exists from the start.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in logs and metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

outcomes! {
    /// The stream was carried, and both sides ended it cleanly.
    Carried = "carried";
    /// The sender reset the connection while the stream was carried.
    SenderReset = "sender-reset";
    /// The mail server at home reset the connection while the stream was carried.
    HomeReset = "home-reset";
    /// No byte passed for too long while the stream was carried.
    Idle = "idle";
    /// The tunnel was lost while the stream was carried.
    TunnelLost = "tunnel-lost";
    /// The sender said QUIT before TLS.
    Quit = "quit";
    /// The sender went away before TLS reached the mail server at home.
    Disconnected = "disconnected";
    /// The sender wanted to send mail without TLS.
    PlaintextRefused = "plaintext-refused";
    /// As many sessions as the relay may have.
    Busy = "busy";
    /// As many sessions as one network may have.
    BusyPrefix = "busy-prefix";
    /// As many sessions as one box may have.
    BusyBox = "busy-box";
    /// The sender spoke before the greeting, at a box that the shield stands before.
    Pregreet = "pregreet";
    /// The sender's address is on a list of the shield.
    Listed = "listed";
    /// More connections of one network than the shield lets begin, for this box.
    RatePrefix = "rate-prefix";
    /// More connections than the shield lets begin, for this box.
    RateBox = "rate-box";
    /// It had no whole ClientHello yet when its place was needed for another.
    Evicted = "evicted";
    /// The dialogue before TLS took too long.
    PreambleTimeout = "preamble-timeout";
    /// A command line was longer than 512 octets.
    LineTooLong = "line-too-long";
    /// A command line ended with LF alone.
    BareLf = "bare-lf";
    /// A CR stood inside a command line.
    BareCr = "bare-cr";
    /// A NUL stood in a command line.
    Nul = "nul";
    /// Too many commands before TLS.
    TooManyCommands = "too-many-commands";
    /// Bytes stood behind STARTTLS in the same flight.
    StarttlsInjection = "starttls-injection";
    /// A client that just failed without SNI was sent to the next mail exchanger.
    RetryElsewhere = "retry-elsewhere";
    /// The ClientHello took too long.
    HelloTimeout = "hello-timeout";
    /// What came after STARTTLS was not TLS.
    NotTls = "not-tls";
    /// The ClientHello was longer than 16 KiB.
    HelloTooLong = "hello-too-long";
    /// The ClientHello on a shared address could not be read.
    HelloMalformed = "hello-malformed";
    /// The ClientHello on a shared address named nobody.
    SniAbsent = "sni-absent";
    /// The ClientHello on a second shared address named nobody, and its sender may mean several boxes.
    PairAmbiguous = "pair-ambiguous";
    /// The ClientHello on a shared address named something that is no host name.
    SniBad = "sni-bad";
    /// The ClientHello on a shared address named a host that is nobody's here.
    SniUnknown = "sni-unknown";
    /// The ClientHello offered application protocols, but not mail.
    AlpnRefused = "alpn-refused";
    /// The box did not come back while the ClientHello was held.
    BoxOffline = "box-offline";
    /// The box has no service for mail.
    ServiceUnknown = "service-unknown";
    /// The mail server at home did not pass the agent's open-relay self-test.
    ServiceWithheld = "service-withheld";
    /// The mail server at home could not be connected to.
    HomeUnreachable = "home-unreachable";
    /// The mail server at home refused the dialogue before TLS.
    HomeRefused = "home-refused";
    /// The mail server at home does not offer STARTTLS.
    HomeNoStarttls = "home-no-starttls";
    /// The mail server at home sent bytes between its 220 and TLS.
    HomeInjection = "home-injection";
    /// Nothing came from the mail server at home in time.
    HomeTimeout = "home-timeout";
    /// The agent does not believe the sender's address.
    ClientImplausible = "client-implausible";
    /// The agent refused the stream for another reason.
    AgentRefused = "agent-refused";
    /// The relay was shutting down.
    Draining = "draining";
    /// The session's task ended without an outcome: a bug, to be reported.
    Aborted = "aborted";
}

impl Outcome {
    /// The outcome of a stream that the agent refused before a byte came from home.
    pub fn refused_by_agent(code: ResetCode) -> Self {
        match code {
            ResetCode::ServiceUnknown => Self::ServiceUnknown,
            ResetCode::ServiceWithheld => Self::ServiceWithheld,
            ResetCode::HomeUnreachable => Self::HomeUnreachable,
            ResetCode::HomeRefused => Self::HomeRefused,
            ResetCode::HomeNoStarttls => Self::HomeNoStarttls,
            ResetCode::HomeInjection => Self::HomeInjection,
            ResetCode::HomeTimeout => Self::HomeTimeout,
            ResetCode::ClientImplausible => Self::ClientImplausible,
            ResetCode::TcpReset => Self::HomeReset,
            ResetCode::AgentBusy => Self::BusyBox,
            _ => Self::AgentRefused,
        }
    }
}
