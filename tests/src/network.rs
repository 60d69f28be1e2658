//! The network of every scenario:
//!
//! ```text
//! sender ─── internet ─── relay
//!               │
//!              nat ─── home        (masquerading, nothing may come in)
//! ```
//!
//! All outer addresses are from the ranges that are reserved for documentation. A scenario may add
//! machines ([`FURTHER_RELAY`], [`FURTHER_BOX`], [`CROWD`]), which are on the internet without a NAT.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::machine::Machine;

/// The sending mail server.
pub const SENDER_V4: &str = "198.51.100.10";
/// The sending mail server.
pub const SENDER_V6: &str = "2001:db8:5::10";
/// Where the sender's resolver finds the world's name server (on `internet`).
pub const NAME_SERVER: &str = "198.51.100.1";
/// The relay's address that several boxes share: only a name (SNI) tells them apart.
pub const RELAY_SHARED_V4: &str = "203.0.113.1";
/// As [`RELAY_SHARED_V4`].
pub const RELAY_SHARED_V6: &str = "2001:db8:1::1";
/// The relay's address that belongs to the box `home` alone.
pub const RELAY_OWN_V4: &str = "203.0.113.7";
/// As [`RELAY_OWN_V4`].
pub const RELAY_OWN_V6: &str = "2001:db8:1::a";
/// The relay's addresses of mail exchangers that are tried first, see [`PAIRS`].
pub const RELAY_FIRST_V4: [&str; 2] = ["203.0.113.11", "203.0.113.12"];
/// The relay's addresses of mail exchangers that are tried next.
pub const RELAY_SECOND_V4: [&str; 2] = ["203.0.113.21", "203.0.113.22"];
/// Makes pairs of them, as a line of the relay's file.
pub const PAIRS: &str = "pairs = { first = [\"203.0.113.11\", \"203.0.113.12\"], \
     second = [\"203.0.113.21\", \"203.0.113.22\"] }\n";
/// What the internet sees of home.
pub const NAT: &str = "192.0.2.2";
/// What it sees after [`Network::rebind_nat`].
pub const NAT_AFTER_REBINDING: &str = "192.0.2.3";

/// An address of [`FURTHER_RELAY`].
pub const FURTHER_RELAY_V4: &str = "192.0.2.130";
/// As [`FURTHER_RELAY_V4`].
pub const FURTHER_RELAY_V6: &str = "2001:db8:2::1";

/// A link to `internet`.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The name of the other machine, and of the link in `internet`.
    name: &'static str,
    /// Addresses of `internet`, which are the other machine's ways out.
    near: &'static [&'static str],
    /// Addresses of the other machine, which always calls its end `eth0`.
    far: &'static [&'static str],
}

/// A machine for a second relay.
pub const FURTHER_RELAY: Link = Link {
    name: "relay2",
    near: &["192.0.2.129/26", "2001:db8:2::ffff/64"],
    far: &["192.0.2.130/26", "2001:db8:2::1/64"],
};

/// A machine for a second box.
pub const FURTHER_BOX: Link =
    Link { name: "box2", near: &["192.0.2.193/26"], far: &["192.0.2.194/26"] };

/// A machine that connections from everywhere come from, see [`crate::crowd`].
pub const CROWD: Link =
    Link { name: "crowd", near: &["2001:db8:6::1/64"], far: &["2001:db8:6::2/64"] };

const LINKS: [Link; 3] = [
    Link {
        name: "sender",
        near: &["198.51.100.1/24", "2001:db8:5::1/64"],
        far: &["198.51.100.10/24", "2001:db8:5::10/64"],
    },
    Link {
        name: "relay",
        near: &["203.0.113.254/24", "2001:db8:1::ffff/64"],
        far: &[
            "203.0.113.1/24",
            "203.0.113.7/24",
            "203.0.113.11/24",
            "203.0.113.12/24",
            "203.0.113.21/24",
            "203.0.113.22/24",
            "2001:db8:1::1/64",
            "2001:db8:1::a/64",
        ],
    },
    Link { name: "nat", near: &["192.0.2.1/25"], far: &["192.0.2.2/25", "192.0.2.3/25"] },
];

/// The machines of a scenario, linked.
#[derive(Debug)]
pub struct Network {
    /// The router between all others, and the world's name server.
    pub internet: Machine,
    /// Where mail comes from.
    pub sender: Machine,
    /// Where `sealpost-relay` runs.
    pub relay: Machine,
    /// The router at home.
    pub nat: Machine,
    /// Where `sealpost-agent` and the mail server run.
    pub home: Machine,
    /// What was added by [`Network::add`].
    further: Vec<Arc<Machine>>,
}

impl Network {
    /// Starts and links the machines. `sender` and `home` get packages of their own;
    /// `name_servers` go to those that answer or resolve names.
    pub fn start(
        programs: &Path,
        name_servers: &Path,
        sender: &[PathBuf],
        home: &[PathBuf],
    ) -> Result<Network> {
        let names = [name_servers.to_path_buf()];
        let sender = [sender, &names].concat();
        let network = Network {
            internet: Machine::start("internet", &names, programs)?,
            sender: Machine::start("sender", &sender, programs)?,
            relay: Machine::start("relay", &[], programs)?,
            nat: Machine::start("nat", &[], programs)?,
            home: Machine::start("home", home, programs)?,
            further: Vec::new(),
        };
        network.link()?;
        network.translate()?;
        Ok(network)
    }

