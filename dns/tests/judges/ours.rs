//! Our server as the judges and the bench start it: the engine and its sockets in this process, on
//! loopback, with one thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use sealpost_dns::cookie::{Cookies, Secret};
use sealpost_dns::engine::Engine;
use sealpost_dns::rate_limit::Rates;
use sealpost_dns::served::Entry;
use sealpost_dns::transport::Clock;
use sealpost_dns::udp::{HANDED, Serving, Udp};
use sealpost_dns::zone::Zone;
use tokio::sync::mpsc;

use crate::master_file::records;

/// Our server. It ends when this is dropped.
pub(crate) struct Ours {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    serving: Option<Serving>,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.serving.take().map(Serving::shutdown);
    }
}

/// An engine with the zones: their names and master files.
pub(crate) fn engine<'a>(
    zones: impl Iterator<Item = (&'a str, &'a Path)>,
    rates: Option<Rates>,
) -> Result<Arc<Engine>> {
    let engine = Engine::new(Cookies::new(Secret::random(), None), rates, 1);
    for (apex, path) in zones {
        let zone = compile(apex, &std::fs::read_to_string(path)?)?;
        engine.served.insert(Entry::Serving(zone));
    }
    Ok(Arc::new(engine))
}

/// A zone from its master file.
pub(crate) fn compile(apex: &str, text: &str) -> Result<Arc<Zone>> {
    let zone = Zone::compile(&apex.parse()?, &records(text)?);
    Ok(Arc::new(zone.with_context(|| format!("compile {apex}"))?))
}

/// Answers at a free port of loopback.
pub(crate) fn serve(engine: Arc<Engine>) -> Result<Ours> {
    let udp = Udp::bind(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], NonZeroUsize::MIN)?;
    let address = udp.local_addrs()[0];
    // Nobody transfers anything here; what is asked for is dropped.
    let (transfers, _) = mpsc::channel(HANDED);
    let serving = udp.run(&Arc::new(engine), &transfers, Clock::start())?;
    Ok(Ours { address, serving: Some(serving) })
}
