//! `run`, `check-config` and `status`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use sealpost_daemon::logging;
use sealpost_daemon::signals::Signals;

use super::{print_json, terminal};
use crate::agent::Agent;
use crate::certificate;
use crate::config::Config;
use crate::publish::{make, trust_anchors};
use crate::status::Status;

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    logging::start(config.fixed.log_format, config.fixed.log_level)?;
    terminal::block_on(async {
        // Before anything is bound, so that an early signal is not lost.
        let signals = Signals::listen()?;
        Agent::bind(config).await?.run(signals, path).await
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check_config(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    // A running agent goes on with the last zone; here is the place to hear of what is wrong.
    for zone in &config.zones {
        if let Err(error) = make::check(zone) {
            bail!("{error}\nhelp: this keeps the zone {} from being made", zone.name);
        }
    }
    for key in config.fixed.dns.iter().flat_map(|dns| &dns.keys) {
        key.load().map_err(|error| anyhow!("[[dns.key]] {}: {error}", key.name))?;
    }
    trust_anchors(config.fixed.dns.as_ref())?;
    if let Some(acme) = &config.acme {
        certificate::running::check(acme).context("[acme]")?;
    }
    let (relays, services) = (config.relays.len(), config.services.len());
    let zones = config.zones.len();
    println!("{}: fine; relays: {relays}, services: {services}, zones: {zones}", path.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = ask(&Config::load(path)?)?;
    if json {
        print_json(&status)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        status.lines(now).iter().for_each(|line| println!("{line}"));
    }
    let well = status.missing().is_empty() && status.failing().is_empty();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the running agent says of itself.
pub(super) fn ask(config: &Config) -> anyhow::Result<Status> {
    let admin = config.fixed.admin.get();
    let client: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    client
        .get(format!("http://{admin}/status"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_json())
        .with_context(|| format!("no agent answers at {admin}; is it running?"))
}
