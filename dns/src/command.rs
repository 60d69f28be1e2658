//! The command line of `sealpost-dns`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sealpost_daemon::config::ConfigError;
use sealpost_daemon::signals::Signals;
use sealpost_daemon::{EXIT_CONFIG, logging, open_files};

use crate::config::Config;
use crate::program;

/// Answers for zones that were signed at home, as a secondary of whoever has them
#[derive(Parser)]
#[command(name = "sealpost-dns", version)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/sealpost/dns.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Run the name server. SIGHUP reloads its zones and keys, SIGTERM ends it
    Run,
    /// Check a configuration file; exits with 0 or 78
    CheckConfig,
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
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

impl Arguments {
    fn run(&self) -> anyhow::Result<()> {
        let config = Config::load(&self.config)?;
        match self.command {
            Command::CheckConfig => {
                println!("{}: fine", self.config.display());
                Ok(())
            }
            Command::Run => {
                logging::start(config.fixed.log_format, config.fixed.log_level)?;
                open_files::raise();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(Box::pin(async {
                    // Before anything is bound, so that an early signal is not lost.
                    let signals = Signals::listen()?;
                    program::run(&self.config, config, signals).await
                }))
            }
        }
    }
}
