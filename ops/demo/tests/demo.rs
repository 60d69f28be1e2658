//! `cargo demo` as a script would run it: the exit code, and exactly one JSON object on stdout.

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealpost-demo"))
        .args(arguments)
        .output()
        .expect("the demo runs")
}

fn object(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stdout.lines().count(), 1, "stdout: {stdout}\nstderr: {stderr}");
    serde_json::from_str(&stdout).expect("one JSON object")
}

/// Runs a fault that must be refused, and returns what the demo says about it.
fn refused(fault: &str) -> Value {
    let output = demo(&["--fault", fault, "--json"]);
    let object = object(&output);
    assert!(output.status.success(), "{object:#}");
    assert_eq!(object["delivered"], false, "{object:#}");
    assert_eq!(object["fault"]["name"], fault);
    assert_eq!(object["fault"]["observed"], true, "{object:#}");
    let dialogue = object["fault"]["dialogue"].as_array().expect("a dialogue");
    let says =
        |begin: &str| dialogue.iter().any(|l| l.as_str().is_some_and(|l| l.starts_with(begin)));
    assert!(says("S: 220 relay.example.net"), "{object:#}");
    assert!(says("C: STARTTLS"), "{object:#}");
    assert!(says("C: [TLS] ClientHello"), "{object:#}");
    assert!(says("S: [TLS] fatal alert"), "{object:#}");
    object["fault"].clone()
}

#[test]
fn delivers_and_proves_that_the_relay_could_not_read() {
    let output = demo(&["--once", "--json"]);
    let object = object(&output);
    assert!(output.status.success(), "{object:#}");
    assert_eq!(object["delivered"], true);
    assert_eq!(object["sealed"], true);
    let hops = object["hops"].as_array().expect("hops");
    let happened =
        |at: &str, event: &str| hops.iter().any(|h| h["at"] == at && h["event"] == event);
    for (at, event) in [
        ("agent", "tunnel up"),
        ("relay", "box connected"),
        ("sender", "connected"),
        ("relay", "routed"),
        ("agent", "delivering"),
        ("sender", "tls"),
        ("sink", "stored"),
        ("sender", "sent"),
        ("relay", "session"),
    ] {
        assert!(happened(at, event), "no {event} at {at} in {object:#}");
    }
    let proof = &object["proof"];
    for place in ["smtp", "tunnel", "memory"] {
        assert_eq!(proof[place]["hits"], 0, "{place}: {proof:#}");
    }
    assert!(proof["smtp"]["bytes"].as_u64() > Some(0));
    assert_eq!(proof["words"], 3);
}

#[test]
fn tells_people_the_same() {
    let output = demo(&[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("Delivered."), "{stdout}");
    assert!(stdout.contains("Sealed."), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "colours in a pipe: {stdout}");
}

#[test]
fn refuses_a_sender_without_a_name() {
    let fault = refused("no-sni");
    assert_eq!(fault["relay_outcome"], "sni-absent");
    assert_eq!(fault["alert"]["code"], 112);
}

#[test]
fn refuses_an_unknown_name() {
    let fault = refused("unknown-name");
    assert_eq!(fault["relay_outcome"], "sni-unknown");
    assert_eq!(fault["alert"]["name"], "unrecognized_name");
}

#[test]
fn refuses_when_the_box_is_away() {
    assert_eq!(refused("box-offline")["relay_outcome"], "box-offline");
}

#[test]
fn refuses_when_the_agent_does_not_trust_the_relay() {
    let fault = refused("bad-pin");
    assert_eq!(fault["relay_outcome"], "box-offline");
    assert!(fault["agent_says"].is_string(), "{fault:#}");
}

#[test]
fn refuses_when_nobody_is_there_at_home() {
    assert!(refused("mta-down")["agent_says"].is_string());
}

#[test]
fn refuses_to_end_the_seal_early() {
    assert!(refused("mta-no-starttls")["agent_says"].is_string());
}

#[test]
fn names_the_cause_and_the_fix_when_no_mail_server_answers() {
    // Port 1 is reserved and nobody's; a connection is refused at once.
    let output = demo(&["--mta", "127.0.0.1:1", "--to", "you@home.example", "--json"]);
    let object = object(&output);
    assert!(!output.status.success());
    assert_eq!(object["delivered"], false);
    let error = object["error"].as_str().expect("an error");
    assert!(error.contains("nobody answers at 127.0.0.1:1"), "{error}");
}
