//! DNS over UDP: one thread and one socket a core and listening address, and datagrams in batches.
//!
//! The kernel spreads the clients over the sockets of an address (SO_REUSEPORT), so threads share
//! nothing. Under load one system call brings up to 64 queries and another takes their answers away;
//! alone, a query is answered at once. Buffers are allocated once. There is no runtime in between: it
//! would cost more than the answer.
//!
//! An answer leaves from the address that was asked. A socket that is bound to a concrete address does
//! that by itself and is the fast one; for a wildcard the kernel is asked for each datagram's
//! destination (IP_PKTINFO, RFC 3542), and answers go one by one. List the addresses where that is
//! possible.
//!
//! Nothing is fragmented: the engine keeps to 1232 octets, and the sockets do not take forged news of
//! smaller path MTUs (IP_PMTUDISC_OMIT).
//!
//! Threads are not pinned to cores: the scheduler keeps busy ones where they are, and a pinned one
//! waits while another core is free.

mod batch;
mod counters;
mod handed;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use tokio::sync::mpsc;
use tracing::error;

use self::batch::Thread;
use self::counters::Counters;
pub use self::counters::Counts;
pub use self::handed::{Handed, ReplyTo};
use self::socket::Socket;
use crate::transport::{Clock, Respond};

/// Queries for the transfer module that may wait for it; what is more is dropped, and comes again.
pub const HANDED: usize = 256;

/// The sockets, bound and not yet served.
pub struct Udp {
    sockets: Vec<Arc<Socket>>,
    addresses: Vec<SocketAddr>,
}

/// The threads that serve.
pub struct Serving {
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
}

impl Udp {
    /// Binds each of `addresses` as often as there are `threads`; with port 0 the system picks one.
    ///
    /// # Errors
    /// What the system says; also when another process answers at one of them, which would otherwise
    /// get a part of the queries unnoticed.
    pub fn bind(addresses: &[SocketAddr], threads: NonZeroUsize) -> io::Result<Self> {
        let mut bound = Self { sockets: Vec::new(), addresses: Vec::new() };
        for &address in addresses {
            socket::claim(address)?;
            let first = Socket::bind(address)?;
            let address = first.local_addr()?;
            bound.sockets.push(Arc::new(first));
            for _ in 1..threads.get() {
                bound.sockets.push(Arc::new(Socket::bind(address)?));
            }
            bound.addresses.push(address);
        }
        Ok(bound)
    }

    /// The bound addresses, in the order in which they were given.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Threads that will serve: as many workers will be made.
    pub fn threads(&self) -> usize {
        self.sockets.len()
    }

    /// Starts the threads. What is for the transfer module goes to `transfers`, a channel of
    /// [`HANDED`] places.
    pub fn run<R: Respond>(
        self,
        handler: &Arc<R>,
        transfers: &mpsc::Sender<Handed>,
        clock: Clock,
    ) -> io::Result<Serving> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut serving = Serving { threads: Vec::new(), counters: Vec::new(), stop };
        for (number, socket) in self.sockets.into_iter().enumerate() {
            let counters = Arc::new(Counters::default());
            let thread = Thread {
                socket,
                counters: counters.clone(),
                stop: serving.stop.clone(),
                transfers: transfers.clone(),
                clock,
            };
            let handler = handler.clone();
            let started = Builder::new()
                .name(format!("dns-udp-{number}"))
                .spawn(move || serve(&thread, &*handler));
            match started {
                Ok(thread) => serving.threads.push(thread),
                Err(failed) => {
                    serving.shutdown();
                    return Err(failed);
                }
            }
            serving.counters.push(counters);
        }
        Ok(serving)
    }
}

impl Serving {
    /// What was counted so far, by all threads.
    pub fn counts(&self) -> Counts {
        self.counters
            .iter()
            .map(|thread| thread.read())
            .fold(Counts::default(), |sum, one| sum + one)
    }

    /// Answers what has arrived already, ends the threads, and says what was counted by then. Takes up
    /// to 200 ms, and so belongs on a thread that may wait.
    pub fn shutdown(mut self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It catches what its worker does, so there is nothing to hear of.
            let _ = thread.join();
        }
        self.counts()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A panic costs one batch and a worker. If it cost the thread, then the clients that the kernel sends
/// to its socket would have no name server.
fn serve(thread: &Thread, handler: &impl Respond) {
    while catch_unwind(AssertUnwindSafe(|| thread.run(handler.worker()))).is_err() {
        thread.counters.panicked();
        error!("answering a query failed inside; this is a fault of the program, please report it");
    }
}
