//! What an operator does to the registry while no relay runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sealpost_relay::registrar::now;
use sealpost_relay::registry::{Database, RegistryError};
use sealpost_tunnel::request::ProofMethod;
use sealpost_tunnel::{Identity, Invite, PublicKey};
use serde_json::{Value, json};

/// A relay that was never started.
struct Relay {
    dir: tempfile::TempDir,
}

impl Relay {
    fn new() -> Self {
        Self::with("own_prefix = \"2001:db8:1::/64\"\nbox_domain = \"box.example.net\"\n")
    }

    fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "hostname = \"relay.example.net\"\nstate = {:?}\n{more}\
             smtp.listen = [\"127.0.0.1:0\"]\ntunnel.listen = [\"127.0.0.1:4433\"]\n",
            dir.path().join("state")
        );
        std::fs::write(dir.path().join("relay.toml"), text).unwrap();
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn run(&self, line: &str) -> Output {
        run(&self.dir.path().join("relay.toml"), line)
    }

    /// What a command says that succeeds.
    fn says(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.says(&format!("{line} --json"))).unwrap()
    }

    /// What a command complains of that fails.
    fn refuses(&self, code: i32, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: "), "{line}: {error}");
        error
    }

    async fn database(&self) -> Database {
        Database::open(None, &self.state()).await.unwrap()
    }

    /// A box that has joined with an invite for `name`.
    async fn joined(&self, name: &str) -> PublicKey {
        let invite: Invite = self.url(&format!("invite {name}")).parse().unwrap();
        let key = Identity::ephemeral().public();
        self.database().await.join(&invite.secret, key, None, now()).await.unwrap();
        key
    }

    fn url(&self, line: &str) -> String {
        self.says(line).lines().next().unwrap().to_owned()
    }
}

fn run(config: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealpost-relay"))
        .args(line.split(' '))
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

#[tokio::test]
async fn an_invite_says_all_that_its_box_needs() {
    let relay = Relay::new();
    let said = relay.says("invite alice --domains 2 --expires 1h --qr");
    let url = said.lines().next().unwrap();
    let invite: Invite = url.parse().unwrap();
    assert_eq!(invite.relay.addresses[0].as_str(), "relay.example.net:4433");
    let key = relay.json("key");
    assert_eq!(invite.relay.key.to_string(), key["key"]);
    assert!(said.contains(key["words"].as_str().unwrap()), "{said}");
    assert!(said.contains("2 domains") && said.contains("(1 h)") && said.contains('█'), "{said}");
    assert!(said.contains(&format!("sealpost-agent join '{url}'")), "{said}");
    let database = relay.database().await;
    let key = Identity::ephemeral().public();
    database.join(&invite.secret, key, None, now()).await.unwrap();
    let invites = relay.json("invites");
    assert_eq!(invites[0]["state"], "spent");
    assert_eq!((&invites[0]["name"], &invites[0]["domains"]), (&"alice".into(), &2.into()));
    // The secret is kept nowhere.
    let secret = url.split_once('#').unwrap().1;
    for file in std::fs::read_dir(relay.state()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(20).any(|window| window == &secret.as_bytes()[..20]));
    }
}

#[tokio::test]
async fn a_second_invite_for_a_name_makes_the_first_void() {
    let relay = Relay::new();
    let first: Invite = relay.url("invite alice").parse().unwrap();
    let second = relay.json("invite alice");
    assert_eq!(second["replaces_open_invite"], true);
    assert!(relay.says("invite alice").contains("earlier invite for `alice` is void"));
    let key = Identity::ephemeral().public();
    let refused = relay.database().await.join(&first.secret, key, None, now()).await;
    assert!(matches!(refused, Err(RegistryError::InviteUnknown)));
    assert_eq!(relay.json("invites").as_array().unwrap().len(), 1);
    relay.says("invites withdraw alice");
    assert_eq!(relay.json("invites"), json!([]));
    assert!(relay.refuses(1, "invites withdraw alice").contains("no open invite"));
}

