//! The run from the first file to the last process: plays, reports, tidies up.

use std::process::ExitCode;
use std::sync::Arc;

use crate::arguments::Arguments;
use crate::journal::Journal;
use crate::report::Report;
use crate::sender::EHLO_NAME;
use crate::stage::{DOMAIN, MX, Stage};
use crate::text::wrapped;
use crate::{carried, refused};

/// Runs the demo and returns its exit code.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let journal = Arc::new(Journal::new(arguments.json));
    let report = match Stage::new(Arc::clone(&journal)).await {
        Ok(mut stage) => {
            let mut report = tokio::select! {
                played = Box::pin(play(&mut stage, &arguments, &journal)) => Report::from(played),
                () = interrupted() => Report::failed("interrupted"),
            };
            report.hops = journal.hops();
            report.tell(&journal);
            if arguments.keep && report.is_success() {
                keep(&stage, &arguments, &journal).await;
            }
            journal.hush();
            stage.strike().await;
            report
        }
        Err(error) => Report::from(Err(error)),
    };
    if arguments.json {
        match serde_json::to_string(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("error: {error}"),
        }
    } else if let Some(error) = &report.error {
        anstream::eprintln!("\nerror: {error}");
    }
    if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn play(
    stage: &mut Stage,
    arguments: &Arguments,
    journal: &Journal,
) -> anyhow::Result<Report> {
    let setting = match arguments.fault {
        Some(fault) => fault.setting(),
        None => format!("One message for {DOMAIN}, through a relay that cannot read it."),
    };
    wrapped(&setting, "").iter().for_each(|line| journal.say(line));
    journal.say("");
    match arguments.fault {
        Some(fault) => refused::play(stage, fault, journal).await,
        None => carried::play(stage, arguments, journal).await,
    }
}

/// Waits until Ctrl-C, with a line to try.
async fn keep(stage: &Stage, arguments: &Arguments, journal: &Journal) {
    let Ok(tap) = stage.smtp_tap() else { return };
    let address = tap.address();
    let to = arguments.recipient();
    journal.say("");
    journal.say("Still running. Send more, for instance:");
    journal.say("");
    journal.say(&format!(
        "  swaks --server {address} --tls --tls-sni {MX} --ehlo {EHLO_NAME} --to {to}"
    ));
    journal.say("");
    if arguments.mta.is_none() {
        journal.say(&format!("Mail arrives in {}/new", stage.maildir().display()));
    }
    journal.say("Ctrl-C ends everything and deletes all state.");
    journal.say("");
    interrupted().await;
}

/// Ends when the user or the system wants us to leave.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
