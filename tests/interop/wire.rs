//! Looks at every packet of the lab, since they all pass one router: whether a word of a message can
//! be read in it, and who connects to whom.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use sealpost_tests::machine::Machine;
use socket2::{Domain, Protocol, Socket, Type};

/// Every line of a message begins so, then comes the message's own word, then [`END`].
const BEGIN: &[u8] = b"readable<";
const END: u8 = b'>';

/// Every kind of packet (ETH_P_ALL), as the network's byte order writes it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
const ETHERNET: usize = 14;
const TCP: u8 = 6;

/// See the module's text. It looks until the process ends.
#[derive(Debug)]
pub(crate) struct Wire {
    seen: Arc<Mutex<Seen>>,
}

/// What passed so far.
#[derive(Debug, Default)]
struct Seen {
    readable: BTreeSet<String>,
    connects: Vec<Connect>,
}

/// A first packet of a connection to a mail server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connect {
    pub(crate) at: SystemTime,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
}

/// The line of a message that is looked for.
pub(crate) fn line(word: &str) -> String {
    format!("readable<{word}>")
}

impl Wire {
    /// Looks at all links of `router` from now on.
    pub(crate) fn tap(router: &Machine) -> Result<Wire> {
        let mut socket = router.enter(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING)))?;
            socket.set_recv_buffer_size(32 << 20)?;
            Ok(socket)
        })?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = seen.clone();
        thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || {
                let mut frame = vec![0; 1 << 17];
                while let Ok(length) = socket.read(&mut frame) {
                    note(&mut lock(&notes), &frame[..length]);
                }
            })
            .context("start a thread")?;
        Ok(Wire { seen })
    }

    /// Whether the message with this word could be read on its way.
    pub(crate) fn could_read(&self, word: &str) -> bool {
        lock(&self.seen).readable.contains(word)
    }

    /// The connections to mail servers from one of `clients` since then, in their order.
    pub(crate) fn connects(&self, clients: &[IpAddr], since: SystemTime) -> Vec<Connect> {
        let seen = lock(&self.seen);
        let wanted = |one: &&Connect| one.at >= since && clients.contains(&one.from);
        seen.connects.iter().filter(wanted).copied().collect()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(seen: &mut Seen, frame: &[u8]) {
    let mut rest = frame;
    while let Some(at) = rest.windows(BEGIN.len()).position(|window| window == BEGIN) {
        rest = &rest[at + BEGIN.len()..];
        // Cut off at the packet's end it is of no use; there are more copies.
        if let Some(end) = rest.iter().take(200).position(|byte| *byte == END) {
            seen.readable.insert(String::from_utf8_lossy(&rest[..end]).into_owned());
        }
    }
    if let Some((from, to)) = connect(frame) {
        // Each packet passes two links of the router.
        let now = SystemTime::now();
        let twice = seen.connects.iter().rev().take(8).any(|one| {
            let age = now.duration_since(one.at).unwrap_or_default();
            (one.from, one.to) == (from, to) && age.as_millis() < 5
        });
        if !twice {
            seen.connects.push(Connect { at: now, from, to });
        }
    }
}

/// From whom and to whom, if this is the first packet of a connection to a port 25.
fn connect(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(ETHERNET..)?;
    let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] if packet.get(9) == Some(&TCP) => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let address =
                |at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), packet.get(header..)?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&TCP) => {
            let address =
                |at| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let (syn, ack) = (0x02, 0x10);
    let opens = segment.get(13)? & (syn | ack) == syn;
    (opens && segment.get(2..4)? == 25_u16.to_be_bytes()).then_some((from, to))
}
