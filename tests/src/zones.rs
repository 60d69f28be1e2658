//! Name servers and resolvers as the internet has them: signed and unsigned zones, servers that
//! are not in step, and resolvers that lie.

use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::wait_until;
use crate::{nsd, unbound};

pub use crate::nsd::Zone;

/// Where everything lies on the machine.
const HOME: &str = "/etc/zones";

/// What runs on one machine.
#[derive(Debug)]
pub struct Zones<'a> {
    machine: &'a Machine,
    running: Vec<Process>,
}

impl<'a> Zones<'a> {
    /// Nothing yet.
    pub fn on(machine: &'a Machine) -> Self {
        Self { machine, running: Vec::new() }
    }

    /// Writes a zone file; `records` has one record a line, in absolute names.
    pub fn write(&self, zone: Zone<'_>, records: &str) -> Result<()> {
        let Zone { origin, file } = zone;
        // Whoever asks too early would hear "no such record" for an hour.
        let soa =
            format!("$TTL 3600\n{origin} IN SOA ns.world. master.world. 1 3600 600 86400 3600\n");
        self.machine.write(&format!("{HOME}/{file}"), &format!("{soa}{records}\n"))
    }

    /// Signs a zone file in place, with `options` of `ldns-signzone`. Returns the DS record.
    pub fn sign(&self, zone: Zone<'_>, options: &[&str]) -> Result<String> {
        nsd::sign(self.machine, HOME, zone, options)
    }

    /// Starts a name server (NSD) at `address`, which it also gives to the machine.
    pub fn serve(&mut self, address: &str, zones: &[Zone<'_>]) -> Result<()> {
        let name = self.at(address)?;
        self.running.push(nsd::start(self.machine, &name, address, HOME, zones, "")?);
        Ok(())
    }

    /// Makes the name server at `address` read its zones again.
    pub fn reload(&mut self, address: &str, zone: Zone<'_>) -> Result<()> {
        let machine = self.machine;
        let pid = format!("/run/{}.pid", name_of(address));
        machine.run(&format!("kill -HUP $(cat {pid})"))?;
        let asked = format!("drill @{address} {} SOA || true", zone.origin);
        wait_until("the zone to be read again", Duration::from_secs(10), || {
            Ok(machine.run(&asked)?.contains("master.world. 2 "))
        })
    }

    /// Starts a resolver (Unbound) at `address` that begins at the root server `root`. It does not
    /// look at signatures, but passes them on. `lies` are lines of its configuration.
    pub fn resolve(&mut self, address: &str, root: &str, lies: &str) -> Result<()> {
        let name = self.at(address)?;
        let more =
            format!("  module-config: \"iterator\"\n  outgoing-interface: {address}\n{lies}");
        let resolver = unbound::start(self.machine, &name, address, HOME, root, &more, &[])?;
        self.running.push(resolver);
        Ok(())
    }

    /// Gives an address to the machine, and returns the name of what will run there.
    pub fn at(&self, address: &str) -> Result<String> {
        self.machine.run(&format!("ip address replace {address}/24 dev sender"))?;
        Ok(name_of(address))
    }

    /// The trust anchor of a signed zone, as a file outside.
    pub fn anchor(&self, zone: Zone<'_>) -> std::path::PathBuf {
        self.machine.path(&format!("{HOME}/{}.anchor", zone.file))
    }
}

fn name_of(address: &str) -> String {
    format!("dns-{address}")
}
