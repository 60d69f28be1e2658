//! The names of the whole internet as they are in earnest: a signed root, a signed top-level domain
//! with a registrar, and a validating resolver for everybody.
//!
//! Root, top-level domain and resolver are at three addresses of the machine `internet`; the resolver
//! has the one that other machines expect names at. Whoever serves a delegated domain is up to the
//! scenario. Records of root and top-level domain live for one second, so what the registrar does is
//! seen at once; those of the domains live as long as their owners say.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::Clock;
use crate::dns::ANCHOR;
use crate::machine::Machine;
use crate::network::{NAME_SERVER, Network, SENDER_V4};
use crate::nsd::{self, Zone};
use crate::process::Process;
use crate::unbound;
use crate::wait::wait_until;

const ROOT_SERVER: &str = "198.51.100.2";
const TOP_SERVER: &str = "198.51.100.3";
const DIRECTORY: &str = "/etc/world";
/// The trust anchor once more, as `delv` reads it.
const DELV_ANCHOR: &str = "/etc/world/delv-anchor";
const ROOT: Zone<'_> = Zone { origin: ".", file: "root" };
/// The top-level domain.
const TOP: Zone<'_> = Zone { origin: "example.", file: "example" };
/// However far a scenario moves the clock, these two zones do not expire.
const FOR_DECADES: [&str; 4] = ["-i", "20200101", "-e", "20500101"];
const DEADLINE: Duration = Duration::from_secs(10);

/// What is remembered of failures, all in seconds: little, so that a scenario can repair things.
const FORGETFUL: &str = "  val-bogus-ttl: 1\n  infra-host-ttl: 1\n  infra-keep-probing: yes\n";

/// One zone and its server.
#[derive(Debug)]
struct Served<'a> {
    machine: &'a Machine,
    zone: Zone<'static>,
    address: &'static str,
    serial: u32,
    server: Option<Process>,
}

/// The whole of it, running.
#[derive(Debug)]
pub struct SignedInternet<'a> {
    network: &'a Network,
    root: Served<'a>,
    top: Served<'a>,
    top_ds: String,
    /// Addresses of names outside of every delegated domain.
    hosts: BTreeMap<String, String>,
    /// The registrar's records of each domain.
    delegations: BTreeMap<String, String>,
    /// The time that the resolver believes, and whoever is started under it.
    pub clock: Clock,
    _resolver: Process,
}

