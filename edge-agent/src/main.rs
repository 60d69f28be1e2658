//! `sealpost-agent`; everything is in [`sealpost_agent::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sealpost_agent::command::run(std::env::args_os())
}
