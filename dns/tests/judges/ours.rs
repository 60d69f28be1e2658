//! Our server as the judges and the bench start it: in this process, on loopback, with its own sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result};
use sealpost_dns::catalog::Entry;
use sealpost_dns::cookie::{Cookies, Secret};
use sealpost_dns::engine::Engine;
use sealpost_dns::transport::Clock;
use sealpost_dns::udp::{self, Serving, Udp};
use sealpost_dns::zone::Zone;
use sealpost_tests::name_server::ZoneFiles;
use tokio::sync::mpsc;

use crate::presentation::records;

/// Our server. It ends when this is dropped.
pub(crate) struct Ours {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    serving: Option<Serving>,
}

/// Compiles all zones and serves them at a free port of loopback.
pub(crate) fn start(zones: &ZoneFiles) -> Result<Ours> {
    // The judges ask more than any network may.
    let engine = Arc::new(Engine::new(Cookies::new(Secret::random(), None), None, 1));
    for zone in zones.iter() {
        let text = std::fs::read_to_string(&zone.path)?;
        engine.catalog.insert(Entry::Serving(compile(&zone.apex, &text)?));
    }
    let sockets = Udp::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], NonZeroUsize::MIN)?;
    let address = sockets.local_addrs()[0];
    // Nobody transfers: the queue is closed, and such queries are dropped.
    let (transfers, _) = mpsc::channel(udp::HANDED);
    let serving = sockets.run(&Arc::new(engine), &transfers, Clock::start())?;
    Ok(Ours { address, serving: Some(serving) })
}

/// A zone from its master file.
pub(crate) fn compile(apex: &str, text: &str) -> Result<Arc<Zone>> {
    let zone = Zone::compile(&apex.parse()?, &records(text)?);
    Ok(Arc::new(zone.with_context(|| format!("compile {apex}"))?))
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown();
        }
    }
}
