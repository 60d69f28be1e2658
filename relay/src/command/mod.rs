//! The command line of `sealpost-relay`: one file for each family of commands.
//!
//! What concerns the registry alone works on the database itself, whether a relay runs or not;
//! what is live is asked over the socket of [`crate::admin`].

mod address;
mod boxes;
mod daemon;
mod domains;
mod invite;
mod invites;
mod key;
mod live;
mod revoke;
mod table;
mod terminal;
mod time;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sealpost_daemon::EXIT_CONFIG;
use sealpost_daemon::config::ConfigError;
use sealpost_daemon::open_files;

use crate::admin::registry_location;
use crate::config::{Config, Fixed, RegistryUrl};
use crate::registry::Database;
use crate::relay::room;

/// Takes mail on port 25 and forwards it, sealed, to boxes at home
#[derive(Parser)]
#[command(name = "sealpost-relay", version)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/sealpost/relay.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the relay. SIGHUP reads the configuration and the key again, SIGTERM drains
    Run,
    /// Check a configuration file; exits with 0 or 78
    CheckConfig,
    /// Print the relay's public key, which boxes pin, its fingerprint and that in words; or rotate
    /// it. Makes the key if there is none
    Key(key::Key),
    /// Make an invite: a line with which one box can join, once
    Invite(invite::Invite),
    /// List invites, or withdraw one
    Invites(invites::Invites),
    /// List boxes, show one, or change how many domains it may have
    Boxes(boxes::Boxes),
    /// Shut a box out: a stolen one, or one that has to go
    Revoke(revoke::Revoke),
    /// List domains, whose they are and whether their proof is there
    Domains(domains::Domains),
    /// Give addresses of this relay to one box alone, take them back, list them
    Address(address::Address),
    /// List the connections from senders that are open now
    Sessions(live::Sessions),
    /// Show how the running relay is; exits with 1 when it does not run or has trouble
    Status(live::Status),
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
    arguments.run().unwrap_or_else(|error| {
        // `sealpost-relay … | head` has what it wanted.
        if error.is::<terminal::NobodyReads>() {
            return ExitCode::SUCCESS;
        }
        terminal::note(&format!("error: {error:#}"));
        if error.is::<ConfigError>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
    })
}

impl Arguments {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)?;
        let done = match &self.command {
            Command::Run => daemon::run(config, &self.config),
            Command::CheckConfig => check(&config, &self.config),
            Command::Key(key) => key.run(&config.fixed),
            Command::Invite(invite) => invite.run(&config, &self.config),
            Command::Invites(invites) => invites.run(&config.fixed),
            Command::Boxes(boxes) => boxes.run(&config.fixed),
            Command::Revoke(revoke) => revoke.run(&config.fixed),
            Command::Domains(domains) => domains.run(&config.fixed),
            Command::Address(address) => address.run(&config.fixed),
            Command::Sessions(sessions) => sessions.run(&config.fixed),
            Command::Status(status) => return status.run(&config.fixed),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// What is wrong with a file is told when it is loaded; what may be wrong around it is told here.
fn check(config: &Config, path: &Path) -> anyhow::Result<()> {
    let wanted = config.settings.limits.sessions;
    if let Some(files) = open_files::most()
        && room(files, &config.fixed) < wanted
    {
        terminal::note(&format!(
            "[limits] sessions is {wanted}, and a relay that is started from here could have {}: it may \
             open {files} files. The unit has a limit of its own, LimitNOFILE",
            room(files, &config.fixed)
        ));
    }
    terminal::print(&format!("{}: fine", path.display()))
}

/// Opens the registry that the relay of `fixed` has, running or not.
async fn registry(fixed: &Fixed) -> anyhow::Result<Database> {
    let url = fixed.registry.as_ref().map(RegistryUrl::as_str);
    Database::open(url, &fixed.state).await.with_context(|| {
        let (kind, location) = registry_location(fixed);
        format!("the registry ({kind}, {location})")
    })
}