#[tokio::test]
async fn bad_words_are_refused_before_anything_is_made() {
    let relay = Relay::new();
    let long = format!("invite {}", "a".repeat(33));
    for (line, word) in [
        ("invite Alice", "a-z, 0-9"),
        ("invite -alice", "unexpected argument"),
        ("invite alice-", "a-z, 0-9"),
        ("invite alice.example", "a-z, 0-9"),
        (&long, "a-z, 0-9"),
        ("invite alice --expires 4min", "at least 5min"),
        ("invite alice --expires 91d", "at most 90d"),
        ("invite alice --expires soon", "write for example"),
        ("invite alice --domains 10001", "10000"),
        ("invite alice --domains -1", "unexpected argument"),
        ("address add alice 192.0.2", "invalid"),
        ("boxes allow alice many", "invalid"),
        ("revoke", "NAME"),
        ("invites withdraw", "NAME"),
    ] {
        let error = relay.refuses(2, line);
        assert!(error.contains(word), "{line}: {error}");
    }
    assert!(!relay.state().exists());
}

#[tokio::test]
async fn a_name_in_use_gets_no_invite_and_a_revoked_one_comes_back() {
    let relay = Relay::new();
    let first = relay.joined("alice").await;
    assert!(relay.refuses(1, "invite alice").contains("in use"));
    relay.says("address add alice 192.0.2.1");
    let before = relay.json("boxes show alice");
    assert!(relay.says("revoke alice").contains("sealpost-relay invite alice"));
    assert_eq!(relay.json("boxes show alice")["state"], "revoked");
    // May be repeated.
    assert_eq!(relay.json("revoke alice --yes")["key"], first.to_string());
    assert_eq!(relay.json("invite alice")["brings_back_revoked_box"], true);
    let second = relay.joined("alice").await;
    let after = relay.json("boxes show alice");
    assert_eq!((&after["state"], &after["key"]), (&"active".into(), &second.to_string().into()));
    assert_eq!(after["addresses"], before["addresses"]);
    assert!(relay.refuses(1, "revoke nobody").contains("no box of this name"));
}

#[tokio::test]
async fn boxes_are_listed_with_what_they_have() {
    let relay = Relay::new();
    assert_eq!(relay.json("boxes"), json!([]));
    let key = relay.joined("alice").await;
    let bob = relay.joined("bob").await;
    relay.says("address add alice 192.0.2.1");
    relay.says("boxes allow alice 7");
    let database = relay.database().await;
    let (domain, mx) = ("alice.example".parse().unwrap(), ["mx.alice.example".parse().unwrap()]);
    let txt = ProofMethod::Txt;
    database.claim(key, &domain, &mx, txt, now(), now() + 60).await.unwrap();
    database.leave(bob, now()).await.unwrap();

    let boxes = relay.json("boxes");
    let names: Vec<_> = boxes.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["alice", "bob#257"]);
    let alice = &boxes[0];
    assert_eq!(alice["live"], "unknown");
    assert_eq!(alice["addresses"], json!(["2001:db8:1::100", "192.0.2.1"]));
    assert_eq!(alice["own_name"], "alice.box.example.net");
    assert_eq!((&alice["domains_used"], &alice["domains_allowed"]), (&1.into(), &7.into()));
    assert_eq!(alice["fingerprint"], key.fingerprint().to_string());
    assert_eq!(boxes[1]["addresses"], json!([]));

    let table = relay.says("boxes");
    let line = table.lines().find(|line| line.starts_with("alice ")).unwrap();
    for word in ["active", "unknown", "1/7", "2001:db8:1::100, 192.0.2.1"] {
        assert!(line.contains(word), "{table}");
    }
    let page = relay.says("boxes show alice");
    for word in [key.to_string().as_str(), "1 of 7", "alice.example: proved", "mx.alice.example"] {
        assert!(page.contains(word), "{page}");
    }
    assert!(relay.says("boxes show bob#257").contains("left"));
    let domains = relay.json("domains");
    assert_eq!(domains.as_array().unwrap().len(), 1);
    for (field, value) in [("domain", "alice.example"), ("box", "alice"), ("state", "proved")] {
        assert_eq!(domains[0][field], value);
    }
    assert_eq!(domains[0]["mx"], json!(["mx.alice.example"]));
    database.release(key, &domain, now()).await.unwrap();
    let resting = relay.json("domains");
    assert_eq!(
        (&resting[0]["state"], &resting[0]["next_check"]),
        (&"released".into(), &Value::Null)
    );
    assert!(relay.says("domains").contains("nobody else may have it until"));
    assert_eq!(relay.json("boxes")[0]["domains_used"], 0);
}

