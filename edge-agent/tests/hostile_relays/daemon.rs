//! A running agent whose relay refuses its key, changes its own, or lies about its standing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealpost_tunnel::request::RefusalCode;
use sealpost_tunnel::{Identity, PublicKey, Request, ResetCode};

use crate::home::Home;
use crate::relay::{Relay, Reply, known, refused};
use crate::succession::{sign, with_chain};

const PATIENCE: Duration = Duration::from_secs(30);

/// `sealpost-agent run`; killed when dropped.
struct Daemon {
    child: Child,
    admin: SocketAddr,
}

impl Daemon {
    fn start(home: &Home) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealpost-agent"))
            .arg("run")
            .arg("--config")
            .arg(home.config())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let admin = lines
            .find_map(|line| {
                let line = line.unwrap();
                let address = line.split("address=").nth(1)?.split_whitespace().next()?;
                address.parse().ok()
            })
            .unwrap();
        // Nobody else reads it, and it must not block the agent.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, admin }
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
    fn expect(&self, word: &str) -> String {
        let began = Instant::now();
        loop {
            let status = self.status();
            if status.contains(word) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{word:?} is never there: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_refused_key_says_what_to_do() {
    for (code, word) in [
        (ResetCode::UnknownBox, "join it with an invite"),
        (ResetCode::Revoked, "no longer takes this box's key"),
    ] {
        let relay = Relay::start(move |_, _| Reply::Close(code));
        let home = Home::at(&[&relay]);
        Daemon::start(&home).expect(word);
    }
}

#[test]
fn the_standing_is_shown_and_one_of_another_box_is_not() {
    let relay = Relay::start(|key, _| known(key));
    let home = Home::at(&[&relay]);
    let status = Daemon::start(&home).expect("\"name\":\"alice\"");
    assert!(status.contains("\"hostname\":\"relay.example.net\""), "{status}");

    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let relay = Relay::start(move |_, request| {
        if request == Request::Standing {
            *count.lock().unwrap() += 1;
        }
        known(Identity::ephemeral().public())
    });
    let home = Home::at(&[&relay]);
    let daemon = Daemon::start(&home);
    daemon.expect("\"up\":true");
    let began = Instant::now();
    // Once by this relay's own test whether to take the tunnel, once by the agent.
    while *asked.lock().unwrap() < 2 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(daemon.status().contains("\"standing\":null"));
    assert!(*asked.lock().unwrap() <= 2, "a relay that lies is not asked in a loop");
}

#[test]
fn a_flood_of_news_is_no_flood_of_questions() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let relay = Relay::start(move |key, _| {
        *count.lock().unwrap() += 1;
        known(key)
    });
    relay.tunnels.say_news(10_000);
    let home = Home::at(&[&relay]);
    let daemon = Daemon::start(&home);
    // 1 s at most before the first question, 2 s before the next.
    std::thread::sleep(Duration::from_secs(6));
    assert!(daemon.status().contains("\"up\":true"));
    // One is this relay's own.
    let asked = *asked.lock().unwrap() - 1;
    assert!((2..=10).contains(&asked), "{asked}");
}

#[test]
fn a_tunnel_follows_the_relays_new_key_and_only_that() {
    let (relay, chain) = with_chain();
    let home = Home::at(&[&relay]);
    let [new, thief] = [(); 2].map(|()| Identity::ephemeral());
    relay.change_key(&thief);
    let daemon = Daemon::start(&home);
    daemon.expect("another key answers there");
    *chain.lock().unwrap() = vec![sign(&relay.identity, &new)];
    relay.change_key(&new);
    daemon.expect(&format!("\"new_key\":\"{}\"", new.public()));
    assert_eq!(relay.tunnels.keys(), [home.key()]);
}

#[test]
fn a_rotated_key_is_taken_up_without_a_restart() {
    let taken: Arc<Mutex<Option<PublicKey>>> = Arc::default();
    let known_key = taken.clone();
    let relay = Relay::start(move |key, request| {
        let known_key = *known_key.lock().unwrap();
        match request {
            Request::Standing if known_key != Some(key) => Reply::Close(ResetCode::Revoked),
            Request::Standing => known(key),
            _ => refused(RefusalCode::Protocol),
        }
    });
    let home = Home::at(&[&relay]);
    let old = home.key();
    *taken.lock().unwrap() = Some(old);
    let daemon = Daemon::start(&home);
    daemon.expect("\"up\":true");

    // In the middle of a rotation: this relay knows the next key, another one does not yet.
    let next = Identity::create(&home.state().join("agent.key.next")).unwrap().public();
    *taken.lock().unwrap() = Some(next);
    relay.tunnels.cut();
    daemon.expect(&next.to_string());
    daemon.expect("\"up\":true");
    assert_eq!(relay.tunnels.keys(), [old, next]);

    // Finished.
    std::fs::rename(home.state().join("agent.key.next"), home.state().join("agent.key")).unwrap();
    relay.tunnels.cut();
    let began = Instant::now();
    while relay.tunnels.keys().len() < 3 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(relay.tunnels.keys()[2], next);
}
