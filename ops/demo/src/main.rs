//! `cargo demo`: one message from a sending mail server through a relay and an agent into a mail
//! server at home, on loopback, with nothing left behind.
//!
//! `play` is the run, `carried` and `refused` are its two plots; `stage` holds the processes and
//! taps; `proof` looks for the message where it must not be. Relay, agent and sink are this same
//! executable under a hidden first argument (`roles`).

mod arguments;
mod carried;
mod child;
mod configs;
mod dialogue;
mod faults;
mod journal;
mod letter;
mod logline;
mod memory;
mod narrate;
mod outcomes;
mod play;
mod proof;
mod refused;
mod report;
mod roles;
mod search;
mod sender;
mod sink;
mod stage;
mod tap;
mod text;
mod tls;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(role) = std::env::args_os().nth(1).as_ref().and_then(roles::Role::asked_for) {
        return role.run(std::env::args_os().skip(1));
    }
    let arguments = arguments::Arguments::parse();
    // One thread: the kernel ends the children when the thread that started them is gone, so that
    // thread must be the one that lives as long as the demo.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(play::run(arguments)),
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
