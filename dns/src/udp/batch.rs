//! What a thread does: take up to 64 queries, answer them, send the answers.

use std::array;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::sync::mpsc;
use tracing::warn;

use super::counters::{Counters, Counts};
use super::handed::{Handed, ReplyTo};
use super::socket::{self, Socket};
use crate::transport::{Asked, Clock, Now, Reply, Via, Worker};

/// Datagrams that one system call brings at most.
const BATCH: usize = 64;
/// Octets of a query that are taken; more than any that can come in one piece. An odd number of cache
/// lines, so that the beginnings of all buffers do not compete for one place in the cache.
const QUERY: usize = 25 * 64;
/// Octets that are set aside for an answer; one that is longer makes its buffer grow.
const ANSWER: usize = 33 * 64;
/// Batches that are still answered after the end was called for: what had arrived by then.
const DRAIN: usize = 64;
/// How long to wait when the system cannot receive.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// What a thread works with.
pub(super) struct Thread {
    pub(super) socket: Arc<Socket>,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) transfers: mpsc::Sender<Handed>,
    pub(super) clock: Clock,
}

/// Answers that wait for the end of their batch.
struct Answers {
    /// The first as many as there are `clients` are in use.
    octets: Vec<Vec<u8>>,
    clients: Vec<(SocketAddr, Option<IpAddr>)>,
}

impl Thread {
    /// Serves until it is told to stop.
    pub(super) fn run(&self, mut worker: impl Worker) {
        let mut octets = vec![0; BATCH * QUERY];
        let mut headers = self.headers();
        let mut answers = Answers {
            octets: (0..BATCH).map(|_| Vec::with_capacity(ANSWER)).collect(),
            clients: Vec::with_capacity(BATCH),
        };
        let mut left = DRAIN;
        while left > 0 {
            let stopping = self.stop.load(Ordering::Relaxed);
            let wait = if stopping {
                left -= 1;
                MsgFlags::MSG_DONTWAIT
            } else {
                MsgFlags::MSG_WAITFORONE
            };
            let mut rest = octets.as_mut_slice();
            let mut slices: [_; BATCH] = array::from_fn(|_| {
                let (one, others) = std::mem::take(&mut rest).split_at_mut(QUERY);
                rest = others;
                [IoSliceMut::new(one)]
            });
            let received = recvmmsg(self.socket.raw(), &mut headers, slices.iter_mut(), wait, None);
            let mut batch = Counts { batches: 1, ..Counts::default() };
            let mut blind = false;
            match received {
                Ok(received) => {
                    let now = self.clock.now();
                    for message in received {
                        blind |= !self.answer(&message, now, &mut worker, &mut answers, &mut batch);
                    }
                }
                // Nothing came.
                Err(Errno::EAGAIN) if stopping => return,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => {
                    self.counters.add(&Counts { failed_receives: 1, ..Counts::default() });
                    warn!(%error, "cannot receive queries by UDP");
                    sleep(FAILED_PAUSE);
                    continue;
                }
            }
            self.send(&mut answers, &mut batch);
            self.counters.add(&batch);
            if blind {
                // The headers keep the room that the last use had, and that had none.
                headers = self.headers();
            }
        }
    }

    fn headers(&self) -> MultiHeaders<SockaddrStorage> {
        MultiHeaders::preallocate(BATCH, self.socket.control_space())
    }

    /// Answers one datagram; `false` if it is not known to which address it came.
    fn answer(
        &self,
        message: &RecvMsg<'_, '_, SockaddrStorage>,
        now: Now,
        worker: &mut impl Worker,
        answers: &mut Answers,
        batch: &mut Counts,
    ) -> bool {
        let mut source = None;
        if self.socket.is_wildcard() {
            source = message
                .cmsgs()
                .ok()
                .and_then(|told| told.filter_map(|one| socket::asked(&one)).next());
            if source.is_none() {
                batch.unusable += 1;
                return false;
            }
        }
        let client = message.address.as_ref().and_then(address).filter(|client| client.port() > 0);
        let (Some(client), false) = (client, message.flags.contains(MsgFlags::MSG_TRUNC)) else {
            batch.unusable += 1;
            return true;
        };
        let query = message.iovs().next().unwrap_or_default();
        let out = &mut answers.octets[answers.clients.len()];
        out.clear();
        batch.queries += 1;
        match worker.respond(query, &Asked { client, via: Via::Udp, now }, out) {
            Reply::Send if !out.is_empty() => answers.clients.push((client, source)),
            Reply::Send | Reply::Drop => batch.dropped += 1,
            Reply::Transfer => {
                let reply = ReplyTo { socket: self.socket.clone(), client, source };
                match self.transfers.try_send(Handed { query: query.to_vec(), reply }) {
                    Ok(()) => batch.handed += 1,
                    Err(_) => batch.unsent += 1,
                }
            }
        }
        true
    }

    /// Sends the answers. What the system does not take is dropped, as on any full link: the client
    /// asks again.
    fn send(&self, answers: &mut Answers, batch: &mut Counts) {
        let ready = answers.clients.len();
        let sent = if self.socket.is_wildcard() {
            self.send_singly(answers)
        } else {
            self.send_at_once(answers)
        };
        answers.clients.clear();
        batch.replies += sent as u64;
        batch.unsent += (ready - sent) as u64;
    }

    /// How many of the answers the system took.
    fn send_singly(&self, answers: &Answers) -> usize {
        let mut sent = 0;
        for (octets, &(client, source)) in answers.octets.iter().zip(&answers.clients) {
            match self.socket.send(octets, client, source) {
                Ok(()) => sent += 1,
                // There is no room, and the rest would wait as long.
                Err(full) if is_full(full.raw_os_error()) => return sent,
                Err(_) => {}
            }
        }
        sent
    }

    /// As `send_singly`, with few system calls.
    fn send_at_once(&self, answers: &Answers) -> usize {
        let ready = answers.clients.len();
        let octets: Vec<_> =
            answers.octets[..ready].iter().map(|one| [IoSlice::new(one)]).collect();
        let clients: Vec<_> =
            answers.clients.iter().map(|&(client, _)| SocketAddrAny::from(client)).collect();
        let mut controls: Vec<_> = (0..ready).map(|_| SendAncillaryBuffer::default()).collect();
        let parts = clients.iter().zip(&octets).zip(&mut controls);
        let mut messages: Vec<_> = parts
            .map(|((client, octets), control)| MMsgHdr::new_with_addr(client, octets, control))
            .collect();
        let (mut at, mut sent) = (0, 0);
        while at < ready {
            match sendmmsg(&*self.socket, &mut messages[at..], SendFlags::empty()) {
                // It does not say so, but then it would go on for ever.
                Ok(0) => return sent,
                Ok(taken) => {
                    at += taken;
                    sent += taken;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(full) if is_full(Some(full.raw_os_error())) => return sent,
                // This one cannot be sent: no route, a firewall, too long for the link.
                Err(_) => at += 1,
            }
        }
        sent
    }
}

/// Whether a send failed because the link or the system has no room.
fn is_full(error: Option<i32>) -> bool {
    error.is_some_and(|error| {
        matches!(Errno::from_raw(error), Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
    })
}

fn address(raw: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = raw.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    raw.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}