    /// Adds a machine, such as [`FURTHER_RELAY`], with packages of its own.
    pub fn add(&mut self, link: Link, packages: &[PathBuf]) -> Result<Arc<Machine>> {
        self.add_at(link.name, link.near, link.far, packages)
    }

    /// Adds a machine at addresses of its own: `near` are those of `internet` on the link to it,
    /// `far` are its.
    pub fn add_at(
        &mut self,
        name: &str,
        near: &[&str],
        far: &[&str],
        packages: &[PathBuf],
    ) -> Result<Arc<Machine>> {
        let machine = Machine::start(name, packages, &crate::programs::directory()?)?;
        self.connect(name, near, far, &machine)?;
        let machine = Arc::new(machine);
        self.further.push(machine.clone());
        Ok(machine)
    }

    /// All machines, in the order in which a message passes them.
    pub fn machines(&self) -> Vec<&Machine> {
        let mut machines = vec![&self.sender, &self.internet, &self.relay, &self.nat, &self.home];
        machines.extend(self.further.iter().map(AsRef::as_ref));
        machines
    }

    fn link(&self) -> Result<()> {
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n";
        self.internet.run(forward)?;
        self.nat.run(forward)?;
        for (link, machine) in LINKS.into_iter().zip([&self.sender, &self.relay, &self.nat]) {
            self.connect(link.name, link.near, link.far, machine)?;
        }
        join(&self.nat, "home", &["10.20.0.1/24"], &self.home, &["10.20.0.2/24"])?;
        self.home.run("ip route add default via 10.20.0.1")?;
        Ok(())
    }

    fn connect(&self, name: &str, near: &[&str], far: &[&str], machine: &Machine) -> Result<()> {
        join(&self.internet, name, near, machine, far)?;
        let mut routes = String::new();
        for address in near {
            let gateway = address.split('/').next().unwrap_or(address);
            routes += &format!("ip route add default via {gateway}\n");
        }
        machine.run(&routes).map(drop)
    }

    /// Masquerading as home routers do it: out is open, in is only what answers.
    fn translate(&self) -> Result<()> {
        self.nat.run(
            r#"nft -f - <<'END'
            table ip home {
                chain inward { type filter hook forward priority 0; policy drop;
                    iifname "home" accept
                    ct state established,related accept
                }
                chain router { type filter hook input priority 0; policy drop;
                    iifname "home" accept
                    ct state established,related accept
                }
                chain translation { type nat hook postrouting priority 100;
                    oifname "eth0" masquerade
                }
            }
END"#,
        )?;
        Ok(())
    }

    /// The home router forgets every mapping and gives new ones from another address, as it
    /// does when it restarts or the provider assigns a new address.
    pub fn rebind_nat(&self) -> Result<()> {
        self.nat.run(&format!(
            "nft flush chain ip home translation
             nft add rule ip home translation oifname eth0 snat to {NAT_AFTER_REBINDING}
             conntrack -F 2>/dev/null"
        ))?;
        Ok(())
    }

    /// From now on the home router forgets a UDP mapping that was silent for `seconds`.
    pub fn forget_silent_mappings(&self, seconds: u32) -> Result<()> {
        self.nat.run(&format!(
            "for timeout in udp_timeout udp_timeout_stream; do
                 echo {seconds} > /proc/sys/net/netfilter/nf_conntrack_$timeout
             done"
        ))?;
        Ok(())
    }

    /// The mappings of the home router that are in use, one a line.
    pub fn nat_mappings(&self) -> Result<String> {
        self.nat.run("conntrack -L -p udp 2>/dev/null")
    }

    /// Slows down what the sender sends, so that a message is still on its way when a scenario
    /// looks. Rate as `tc` writes it, such as `16mbit`.
    pub fn slow_down_sender(&self, rate: &str) -> Result<()> {
        self.sender.run(&format!(
            "tc qdisc replace dev eth0 root tbf rate {rate} burst 32kb latency 500ms"
        ))?;
        Ok(())
    }

    /// Ends what [`Network::slow_down_sender`] began.
    pub fn full_speed_sender(&self) -> Result<()> {
        self.sender.run("tc qdisc del dev eth0 root")?;
        Ok(())
    }
}

fn join(
    near: &Machine,
    name: &str,
    near_addresses: &[&str],
    far: &Machine,
    far_addresses: &[&str],
) -> Result<()> {
    // The far end's number is one of the world outside, so only the network is entered.
    let status = std::process::Command::new("nsenter")
        .arg(format!("--target={}", near.pid()))
        .args(["--net", "ip", "link", "add", name, "type", "veth"])
        .args(["peer", "name", "eth0", "netns", &far.pid().to_string()])
        .status()?;
    anyhow::ensure!(status.success(), "link {} and {}", near.name(), far.name());
    for (machine, device, addresses) in [(near, name, near_addresses), (far, "eth0", far_addresses)]
    {
        let mut script = String::new();
        for address in addresses {
            // Without `nodad` an IPv6 address is unusable for its first second.
            let option = if address.contains(':') { "nodad" } else { "" };
            script += &format!("ip address add {address} dev {device} {option}\n");
        }
        script += &format!("ip link set {device} up\n");
        machine.run(&script)?;
    }
    Ok(())
}
