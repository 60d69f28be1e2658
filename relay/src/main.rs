//! `sealpost-relay`; everything is in [`sealpost_relay::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sealpost_relay::command::run(std::env::args_os())
}
