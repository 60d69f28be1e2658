//! Plays every file of `tests/dialogs/` against a real relay on loopback; see the README there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sealpost_relay::registry::Database;
use sealpost_tests::programs;
use sealpost_tunnel::Identity;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Longer than every deadline of the relay under test.
const PATIENCE: Duration = Duration::from_secs(10);
const CONFIG: &str = r#"
hostname = "relay.example.net"
state = "STATE"
smtp.listen = ["127.0.0.1:0"]
tunnel.listen = ["127.0.0.1:0"]
admin.listen = "127.0.0.1:0"
log.format = "json"
limits = { command = "2s", preamble = "3s", client_hello = "1s", park = "1s" }
# The box called mx gets the name mx.home.example.
box_domain = "home.example"
"#;

#[test]
fn every_dialog_is_as_it_is_written() {
    let relay = Relay::start().unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder("dialogs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "dialog"))
        .collect();
    files.sort();
    assert!(files.len() > 20, "the dialogs are missing");
    let mut failures = Vec::new();
    for (at, file) in files.iter().enumerate() {
        // An address of its own for each, as the relay remembers for some seconds who failed.
        let client = Ipv4Addr::new(127, 0, 7, u8::try_from(at + 1).unwrap());
        if let Err(error) = play(&relay, file, client) {
            failures.push(format!("{}: {error:#}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn play(relay: &Relay, file: &Path, client: Ipv4Addr) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let mut before = relay.outcomes()?;
    let mut talk = Talk::connect(client, relay.smtp)?;
    for (at, line) in text.lines().enumerate() {
        let context = || format!("line {}: {line}", at + 1);
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "" | "#" => Ok(()),
            ">" => talk.send(format!("{rest}\r\n").as_bytes()),
            ">raw" => talk.send(&unescape(rest)?),
            ">repeat" => {
                let (count, text) = rest.split_once(' ').with_context(context)?;
                talk.send(&unescape(text)?.repeat(count.parse()?))
            }
            ">hello" => talk.send(&std::fs::read(folder("hellos").join(format!("{rest}.bin")))?),
            "<" => talk.expect_line(rest),
            "<alert" => talk.expect_alert(rest.parse()?),
            "<end" => talk.expect_end(),
            "close" => talk.0.get_ref().shutdown(Shutdown::Write).map_err(Into::into),
            "outcome" => relay.expect_outcome(&mut before, rest),
            "wait" => {
                std::thread::sleep(Duration::from_millis(rest.parse()?));
                Ok(())
            }
            "again" => Talk::connect(client, relay.smtp).map(|anew| talk = anew),
            _ => bail!("{}: no such verb", context()),
        }
        .with_context(context)?;
    }
    ensure!(text.contains("\noutcome "), "a dialog ends with its outcome");
    Ok(())
}

/// The sender's end of a connection.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn connect(client: Ipv4Addr, relay: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((client, 0)).into())?;
        socket.connect(&relay.into())?;
        let tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        Ok(Self(BufReader::new(tcp)))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    fn expect_line(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let got = line.strip_suffix("\r\n").with_context(|| format!("got {line:?}"))?;
        let fits = match wanted.strip_suffix("...") {
            Some(start) => got.starts_with(start),
            None => got == wanted,
        };
        ensure!(fits, "got {got:?}");
        Ok(())
    }

    fn expect_alert(&mut self, number: u8) -> Result<()> {
        let mut record = [0; 7];
        self.0.read_exact(&mut record)?;
        ensure!(record == [21, 3, 3, 0, 2, 2, number], "got {record:?}");
        Ok(())
    }

    fn expect_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "got {rest:?}");
        // The relay waits a moment for our end, so that its last words are not lost.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
        Ok(())
    }
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        out.push(match rest.next().context("nothing behind \\")? {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next(), rest.next()].map(|d| char::from(d.unwrap_or(b'?')));
                u8::from_str_radix(&String::from_iter(digits), 16)?
            }
            other => bail!("unknown escape \\{}", char::from(other)),
        });
    }
    Ok(out)
}

/// Brings a box called `mx` into the registry, which will never connect.
fn register(state: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = Database::open(None, state).await?;
        let secret = database.invite(&"mx".parse()?, 1, PATIENCE, 0).await?;
        let key = Identity::ephemeral().public();
        Ok(database.join(&secret, key, None, 0).await?)
    })
}

/// A relay that runs until it is dropped.
struct Relay {
    child: Child,
    smtp: SocketAddr,
    admin: SocketAddr,
    _state: tempfile::TempDir,
}

impl Relay {
    fn start() -> Result<Self> {
        let state = tempfile::tempdir()?;
        let config = state.path().join("relay.toml");
        let text = CONFIG.replace("STATE", state.path().to_str().context("a path in UTF-8")?);
        std::fs::write(&config, text)?;
        register(state.path())?;
        let mut child = Command::new(programs::directory()?.join("sealpost-relay"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("a log")?);
        let mut listening = BTreeMap::new();
        while listening.len() < 3 {
            let mut line = String::new();
            ensure!(log.read_line(&mut line)? > 0, "the relay ended; is the configuration good?");
            let event: Value = serde_json::from_str(&line)?;
            if event["message"] == "listening" {
                let service = event["service"].as_str().unwrap_or_default().to_owned();
                listening.insert(service, event["address"].as_str().unwrap_or_default().parse()?);
            }
        }
        // The rest of the log is read so that the relay never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { child, smtp: listening["smtp"], admin: listening["admin"], _state: state })
    }

    /// The session counters that are not zero.
    fn outcomes(&self) -> Result<BTreeMap<String, u64>> {
        let mut http = TcpStream::connect(self.admin)?;
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        http.read_to_string(&mut text)?;
        let counters = text.lines().filter_map(|line| {
            let (label, count) = line
                .strip_prefix("sealpost_relay_sessions_total{outcome=\"")?
                .split_once("\"} ")?;
            Some((label.to_owned(), count.parse().ok()?))
        });
        Ok(counters.filter(|(_, count)| *count > 0).collect())
    }

    /// Waits until one more session has ended than `before`, which then is what it is now.
    fn expect_outcome(&self, before: &mut BTreeMap<String, u64>, outcome: &str) -> Result<()> {
        let mut wanted = before.clone();
        *wanted.entry(outcome.into()).or_default() += 1;
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.outcomes()?;
            if now == wanted {
                *before = now;
                return Ok(());
            }
            ensure!(now == *before && Instant::now() < until, "outcomes are {now:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
