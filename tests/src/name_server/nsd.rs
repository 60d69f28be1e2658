//! NSD's configuration: one process that answers, nothing that a secondary or an operator needs, and
//! no limit of responses, which is 200 a second otherwise.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{Terms, ZoneFiles};

pub(super) fn config(home: &Path, address: SocketAddr, terms: Terms, zones: &ZoneFiles) -> String {
    let home = home.display();
    let mut config = format!(
        "server:\n  ip-address: {}@{}\n  server-count: 1\n  username: \"\"\n  zonesdir: \"{home}\"\n  \
         database: \"\"\n  pidfile: \"\"\n  xfrdfile: \"{home}/xfrd\"\n  zonelistfile: \"{home}/list\"\n  \
         xfrdir: \"{home}\"\n  cookie-secret-file: \"{home}/cookie\"\n  \
         ipv4-edns-size: {}\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\n",
        address.ip(),
        address.port(),
        terms.payload
    );
    for zone in zones.iter() {
        // Writing to a string does not fail.
        let _ = writeln!(
            config,
            "zone:\n  name: \"{}\"\n  zonefile: \"{}\"",
            zone.apex,
            zone.path.display()
        );
    }
    config
}

pub(super) fn arguments(config: &Path) -> Vec<String> {
    vec!["-d".into(), "-c".into(), config.display().to_string()]
}
