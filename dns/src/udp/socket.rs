//! One UDP socket: how it is set up, and how single datagrams leave it.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, sendmsg, setsockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Type};

/// Octets that the system is asked to hold of queries, and of answers; it may grant less
/// (`net.core.rmem_max`, `net.core.wmem_max`).
const SYSTEM_BUFFER: usize = 4 << 20;
/// How long a thread waits for a query before it looks whether it should end. A time-out of the socket
/// costs no system call; ten wakeups a second cost nothing that can be measured.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How long a thread waits for room to send: enough for a burst to drain, not for a dead link.
const SEND_PATIENCE: Duration = Duration::from_millis(10);

/// A bound socket.
pub(super) struct Socket {
    socket: UdpSocket,
    /// Whether datagrams for several addresses come here.
    wildcard: bool,
}

impl Socket {
    /// Binds `address`, beside others of this server; one for IPv6 is for IPv6 alone.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        let wildcard = address.ip().is_unspecified();
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::OMIT)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &wildcard)?;
        } else {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT)?;
            setsockopt(&socket, Ipv4PacketInfo, &wildcard)?;
        }
        // As much as the system grants.
        let _ = socket.set_recv_buffer_size(SYSTEM_BUFFER);
        let _ = socket.set_send_buffer_size(SYSTEM_BUFFER);
        socket.set_read_timeout(Some(LOOK_UP))?;
        socket.set_write_timeout(Some(SEND_PATIENCE))?;
        socket.bind(&address.into())?;
        Ok(Self { socket: socket.into(), wildcard })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Room for what the kernel tells of a datagram, if it was asked to tell something.
    pub(super) fn control_space(&self) -> Option<Vec<u8>> {
        self.wildcard.then(|| nix::cmsg_space!(libc::in6_pktinfo))
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Sends one datagram, from `source` if that is given.
    pub(super) fn send(
        &self,
        octets: &[u8],
        client: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<()> {
        let to = SockaddrStorage::from(client);
        let octets = [IoSlice::new(octets)];
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(self.raw(), &octets, control, MsgFlags::empty(), Some(&to))
        };
        match source {
            None => send(&[]),
            Some(IpAddr::V4(source)) => {
                send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                })])
            }
            Some(IpAddr::V6(source)) => {
                send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    // The client's own scope says on which link a link-local address is.
                    ipi6_ifindex: 0,
                })])
            }
        }?;
        Ok(())
    }

    pub(super) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether nobody has `address`: sockets that share one let any process of the same user in.
pub(super) fn claim(address: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// The address that a datagram came to, from what the kernel tells of it.
pub(super) fn asked(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    }
}
