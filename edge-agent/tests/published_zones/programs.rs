//! Programs of others: dig and nsupdate (bind9-dnsutils), ldns-verify-zone (ldnsutils), NSD, Knot.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sealpost_tests::name_server::{self, Program};

use crate::PATIENCE;
use crate::agent::Home;

/// Of all keys.
pub(crate) const SECRET: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n";

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "it never comes to that");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn text(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// What dig prints for a question to `server`: records alone, or what went wrong.
pub(crate) fn dig(server: SocketAddr, name: &str, rtype: &str) -> String {
    let port = server.port().to_string();
    let at = format!("@{}", server.ip());
    let options = ["+tcp", "+noall", "+answer", "+nosplit", "+onesoa", "+time=5", "+tries=1"];
    let ran = Command::new("dig").args([&at, "-p", &port, name, rtype]).args(options).output();
    text(&ran.unwrap())
}

/// ldns-verify-zone on what dig printed.
pub(crate) fn verify(home: &Home, zone: &str, printed: &str) {
    let path = home.file("transferred.zone", printed);
    let ran = Command::new("ldns-verify-zone").arg("-V").arg("2").arg(path).output().unwrap();
    assert!(ran.status.success(), "{zone}: {}\n{printed}", text(&ran));
}

/// dnssec-verify on what dig printed.
pub(crate) fn judged(home: &Home, zone: &str, printed: &str) {
    let path = home.file("judged.zone", printed);
    let ran = Command::new("dnssec-verify").args(["-z", "-o", zone]).arg(path).output().unwrap();
    assert!(ran.status.success(), "{zone}: {}\n{printed}", text(&ran));
}

/// Whether delv validates the records of `rtype` at `name`, with nothing but what the parent knows.
pub(crate) fn validated(home: &Home, server: SocketAddr, zone: &str, name: &str, rtype: &str) {
    let said = home.run(&["dns", "ds", zone, "--json"]).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let ds = &said["ds"][0];
    let (tag, algorithm, kind) = (&ds["key_tag"], &ds["algorithm"], &ds["digest_type"]);
    let digest = ds["digest"].as_str().unwrap();
    let anchor = format!(
        "trust-anchors {{ \"{zone}.\" static-ds {tag} {algorithm} {kind} \"{digest}\"; }};\n"
    );
    let anchor = home.file("anchor", &anchor);
    let ran = Command::new("delv")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "-a"])
        .arg(anchor)
        .args([&format!("+root={zone}"), name, rtype])
        .output()
        .unwrap();
    let said = text(&ran);
    assert!(ran.status.success() && said.contains("; fully validated"), "{name} {rtype}: {said}");
}

/// Sends an update with nsupdate; an error is what it says.
pub(crate) fn nsupdate(
    server: SocketAddr,
    key: &str,
    zone: &str,
    lines: &str,
) -> Result<(), String> {
    let script = format!(
        "server {} {}\nzone {zone}.\nkey hmac-sha256:{key} {}{lines}\nsend\n",
        server.ip(),
        server.port(),
        SECRET
    );
    let mut child = Command::new("nsupdate")
        .args(["-v", "-t", "60"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    if ran.status.success() { Ok(()) } else { Err(text(&ran)) }
}

fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, name_server::free_port().unwrap()).into()
}

/// Installed, or out of Debian's packages `tree`.
fn program(name: &str, tree: &str) -> Command {
    Program::find(name, Some(tree)).unwrap().command()
}

/// A server that ends when dropped.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mut program: Command, arguments: &[&str], files: impl Fn(&Path, SocketAddr)) -> Self {
        let (directory, address) = (tempfile::tempdir().unwrap(), free());
        files(directory.path(), address);
        let child = program
            .args(arguments)
            .arg("-c")
            .arg(directory.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory, address }
    }
}

/// NSD with a zone from elsewhere.
pub(crate) struct Nsd(Server);

