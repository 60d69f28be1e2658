//! Our server as the judges and the bench start it: the engine in this process, on loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use sealpost_dns::catalog::Entry;
use sealpost_dns::cookie::{Cookies, Secret};
use sealpost_dns::engine::{Engine, Moment, Reply, Via};
use sealpost_dns::zone::Zone;
use sealpost_tests::name_server::ZoneFiles;

use crate::presentation::records;

/// How often the thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// Our server. It ends when this is dropped.
pub(crate) struct Ours {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Compiles all zones and serves them at a free port of loopback.
pub(crate) fn start(zones: &ZoneFiles) -> Result<Ours> {
    // The judges ask more than any network may.
    let engine = Arc::new(Engine::new(Cookies::new(Secret::random(), None), None));
    for zone in zones.iter() {
        engine
            .catalog
            .insert(Entry::Serving(compile(&zone.apex, &std::fs::read_to_string(&zone.path)?)?));
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOK))?;
    let address = socket.local_addr()?;
    let end = Arc::new(AtomicBool::new(false));
    let ended = end.clone();
    let thread = thread::spawn(move || serve(&engine, &socket, &ended));
    Ok(Ours { address, end, thread: Some(thread) })
}

/// A zone from its master file.
pub(crate) fn compile(apex: &str, text: &str) -> Result<Arc<Zone>> {
    let zone = Zone::compile(&apex.parse()?, &records(text)?);
    Ok(Arc::new(zone.with_context(|| format!("compile {apex}"))?))
}

fn serve(engine: &Arc<Engine>, socket: &UdpSocket, ended: &AtomicBool) {
    let mut worker = engine.worker(1);
    let mut query = [0; 4096];
    let mut answer = Vec::new();
    while !ended.load(Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
        answer.clear();
        let reply =
            worker.respond(&query[..length], client, Via::Udp, Moment::default(), &mut answer);
        if matches!(reply, Reply::Send(_) | Reply::Slip) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
