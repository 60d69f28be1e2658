//! The command line of `sealpost-relay`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sealpost_daemon::signals::Signals;
use sealpost_daemon::{EXIT_CONFIG, logging};
use sealpost_tunnel::Identity;

use crate::config::Config;
use crate::relay::{Relay, key_path};

/// Takes mail on port 25 and forwards it, sealed, to boxes at home
#[derive(Parser)]
#[command(name = "sealpost-relay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the relay. SIGHUP reads the configuration again, SIGTERM drains
    Run(ConfigFile),
    /// Check a configuration file; exits with 0 or 78
    CheckConfig(ConfigFile),
    /// Print the relay's public key, which boxes pin; makes the key if there is none
    Key(ConfigFile),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/sealpost/relay.toml")]
    config: PathBuf,
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
    let (Command::Run(file) | Command::CheckConfig(file) | Command::Key(file)) = &arguments.command;
    let config = match Config::load(&file.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let result = match &arguments.command {
        Command::CheckConfig(_) => {
            let boxes = config.boxes.boxes().count();
            println!("{}: fine; boxes: {boxes}", file.config.display());
            Ok(())
        }
        Command::Key(_) => Identity::load_or_create(&key_path(&config.fixed.state))
            .map(|identity| println!("{}", identity.public()))
            .map_err(Into::into),
        Command::Run(_) => serve(config, &file.config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, path: &std::path::Path) -> anyhow::Result<()> {
    logging::start(config.fixed.log_format, config.fixed.log_level)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is bound, so that an early signal is not lost.
        let signals = Signals::listen()?;
        Relay::bind(config).await?.run(signals, path).await
    })
}
