//! Asks as fast as a server answers, and costs less than any server: one that costs more would wait for
//! nobody, and all servers would seem as fast as it is. (dnsperf is such a one beside servers that take
//! and send datagrams in batches: it makes a system call for each.)
//!
//! A few sockets, each with as many questions under way as one system call carries. Of an answer only the
//! header is taken, which says whose it is and how it went.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};
use nix::unistd::Pid;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

/// Sockets: each is a client to the server.
const SOCKETS: usize = 4;
/// Questions that each has under way.
const WINDOW: usize = 64;
/// Octets of the header of a message.
const HEADER: usize = 12;
/// A server that says nothing for so long has lost what it was asked.
const SILENCE: Duration = Duration::from_secs(1);
/// Turns without an answer between two looks at the clock.
const LOOK: u32 = 1024;
/// How long the last answers may take.
const LAST: Duration = Duration::from_millis(100);

/// What was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) per_second: f64,
    /// Answers with NOERROR or NXDOMAIN that are whole.
    pub(crate) good: u64,
}

/// Asks `questions`, messages without identifiers, one after the other and again, for so long, on that
/// processor.
pub(crate) fn run(
    server: SocketAddr,
    questions: &mut [Vec<u8>],
    time: Duration,
    processor: usize,
) -> Result<Measured> {
    // A thread of its own, as it stays on its processor for ever.
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            stay_on(processor)?;
            ask(server, questions, time)
        });
        asking.join().ok().context("the thread that asks failed")?
    })
}

fn ask(server: SocketAddr, questions: &mut [Vec<u8>], time: Duration) -> Result<Measured> {
    ensure!(questions.len() >= WINDOW, "fewer questions than are asked at once");
    let mut clients = (0..SOCKETS).map(|_| Client::new(server)).collect::<Result<Vec<_>>>()?;
    let mut measured = Measured::default();
    let mut next = 0;
    let began = Instant::now();
    let mut heard = began;
    let mut turn = 0;
    loop {
        let mut answers = 0;
        for client in &mut clients {
            if next + WINDOW > questions.len() {
                next = 0;
            }
            let asked = client.ask(&mut questions[next..next + WINDOW])?;
            next += asked;
            measured.asked += asked as u64;
            answers += client.hear(&mut measured)?;
        }
        turn += 1;
        if answers == 0 && turn < LOOK {
            continue;
        }
        turn = 0;
        let now = Instant::now();
        if answers > 0 {
            heard = now;
        }
        ensure!(now - heard < SILENCE, "no answers: {measured:?}");
        if now - began >= time {
            break;
        }
    }
    measured.per_second = measured.answered as f64 / began.elapsed().as_secs_f64();
    let last = Instant::now() + LAST;
    while measured.answered < measured.asked && Instant::now() < last {
        for client in &mut clients {
            client.hear(&mut measured)?;
        }
    }
    Ok(measured)
}

fn stay_on(processor: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor)?;
    // 0 is the calling thread.
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

struct Client {
    socket: UdpSocket,
    /// The identifiers of questions under way: a place in the window, and how often it was used.
    under_way: [Option<u16>; WINDOW],
    used: u16,
    headers: MultiHeaders<()>,
}

impl Client {
    fn new(server: SocketAddr) -> Result<Client> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The kernel needs not look for the way each time.
        socket.connect(server)?;
        Ok(Client {
            socket,
            under_way: [None; WINDOW],
            used: 0,
            headers: MultiHeaders::preallocate(WINDOW, None),
        })
    }

    /// Asks as many of the questions as there are places: how many.
    fn ask(&mut self, questions: &mut [Vec<u8>]) -> Result<usize> {
        let mut free = 0;
        self.used = self.used.wrapping_add(WINDOW as u16);
        for (place, under_way) in self.under_way.iter_mut().enumerate() {
            if under_way.is_none() {
                let id = self.used | place as u16;
                *under_way = Some(id);
                questions[free][..2].copy_from_slice(&id.to_be_bytes());
                free += 1;
            }
        }
        let octets: Vec<_> = questions[..free].iter().map(|one| [IoSlice::new(one)]).collect();
        let mut controls: Vec<_> = (0..free).map(|_| SendAncillaryBuffer::default()).collect();
        let parts = octets.iter().zip(&mut controls);
        let mut messages: Vec<_> =
            parts.map(|(octets, control)| MMsgHdr::new(octets, control)).collect();
        let mut at = 0;
        while at < free {
            at += sendmmsg(&self.socket, &mut messages[at..], SendFlags::empty())?;
        }
        Ok(free)
    }

    /// Takes the answers that are here: how many.
    fn hear(&mut self, measured: &mut Measured) -> Result<usize> {
        const TRUNCATED: u8 = 0x02;
        const RCODE: u8 = 0x0f;
        const NXDOMAIN: u8 = 3;
        let mut room = [[0; HEADER]; WINDOW];
        let mut slices: Vec<_> = room.iter_mut().map(|one| [IoSliceMut::new(one)]).collect();
        let socket = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = match recvmmsg(socket, &mut self.headers, slices.iter_mut(), flags, None) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(error) => bail!("cannot hear: {error}"),
        };
        let mut heard = 0;
        for message in received {
            let Some(&[high, low, first, second, ..]) = message.iovs().next() else { continue };
            let id = u16::from_be_bytes([high, low]);
            let place = &mut self.under_way[usize::from(id) % WINDOW];
            if *place != Some(id) {
                continue;
            }
            *place = None;
            heard += 1;
            let good = first & TRUNCATED == 0 && matches!(second & RCODE, 0 | NXDOMAIN);
            measured.good += u64::from(good);
        }
        measured.answered += heard as u64;
        Ok(heard)
    }
}
