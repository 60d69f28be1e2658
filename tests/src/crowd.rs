//! Connections from everywhere: a machine to which the internet sends whole IPv6 prefixes, so that
//! it can connect from as many networks as there are in them.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::machine::Machine;
use crate::network::{CROWD, Network};

/// Where connections come from, as the internet routes it: 2001:db8:8000::/34.
const HERE: u128 = 0x2001_0db8_8000 << 80;
/// Where nobody answers what is sent there: 2001:db8:c000::/34.
const NOWHERE: u128 = 0x2001_0db8_c000 << 80;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds the machine to `network`.
pub fn join(network: &mut Network) -> Result<Arc<Machine>> {
    let machine = network.add(CROWD, &[])?;
    network.internet.run("ip -6 route add 2001:db8:8000::/33 via 2001:db8:6::2")?;
    machine.run(
        "ip -6 route add local 2001:db8:8000::/34 dev lo
         ip -6 route add blackhole 2001:db8:c000::/34
         echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind",
    )?;
    Ok(machine)
}

/// The address of `host` in the /64 with the number `network`.
pub fn address(network: u32, host: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(HERE | u128::from(network) << 64 | u128::from(host))
}

/// The same where what is sent there is lost, so that no handshake is ever finished.
pub fn unreachable(network: u32, host: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(NOWHERE | u128::from(network) << 64 | u128::from(host))
}

/// Connections from `machine` to `to`, one from each of the `networks`.
pub fn connect(
    machine: &Machine,
    networks: std::ops::Range<u32>,
    to: SocketAddr,
) -> Result<Vec<TcpStream>> {
    machine.enter(|| {
        let one = |network| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddrV6::new(address(network, 1), 0, 0, 0).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        networks.map(one).collect()
    })
}
