//! `sealpost-dns`: the authoritative server for zones that were signed at home.
//!
//! This version has the name and the place, and no server yet; it says so rather than to answer
//! for a zone that it does not have.

use std::process::ExitCode;

use clap::Parser;

/// Answers for zones that were signed at home (not in this version)
#[derive(Parser)]
#[command(name = "sealpost-dns", version)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    eprintln!(
        "error: this version of sealpost-dns serves no zones yet\n\
         help: publish the MX and address records with your present DNS provider"
    );
    ExitCode::FAILURE
}
