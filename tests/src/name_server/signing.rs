//! Zones signed by `ldns-signzone`, so that no code of ours signs what ours is judged by.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::Program;

/// How the zone denies that a name or a type exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// RFC 4034.
    Nsec,
    /// RFC 5155 as RFC 9276 wants it: no further iterations, no salt, no opt-out.
    Nsec3,
}

/// Signs zones with one key for all: a key pair a zone would take longer than the signing.
#[derive(Debug)]
pub struct Signer {
    directory: tempfile::TempDir,
    program: Program,
    /// `Kkey.+013+12345`
    base: String,
    /// What follows the owner in the DNSKEY record.
    key: String,
    signed: AtomicUsize,
}

impl Signer {
    /// Makes the key; fails when ldnsutils is not installed.
    pub fn new() -> Result<Signer> {
        let program = Program::find("ldns-signzone", None)?;
        let directory = tempfile::tempdir()?;
        let made = Program::find("ldns-keygen", None)?
            .command()
            .args(["-a", "ECDSAP256SHA256", "-k", "key."])
            .current_dir(directory.path())
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let base = String::from_utf8(made.stdout)?.trim().to_owned();
        let text = fs::read_to_string(directory.path().join(format!("{base}.key")))?;
        let key = text.strip_prefix("key.").context("an unexpected key file")?;
        let key = key.split(';').next().unwrap_or(key).trim().to_owned();
        Ok(Signer { directory, program, base, key, signed: AtomicUsize::new(0) })
    }

    /// The zone with its key, its signatures and its denials.
    pub fn sign(&self, apex: &str, text: &str, denial: Denial) -> Result<String> {
        let number = self.signed.fetch_add(1, Relaxed);
        let path = |end: &str| self.directory.path().join(format!("{number}{end}"));
        // The signer wants a key of the zone's name; the key tag does not depend on it.
        fs::write(path(".key"), format!("{apex} {}\n", self.key))?;
        let private = format!("{}.private", self.base);
        symlink(self.directory.path().join(private), path(".private"))?;
        fs::write(path(".zone"), text)?;
        let mut command = self.program.command();
        if denial == Denial::Nsec3 {
            command.args(["-n", "-t", "0"]);
        }
        let ended = command
            .args(["-o", apex, "-f"])
            .arg(path(".signed"))
            .arg(path(".zone"))
            .arg(path(""))
            .output()?;
        let complaint = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "sign {apex}: {complaint}");
        let signed = fs::read_to_string(path(".signed"))?;
        for end in [".key", ".private", ".zone", ".signed"] {
            fs::remove_file(path(end))?;
        }
        Ok(signed)
    }

    /// Signs many zones (apex, text), on all processors, in the order in which they were given.
    pub fn sign_all(&self, zones: &[(String, String)], denial: Denial) -> Result<Vec<String>> {
        let threads = thread::available_parallelism()?.get();
        let share = zones.len().div_ceil(threads).max(1);
        let shares = thread::scope(|scope| {
            let threads: Vec<_> = zones
                .chunks(share)
                .map(|zones| {
                    scope.spawn(|| {
                        let signed = zones.iter().map(|(apex, text)| self.sign(apex, text, denial));
                        signed.collect::<Result<Vec<String>>>()
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| match thread.join() {
                Ok(signed) => signed,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect::<Result<Vec<_>>>()
        })?;
        Ok(shares.concat())
    }

    /// The trust anchor of a zone, as `delv` reads it.
    pub fn anchor(&self, apex: &str) -> Result<String> {
        // IN DNSKEY 257 3 13 KEY
        let words: Vec<&str> = self.key.split_whitespace().collect();
        let [_, _, flags, protocol, algorithm, key] = words[..] else {
            anyhow::bail!("an unexpected key: {}", self.key)
        };
        Ok(format!(
            "trust-anchors {{ \"{apex}\" static-key {flags} {protocol} {algorithm} \"{key}\"; }};\n"
        ))
    }
}
