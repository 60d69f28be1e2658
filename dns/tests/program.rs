//! The program as it is installed, between a primary and a secondary of Debian's name servers: signed
//! zones come, changes are followed and handed on, and what it and the secondary hold passes
//! `ldns-verify-zone` and `dnssec-verify`; a zone whose signatures do not hold is not served, and after a
//! restart what was kept is served though the primary is gone.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod catalogs;
mod servers;
mod verifiers;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealpost_dns::record::Name;
use sealpost_dns::transfer::frame::Pace;
use sealpost_dns::transfer::inbound::Limits;
use sealpost_dns::transfer::pull::{Ask, Version, version};
use sealpost_dns::transfer::query::serial_of;
use sealpost_dns::transfer::tsig::TsigKey;
use sealpost_tests::name_server::{self, Denial, Signer};
use servers::{KEY, Program, Role, Running, SECRET, ZONE, free_port};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Long enough for a busy machine; the target for following a change is 5 s.
const PATIENCE: Duration = Duration::from_secs(60);

fn text(serial: u32) -> String {
    format!(
        "$ORIGIN {ZONE}.\n\
         @ 3600 IN SOA ns hostmaster {serial} 14400 3600 1814400 300\n\
         @ 3600 IN NS ns\n\
         @ 3600 IN MX 10 mail\n\
         ns 3600 IN A 192.0.2.1\n\
         mail 3600 IN AAAA 2001:db8::1\n\
         *.wild 60 IN TXT wild\n"
    )
}

/// A zone with what signers and verifiers tell apart: empty non-terminals, delegations with and without
/// DS, glue, a wildcard, a DNAME, upper case; with so many names that a transfer is of several messages.
fn large(serial: u32) -> String {
    let mut out = text(serial);
    out.push_str(&format!(
        "_25._tcp.Mail 3600 IN TLSA 3 1 1 {}\n\
         a.b.c.deep 60 IN TXT deep\n\
         @ 60 IN CAA 0 issue \"ca.example; validationmethods=dns-01\"\n\
         alias 60 IN CNAME mail\n\
         below 60 IN DNAME other.example.\n\
         unknown 60 IN TYPE65280 \\# 5 0102030405\n\
         signed 60 IN NS ns.signed\n\
         signed 60 IN DS 12345 13 2 {}\n\
         ns.signed 60 IN A 192.0.2.2\n\
         plain 60 IN NS ns.plain\n\
         ns.plain 60 IN AAAA 2001:db8::2\n",
        "ab".repeat(32),
        "cd".repeat(32)
    ));
    for host in 0..300 {
        out.push_str(&format!("Host-{host} 300 IN A 192.0.2.{}\n", host % 256));
    }
    out
}

/// `sealpost-dns`.
struct Ours {
    directory: TempDir,
    child: Option<Child>,
    address: SocketAddr,
}

impl Ours {
    /// With one zone.
    fn new(program: Program, port: u16, primary: SocketAddr, notify: u16, trust: &str) -> Self {
        Self::with(
            program,
            port,
            &format!(
                "[[zone]]\nname = \"{ZONE}\"\n\
             primaries = [{{ address = \"{primary}\", key = \"{KEY}\" }}]\ntrust = {trust}\n\
             transfer_to = [{{ key = \"{KEY}\" }}]\n\
             notify = [{{ address = \"127.0.0.1:{notify}\", key = \"{KEY}\" }}]\n"
            ),
        )
    }

    /// With the key of `program`, and these lines.
    fn with(program: Program, port: u16, zones: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display().to_string();
        let secret = directory.path().join("secret");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let algorithm = program.algorithm();
        let config = format!(
            "state = \"{at}\"\nlisten = [\"127.0.0.1:{port}\"]\nthreads = 1\n\
             admin.listen = \"127.0.0.1:0\"\n\
             [[key]]\nname = \"{KEY}\"\nalgorithm = \"{algorithm}\"\nsecret_file = \"{at}/secret\"\n{zones}"
        );
        fs::write(directory.path().join("dns.toml"), config).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut ours = Self { directory, child: None, address };
        ours.start();
        ours
    }

    fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sealpost-dns"))
            .args(["run", "--config"])
            .arg(self.directory.path().join("dns.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Has it read its file again, which has this content now.
    fn reload(&self, config: &str) {
        fs::write(self.directory.path().join("dns.toml"), config).unwrap();
        let child = self.child.as_ref().unwrap();
        let _ = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    }

    /// Ends it, as systemd does.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let ended = child.wait().unwrap();
        assert!(ended.success(), "{ended}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn serial(program: Program, of: SocketAddr, signed: bool) -> Option<u32> {
    Some(serial_of(&seen(program, of, signed).await?.soa))
}

/// The version that a server has, and when it expires there.
async fn seen(program: Program, of: SocketAddr, signed: bool) -> Option<Version> {
    let apex: Name = ZONE.parse().unwrap();
    let key = || {
        let algorithm = program.algorithm().parse().unwrap();
        Arc::new(TsigKey::from_base64(KEY.parse().unwrap(), algorithm, SECRET).unwrap())
    };
    let (limits, pace) = (Limits::default(), Pace::default());
    let ask = Ask { apex, key: signed.then(key), limits, pace };
    let mut stream = TcpStream::connect(of).await.ok()?;
    version(&mut stream, &ask).await.ok()
}

/// Waits until the server has this version, and says how long it took.
async fn has(program: Program, of: SocketAddr, wanted: u32, log: impl Fn() -> String) -> Duration {
    let began = Instant::now();
    while serial(program, of, false).await != Some(wanted) {
        assert!(began.elapsed() < PATIENCE, "{of} has no serial {wanted}\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    began.elapsed()
}

async fn chain(program: Program) {
    let signer = match Signer::new() {
        Ok(signer) => signer,
        Err(error) => return name_server::skipped(&format!("no zone was signed: {error:#}")),
    };
    let apex = format!("{ZONE}.");
    // A step from one denial to the other changes names all over the zone.
    let first = signer.sign(&apex, &large(1), Denial::Nsec).unwrap();
    let second = signer.sign(&apex, &large(2), Denial::Nsec3).unwrap();
    let port = free_port();
    let role = Role::Primary { text: first, other: port };
    let Some(primary) = program.start(&role) else { return };
    let Some(secondary) = program.start(&Role::Secondary { other: port }) else { return };
    let notify = secondary.address.port();
    let mut ours = Ours::new(program, port, primary.address, notify, "\"first-seen\"");
    let logs = |ours: &Ours, others: [&Running; 2]| {
        format!("{}\n{}\n{}", ours.log(), others[0].log(), others[1].log())
    };
    let verify = |of: [SocketAddr; 3]| {
        let held = of.map(|of| verifiers::held(of, program.algorithm()));
        let sorted = held.each_ref().map(verifiers::sorted);
        assert_eq!(sorted[0], sorted[1], "{program:?}: we have another zone than our primary");
        assert_eq!(sorted[1], sorted[2], "{program:?}: our secondary has another zone than we");
        verifiers::verify(&held[1]);
        verifiers::verify(&held[2]);
    };
    let all = [primary.address, ours.address, secondary.address];
    has(program, ours.address, 1, || logs(&ours, [&primary, &secondary])).await;
    has(program, secondary.address, 1, || logs(&ours, [&primary, &secondary])).await;
    // A query that is signed has a signed answer.
    assert_eq!(serial(program, ours.address, true).await, Some(1));
    verify(all);
    // Who has it from us is told how long it lasts here, signed or not (RFC 7314).
    for signed in [false, true] {
        let expire = seen(program, ours.address, signed).await.unwrap().expire;
        assert!(expire.is_some_and(|left| (1_800_000..=1_814_400).contains(&left)), "{expire:?}");
    }

    primary.reload(&second);
    let took = has(program, ours.address, 2, || logs(&ours, [&primary, &secondary])).await;
    let more = has(program, secondary.address, 2, || logs(&ours, [&primary, &secondary])).await;
    eprintln!("{program:?}: we followed after {took:?}, its secondary {more:?} later");
    verify(all);

    ours.stop();
    drop(primary);
    ours.start();
    has(program, ours.address, 2, || ours.log()).await;
}

#[tokio::test]
async fn nsd_before_and_behind() {
    chain(Program::Nsd).await;
}

#[tokio::test]
async fn knot_before_and_behind() {
    chain(Program::Knot).await;
}

#[tokio::test]
async fn named_before_and_behind() {
    chain(Program::Named).await;
}

/// The zone signed by `key` with ldns, which is no library of ours.
fn signed(directory: &Path, key: &str, text: &str) -> String {
    let file = directory.join("unsigned");
    fs::write(&file, text).unwrap();
    let done = Command::new("ldns-signzone")
        .current_dir(directory)
        .args(["-o", ZONE, "-f", "signed", "unsigned", key])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    fs::read_to_string(directory.join("signed")).unwrap()
}

#[tokio::test]
async fn what_is_not_signed_by_the_owner_is_not_served() {
    let program = Program::Nsd;
    let keys = tempfile::tempdir().unwrap();
    let made = Command::new("ldns-keygen")
        .current_dir(keys.path())
        .args(["-a", "ECDSAP256SHA256", "-k", ZONE])
        .output();
    let Ok(made) = made else {
        name_server::skipped("ldnsutils is not installed, so no zone was signed");
        return;
    };
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let ds = fs::read_to_string(keys.path().join(format!("{key}.ds"))).unwrap();
    let ds = ds.split_once("DS").unwrap().1.trim().to_owned();
    let good = |serial| signed(keys.path(), &key, &text(serial));

    let port = free_port();
    let role = Role::Primary { text: good(1), other: port };
    let Some(primary) = program.start(&role) else { return };
    let mut ours = Ours::new(program, port, primary.address, free_port(), &format!("[\"{ds}\"]"));
    has(program, ours.address, 1, || ours.log()).await;

    // Somebody between changes an address and nothing else.
    let changed = good(2).replace("192.0.2.1", "192.0.2.66");
    primary.reload(&changed);
    has(program, primary.address, 2, || primary.log()).await;
    let began = Instant::now();
    while !ours.log().contains("a new version is refused") {
        assert!(began.elapsed() < PATIENCE, "nothing was refused\n{}", ours.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(serial(program, ours.address, false).await, Some(1));

    primary.reload(&good(3));
    has(program, ours.address, 3, || ours.log()).await;
    ours.stop();
}

#[tokio::test]
async fn a_reload_adds_and_removes_zones_and_a_bad_file_changes_nothing() {
    let (program, port) = (Program::Nsd, free_port());
    let role = Role::Primary { text: text(1), other: port };
    let Some(primary) = program.start(&role) else { return };
    let mut ours = Ours::new(program, port, primary.address, free_port(), "\"unsigned\"");
    has(program, ours.address, 1, || ours.log()).await;
    let config = fs::read_to_string(ours.directory.path().join("dns.toml")).unwrap();
    let file = ours.directory.path().join(format!("zones/{ZONE}.zone"));
    let said = async |ours: &Ours, what: &str| {
        let began = Instant::now();
        while !ours.log().contains(what) {
            assert!(began.elapsed() < PATIENCE, "not {what:?}\n{}", ours.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };

    ours.reload(&config.replace("[[zone]]", "[[zoen]]"));
    said(&ours, "reload refused").await;
    assert_eq!(serial(program, ours.address, false).await, Some(1));

    let (without, _) = config.split_once("[[zone]]").unwrap();
    ours.reload(&without.replace("threads = 1", "threads = 2"));
    said(&ours, "added=0 removed=1").await;
    said(&ours, "the rest needs a restart").await;
    assert_eq!(serial(program, ours.address, false).await, None);
    assert!(!file.exists());

    ours.reload(&config);
    has(program, ours.address, 1, || ours.log()).await;
    assert!(file.exists());
    ours.stop();
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dns.toml");
    let check = |zone: &str| {
        let text = format!("state = \"/nowhere\"\nlisten = [\"127.0.0.1:0\"]\n{zone}");
        fs::write(&file, text).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_sealpost-dns"))
            .args(["check-config", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    let zone = "[[zone]]\nname = \"a.example\"\nprimaries = [{ address = \"192.0.2.1:53\" }]\n";
    assert_eq!(check(zone).0, Some(0));
    for (bad, said) in [
        ("[[zone]]\nname = \"a.example\"\nprimaries = []\n", "no primaries"),
        (&format!("{zone}trust = \"everybody\"\n"), "trust is"),
        (&format!("{zone}transfer_to = [{{}}]\n"), "admits nobody"),
        (&format!("{zone}transfer_to = [{{ from = \"192.0.2.0/40\" }}]\n"), "192.0.2.0/40"),
        (&format!("{zone}transfer_to = [{{ key = \"no\" }}]\n"), "there is no key"),
        (&format!("{zone}{zone}"), "already"),
        ("zoens = 1\n", "zoens"),
        ("[limits]\ntransfers_in = 0\n", "nonzero"),
        (&zone.replace("[[zone]]", "[[catalog]]"), "has no key"),
        (&format!("{zone}{}", zone.replace("[[zone]]", "[[catalog]]")), "already"),
    ] {
        let (code, error) = check(bad);
        assert_eq!(code, Some(78), "{bad}\n{error}");
        assert!(error.contains(said) && error.contains("dns.toml:"), "{error}");
    }
}