impl Nsd {
    pub(crate) fn start(zone: &str, primary: SocketAddr) -> Self {
        Self(Server::start(program("nsd", "dns"), &["-d"], |dir, address| {
            let shown = dir.display();
            let conf = format!(
                "server:\n  ip-address: {}\n  port: {}\n  username: \"\"\n  chroot: \"\"\n  \
                 zonesdir: \"{shown}\"\n  xfrdfile: \"{shown}/xfrd\"\n  xfrdir: \"{shown}\"\n  \
                 zonelistfile: \"{shown}/list\"\n  pidfile: \"\"\n  database: \"\"\n  \
                 server-count: 1\nremote-control:\n  control-enable: no\n\
                 zone:\n  name: {zone}\n  request-xfr: AXFR {}@{} NOKEY\n",
                address.ip(),
                address.port(),
                primary.ip(),
                primary.port()
            );
            std::fs::write(dir.join("conf"), conf).unwrap();
        }))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// Knot that signs a zone.
pub(crate) struct Primary {
    server: Server,
    zone: String,
    key: Option<&'static str>,
}

impl Primary {
    pub(crate) fn start(zone: &str, content: &str) -> Self {
        Self::with_key(zone, content, None)
    }

    /// One that has this key in all that it says to others, and gives the zone to those alone who have it.
    pub(crate) fn with_key(zone: &str, content: &str, key: Option<&'static str>) -> Self {
        let server = Server::start(program("knotd", "knot"), &[], |dir, address| {
            std::fs::write(dir.join(format!("{zone}.zone")), format!("$TTL 60\n{content}"))
                .unwrap();
            std::fs::write(dir.join("conf"), conf(dir, address, zone, None, key)).unwrap();
        });
        let primary = Self { server, zone: zone.into(), key };
        until(|| dig(primary.address(), zone, "DNSKEY").contains("DNSKEY"));
        primary
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn knotc(&self, arguments: &[&str]) {
        let path = self.server.directory.path().join("knot.sock");
        let ran = program("knotc", "knot").arg("-s").arg(path).args(arguments).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", text(&ran));
    }

    /// From now on tells whoever listens there.
    pub(crate) fn notify_to(&self, to: SocketAddr) {
        let dir = self.server.directory.path();
        let conf = conf(dir, self.address(), &self.zone, Some(to), self.key);
        std::fs::write(dir.join("conf"), conf).unwrap();
        self.knotc(&["reload"]);
    }

    /// Sets a record.
    pub(crate) fn change(&self, record: &str) {
        let words: Vec<_> = record.split(' ').collect();
        self.knotc(&["zone-begin", &self.zone]);
        self.knotc(&["zone-unset", &self.zone, words[0], words[2]]);
        self.knotc(&[&["zone-set", self.zone.as_str()], &words[..]].concat());
        self.knotc(&["zone-commit", &self.zone]);
    }
}

fn conf(
    dir: &Path,
    address: SocketAddr,
    zone: &str,
    to: Option<SocketAddr>,
    key: Option<&str>,
) -> String {
    let shown = dir.display();
    let (keys, by) = match key {
        None => (String::new(), String::new()),
        Some(key) => (
            format!(
                "key:\n  - id: {key}\n    algorithm: hmac-sha256\n    secret: {}\n",
                SECRET.trim()
            ),
            format!("    key: {key}\n"),
        ),
    };
    let listen = format!("{}@{}", address.ip(), address.port());
    let (remote, notify) = match to {
        None => (String::new(), ""),
        Some(to) => (
            format!("remote:\n  - id: agent\n    address: {}@{}\n{by}", to.ip(), to.port()),
            "    notify: agent\n",
        ),
    };
    format!(
        "server:\n  rundir: \"{shown}\"\n  listen: {listen}\ncontrol:\n  listen: \"{shown}/knot.sock\"\n\
         database:\n  storage: \"{shown}\"\n{keys}{remote}acl:\n  - id: all\n    address: 127.0.0.1\n{by}    \
         action: transfer\npolicy:\n  - id: p\n    algorithm: ecdsap256sha256\nzone:\n  - domain: {zone}\n    storage: \"{shown}\"\n    file: \
         \"{zone}.zone\"\n    zonefile-sync: -1\n    zonefile-load: difference-no-serial\n    journal-content: all\n    dnssec-signing: on\n    dnssec-policy: p\n    acl: all\n{notify}"
    )
}
