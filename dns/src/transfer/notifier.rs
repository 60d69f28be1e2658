//! Tells secondaries that zones changed, until they acknowledge (RFC 1996 section 3.6): one task and
//! one queue for all zones.
//!
//! A notice goes out again after 1, 2, 4, 8, 15, 30 and then each 60 seconds, as the RFC has it, so
//! that one lost datagram costs a second. A newer notice of a zone takes the place of the older one.
//! A secondary that stays silent asks by itself when its refresh time comes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rcode;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::notify::{make, parse_reply};
use super::tsig::{ReplyVerifier, TsigKey, sign_request};
use crate::record::{Name, Record};
use crate::unix_time;

/// Seconds after each try.
const WAITS: [u64; 10] = [1, 2, 4, 8, 15, 30, 60, 60, 60, 60];
/// Notices that may be under way. Those above are not sent; refresh times make up for them.
pub const MAX_PENDING: usize = 262_144;
/// Notices that may wait for the task.
const MAX_QUEUED: usize = 4096;
/// Datagrams that leave at once, and the time until the next ones: 1,000 a second, so that a change
/// of all zones is no flood.
const BURST: usize = 20;
const BURST_EVERY: Duration = Duration::from_millis(20);
/// The longest answer that is read: a header, a question and a signature.
const MAX_REPLY: usize = 1024;

/// One who is told of changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    /// Where it is.
    pub address: SocketAddr,
    /// Signs what is said to it.
    pub key: Option<Arc<TsigKey>>,
}

/// That a zone changed, for one secondary.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The zone.
    pub apex: Name,
    /// Its SOA record.
    pub soa: Record,
    /// The secondary.
    pub to: SocketAddr,
    /// Signs the notice; the answer must then be signed too.
    pub key: Option<Arc<TsigKey>>,
}

/// Takes notices for the task.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Outgoing>);

impl Handle {
    /// Tells one secondary of a change, and waits for a place in the queue only.
    pub async fn send(&self, notice: Outgoing) {
        // The task ends only with the process.
        let _ = self.0.send(notice).await;
    }
}

/// The task.
pub struct Notifier {
    incoming: mpsc::Receiver<Outgoing>,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    pending: Pending,
}

