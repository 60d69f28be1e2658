//! Queries by UDP that are not answered on their thread: NOTIFY, UPDATE, and IXFR that may need a
//! lookup. They are rare, so they are copied and go through a channel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::socket::Socket;

/// A query for the transfer module.
pub struct Handed {
    /// As it came.
    pub query: Vec<u8>,
    /// Where to answer.
    pub reply: ReplyTo,
}

/// The way back to a client that asked by UDP.
pub struct ReplyTo {
    pub(super) socket: Arc<Socket>,
    pub(super) client: SocketAddr,
    /// The address that was asked, if the socket has several.
    pub(super) source: Option<IpAddr>,
}

impl ReplyTo {
    /// The client.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Sends one response, from the address that was asked. Waits 10 ms at most.
    pub fn send(&self, response: &[u8]) -> io::Result<()> {
        self.socket.send(response, self.client, self.source)
    }
}
