//! The command line of `sealpost-agent`: one file for each family of commands.

mod certificate;
mod daemon;
mod dns;
mod domain;
mod join;
mod key;
mod leave;
mod recover;
mod recovery_kit;
mod table;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sealpost_daemon::EXIT_CONFIG;
use sealpost_daemon::config::ConfigError;
use sealpost_tunnel::request::Standing;
use serde::Serialize;

use crate::config::{Config, Relay};
use crate::registration::ask::{AskFailure, Asker, Line};
use crate::registration::config_file::ConfigFileError;
use crate::registration::place::DEFAULT_FILE;

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
    /// Show what the running agent is doing; exits with 1 when mail cannot arrive
    Status {
        #[command(flatten)]
        file: ConfigFile,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Register this box at a relay with an invite, and add the relay to the configuration
    Join(join::Join),
    /// Have a relay forget this box, and take it out of the configuration
    Leave(leave::Leave),
    /// Claim domains for this box, list them, give them up
    Domain(domain::Domain),
    /// Print the DNS records to publish: proof, mail exchangers, addresses, keys for DANE
    Dns(dns::Dns),
    /// Show how the mail server's certificate is; or have a new one obtained now
    Certificate(certificate::Certificate),
    /// Print this box's public key, its fingerprint and that in words; or rotate it
    Key(key::Key),
    /// Make a recovery kit: a line with which a bare box can take this box's place
    RecoveryKit(recovery_kit::RecoveryKit),
    /// Take the place of a lost or stolen box, with its recovery kit
    Recover(recover::Recover),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, global = true)]
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
    let result = match arguments.command {
        Command::Run(file) => daemon::run(&file.config),
        Command::CheckConfig(file) => daemon::check_config(&file.config),
        Command::Status { file, json } => daemon::status(&file.config, json),
        Command::Join(join) => join.run(),
        Command::Leave(leave) => leave.run(),
        Command::Domain(domain) => domain.run(),
        Command::Dns(dns) => dns.run(),
        Command::Certificate(certificate) => certificate.run(),
        Command::Key(key) => key.run(),
        Command::RecoveryKit(kit) => kit.run(),
        Command::Recover(recover) => recover.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let bad_config = error.is::<ConfigError>()
            || matches!(error.downcast_ref(), Some(ConfigFileError::Before(_)));
        if bad_config { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
    })
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }
}

/// The relays of `config` called as `names` say; all when there are none.
fn chosen<'a>(config: &'a Config, names: &[String]) -> anyhow::Result<Vec<&'a Relay>> {
    let known: Vec<_> = config.relays.iter().map(|relay| relay.name.as_str()).collect();
    if known.is_empty() {
        anyhow::bail!("the file names no relay yet; join one first: `sealpost-agent join URL`");
    }
    for name in names {
        if !known.contains(&name.as_str()) {
            anyhow::bail!("there is no relay named `{name}`; the file has: {}", known.join(", "));
        }
    }
    let wanted = |relay: &&Relay| names.is_empty() || names.contains(&relay.name);
    Ok(config.relays.iter().filter(wanted).collect())
}

/// Connects to `relay` as the box of `config` and asks for its standing.
async fn as_box(
    asker: &Asker,
    config: &Config,
    relay: &Relay,
) -> Result<(Line, Standing), AskFailure> {
    let reference = relay.reference();
    let asked = asker.as_box(&reference, &config.fixed.state);
    terminal::patiently(&format!("asking {}", relay.name), asked).await
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    terminal::print(&serde_json::to_string_pretty(value)?)
}
