//! Debian's name servers on loopback: each in a directory of its own on a port of its own, as primary
//! or secondary of `example.org`, stopped when dropped. Those that are not installed are unpacked, by root.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use sealpost_tests::name_server;
use tempfile::TempDir;

/// The zone.
pub(crate) const ZONE: &str = "example.org";
/// The name of the key that all share.
pub(crate) const KEY: &str = "transfer-key";
/// Its secret.
pub(crate) const SECRET: &str = "c29tZSBzZWNyZXQgb2YgMzIgb2N0ZXRzIGZvciB0ZXN0cw==";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// NLnet Labs NSD.
    Nsd,
    /// Knot DNS.
    Knot,
    /// BIND 9.
    Named,
}

/// What it does with the zone. The other end is at 127.0.0.1 and this port, and has the key.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Serves this text, tells the other end of changes.
    Primary {
        /// The zone file's content.
        text: String,
        /// The other end.
        other: u16,
    },
    /// Has it from the other end.
    Secondary {
        /// The other end.
        other: u16,
    },
}

/// A server that runs.
pub(crate) struct Running {
    program: Program,
    child: Child,
    directory: TempDir,
    /// Where it answers.
    pub(crate) address: SocketAddr,
}

impl Program {
    /// By which hash it signs; each by another, so that all are tried.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::Nsd => "hmac-sha256",
            Self::Knot => "hmac-sha512",
            Self::Named => "hmac-sha384",
        }
    }

    /// Where it is: installed, or unpacked.
    fn find(self) -> anyhow::Result<name_server::Program> {
        match self {
            Self::Nsd => name_server::Program::find("nsd", Some("dns")),
            Self::Knot => name_server::Program::find("knotd", Some("knot")),
            Self::Named => name_server::Program::find("named", Some("bind")),
        }
    }

    /// Starts it. `None`, and a loud word, when it is not installed.
    pub(crate) fn start(self, role: &Role) -> Option<Running> {
        let text = match role {
            Role::Primary { text, .. } => text,
            Role::Secondary { .. } => "",
        };
        self.run(text, |at, port| match self {
            Self::Nsd => nsd(at, port, role),
            Self::Knot => knot(at, port, role),
            Self::Named => named(at, port, role),
        })
    }

    /// The same with a configuration for its directory and port, and a file `zone` if there is a text.
    pub(crate) fn run(
        self,
        text: &str,
        config: impl FnOnce(&str, u16) -> String,
    ) -> Option<Running> {
        let program = match self.find() {
            Ok(program) => program,
            Err(error) => {
                name_server::skipped(&format!("not tested against {self:?}: {error:#}"));
                return None;
            }
        };
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let at = directory.path().to_str().expect("a path in UTF-8");
        if !text.is_empty() {
            fs::write(directory.path().join("zone"), text).expect("the zone file");
        }
        let file = directory.path().join("config");
        fs::write(&file, config(at, port)).expect("the configuration");
        let log = fs::File::create(directory.path().join("output")).expect("a log");
        let foreground: &[&str] = match self {
            Self::Nsd => &["-d"],
            Self::Knot => &[],
            Self::Named => &["-g"],
        };
        let child = program
            .command()
            .args(foreground)
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        Some(Running { program: self, child, directory, address })
    }
}

impl Running {
    /// Gives a primary another version of the zone.
    pub(crate) fn reload(&self, text: &str) {
        self.reload_with("zone", text);
    }

    /// Has it read its files again, one of which has this content now.
    pub(crate) fn reload_with(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join(file), text).expect("the file");
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs");
        assert!(done.success(), "{:?} is not there any more:\n{}", self.program, self.log());
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("output")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // NSD's children end with it only when it is asked to.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free for UDP and TCP.
pub(crate) fn free_port() -> u16 {
    name_server::free_port().expect("a free port")
}

fn nsd(at: &str, port: u16, role: &Role) -> String {
    let algorithm = Program::Nsd.algorithm();
    let zone = match role {
        Role::Primary { other, .. } => format!(
            "notify: 127.0.0.1@{other} {KEY}\n  provide-xfr: 127.0.0.1 {KEY}\n  \
             store-ixfr: yes\n  create-ixfr: yes\n  notify-retry: 2\n"
        ),
        Role::Secondary { other } => format!(
            "request-xfr: 127.0.0.1@{other} {KEY}\n  allow-notify: 127.0.0.1 {KEY}\n  \
             provide-xfr: 127.0.0.1 {KEY}\n"
        ),
    };
    format!(
        "server:\n  server-count: 1\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  \
         zonesdir: \"{at}\"\n  database: \"\"\n  pidfile: \"{at}/pid\"\n  \
         xfrdfile: \"{at}/xfrd\"\n  xfrdir: \"{at}\"\n  zonelistfile: \"{at}/list\"\n  \
         verbosity: 2\n  xfrd-reload-timeout: 0\nremote-control:\n  control-enable: no\n\
         key:\n  name: \"{KEY}\"\n  algorithm: {algorithm}\n  secret: \"{SECRET}\"\n\
         zone:\n  name: \"{ZONE}\"\n  zonefile: \"zone\"\n  {zone}"
    )
}

fn knot(at: &str, port: u16, role: &Role) -> String {
    let algorithm = Program::Knot.algorithm();
    let (other, zone) = match role {
        Role::Primary { other, .. } => (other, "notify: us\n    zonefile-load: difference"),
        Role::Secondary { other } => (other, "master: us"),
    };
    format!(
        "server:\n    rundir: \"{at}\"\n    listen: 127.0.0.1@{port}\n    \
         tcp-workers: 1\n    udp-workers: 1\n    background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n    storage: \"{at}\"\n\
         key:\n  - id: {KEY}\n    algorithm: {algorithm}\n    secret: {SECRET}\n\
         remote:\n  - id: us\n    address: 127.0.0.1@{other}\n    key: {KEY}\n\
         acl:\n  - id: us\n    key: {KEY}\n    action: [transfer, notify]\n\
         zone:\n  - domain: {ZONE}\n    storage: \"{at}\"\n    file: zone\n    acl: us\n    {zone}\n"
    )
}

fn named(at: &str, port: u16, role: &Role) -> String {
    let algorithm = Program::Named.algorithm();
    let zone = match role {
        Role::Primary { other, .. } => format!(
            "type primary; notify explicit; also-notify {{ 127.0.0.1 port {other} key {KEY}; }}; \
             notify-delay 0; ixfr-from-differences yes;"
        ),
        Role::Secondary { other } => format!(
            "type secondary; notify no; primaries {{ 127.0.0.1 port {other} key {KEY}; }}; \
             masterfile-format text; allow-notify {{ key {KEY}; }};"
        ),
    };
    format!(
        "options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; \
         listen-on-v6 {{ none; }}; pid-file \"{at}/pid\"; session-keyfile \"{at}/session\"; \
         lock-file none; recursion no; dnssec-validation no; allow-transfer {{ key {KEY}; }}; }};\n\
         controls {{ }};\n\
         key {KEY} {{ algorithm {algorithm}; secret \"{SECRET}\"; }};\n\
         zone {ZONE} {{ file \"zone\"; {zone} }};\n"
    )
}
