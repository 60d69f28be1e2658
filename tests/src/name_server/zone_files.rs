//! Zones in files, for servers that read such.

use std::path::PathBuf;

use anyhow::Result;

/// A server whose zones are many is asked for this many of them before it counts as ready.
const PROBES: usize = 1_000;

/// One zone in a file.
#[derive(Debug, Clone)]
pub struct ZoneFile {
    /// The zone's name, with the final dot.
    pub apex: String,
    /// The file in master format (RFC 1035 section 5).
    pub path: PathBuf,
}

/// Zones in files of one directory, which vanishes with this.
#[derive(Debug)]
pub struct ZoneFiles {
    directory: tempfile::TempDir,
    zones: Vec<ZoneFile>,
}

impl ZoneFiles {
    /// No zones yet.
    pub fn new() -> Result<ZoneFiles> {
        Ok(ZoneFiles { directory: tempfile::tempdir()?, zones: Vec::new() })
    }

    /// Writes one zone more.
    pub fn add(&mut self, apex: &str, text: &str) -> Result<()> {
        let path = self.directory.path().join(format!("{}.zone", self.zones.len()));
        std::fs::write(&path, text)?;
        self.zones.push(ZoneFile { apex: apex.to_owned(), path });
        Ok(())
    }

    /// All zones.
    pub fn iter(&self) -> impl Iterator<Item = &ZoneFile> {
        self.zones.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.zones.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Some of the zones, evenly, and the last.
    pub(super) fn probes(&self) -> impl Iterator<Item = &str> {
        let step = (self.zones.len() / PROBES).max(1);
        let last = self.zones.last();
        self.zones.iter().step_by(step).chain(last).map(|zone| zone.apex.as_str())
    }
}
