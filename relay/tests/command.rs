//! The program as an operator types it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use sealpost_tunnel::{Handover, PublicKey};

fn run(arguments: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealpost-relay"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn config(dir: &Path, more: &str) -> std::path::PathBuf {
    let path = dir.join("relay.toml");
    let text = format!(
        "hostname = \"relay.example.net\"\nstate = {:?}\nsmtp.listen = [\"127.0.0.1:0\"]\n\
         tunnel.listen = [\"127.0.0.1:0\"]\n{more}",
        dir.join("state")
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_good_configuration_is_checked_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["check-config"], &config(dir.path(), ""));
    assert_eq!(output.status.code(), Some(0));
    assert!(!dir.path().join("state").exists(), "checking changes nothing");
}

#[test]
fn a_bad_configuration_is_refused_with_78_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "[limits]\nprak = \"5s\"\n");
    for command in [
        "check-config",
        "run",
        "key",
        "invite alice",
        "invites",
        "boxes",
        "revoke alice --yes",
        "domains",
        "address list",
        "sessions",
        "status",
    ] {
        let arguments: Vec<_> = command.split(' ').collect();
        let output = run(&arguments, &path);
        assert_eq!(output.status.code(), Some(78), "{command}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("relay.toml:6: unknown field `prak`"), "{error}");
        assert!(error.contains("6 | prak = \"5s\""), "{error}");
        assert!(error.contains("help: did you mean `park`?"), "{error}");
    }
}

#[test]
fn a_missing_configuration_is_refused_with_78() {
    let output = run(&["check-config"], Path::new("/nonexistent/relay.toml"));
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn the_key_is_made_once_and_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "");
    let first = run(&["key"], &path);
    assert_eq!(first.status.code(), Some(0));
    let text = String::from_utf8(first.stdout.clone()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let key: PublicKey = lines[0].parse().unwrap();
    let fingerprint = key.fingerprint();
    assert_eq!(lines[1..], [fingerprint.to_string(), fingerprint.words()]);
    assert_eq!(run(&["key"], &path).stdout, first.stdout);
    let json = run(&["key", "--json"], &path).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["key"], lines[0]);
    assert_eq!((&json["fingerprint"], &json["words"]), (&lines[1].into(), &lines[2].into()));
}

#[test]
fn a_key_that_is_rotated_leads_from_the_former_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "");
    let key = |arguments: &[&str]| -> PublicKey {
        let output = run(arguments, &path);
        assert_eq!(output.status.code(), Some(0));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["key"].as_str().unwrap().parse().unwrap()
    };
    let former = key(&["key", "--json"]);
    let present = key(&["key", "rotate", "--yes", "--json"]);
    assert_ne!(former, present);
    assert_eq!(key(&["key", "--json"]), present);
    let handovers = std::fs::read(dir.path().join("state/relay.handovers")).unwrap();
    let handovers: Vec<Handover> = serde_json::from_slice(&handovers).unwrap();
    assert!(sealpost_tunnel::handover::follows(former, &handovers, present));
    let said = String::from_utf8(run(&["key", "rotate"], &path).stdout).unwrap();
    assert!(said.contains("systemctl reload") && said.contains("Invites"), "{said}");
}

#[test]
fn nobody_who_reads_the_output_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "");
    for command in ["key", "invites"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealpost-relay"))
            .args([command, "--json", "--config"])
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let path = config(dir.path(), &format!("admin.listen = \"{address}\"\n"));
    let output = run(&["run"], &path);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn an_admin_address_that_others_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "admin.listen = \"0.0.0.0:0\"\n");
    let output = run(&["run"], &path);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("is not loopback"), "{error}");
}

/// Sends `signal` to `child`.
fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_drain_waits_for_a_session_until_a_second_request_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let more = "admin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\n";
    let path = config(dir.path(), more);
    let mut relay = Command::new(env!("CARGO_BIN_EXE_sealpost-relay"))
        .args(["run", "--config"])
        .arg(&path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(relay.stderr.take().unwrap()).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&log.next().expect("the relay ended").unwrap()).unwrap()
    };
    let mut addresses = BTreeMap::new();
    while addresses.len() < 3 {
        let event = next();
        if event["message"] == "listening" {
            let service = event["service"].as_str().unwrap().to_owned();
            let address: SocketAddr = event["address"].as_str().unwrap().parse().unwrap();
            addresses.insert(service, address);
        }
    }
    // Past STARTTLS a drain leaves a session its time, here the 10 s for the ClientHello.
    let mut sender = TcpStream::connect(addresses["smtp"]).unwrap();
    let mut reply = [0; 128];
    assert!(sender.read(&mut reply).unwrap() > 0);
    sender.write_all(b"STARTTLS\r\n").unwrap();
    assert!(sender.read(&mut reply).unwrap() > 0);
    signal(&relay, "TERM");
    let mut until = |message: &str| {
        while !next()["message"].as_str().unwrap().starts_with(message) {}
    };
    until("draining");
    // A reload is no second request to stop.
    signal(&relay, "HUP");
    for _ in 0..20 {
        let mut health = TcpStream::connect(addresses["admin"]).unwrap();
        health.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        health.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("alive\n"), "{answer}");
    }
    signal(&relay, "TERM");
    until("leaving at once");
    assert!(relay.wait().unwrap().success());
}
