//! What a running relay shows to its operator, and to nobody else.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use quinn::Connection;
use sealpost_daemon::signals::Signals;
use sealpost_relay::admin::client::{AskError, ask};
use sealpost_relay::admin::report;
use sealpost_relay::config::Config;
use sealpost_relay::registrar::now;
use sealpost_relay::registry::Database;
use sealpost_relay::relay::Relay;
use sealpost_tunnel::control::Hello;
use sealpost_tunnel::greeting::Control;
use sealpost_tunnel::pins::{Pin, Use};
use sealpost_tunnel::{Identity, PublicKey, ResetCode, quic};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(10);
const HELLO: &[u8] = include_bytes!("../../tests/hellos/openssl-3-sni.bin");

/// A directory with a configuration in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new(more: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.configure(more);
        place
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "hostname = \"relay.example\"\nstate = {:?}\nbox_domain = \"home.example\"\n\
             smtp.listen = [\"127.0.0.1:0\"]\nadmin.listen = \"127.0.0.1:0\"\n\
             tunnel = {{ listen = [\"127.0.0.1:0\"], announce = [\"relay.example:4433\"] }}\n{more}",
            self.state()
        );
        std::fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("relay.toml")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.state().join("admin.sock")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealpost-relay"));
        command.args(line.split(' ')).arg("--config").arg(self.file());
        command
    }

    /// What a command says, typed while the relay runs in this process.
    async fn run(&self, line: &str) -> Output {
        let mut command = self.command(line);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json")).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*error), (Some(0), ""), "{line}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn says(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn relay(&self) -> anyhow::Result<Relay> {
        Relay::bind(Config::load(&self.file()).unwrap()).await
    }
}

/// A relay that runs in this process and knows a box called `mx`, which is connected.
struct Running {
    place: Place,
    smtp: SocketAddr,
    key: PublicKey,
    home: Connection,
    _control: Control,
}

impl Running {
    async fn new(more: &str) -> Self {
        let place = Place::new(more);
        let identity = Identity::ephemeral();
        let database = Database::open(None, &place.state()).await.unwrap();
        let name = "mx".parse().unwrap();
        let secret = database.invite(&name, 1, Duration::from_secs(600), now()).await.unwrap();
        database.join(&secret, identity.public(), None, now()).await.unwrap();
        let relay = place.relay().await.unwrap();
        let (smtp, tunnel) = (relay.smtp_addrs().unwrap()[0], relay.tunnel_addrs().unwrap()[0]);
        let pin = Pin::Exactly(relay.key());
        tokio::spawn(async {
            relay.run(Signals::listen().unwrap(), Path::new("/nonexistent")).await
        });
        let endpoint = quic::agent_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
        let home = quic::dial(&endpoint, tunnel, &identity, pin, Use::Tunnel).unwrap().await;
        let home = home.unwrap();
        let control = Control::open(&home, &Hello::ours("an agent 9")).await.unwrap();
        let running = Self { place, smtp, key: identity.public(), home, _control: control };
        running.until("status", |status| status["boxes_connected"] == 1).await;
        running
    }

    /// Waits until what a command says is as wanted.
    async fn until(&self, line: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                let said = self.place.json(line).await;
                if wanted(&said) {
                    return said;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("it comes to this")
    }

    /// A sender up to STARTTLS.
    async fn sender(&self) -> TcpStream {
        let mut tcp = TcpStream::connect(self.smtp).await.unwrap();
        for said in [&b""[..], b"EHLO mail.sender.example\r\n", b"STARTTLS\r\n"] {
            tcp.write_all(said).await.unwrap();
            let mut reply = [0; 512];
            assert!(timeout(PATIENCE, tcp.read(&mut reply)).await.unwrap().unwrap() > 0);
        }
        tcp
    }
}

#[tokio::test]
async fn a_relay_shows_how_it_is() {
    let relay = Running::new("").await;
    assert_eq!(std::fs::metadata(relay.place.socket()).unwrap().mode() & 0o777, 0o600);
    let status = relay.place.json("status").await;
    assert_eq!((&status["running"], &status["trouble"]), (&true.into(), &Value::Array(vec![])));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let registry = &status["registry"];
    assert_eq!((&registry["kind"], &registry["boxes"]), (&"sqlite".into(), &1.into()));
    assert_eq!((&registry["away"], &status["reload_refused"]), (&Value::Null, &Value::Null));
    let smtp = status["listening"].as_array().unwrap().iter().find(|one| one["service"] == "smtp");
    assert_eq!(smtp.unwrap()["address"], relay.smtp.to_string());
    let text = relay.place.says("status").await;
    assert!(text.contains("1 of 1 boxes") && !text.contains("TROUBLE"), "{text}");
}

#[tokio::test]
async fn boxes_that_are_connected_are_told_apart_from_those_that_are_away() {
    let relay = Running::new("").await;
    let database = Database::open(None, &relay.place.state()).await.unwrap();
    let (name, away) = ("away".parse().unwrap(), Identity::ephemeral().public());
    let secret = database.invite(&name, 1, Duration::from_secs(600), now()).await.unwrap();
    database.join(&secret, away, None, now()).await.unwrap();
    let boxes = relay.place.json("boxes").await;
    assert_eq!((&boxes[0]["name"], &boxes[0]["live"]), (&"away".into(), &"away".into()));
    assert_eq!((&boxes[1]["name"], &boxes[1]["live"]), (&"mx".into(), &"connected".into()));
    assert_eq!((&boxes[1]["software"], &boxes[1]["sessions"]), (&"an agent 9".into(), &0.into()));
    // As the log has it: the network.
    assert_eq!(boxes[1]["peer"], "127.0.0.0");
    assert_eq!(boxes[0].get("peer"), None);
    let page = relay.place.says("boxes show mx").await;
    assert!(page.contains("connected for") && page.contains("an agent 9"), "{page}");
}

#[tokio::test]
async fn sessions_are_shown_without_whom_they_are_for() {
    let relay = Running::new("").await;
    let mut sender = relay.sender().await;
    let greeting = relay.until("sessions", |sessions| sessions["open"] == 1).await;
    let session = &greeting["sessions"][0];
    assert_eq!((&greeting["named"], &session["phase"]), (&false.into(), &"greeting".into()));
    sender.write_all(HELLO).await.unwrap();
    let (mut send, _recv) = timeout(PATIENCE, relay.home.accept_bi()).await.unwrap().unwrap();
    let offered = relay.until("sessions", |all| all["sessions"][0]["phase"] == "offered").await;
    send.write_all(b"server hello").await.unwrap();
    relay.until("sessions", |all| all["sessions"][0]["phase"] == "carried").await;
    let session = offered["sessions"][0].as_object().unwrap();
    let keys: Vec<_> = session.keys().map(String::as_str).collect();
    assert_eq!(keys, ["client", "phase", "seconds", "session"]);
    assert_eq!(session["client"], "127.0.0.0");
    let table = relay.place.says("sessions").await;
    assert!(table.contains("carried") && !table.contains("mx.home.example"), "{table}");
    drop(sender);
    drop(send);
    relay.until("sessions", |sessions| sessions["open"] == 0).await;
    assert!(relay.place.says("sessions").await.contains("No session is open"));
}

#[tokio::test]
async fn sessions_are_named_where_the_log_names_them() {
    let more = "[log]\nsessions = \"named\"\nclient_addresses = \"full\"\n";
    let relay = Running::new(more).await;
    let mut sender = relay.sender().await;
    sender.write_all(HELLO).await.unwrap();
    let _offered = timeout(PATIENCE, relay.home.accept_bi()).await.unwrap().unwrap();
    let all = relay.until("sessions", |all| all["sessions"][0]["phase"] == "offered").await;
    let session = &all["sessions"][0];
    assert_eq!((&session["box"], &session["sni"]), (&"mx".into(), &"mx.home.example".into()));
    assert_eq!(session["local"], relay.smtp.to_string());
    assert_eq!(session["client"], "127.0.0.1");
    let table = relay.place.says("sessions").await;
    assert!(table.contains("mx.home.example"), "{table}");
}

#[tokio::test]
async fn a_box_that_is_revoked_by_a_command_is_cut() {
    let relay = Running::new("").await;
    let began = Instant::now();
    relay.place.says("revoke mx").await;
    let reason = timeout(PATIENCE, relay.home.closed()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let quinn::ConnectionError::ApplicationClosed(close) = reason else { panic!("{reason}") };
    assert_eq!(ResetCode::from(close.error_code), ResetCode::Revoked);
    let boxes = relay.until("boxes", |boxes| boxes[0]["live"] == "away").await;
    assert_eq!(
        (&boxes[0]["state"], &boxes[0]["key"]),
        (&"revoked".into(), &relay.key.to_string().into())
    );
}

#[tokio::test]
async fn nothing_that_is_sent_changes_anything_and_few_can_ask_at_once() {
    let relay = Running::new("").await;
    let socket = relay.place.socket();
    let before = relay.place.json("status").await["registry"]["revision"].clone();
    for (request, answer) in [
        ("POST /status", "405"),
        ("DELETE /boxes", "405"),
        ("GET /", "404"),
        ("GET /../relay.key", "404"),
        ("nonsense", "400"),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {answer}")), "{request}: {said}");
    }
    assert_eq!(relay.place.json("status").await["registry"]["revision"], before);

    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    let early = ask::<report::Status>(&socket, "/status").await;
    assert!(matches!(early, Err(AskError::Silent(_))), "{early:?}");
    // They are sent away after 10 s, of which 5 s are over.
    sleep(Duration::from_secs(5)).await;
    ask::<report::Status>(&socket, "/status").await.unwrap();
}

#[tokio::test]
async fn a_second_relay_on_the_same_state_is_refused() {
    let place = Place::new("");
    let first = place.relay().await.unwrap();
    let error = place.relay().await.err().unwrap().to_string();
    assert!(error.contains("another relay is running"), "{error}");
    drop(first);
    assert!(!place.socket().exists());
    place.relay().await.unwrap();
}

/// A relay in a process of its own; it is killed when dropped.
struct Process(Child);

impl Process {
    fn start(place: &Place) -> Self {
        let mut command = place.command("run");
        let relay = Self(command.stderr(Stdio::null()).spawn().unwrap());
        until(|| place.command("status").output().unwrap().status.code() == Some(0));
        relay
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([format!("-{signal}"), id]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(wanted: impl Fn() -> bool) {
    let began = Instant::now();
    while !wanted() {
        assert!(began.elapsed() < PATIENCE, "it does not come to this");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_socket_of_a_relay_that_was_killed_is_replaced() {
    let place = Place::new("");
    drop(Process::start(&place));
    assert!(place.socket().exists(), "it had no time to clean up");
    assert_eq!(place.command("status").output().unwrap().status.code(), Some(1));
    let _again = Process::start(&place);
}

#[test]
fn a_reload_that_is_refused_is_shown_until_a_good_one() {
    let place = Place::new("");
    let relay = Process::start(&place);
    let good = std::fs::read_to_string(place.file()).unwrap();
    let aside = place.0.path().join("aside.toml");
    std::fs::write(&aside, &good).unwrap();
    // Asks with a file of its own, as the relay's is broken for a time.
    let status = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealpost-relay"));
        let output = command.args(["status", "--json", "--config"]).arg(&aside).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let broken = "registry = \"postgres://relay:s3cret@db/x\"\n[nonsense]\n";
    std::fs::write(place.file(), format!("{broken}{good}")).unwrap();
    relay.signal("HUP");
    until(|| status().0 == Some(1));
    let (_, text) = status();
    assert!(text.contains("unknown field `nonsense`") && !text.contains("s3cret"), "{text}");
    std::fs::write(place.file(), &good).unwrap();
    relay.signal("HUP");
    until(|| status().0 == Some(0));
}

#[test]
fn a_key_that_is_rotated_is_in_use_after_a_reload() {
    let place = Place::new("");
    let relay = Process::start(&place);
    let says = |line: &str| {
        let output = place.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let (out, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        (out.unwrap(), error.unwrap())
    };
    let key = says("key rotate --yes").0.lines().next().unwrap().to_owned();
    assert!(says("invite alice").1.contains("has not read its new key yet"));
    assert!(!says("status").0.contains(&key));
    relay.signal("HUP");
    until(|| says("status").0.contains(&key));
    assert_eq!(says("invite alice").1, "");
}
