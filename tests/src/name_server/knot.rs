//! Knot's configuration: one worker of each kind, zones as they are in their files.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{Terms, ZoneFiles};

pub(super) fn config(home: &Path, address: SocketAddr, terms: Terms, zones: &ZoneFiles) -> String {
    let home = home.display();
    let mut config = format!(
        "server:\n    listen: \"{}@{}\"\n    rundir: \"{home}\"\n    udp-workers: 1\n    \
         tcp-workers: 1\n    background-workers: 1\n    udp-max-payload: {}\n\
         log:\n  - target: stderr\n    any: warning\n\
         database:\n    storage: \"{home}\"\n\
         template:\n  - id: default\n    semantic-checks: off\n    zonefile-load: whole\n    \
         zonefile-sync: -1\n    journal-content: none\n\
         zone:\n",
        address.ip(),
        address.port(),
        terms.payload
    );
    for zone in zones.iter() {
        // Writing to a string does not fail.
        let _ = writeln!(
            config,
            "  - domain: \"{}\"\n    file: \"{}\"",
            zone.apex,
            zone.path.display()
        );
    }
    config
}

pub(super) fn arguments(config: &Path) -> Vec<String> {
    vec!["-c".into(), config.display().to_string()]
}
