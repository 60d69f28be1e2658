//! `sealpost-dns`; everything is in [`sealpost_dns::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sealpost_dns::command::run(std::env::args_os())
}
