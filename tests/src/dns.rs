//! Names for the senders: a signed zone on a real name server (NSD) and a validating resolver
//! (Unbound) beside the sending mail server, because DANE needs answers that were validated.
//!
//! The world has one zone, the root, and one trust anchor: every question is answered and
//! validated at once, also the ones that mail servers ask about names nobody configured.

use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::network::{NAME_SERVER, Network};
use crate::nsd::Zone;
use crate::process::Process;
use crate::wait::wait_until;
use crate::{nsd, unbound};

/// The name server and the resolver, running.
#[derive(Debug)]
pub struct Names {
    server: Process,
    _resolver: Process,
    serial: u32,
}

/// The trust anchor of the world, on the machines that look names up.
pub const ANCHOR: &str = "/etc/world/anchor";

const ROOT: Zone<'_> = Zone { origin: ".", file: "root" };

/// Where everything lies on the machines.
const DIRECTORY: &str = "/etc/world";

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
        "/etc/world/root",
        &format!(
            "$TTL 60\n. IN SOA ns.world. master.world. {serial} 3600 600 86400 60\n\
             . IN NS ns.world.\nns.world. IN A {NAME_SERVER}\n{records}"
        ),
    )?;
    nsd::sign(machine, DIRECTORY, ROOT, &[])?;
    Ok(machine.read("/etc/world/root.anchor"))
}

fn serve(network: &Network, records: &str) -> Result<Process> {
    let machine = &network.internet;
    let anchor = sign(machine, 1, records)?;
    for knowing in [&network.sender, &network.relay] {
        knowing.write(ANCHOR, &anchor)?;
    }
    nsd::start(machine, "nsd", NAME_SERVER, DIRECTORY, &[ROOT], "")
}

/// Starts a resolver on another machine that looks names up, which must have the packages for it.
pub fn resolve_at(network: &Network, machine: &Machine) -> Result<Process> {
    machine.write(ANCHOR, &network.relay.read(ANCHOR))?;
    resolve(machine)
}

fn resolve(machine: &Machine) -> Result<Process> {
    // `trust-ad` lets programs believe the resolver's word that it has validated.
    machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions trust-ad edns0\n")?;
    let more =
        format!("  module-config: \"validator iterator\"\n  trust-anchor-file: \"{ANCHOR}\"\n");
    let at = "127.0.0.1";
    let resolver = unbound::start(machine, "unbound", at, DIRECTORY, NAME_SERVER, &more, &[])?;
    wait_until("a validated answer", Duration::from_secs(10), || {
        let answer = machine.run("drill -D @127.0.0.1 . SOA || true")?;
        Ok(answer.contains("NOERROR") && answer.contains(" ad "))
    })?;
    Ok(resolver)
}
