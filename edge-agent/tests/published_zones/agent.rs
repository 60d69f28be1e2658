//! A box in a directory of its own, and the program that runs there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use sealpost_tunnel::Identity;

use crate::PATIENCE;
use crate::relay::Relay;

/// The directory.
pub(crate) struct Home {
    directory: tempfile::TempDir,
    relays: Mutex<String>,
    admin: Mutex<SocketAddr>,
}

impl Home {
    /// A box with `relays`, of which it has the keys.
    pub(crate) fn new(relays: &[&Relay]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for (number, relay) in relays.iter().enumerate() {
            text.push_str(&format!(
                "[[relay]]\nname = \"r{number}\"\naddresses = [\"{}\"]\nkey = \"{}\"\n",
                relay.address,
                relay.identity.public()
            ));
        }
        Identity::create(&directory.path().join("state/agent.key")).unwrap();
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { directory, relays: Mutex::new(text), admin: Mutex::new(admin) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self) -> PathBuf {
        self.path().join("agent.toml")
    }

    /// The file, with `more` behind the relays.
    pub(crate) fn write(&self, more: &str) {
        let state = self.path().join("state");
        let (relays, admin) = (self.relays.lock().unwrap(), self.admin.lock().unwrap());
        let text = format!("state = {state:?}\nadmin.listen = \"{admin}\"\n{relays}{more}");
        std::fs::write(self.config(), text).unwrap();
    }

    /// The next file has no relays.
    pub(crate) fn forget_relays(&self) {
        self.relays.lock().unwrap().clear();
    }

    /// A file that only its owner reads.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.unwrap().write_all(content.as_bytes()).unwrap();
        path
    }

    pub(crate) fn free_port(&self) -> u16 {
        sealpost_tests::name_server::free_port().unwrap()
    }

    /// What a command says; an error when it failed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let ran = Command::new(env!("CARGO_BIN_EXE_sealpost-agent"))
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .output()
            .unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        if ran.status.success() { Ok(said) } else { Err(said) }
    }
}

/// `sealpost-agent run`; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    admin: SocketAddr,
    dns: SocketAddr,
}

impl Agent {
    pub(crate) fn start(home: &Home) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealpost-agent"))
            .args(["run", "--config"])
            .arg(home.config())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |service: &str| {
            lines
                .find_map(|line| {
                    let line = line.unwrap();
                    eprintln!("agent: {line}");
                    let found = line.contains(service);
                    let address = line.split("address=").nth(1)?.split_whitespace().next()?;
                    address.parse().ok().filter(|_| found)
                })
                .unwrap()
        };
        let (dns, admin): (SocketAddr, SocketAddr) = (address("\"dns\""), address("\"admin\""));
        std::thread::spawn(move || lines.for_each(|line| eprintln!("agent: {}", line.unwrap())));
        // For `status`, which looks for the address in the file.
        let place = |admin: SocketAddr| format!("admin.listen = \"{admin}\"");
        let mut kept = home.admin.lock().unwrap();
        let text = std::fs::read_to_string(home.config()).unwrap();
        std::fs::write(home.config(), text.replace(&place(*kept), &place(admin))).unwrap();
        *kept = admin;
        Self { child, admin, dns }
    }

    /// Where it answers DNS.
    pub(crate) fn dns(&self) -> SocketAddr {
        self.dns
    }

    fn status(&self) -> String {
        let mut http = TcpStream::connect(self.admin).unwrap();
        http.write_all(b"GET /status HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        http.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until `/status` says `word`.
    #[track_caller]
    pub(crate) fn expect(&self, word: &str) -> String {
        let began = Instant::now();
        loop {
            let status = self.status();
            if status.contains(word) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{word:?} is never there: {status}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// The serial of a zone.
    pub(crate) fn serial(&self, zone: &str) -> u32 {
        let status = self.status();
        let body = status.split("\r\n\r\n").nth(1).unwrap();
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        let zones = status["zones"].as_array().unwrap();
        let found = zones.iter().find(|it| it["name"] == zone).unwrap();
        found["serial"].as_u64().unwrap().try_into().unwrap()
    }

    /// Has it read its file again.
    pub(crate) fn reload(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
