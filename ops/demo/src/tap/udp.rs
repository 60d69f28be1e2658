//! The tap between the agent and the relay's QUIC port.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::capture::{Capture, Direction};

/// The largest datagram there is.
const DATAGRAM: usize = 65_535;

/// Agent addresses at a time. One agent with one relay address uses one; a rebinding adds one.
const AGENTS: usize = 64;

/// A socket that stands for the relay's. It is bound before it knows the relay, because the agent's
/// file names the tap, and the relay's file needs the agent's key.
#[derive(Debug)]
pub(crate) struct UdpTap {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    capture: Arc<Capture>,
    task: JoinSet<()>,
}

impl UdpTap {
    /// Takes a free loopback port.
    pub(crate) async fn bind() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self {
            address: socket.local_addr()?,
            socket: Arc::new(socket),
            capture: Arc::new(Capture::default()),
            task: JoinSet::new(),
        })
    }

    /// Starts to carry to the relay.
    pub(crate) fn start(&mut self, relay: SocketAddr) {
        self.task.spawn(carry(Arc::clone(&self.socket), relay, Arc::clone(&self.capture)));
    }

    /// Where the agent sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed.
    pub(crate) fn capture(&self) -> &Capture {
        &self.capture
    }
}

async fn carry(socket: Arc<UdpSocket>, relay: SocketAddr, capture: Arc<Capture>) {
    let mut ways: HashMap<SocketAddr, (u32, Arc<UdpSocket>)> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, agent)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if !ways.contains_key(&agent) && ways.len() < AGENTS {
            let Ok(way) = connect(relay).await else {
                continue;
            };
            let number = ways.len() as u32;
            let back = (Arc::clone(&way), Arc::clone(&socket), Arc::clone(&capture));
            answers.spawn(answer(back, agent, number));
            ways.insert(agent, (number, way));
        }
        if let Some((number, way)) = ways.get(&agent) {
            capture.bytes(*number, Direction::ToRelay, &buffer[..length]);
            // A lost datagram is QUIC's daily bread: nothing to do about an error here.
            let _ = way.send(&buffer[..length]).await;
        }
    }
}

/// Each agent address gets a socket of its own, so that the relay can tell agents apart.
async fn connect(relay: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(relay).await?;
    Ok(Arc::new(socket))
}

/// Carries what the relay sends back to one agent address.
async fn answer(
    (way, socket, capture): (Arc<UdpSocket>, Arc<UdpSocket>, Arc<Capture>),
    agent: SocketAddr,
    number: u32,
) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        match way.recv(&mut buffer).await {
            Ok(length) => {
                capture.bytes(number, Direction::FromRelay, &buffer[..length]);
                let _ = socket.send_to(&buffer[..length], agent).await;
            }
            // The relay is away (ICMP port unreachable); it may come back.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_datagrams_both_ways() {
        let relay = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let mut tap = UdpTap::bind().await.expect("a tap");
        tap.start(relay.local_addr().expect("an address"));
        let agent = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        agent.send_to(b"question", tap.address()).await.expect("sent");
        let mut buffer = [0; 16];
        let (length, from) = relay.recv_from(&mut buffer).await.expect("received");
        assert_eq!(&buffer[..length], b"question");
        relay.send_to(b"answer", from).await.expect("sent");
        let (length, from) = agent.recv_from(&mut buffer).await.expect("received");
        assert_eq!((&buffer[..length], from), (&b"answer"[..], tap.address()));
        let (streams, missed) = tap.capture().streams();
        assert_eq!((streams, missed), (vec![b"question".to_vec(), b"answer".to_vec()], 0));
    }
}