#[tokio::test]
async fn addresses_have_one_owner_each() {
    let relay = Relay::new();
    relay.joined("alice").await;
    relay.joined("bob").await;
    assert!(relay.says("address list").contains("all are shared"));
    relay.says("address add alice 192.0.2.1");
    relay.says("address add alice ::ffff:192.0.2.1");
    let taken = relay.refuses(1, "address add bob 192.0.2.1");
    assert!(taken.contains("belongs to the box `alice`"), "{taken}");
    let listed = json!([{ "address": "192.0.2.1", "box": "alice" }]);
    assert_eq!(relay.json("address list"), listed);
    for (address, word) in
        [("2001:db8:1::101", "own_prefix"), ("0.0.0.0", "no address"), ("ff02::1", "no address")]
    {
        let error = relay.refuses(1, &format!("address add alice {address}"));
        assert!(error.contains(word), "{error}");
    }
    relay.says("address remove 192.0.2.1");
    assert!(relay.refuses(1, "address remove 192.0.2.1").contains("no box has"));
    relay.says("address add bob 192.0.2.1");
    assert!(relay.refuses(1, "address add nobody 192.0.2.2").contains("no box of this name"));
}

#[tokio::test]
async fn without_a_relay_the_registry_alone_is_told() {
    let relay = Relay::new();
    relay.joined("alice").await;
    relay.says("invite bob");
    let output = relay.run("status --json");
    assert_eq!(output.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["running"], &status["registry"]["boxes"]), (&false.into(), &1.into()));
    assert_eq!(status["registry"]["open_invites"], 1);
    assert!(status["trouble"][0].as_str().unwrap().contains("does not run"), "{status}");
    let text = String::from_utf8(relay.run("status").stdout).unwrap();
    assert!(text.contains("TROUBLE") && text.contains("registry.sqlite"), "{text}");
    assert!(relay.refuses(1, "sessions").contains("does not run"));
}

#[tokio::test]
async fn a_registry_that_is_away_is_named_without_its_password() {
    let relay = Relay::with("registry = \"postgres://relay:s3cret@127.0.0.1:1/x\"\n");
    for line in ["invite alice", "invites", "boxes", "domains", "address list", "revoke alice"] {
        let error = relay.refuses(1, line);
        assert!(error.contains("cannot be used now"), "{error}");
        assert!(error.contains("postgres://relay@127.0.0.1:1/x"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let status = relay.run("status");
    assert_eq!(status.status.code(), Some(1));
    assert!(!String::from_utf8(status.stdout).unwrap().contains("s3cret"));
}

#[test]
fn an_invite_that_would_lead_nowhere_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    let text = format!(
        "hostname = \"relay.example.net\"\nstate = {:?}\nsmtp.listen = [\"127.0.0.1:0\"]\n\
         tunnel.listen = [\"127.0.0.1:0\"]\n",
        dir.path().join("state")
    );
    std::fs::write(&path, &text).unwrap();
    let output = run(&path, "invite alice");
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("port 0") && error.contains("announce = ["), "{error}");
    assert!(!dir.path().join("state").exists());
    std::fs::write(&path, format!("{text}tunnel.announce = [\"192.0.2.1:4433\"]\n")).unwrap();
    assert_eq!(run(&path, "invite alice").status.code(), Some(0));
}

#[tokio::test]
async fn what_root_does_leaves_the_files_to_the_relays_user() {
    let relay = Relay::new();
    relay.says("invites");
    if std::fs::metadata(relay.state()).unwrap().uid() != 0 {
        return; // Only root can give files away.
    }
    let relay = Relay::new();
    std::fs::create_dir(relay.state()).unwrap();
    std::os::unix::fs::chown(relay.state(), Some(12345), Some(12346)).unwrap();
    // An open connection keeps the files beside the database.
    let invite: Invite = relay.url("invite alice").parse().unwrap();
    let database = relay.database().await;
    database.join(&invite.secret, Identity::ephemeral().public(), None, now()).await.unwrap();
    relay.says("key rotate --yes");
    let mut names = Vec::new();
    for file in std::fs::read_dir(relay.state()).unwrap() {
        let file = file.unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12345, 12346), "{:?}", file.file_name());
        assert_eq!(meta.mode() & 0o077, 0, "{:?}", file.file_name());
        names.push(file.file_name().into_string().unwrap());
    }
    assert!(names.contains(&"registry.sqlite-wal".to_owned()), "{names:?}");
}
