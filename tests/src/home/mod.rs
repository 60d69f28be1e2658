//! What scenarios ask of the mail server at home, whichever it is.
//!
//! Each of them listens twice: at [`PROXY_PORT`] as the book's snippet says, which is used as it
//! is, and at [`BARE_PORT`] as Debian configures it, where it trusts whatever comes from 127.0.0.1.

mod exim;
mod opensmtpd;

use std::fmt::Debug;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::machine::Machine;
use crate::network::NAME_SERVER;
use crate::wait::wait_until;

pub use exim::Exim;
pub use opensmtpd::OpenSmtpd;

/// The port of the book's snippets, at which a mail server expects a PROXY header.
pub const PROXY_PORT: u16 = 2525;
/// The port at which it expects none.
pub const BARE_PORT: u16 = 25;

/// For it to start or to stop.
const DEADLINE: Duration = Duration::from_secs(20);

/// A mail server at home.
pub trait HomeServer: Debug {
    /// The tree of its packages, see [`crate::packages::unpacked`].
    fn tree(&self) -> &'static str;
    /// The file that the book tells its owner to paste.
    fn snippet(&self) -> &'static str;
    /// Configures it with `snippet`, shipped or spoiled, and returns when it listens.
    fn start(&self, machine: &Machine, snippet: &str) -> Result<()>;
    /// Stops it, and returns when its ports are free.
    fn stop(&self, machine: &Machine) -> Result<()>;
    /// Its log so far.
    fn log(&self, machine: &Machine) -> String;
    /// Whether its log says that it took a message from `client`, in TLS.
    fn took_sealed(&self, log: &str, client: &str) -> bool;
    /// How its log says that it sent something to somebody else, or tried to.
    fn sending_on(&self) -> &'static str;
}

/// Waits until a mail server at home listens at both of its ports. Tried as a client: to bind them
/// could be in its way.
pub(crate) fn wait_until_listening(machine: &Machine) -> Result<()> {
    wait_until("the mail server to listen", DEADLINE, || {
        machine.enter(|| {
            let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            Ok(listens(PROXY_PORT) && listens(BARE_PORT))
        })
    })
}

/// Waits until nobody has these ports.
pub(crate) fn wait_until_gone(machine: &Machine) -> Result<()> {
    wait_until("the mail server's ports to be free", DEADLINE, || {
        machine.enter(|| {
            let free = |port| TcpListener::bind(("0.0.0.0", port)).is_ok();
            Ok(free(PROXY_PORT) && free(BARE_PORT))
        })
    })
}

/// What every home has: a user with a mailbox, aliases, and a resolver.
pub(crate) fn furnish(machine: &Machine) -> Result<()> {
    machine.write("/etc/resolv.conf", &format!("nameserver {NAME_SERVER}\n"))?;
    machine.write("/etc/mailname", "home.example\n")?;
    machine.write("/etc/aliases", "postmaster: anna\n")?;
    add_user(machine, "anna", 1500, "/home/anna")?;
    machine.run("mkdir -p /home/anna && chown 1500:1500 /home/anna").map(drop)
}

/// Adds a user and its group, unless they exist.
pub(crate) fn add_user(machine: &Machine, name: &str, id: u32, home: &str) -> Result<()> {
    machine
        .run(&format!(
            "grep -q ^{name}: /etc/passwd || {{
                 echo {name}:x:{id}:{id}::{home}:/bin/sh >> /etc/passwd
                 echo {name}:x:{id}: >> /etc/group
             }}"
        ))
        .map(drop)
}
