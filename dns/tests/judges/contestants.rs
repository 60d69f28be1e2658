//! The servers that a judge asks: NSD and Knot, by which the judge itself is judged, and ours.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use sealpost_dns::engine::Engine;
use sealpost_dns::stream::{Messages, Settings, StreamListener, Streams};
use sealpost_dns::transport::{Carrier, Clock, Transfer};
use sealpost_tests::name_server::{NameServer, Software, Terms, ZoneFiles, skipped};
use tokio::runtime;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::ours;

/// A port that is free for UDP may be taken for TCP.
const ATTEMPTS: u32 = 10;

/// One server with all zones.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Ends the server when dropped.
    _server: Box<dyn Any + Send + Sync>,
}

/// Those of NSD and Knot that this machine has; of others it says loudly that they are missing.
pub(crate) fn references(zones: &ZoneFiles) -> Result<Vec<Contestant>> {
    let mut contestants = Vec::new();
    for software in [Software::Nsd, Software::Knot] {
        contestants.extend(reference(software, zones)?);
    }
    Ok(contestants)
}

/// One of them.
pub(crate) fn reference(software: Software, zones: &ZoneFiles) -> Result<Option<Contestant>> {
    if let Err(error) = software.program() {
        skipped(&format!("without {}: {error:#}", software.name()));
        return Ok(None);
    }
    let server = NameServer::start(software, zones, Terms::JUDGE)?;
    let address = server.address();
    Ok(Some(Contestant { name: software.name(), address, _server: Box::new(server) }))
}

/// Ours.
pub(crate) fn ours(zones: &ZoneFiles) -> Result<Contestant> {
    // The judges ask more than any network may.
    let engine =
        ours::engine(zones.iter().map(|zone| (zone.apex.as_str(), zone.path.as_path())), None)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let udp = ours::serve(engine.clone())?;
        match over_tcp(&engine, udp.address) {
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => {}
            Ok(tcp) => {
                let address = udp.address;
                return Ok(Contestant { name: "ours", address, _server: Box::new((udp, tcp)) });
            }
        }
    }
}

/// Answers over TCP too, for what is too large for a datagram, until what is returned is dropped.
fn over_tcp(engine: &Arc<Engine>, address: SocketAddr) -> Result<DropGuard> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _here = runtime.enter();
        StreamListener::bind(address).with_context(|| format!("listen at {address} for TCP"))?
    };
    let streams = Streams::new(engine, NoTransfer, Settings::default(), Clock::start());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    thread::spawn(move || {
        let run = listener.run(streams, TaskTracker::new());
        runtime.block_on(stopped.run_until_cancelled(run));
    });
    Ok(stop.drop_guard())
}

/// Nobody transfers anything here.
struct NoTransfer;

impl Transfer for NoTransfer {
    async fn serve(
        &self,
        _: &[u8],
        _: SocketAddr,
        _: Carrier,
        _: &mut Messages<'_>,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
