//! A resolver (Unbound) on a machine.

use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::wait_until;

/// Starts a resolver called `name`, with its files in `directory`, at an address that the machine has.
/// It begins at the root server `root`. `more` are further lines of its configuration, and `under` are
/// the first words of its command, usually none.
pub fn start(
    machine: &Machine,
    name: &str,
    address: &str,
    directory: &str,
    root: &str,
    more: &str,
    under: &[String],
) -> Result<Process> {
    let hints = format!("{directory}/hints");
    machine.write(&hints, &format!(". 60 IN NS ns.world.\nns.world. 60 IN A {root}\n"))?;
    let file = format!("{directory}/{name}.conf");
    machine.write(
        &file,
        &format!(
            "server:\n  interface: {address}\n  access-control: 0.0.0.0/0 allow\n  username: \"\"\n  \
             chroot: \"\"\n  directory: \"{directory}\"\n  do-daemonize: no\n  use-syslog: no\n  \
             pidfile: \"\"\n  do-ip6: no\n  trust-anchor-signaling: no\n  root-hints: \"{hints}\"\n{more}"
        ),
    )?;
    let mut command: Vec<&str> = under.iter().map(String::as_str).collect();
    command.extend(["unbound", "-d", "-c", &file]);
    let process = Process::start(machine, name, &command)?;
    // Asking earlier would cost the patience of whoever asks, which is five seconds.
    wait_until(&format!("{name} to serve"), Duration::from_secs(10), || {
        Ok(machine.read(&Process::log_of(name)).contains("start of service"))
    })?;
    Ok(process)
}
