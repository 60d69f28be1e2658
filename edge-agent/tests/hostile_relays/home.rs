//! The directory of a box, and the program as its owner types it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::{Identity, Invite, PublicKey, RelayRef};

use crate::relay::Relay;

/// A box in a directory of its own.
pub(crate) struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    /// Without a file.
    pub(crate) fn bare() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// That has joined `relays`, called r0, r1 and so on.
    pub(crate) fn at(relays: &[&Relay]) -> Self {
        let home = Self::bare();
        let mut text =
            format!("# mine\nstate = {:?}\nadmin.listen = \"127.0.0.1:0\"\n", home.state());
        for (number, relay) in relays.iter().enumerate() {
            text.push_str(&format!(
                "[[relay]]\nname = \"r{number}\"\naddresses = [\"{}\"]\nkey = \"{}\"\n",
                relay.address,
                relay.identity.public()
            ));
        }
        std::fs::write(home.config(), text).unwrap();
        Identity::create(&home.state().join("agent.key")).unwrap();
        home
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("agent.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The key that the box has.
    pub(crate) fn key(&self) -> PublicKey {
        Identity::load(&self.state().join("agent.key")).unwrap().unwrap().public()
    }

    /// All files with what is in them.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = std::fs::read(&path).unwrap();
                    files.insert(path, content);
                }
            }
        }
        files
    }

    /// Runs `sealpost-agent` with `arguments`, and this box's file.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_sealpost-agent"))
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran(output)
    }

    /// Joins `relay` for the first time.
    pub(crate) fn join(&self, invite: &str) -> Ran {
        let state = self.state();
        self.run(&["join", invite, "--state", state.to_str().unwrap()])
    }
}

/// An invite of `relay`.
pub(crate) fn invite(relay: &Relay) -> String {
    let addresses = vec![relay.address.to_string().parse().unwrap()];
    let reference = RelayRef { addresses, key: relay.identity.public() };
    Invite::new(reference, Secret::random()).unwrap().to_string()
}

/// How a command ended.
pub(crate) struct Ran(Output);

impl Ran {
    pub(crate) fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// All went well; what was printed.
    #[track_caller]
    pub(crate) fn fine(&self) -> String {
        assert!(self.0.status.success(), "{}{}", self.out(), self.err());
        self.out()
    }

    /// It ended with 1 and said `word`; all that it said.
    #[track_caller]
    pub(crate) fn failed(&self, word: &str) -> String {
        let said = format!("{}{}", self.out(), self.err());
        assert_eq!(self.0.status.code(), Some(1), "{said}");
        assert!(said.contains(word), "{word:?} is missing: {said}");
        assert!(!said.contains('\x1b') && !said.contains("panicked"), "{said}");
        said
    }
}

/// The line of a kit in what was printed.
pub(crate) fn kit_in(printed: &str) -> String {
    printed.lines().find(|line| line.starts_with("sealpost-kit:")).unwrap().into()
}

/// Writes `text` to a file in `home` and names it.
pub(crate) fn file(home: &Home, name: &str, text: &str) -> String {
    let path: &Path = home.directory.path();
    let path = path.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}
