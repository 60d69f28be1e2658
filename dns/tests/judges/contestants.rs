//! The servers that a judge asks: NSD and Knot, by which the judge itself is judged, and ours.

use std::any::Any;
use std::net::SocketAddr;

use anyhow::Result;
use sealpost_tests::name_server::{NameServer, Software, Terms, ZoneFiles, skipped};

use crate::ours;

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
    let server = ours::serve(engine)?;
    Ok(Contestant { name: "ours", address: server.address, _server: Box::new(server) })
}
