//! Verifiers of signed zones that are not ours, on what a server hands on: `ldns-verify-zone`
//! (ldnsutils) and `dnssec-verify` (bind9-utils), which look at every signature, at the whole denial and
//! at the time.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::time::{Duration, Instant};

use sealpost_tests::name_server::{Program, skipped};

use crate::servers::{KEY, SECRET, ZONE};

/// NSD closes connections while it takes a new version into service.
const PATIENCE: Duration = Duration::from_secs(30);

/// The zone as `dig` has it from the server by AXFR, a record a line. `None` when there is no `dig`.
pub(crate) fn held(server: SocketAddr, algorithm: &str) -> Option<Vec<String>> {
    let dig = match Program::find("dig", None) {
        Ok(dig) => dig,
        Err(error) => {
            skipped(&format!("what servers hold was not compared: {error:#}"));
            return None;
        }
    };
    let began = Instant::now();
    loop {
        let output = dig
            .command()
            .args([&format!("@{}", server.ip()), "-p", &server.port().to_string()])
            .args(["-y", &format!("{algorithm}:{KEY}:{SECRET}")])
            .args([ZONE, "AXFR", "+noall", "+answer", "+onesoa"])
            .output()
            .expect("dig runs");
        let text = String::from_utf8(output.stdout).expect("records are ASCII");
        // Comments tell of errors, and the signature stands behind the records.
        let records: Vec<String> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with(';'))
            .map(str::to_owned)
            .collect();
        let whole = output.status.success() && !text.contains("; Transfer failed");
        if whole && !records.is_empty() {
            return Some(records);
        }
        assert!(began.elapsed() < PATIENCE, "{server} hands nothing on: {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The records in an order, without the case of names, which some servers do not keep.
pub(crate) fn sorted(held: &Option<Vec<String>>) -> Vec<String> {
    let mut records: Vec<String> =
        held.iter().flatten().map(|record| record.to_ascii_lowercase()).collect();
    records.sort();
    records
}

/// Lets both judge a zone from [`held`]: they find it right, and not right without one of its signatures,
/// or they would be no judges.
pub(crate) fn verify(held: &Option<Vec<String>>) {
    let Some(records) = held else { return };
    for (name, verdict) in judge(records) {
        assert_eq!(verdict, Ok(()), "{name} of\n{}", records.join("\n"));
    }
    let is_signature = |record: &&String| record.contains("\tRRSIG\tMX ");
    let less: Vec<String> = records.iter().filter(|one| !is_signature(one)).cloned().collect();
    assert_eq!(less.len() + 1, records.len());
    for (name, verdict) in judge(&less) {
        assert!(verdict.is_err(), "{name} misses no signature");
    }
}

/// What each that can be had says.
fn judge(records: &[String]) -> Vec<(&'static str, Result<(), String>)> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("zone");
    fs::write(&file, records.join("\n") + "\n").expect("the zone's file");
    let mut verdicts = Vec::new();
    // With one key for all, the flag that makes it a key for keys means nothing.
    for (name, options) in [("ldns-verify-zone", &[][..]), ("dnssec-verify", &["-z", "-o", ZONE])] {
        match Program::find(name, None) {
            Ok(program) => {
                let output = program.command().args(options).arg(&file).output();
                let Output { status, stderr, stdout } = output.expect("a verifier runs");
                let said = String::from_utf8_lossy(&[stderr, stdout].concat()).into_owned();
                verdicts.push((name, if status.success() { Ok(()) } else { Err(said) }));
            }
            Err(error) => skipped(&format!("not verified: {error:#}")),
        }
    }
    verdicts
}
