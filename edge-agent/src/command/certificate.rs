//! `sealpost-agent certificate`

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::{ConfigFile, daemon, print_json, terminal};
use crate::certificate::ask_for_renewal;

/// Show how the certificate is; or have a new one obtained now
#[derive(clap::Args)]
pub(super) struct Certificate {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Have the running agent obtain a new certificate with the next key, without waiting for its time
    #[arg(long)]
    renew: bool,
}

impl Certificate {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        anyhow::ensure!(
            config.acme.is_some(),
            "the file has no [acme], so this box obtains no certificate"
        );
        if self.renew {
            let state = &config.fixed.state;
            ask_for_renewal(state).map_err(|error| match error.kind() {
                ErrorKind::NotFound => anyhow::anyhow!(
                    "the agent has not begun with certificates yet: start it with this file first"
                ),
                _ => anyhow::Error::new(error)
                    .context(format!("{} cannot be written", state.display())),
            })?;
            terminal::print(
                "the agent orders a new certificate within a minute, unless its CA has told it to wait; \
                 see: sealpost-agent certificate",
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        let report = daemon::ask(&config)?.certificate;
        let report = report.context("the running agent has not read [acme] yet: reload it")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.json {
            print_json(&report)?;
        } else {
            report.lines(now).iter().try_for_each(|line| terminal::print(line))?;
        }
        let good = report.error.is_none() && report.not_after.is_some_and(|end| end > now);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
