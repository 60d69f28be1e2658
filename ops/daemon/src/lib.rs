//! How a Sealpost process behaves as a daemon, the same for relay, agent and name server: it
//! reads one TOML file ([`config`]), logs ([`logging`]), counts ([`metrics`]), obeys signals
//! ([`signals`]) and answers on a loopback address whether it is well ([`health`]). It takes as many
//! open files as it may ([`open_files`]). Its commands print lines for people to carry as QR codes
//! ([`mod@qr`]).

pub mod config;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod open_files;
pub mod qr;
pub mod signals;
mod suggest;

/// Exit code for a configuration that cannot be used: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;
