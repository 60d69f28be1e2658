//! Our server as the judges and the bench start it: the engine in this process, on loopback.

use std::net::SocketAddr;

use anyhow::Result;
use sealpost_tests::name_server::ZoneFiles;

/// Our server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ours {
    /// Where it answers.
    pub(crate) address: SocketAddr,
}

/// Compiles all zones and serves them at a free port of loopback; nothing while there is no engine.
pub(crate) fn start(_zones: &ZoneFiles) -> Result<Option<Ours>> {
    Ok(None)
}