impl<'a> SignedInternet<'a> {
    /// Signs and serves root and top-level domain, and starts the resolver for the sender, the relay
    /// and home.
    pub fn start(network: &'a Network) -> Result<SignedInternet<'a>> {
        let machine = &network.internet;
        machine.run(&format!(
            "ip address add {ROOT_SERVER}/24 dev sender; ip address add {TOP_SERVER}/24 dev sender"
        ))?;
        let served = |zone, address| Served { machine, zone, address, serial: 0, server: None };
        let (mut root, mut top) = (served(ROOT, ROOT_SERVER), served(TOP, TOP_SERVER));
        let hosts = BTreeMap::from([("mail.sender.example.".to_owned(), SENDER_V4.to_owned())]);
        let top_ds = top.publish(&records_of_top(&hosts, &BTreeMap::new()))?;
        root.publish(&records_of_root(&hosts, &top_ds))?;
        let anchor = machine.read(&format!("{DIRECTORY}/{}.anchor", ROOT.file));
        machine.write(ANCHOR, &anchor)?;
        let mut clock = Clock::default();
        let under = clock.command(machine)?;
        let more = format!(
            "  module-config: \"validator iterator\"\n  trust-anchor-file: \"{ANCHOR}\"\n{FORGETFUL}"
        );
        let resolver =
            unbound::start(machine, "unbound", NAME_SERVER, DIRECTORY, ROOT_SERVER, &more, &under)?;
        let delegations = BTreeMap::new();
        let internet = SignedInternet {
            network,
            root,
            top,
            top_ds,
            hosts,
            delegations,
            clock,
            _resolver: resolver,
        };
        for machine in [&network.sender, &network.relay, &network.home] {
            internet.introduce(machine)?;
        }
        Ok(internet)
    }

    /// Tells a machine the resolver, to be believed when it says that it has validated, and the trust
    /// anchor.
    pub fn introduce(&self, machine: &Machine) -> Result<()> {
        let resolver = format!("nameserver {NAME_SERVER}\noptions trust-ad edns0\n");
        machine.write("/etc/resolv.conf", &resolver)?;
        let anchor = self.root.machine.read(ANCHOR);
        machine.write(ANCHOR, &anchor)?;
        // . IN DNSKEY 257 3 13 KEY
        let (_, key) = anchor.split_once("DNSKEY").context("the key of the root")?;
        let words: Vec<&str> = key.split_whitespace().take(4).collect();
        let [flags, protocol, algorithm, key] = words[..] else {
            anyhow::bail!("an unexpected key: {anchor}")
        };
        machine.write(
            DELV_ANCHOR,
            &format!(
                "trust-anchors {{ . static-key {flags} {protocol} {algorithm} \"{key}\"; }};\n"
            ),
        )
    }

    /// Gives a name outside of every delegated domain its address, such as that of a name server.
    pub fn host(&mut self, name: &str, address: &str) -> Result<()> {
        self.hosts.insert(format!("{name}."), address.to_owned());
        self.publish()
    }

    /// What the owner of a domain asks of the registrar: these name servers, and these DS records
    /// (`12345 13 2 49FD…`), none for a domain without a chain of trust.
    pub fn delegate(&mut self, domain: &str, servers: &[&str], ds: &[&str]) -> Result<()> {
        let servers = servers.iter().map(|server| format!("{domain}. NS {server}.\n"));
        let ds = ds.iter().map(|ds| format!("{domain}. DS {ds}\n"));
        self.delegations.insert(domain.to_owned(), servers.chain(ds).collect());
        self.publish()
    }

    /// The domain is registered no more.
    pub fn withdraw(&mut self, domain: &str) -> Result<()> {
        self.delegations.remove(domain);
        self.publish()
    }

    fn publish(&mut self) -> Result<()> {
        self.top.publish(&records_of_top(&self.hosts, &self.delegations))?;
        self.root.publish(&records_of_root(&self.hosts, &self.top_ds)).map(drop)
    }

    /// What `delv` says in the sender's machine, which validates every answer itself from the root on.
    pub fn delv(&self, name: &str, kind: &str) -> Result<String> {
        let command = format!("delv @{NAME_SERVER} -a {DELV_ANCHOR} +root=. {name} {kind} 2>&1");
        Ok(self.network.sender.attempt(&command)?.printed)
    }

    /// Waits until `delv` says all of these words, such as `fully validated`.
    pub fn expect_delv(&self, name: &str, kind: &str, words: &[&str]) -> Result<String> {
        let mut said = String::new();
        let waited = wait_until(&format!("{words:?} of {name} {kind}"), DEADLINE, || {
            said = self.delv(name, kind)?;
            Ok(words.iter().all(|word| said.contains(word)))
        });
        waited.with_context(|| said.clone())?;
        Ok(said)
    }
}

impl Served<'_> {
    /// Serves the zone of these records from now on. Returns its DS record.
    fn publish(&mut self, records: &str) -> Result<String> {
        let Zone { origin, file } = self.zone;
        self.serial += 1;
        let soa = format!(
            "$TTL 1\n{origin} SOA ns.world. master.world. {} 3600 600 86400 1\n",
            self.serial
        );
        self.machine.write(&format!("{DIRECTORY}/{file}"), &format!("{soa}{records}"))?;
        let ds = nsd::sign(self.machine, DIRECTORY, self.zone, &FOR_DECADES)?;
        match &mut self.server {
            Some(server) => server.signal(self.machine, "HUP")?,
            server => {
                let name = format!("dns-{}", self.address);
                let zones = [self.zone];
                let started = nsd::start(self.machine, &name, self.address, DIRECTORY, &zones, "")?;
                *server = Some(started);
            }
        }
        let (asked, new) =
            (format!("drill @{} {origin} SOA || true", self.address), self.serial.to_string());
        wait_until(&format!("{origin} to be served"), DEADLINE, || {
            Ok(self.machine.run(&asked)?.contains(&format!("master.world. {new} ")))
        })?;
        ensure!(!ds.is_empty(), "{origin} has no DS");
        Ok(ds)
    }
}

fn in_top(name: &str) -> bool {
    name.ends_with(&format!(".{}", TOP.origin))
}

fn records_of_root(hosts: &BTreeMap<String, String>, top_ds: &str) -> String {
    let hosts = hosts.iter().filter(|(name, _)| !in_top(name));
    let hosts: String = hosts.map(|(name, address)| address_record(name, address)).collect();
    format!(
        ". NS ns.world.\nns.world. A {ROOT_SERVER}\n{top} NS ns.top.world.\n\
         ns.top.world. A {TOP_SERVER}\n{top_ds}{hosts}",
        top = TOP.origin
    )
}

fn records_of_top(
    hosts: &BTreeMap<String, String>,
    delegations: &BTreeMap<String, String>,
) -> String {
    let hosts = hosts.iter().filter(|(name, _)| in_top(name));
    let hosts: String = hosts.map(|(name, address)| address_record(name, address)).collect();
    let delegations: String = delegations.values().map(String::as_str).collect();
    format!("{} NS ns.top.world.\n{hosts}{delegations}", TOP.origin)
}

fn address_record(name: &str, address: &str) -> String {
    let kind = if address.contains(':') { "AAAA" } else { "A" };
    format!("{name} {kind} {address}\n")
}
