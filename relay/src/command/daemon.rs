//! `sealpost-relay run`

use std::path::Path;

use sealpost_daemon::logging;
use sealpost_daemon::signals::Signals;

use super::terminal;
use crate::config::Config;
use crate::relay::Relay;

pub(super) fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    logging::start(config.fixed.log_format, config.fixed.log_level)?;
    terminal::block_on(async {
        // Before anything is bound, so that an early signal is not lost.
        let signals = Signals::listen()?;
        Relay::bind(config).await?.run(signals, path).await
    })
}
