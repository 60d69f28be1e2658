//! The other processes of the demo: the same executable under a hidden first argument.
//!
//! Each role is a real process that runs the real program's code with a real configuration file,
//! without the demo having to find installed binaries.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::sink;

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The hosted side.
    Relay,
    /// The home side.
    Agent,
    /// The mail server at home.
    Sink,
}

impl Role {
    /// The hidden first argument, and the name in the output.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Agent => "agent",
            Self::Sink => "sink",
        }
    }

    /// The role that a first argument asks for.
    pub(crate) fn asked_for(argument: &OsString) -> Option<Self> {
        [Self::Relay, Self::Agent, Self::Sink].into_iter().find(|role| argument == role.as_str())
    }

    /// Becomes this role. `arguments` begin with the role.
    pub(crate) fn run(self, arguments: impl Iterator<Item = OsString>) -> ExitCode {
        die_with_parent();
        let name = match self {
            Self::Relay => "sealpost-relay",
            Self::Agent => "sealpost-agent",
            Self::Sink => "sink",
        };
        let arguments = std::iter::once(OsString::from(name)).chain(arguments.skip(1));
        match self {
            Self::Relay => sealpost_relay::command::run(arguments),
            Self::Agent => sealpost_agent::command::run(arguments),
            Self::Sink => sink::run(arguments),
        }
    }
}

/// Has the kernel end this process when the demo dies without a chance to clean up (kill -9).
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    {
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
}