impl Notifier {
    /// A task that sends from these addresses, and any where none is given. A machine without IPv6
    /// is no error.
    pub async fn bind(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> io::Result<(Handle, Self)> {
        let (sender, incoming) = mpsc::channel(MAX_QUEUED);
        let bind = |ip: IpAddr| UdpSocket::bind(SocketAddr::new(ip, 0));
        let first = bind(v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into()).await;
        let second = bind(v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into()).await;
        let (v4, v6) = match (first, second) {
            (Err(error), Err(_)) => return Err(error),
            (Err(error), _) if v4.is_some() => return Err(error),
            (_, Err(error)) if v6.is_some() => return Err(error),
            (first, second) => (first.ok(), second.ok()),
        };
        Ok((Handle(sender), Self { incoming, v4, v6, pending: Pending::default() }))
    }

    /// Runs until all handles are gone.
    pub async fn run(mut self) {
        let (mut v4, mut v6) = ([0; MAX_REPLY], [0; MAX_REPLY]);
        let mut next_burst = Instant::now();
        loop {
            let due = self.pending.next_due().map(|due| due.max(next_burst));
            tokio::select! {
                notice = self.incoming.recv() => match notice {
                    Some(notice) => self.pending.add(notice, Instant::now()),
                    None => return,
                },
                (octets, from) = receive(self.v4.as_ref(), &mut v4) => {
                    self.pending.acknowledge(from, &v4[..octets], unix_time::seconds());
                }
                (octets, from) = receive(self.v6.as_ref(), &mut v6) => {
                    self.pending.acknowledge(from, &v6[..octets], unix_time::seconds());
                }
                () = sleep_until(due) => {
                    next_burst = Instant::now() + BURST_EVERY;
                    self.burst().await;
                }
            }
        }
    }

    async fn burst(&mut self) {
        for _ in 0..BURST {
            let Some((to, message)) = self.pending.due(Instant::now(), unix_time::seconds()) else {
                return;
            };
            let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
            // Whatever is wrong with the way there, the next try is its cure.
            if let Some(socket) = socket
                && let Err(error) = socket.send_to(&message, to).await
            {
                debug!(%to, %error, "a notice could not be sent");
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        // Errors are those of datagrams sent before: somebody's port is closed.
        if let Ok(received) = socket.recv_from(buffer).await {
            return received;
        }
    }
}

/// The notices under way. Pure: times in, datagrams out.
#[derive(Default)]
struct Pending {
    /// By secondary and identity, as answers come.
    notices: HashMap<(SocketAddr, u16), Notice>,
    /// The one of each zone and secondary.
    of_zone: HashMap<(Name, SocketAddr), u16>,
    /// When each is due. An entry whose notice is not due then is void.
    queue: BinaryHeap<Reverse<(Instant, SocketAddr, u16)>>,
}

struct Notice {
    content: Outgoing,
    due: Instant,
    tries: usize,
    verifier: Option<ReplyVerifier>,
}

impl Pending {
    fn add(&mut self, content: Outgoing, now: Instant) {
        let to = content.to;
        let zone = (content.apex.clone(), to);
        let id = match self.of_zone.get(&zone) {
            Some(id) => *id,
            None => {
                let free = (0..16)
                    .map(|_| rand::random::<u16>())
                    .find(|id| !self.notices.contains_key(&(to, *id)));
                let Some(id) = free.filter(|_| self.notices.len() < MAX_PENDING) else {
                    debug!(zone = %content.apex, %to, "too many notices under way; not sent");
                    return;
                };
                self.of_zone.insert(zone, id);
                id
            }
        };
        if let Some(waits) = self.notices.get_mut(&(to, id)).filter(|notice| notice.tries == 0) {
            // It did not go out yet, so its place in the queue is the newer one's.
            waits.content = content;
            return;
        }
        self.notices.insert((to, id), Notice { content, due: now, tries: 0, verifier: None });
        self.queue.push(Reverse((now, to, id)));
        if self.queue.len() > 1024 + 4 * self.notices.len() {
            let notices = &self.notices;
            self.queue.retain(|Reverse((due, to, id))| {
                notices.get(&(*to, *id)).is_some_and(|notice| notice.due == *due)
            });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((due, _, _))| *due)
    }

    /// The next datagram to send.
    fn due(&mut self, now: Instant, seconds: u64) -> Option<(SocketAddr, Vec<u8>)> {
        while let Some(Reverse((due, _, _))) = self.queue.peek() {
            if *due > now {
                return None;
            }
            let Reverse((due, to, id)) = self.queue.pop()?;
            let Some(notice) = self.notices.get_mut(&(to, id)) else { continue };
            if notice.due != due {
                continue;
            }
            let Some(wait) = WAITS.get(notice.tries) else {
                debug!(zone = %notice.content.apex, %to, "never acknowledged; it will ask by itself");
                self.forget(to, id);
                continue;
            };
            notice.tries += 1;
            notice.due = now + Duration::from_secs(*wait);
            self.queue.push(Reverse((notice.due, to, id)));
            let content = &notice.content;
            let mut message = make(id, &content.apex, Some(&content.soa));
            notice.verifier =
                content.key.as_ref().map(|key| sign_request(&mut message, key, seconds));
            return Some((to, message));
        }
        None
    }

    /// Any answer ends a notice (section 4.8), also a refusal: asking again would not change it. But
    /// one who could not take note of it now (SERVFAIL) is told again, as if nothing had come.
    fn acknowledge(&mut self, from: SocketAddr, message: &[u8], seconds: u64) {
        let Some(id) = message.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]])) else {
            return;
        };
        let Some(notice) = self.notices.get_mut(&(from, id)) else { return };
        let Some(rcode) = parse_reply(message, id) else { return };
        if let Some(verifier) = &mut notice.verifier
            && let Err(error) = verifier.verify(message, seconds)
        {
            // Could be anybody; the true answer may still come.
            debug!(%from, %error, "an answer to a notice is not believed");
            return;
        }
        if rcode != Rcode::NOERROR {
            debug!(zone = %notice.content.apex, %from, %rcode, "a secondary does not take a notice");
        }
        if rcode == Rcode::SERVFAIL {
            return;
        }
        self.forget(from, id);
    }

    fn forget(&mut self, to: SocketAddr, id: u16) {
        if let Some(notice) = self.notices.remove(&(to, id)) {
            self.of_zone.remove(&(notice.content.apex, to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::fixture::{name, soa};
    use crate::transfer::notify::{Decision, parse, reply};
    use crate::transfer::tsig::{Algorithm, Keys, open_request};

    fn outgoing(serial: u32, port: u16) -> Outgoing {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        Outgoing { apex: name("example.org"), soa: soa(serial), to, key: None }
    }

    #[test]
    fn a_notice_is_repeated_ever_more_rarely_and_not_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.add(outgoing(1, 53), start);
        let mut sent = Vec::new();
        while let Some(due) = pending.next_due() {
            if pending.due(due, 0).is_some() {
                sent.push((due - start).as_secs());
            }
        }
        assert_eq!(sent, [0, 1, 3, 7, 15, 30, 60, 120, 180, 240]);
        assert!(pending.notices.is_empty() && pending.of_zone.is_empty());
    }

    #[test]
    fn an_answer_ends_it_and_only_from_where_it_went() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(outgoing(1, 53), now);
        let (to, message) = pending.due(now, 0).unwrap();
        let yes = reply(&message, Decision::Refresh).unwrap();
        pending.acknowledge(SocketAddr::new(to.ip(), 54), &yes, 0);
        pending.acknowledge(to, &message, 0);
        pending.acknowledge(to, &yes[..3], 0);
        assert_eq!(pending.notices.len(), 1);
        pending.acknowledge(to, &yes, 0);
        assert!(pending.notices.is_empty() && pending.of_zone.is_empty());
        let later = now + Duration::from_secs(60);
        assert!(pending.due(later, 0).is_none());
    }

    #[test]
    fn one_who_is_busy_is_told_again() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(outgoing(1, 53), now);
        let (to, message) = pending.due(now, 0).unwrap();
        pending.acknowledge(to, &reply(&message, Decision::Busy).unwrap(), 0);
        let due = pending.next_due().unwrap();
        let (_, again) = pending.due(due, 0).unwrap();
        assert_eq!((again.clone(), due - now), (message, Duration::from_secs(1)));
        pending.acknowledge(to, &reply(&again, Decision::Refused).unwrap(), 0);
        assert!(pending.notices.is_empty());
    }

    #[test]
    fn a_newer_notice_takes_the_place_of_the_older() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(outgoing(1, 53), now);
        pending.due(now, 0).unwrap();
        for serial in 2..5000 {
            pending.add(outgoing(serial, 53), now + Duration::from_millis(serial.into()));
            if serial % 2 == 0 {
                pending.due(now + Duration::from_millis(serial.into()), 0).unwrap();
            }
        }
        assert!(pending.queue.len() < 2000);
        let now = now + Duration::from_millis(4999);
        let (_, message) = pending.due(now, 0).unwrap();
        assert_eq!(parse(&message).unwrap().serial, Some(4999));
        assert!(pending.due(now, 0).is_none());
        pending.add(outgoing(1, 54), now);
        assert_eq!(pending.notices.len(), 2, "each secondary is told");
    }

    #[test]
    fn with_a_key_the_answer_must_be_signed() {
        let key = || TsigKey::new(name("key"), Algorithm::Sha256, &[1; 32]).unwrap();
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(Outgoing { key: Some(Arc::new(key())), ..outgoing(1, 53) }, now);
        let (to, message) = pending.due(now, 100).unwrap();
        let keys: Keys = [key()].into_iter().collect();
        let mut opened = open_request(&message, &keys, 100).unwrap().unwrap();
        let mut answer = reply(&opened.message, Decision::Refresh).unwrap();
        pending.acknowledge(to, &answer, 100);
        assert_eq!(pending.notices.len(), 1);
        opened.signer.sign(&mut answer, 100);
        pending.acknowledge(to, &answer, 100);
        assert!(pending.notices.is_empty());
    }

    #[tokio::test]
    async fn a_secondary_hears_of_a_change_and_of_no_more_once_it_answered() {
        let (handle, task) = Notifier::bind(None, None).await.unwrap();
        let task = tokio::spawn(task.run());
        let secondary = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        handle.send(outgoing(7, secondary.local_addr().unwrap().port())).await;
        let mut buffer = [0; 512];
        let (octets, from) = secondary.recv_from(&mut buffer).await.unwrap();
        let notice = parse(&buffer[..octets]).unwrap();
        assert_eq!((notice.apex, notice.serial), (name("example.org"), Some(7)));
        let answer = reply(&buffer[..octets], Decision::Refresh).unwrap();
        secondary.send_to(&answer, from).await.unwrap();
        drop(handle);
        task.await.unwrap();
    }
}
