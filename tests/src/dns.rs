//! Names for the senders: a signed zone on a real name server (NSD) and a validating resolver
//! (Unbound) beside the sending mail server, because DANE needs answers that were validated.
//!
//! The world has one zone, the root, and one trust anchor: every question is answered and
//! validated at once, also the ones that mail servers ask about names nobody configured.

use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::network::{NAME_SERVER, Network};
use crate::process::Process;
use crate::wait::wait_until;

/// The name server and the resolver, running.
#[derive(Debug)]
pub struct Names {
    server: Process,
    _resolver: Process,
    serial: u32,
}

/// The trust anchor of the world, on the machines that look names up.
pub const ANCHOR: &str = "/etc/world/anchor";

const SIGN: &str = "
    cd /etc/world
    if [ ! -f keys ]; then
        zsk=$(ldns-keygen -a ECDSAP256SHA256 .)
        ksk=$(ldns-keygen -a ECDSAP256SHA256 -k .)
        echo $zsk $ksk > keys
    fi
    read -r zsk ksk < keys
    ldns-signzone -f signed zone $zsk $ksk
    cat $ksk.key
";

impl Names {
    /// Signs the zone made of `records` (one a line, absolute names) and serves it.
    pub fn start(network: &Network, records: &str) -> Result<Names> {
        let server = serve(network, records)?;
        let resolver = resolve(&network.sender)?;
        Ok(Names { server, _resolver: resolver, serial: 1 })
    }

    /// Serves the zone made of `records` instead. Resolvers may know the old one for a minute.
    pub fn replace(&mut self, network: &Network, records: &str) -> Result<()> {
        let machine = &network.internet;
        self.serial += 1;
        sign(machine, self.serial, records)?;
        self.server.signal(machine, "HUP")?;
        let new = format!("master.world. {} ", self.serial);
        wait_until("the new zone to be served", Duration::from_secs(10), || {
            Ok(machine.run(&format!("drill @{NAME_SERVER} . SOA || true"))?.contains(&new))
        })
    }
}

/// Writes and signs the zone; the trust anchor.
fn sign(machine: &Machine, serial: u32, records: &str) -> Result<String> {
    machine.write(
        "/etc/world/zone",
        &format!(
            "$TTL 60\n. IN SOA ns.world. master.world. {serial} 3600 600 86400 60\n\
             . IN NS ns.world.\nns.world. IN A {NAME_SERVER}\n{records}"
        ),
    )?;
    machine.run(SIGN)
}

fn serve(network: &Network, records: &str) -> Result<Process> {
    let machine = &network.internet;
    let anchor = sign(machine, 1, records)?;
    for knowing in [&network.sender, &network.relay] {
        knowing.write(ANCHOR, &anchor)?;
    }
    machine.write(
        "/etc/world/nsd.conf",
        &format!(
            "server:\n  ip-address: {NAME_SERVER}\n  username: \"\"\n  zonesdir: \"/etc/world\"\n  \
             database: \"\"\n  pidfile: \"\"\n  xfrdfile: \"\"\n  zonelistfile: \"/etc/world/list\"\n\
             remote-control:\n  control-enable: no\n\
             zone:\n  name: \".\"\n  zonefile: \"signed\"\n"
        ),
    )?;
    let command = ["nsd", "-d", "-c", "/etc/world/nsd.conf"];
    let server = Process::start(machine, "nsd", &command)?;
    expect_start(machine, "nsd", "nsd started")?;
    Ok(server)
}

fn expect_start(machine: &Machine, name: &str, line: &str) -> Result<()> {
    wait_until(&format!("{name} to serve"), Duration::from_secs(10), || {
        Ok(machine.read(&Process::log_of(name)).contains(line))
    })
}

/// Starts a resolver on another machine that looks names up, which must have the packages for it.
pub fn resolve_at(network: &Network, machine: &Machine) -> Result<Process> {
    machine.write(ANCHOR, &network.relay.read(ANCHOR))?;
    resolve(machine)
}

fn resolve(machine: &Machine) -> Result<Process> {
    machine.write(
        "/etc/world/hints",
        &format!(". 60 IN NS ns.world.\nns.world. 60 IN A {NAME_SERVER}\n"),
    )?;
    machine.write(
        "/etc/world/unbound.conf",
        "server:\n  interface: 127.0.0.1\n  username: \"\"\n  chroot: \"\"\n  directory: \"/etc/world\"\n  \
         do-daemonize: no\n  use-syslog: no\n  pidfile: \"\"\n  module-config: \"validator iterator\"\n  \
         do-ip6: no\n  trust-anchor-signaling: no\n  \
         root-hints: \"/etc/world/hints\"\n  trust-anchor-file: \"/etc/world/anchor\"\n",
    )?;
    // `trust-ad` lets programs believe the resolver's word that it has validated.
    machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions trust-ad edns0\n")?;
    let command = ["unbound", "-d", "-c", "/etc/world/unbound.conf"];
    let resolver = Process::start(machine, "unbound", &command)?;
    // Asking earlier would cost the patience of `drill`, which is five seconds.
    expect_start(machine, "unbound", "start of service")?;
    wait_until("a validated answer", Duration::from_secs(10), || {
        let answer = machine.run("drill -D @127.0.0.1 . SOA || true")?;
        Ok(answer.contains("NOERROR") && answer.contains(" ad "))
    })?;
    Ok(resolver)
}
