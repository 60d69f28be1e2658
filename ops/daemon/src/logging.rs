//! Logs go to stderr, as text for people or as one JSON object a line for programs.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One flat object a line.
    Json,
}

/// The level from which on lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Faults of ours alone.
    Error,
    /// And what may become one.
    Warn,
    /// And one closing line a session.
    #[default]
    Info,
    /// And peers' misbehaviour.
    Debug,
    /// And every step.
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Begins to log. `RUST_LOG` overrides `level`, for a look at one module.
pub fn start(format: Format, level: Level) -> anyhow::Result<()> {
    let level = level.name();
    // The libraries' own events are for their developers; ours tell what an operator needs. What
    // the DNS libraries say has the words of strangers in it.
    let ours = format!(
        "warn,sealpost_relay={level},sealpost_agent={level},sealpost_dns={level},\
         sealpost_daemon={level},sealpost_tunnel={level},quinn=error,quinn_proto=error,quinn_udp=error,\
         sqlx=error,hickory_net=off,hickory_proto=off,hickory_resolver=off"
    );
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(ours))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).try_init()
        }
        Format::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot begin to log: {e}"))
}
