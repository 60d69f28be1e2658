//! A name server (NSD) on a machine, and zones for it that ldns signed.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::wait_until;

/// In the directory of the zone. Its keys are made once: whoever signs it again keeps them.
const SIGN: &str = r#"
    cd "$1"
    file=$2 origin=$3
    shift 3
    if [ ! -f "$file.keys" ]; then
        zsk=$(ldns-keygen -a ECDSAP256SHA256 "$origin")
        ksk=$(ldns-keygen -a ECDSAP256SHA256 -k "$origin")
        echo "$zsk $ksk" > "$file.keys"
    fi
    read -r zsk ksk < "$file.keys"
    ldns-signzone "$@" -f "$file.signed" "$file" "$zsk" "$ksk"
    mv "$file.signed" "$file"
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

/// Signs a zone file in `directory` in place, with `options` of `ldns-signzone`. Returns the DS
/// record; the key that it names lies beside the file, with `.anchor` added to its name.
pub fn sign(
    machine: &Machine,
    directory: &str,
    zone: Zone<'_>,
    options: &[&str],
) -> Result<String> {
    let Zone { origin, file } = zone;
    let mut command = machine.command("sh");
    command.args(["-ec", SIGN, "sign", directory, file, origin]).args(options);
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sign {origin}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Starts a server called `name` for zones of one directory at an address that the machine has.
/// `more` are further lines for each zone, such as who may transfer it.
pub fn start(
    machine: &Machine,
    name: &str,
    address: &str,
    directory: &str,
    zones: &[Zone<'_>],
    more: &str,
) -> Result<Process> {
    let mut config = format!(
        "server:\n  ip-address: {address}\n  server-count: 1\n  username: \"\"\n  \
         zonesdir: \"{directory}\"\n  database: \"\"\n  pidfile: \"\"\n  xfrdfile: \"\"\n  \
         zonelistfile: \"{directory}/{name}.list\"\n  xfrd-reload-timeout: 0\n\
         remote-control:\n  control-enable: no\n"
    );
    for Zone { origin, file } in zones {
        config += &format!("zone:\n  name: \"{origin}\"\n  zonefile: \"{file}\"\n{more}");
    }
    let file = format!("{directory}/{name}.conf");
    machine.write(&file, &config)?;
    let process = Process::start(machine, name, &["nsd", "-d", "-c", &file])?;
    wait_until(&format!("{name} to serve"), Duration::from_secs(10), || {
        Ok(machine.read(&Process::log_of(name)).contains("nsd started"))
    })?;
    Ok(process)
}
