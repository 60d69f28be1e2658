//! Name servers and resolvers as the internet has them: signed and unsigned zones, servers that
//! are not in step, and resolvers that lie.

use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::wait_until;

/// Where everything lies on the machine.
const HOME: &str = "/etc/zones";

const SIGN: &str = r#"
    cd /etc/zones
    file=$1 origin=$2
    shift 2
    zsk=$(ldns-keygen -a ECDSAP256SHA256 "$origin")
    ksk=$(ldns-keygen -a ECDSAP256SHA256 -k "$origin")
    ldns-signzone "$@" -f "$file" "$file" "$zsk" "$ksk"
    cat "$ksk.key" > "$file.anchor"
    ldns-key2ds -n -2 "$ksk.key"
"#;

/// One zone of one name server.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    /// Its name, with the final dot.
    pub origin: &'a str,
    /// The name of its file.
    pub file: &'a str,
}

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
        let Zone { origin, file } = zone;
        let mut command = self.machine.command("sh");
        command.args(["-ec", SIGN, "sign", file, origin]).args(options);
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "sign {origin}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a name server (NSD) at `address`, which it also gives to the machine.
    pub fn serve(&mut self, address: &str, zones: &[Zone<'_>]) -> Result<()> {
        let machine = self.machine;
        let name = self.at(address)?;
        let mut config = format!(
            "server:\n  ip-address: {address}\n  username: \"\"\n  zonesdir: \"{HOME}\"\n  \
             database: \"\"\n  pidfile: \"\"\n  xfrdfile: \"\"\n  zonelistfile: \"{HOME}/{name}.list\"\n\
             remote-control:\n  control-enable: no\n"
        );
        for Zone { origin, file } in zones {
            config += &format!("zone:\n  name: \"{origin}\"\n  zonefile: \"{file}\"\n");
        }
        let file = format!("{HOME}/{name}.conf");
        machine.write(&file, &config)?;
        self.running.push(Process::start(machine, &name, &["nsd", "-d", "-c", &file])?);
        self.expect(&name, "nsd started")
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
        let machine = self.machine;
        let name = self.at(address)?;
        let hints = format!("{HOME}/hints");
        machine.write(&hints, &format!(". 60 IN NS ns.world.\nns.world. 60 IN A {root}\n"))?;
        let file = format!("{HOME}/{name}.conf");
        machine.write(
            &file,
            &format!(
                "server:\n  interface: {address}\n  access-control: 0.0.0.0/0 allow\n  username: \"\"\n  \
                 chroot: \"\"\n  directory: \"{HOME}\"\n  do-daemonize: no\n  use-syslog: no\n  \
                 pidfile: \"\"\n  module-config: \"iterator\"\n  do-ip6: no\n  \
                 outgoing-interface: {address}\n  root-hints: \"{hints}\"\n{lies}"
            ),
        )?;
        self.running.push(Process::start(machine, &name, &["unbound", "-d", "-c", &file])?);
        self.expect(&name, "start of service")
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

    fn expect(&self, name: &str, line: &str) -> Result<()> {
        wait_until(&format!("{name} to serve"), Duration::from_secs(10), || {
            Ok(self.machine.read(&Process::log_of(name)).contains(line))
        })
    }
}

fn name_of(address: &str) -> String {
    format!("dns-{address}")
}
