//! The command line of `sealpost-agent`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sealpost_daemon::signals::Signals;
use sealpost_daemon::{EXIT_CONFIG, logging};
use sealpost_tunnel::Identity;

use crate::agent::{Agent, key_path};
use crate::config::Config;
use crate::status::Status;

/// Brings mail from relays to the mail server at home
#[derive(Parser)]
#[command(name = "sealpost-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent. SIGHUP reads the configuration again, SIGTERM drains
    Run(ConfigFile),
    /// Check a configuration file; exits with 0 or 78
    CheckConfig(ConfigFile),
    /// Print this box's public key, which relays are told; makes the key if there is none
    Key(ConfigFile),
    /// Show what the running agent is doing; exits with 1 when mail cannot arrive
    Status {
        #[command(flatten)]
        file: ConfigFile,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/sealpost/agent.toml")]
    config: PathBuf,
}

impl Command {
    fn file(&self) -> &Path {
        let (Self::Run(file)
        | Self::CheckConfig(file)
        | Self::Key(file)
        | Self::Status { file, .. }) = self;
        &file.config
    }
}

/// Runs the program with `arguments`, of which the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let path = arguments.command.file();
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let result = match &arguments.command {
        Command::Run(_) => serve(config, path).map(|()| ExitCode::SUCCESS),
        Command::CheckConfig(_) => {
            let (relays, services) = (config.relays.len(), config.services.len());
            println!("{}: fine; relays: {relays}, services: {services}", path.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Key(_) => Identity::load_or_create(&key_path(&config.fixed.state))
            .map(|identity| println!("{}", identity.public()))
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Status { json, .. } => status(config.fixed.admin.get(), *json),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(config: Config, path: &Path) -> anyhow::Result<()> {
    logging::start(config.fixed.log_format, config.fixed.log_level)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is bound, so that an early signal is not lost.
        let signals = Signals::listen()?;
        Agent::bind(config).await?.run(signals, path).await
    })
}

fn status(admin: SocketAddr, json: bool) -> anyhow::Result<ExitCode> {
    let client: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    let status: Status = client
        .get(format!("http://{admin}/status"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_json())
        .with_context(|| format!("no agent answers at {admin}; is it running?"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        status.lines().iter().for_each(|line| println!("{line}"));
    }
    Ok(if status.missing().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
