//! The program `sealpost-dns`: a name server with the zones of its file, from primaries by TCP.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prometheus::Registry;
use sealpost_daemon::health::Health;
use sealpost_daemon::signals::{Request, Signals, systemd};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, Fixed};
use crate::handle::Handle;
use crate::record::Name;
use crate::server::NameServer;
use crate::transfer::attempt::Tcp;
use crate::trust::NoParent;

type Server = Handle<Tcp, NoParent>;

/// Serves the zones of the file at `path`, which has this content, until a signal ends it.
pub(crate) async fn run(path: &Path, config: Config, mut signals: Signals) -> anyhow::Result<()> {
    let Config { fixed, keys, zones } = config;
    let registry = Registry::new();
    let settings = fixed.settings(keys);
    let server = NameServer::bind(settings, Tcp::default(), NoParent, &registry).await?;
    let handle = server.handle();
    let ready = handle.clone();
    let readiness = move || {
        let count = ready.count();
        let none = count.all > 0 && count.served == 0;
        none.then(|| "no zone is served".to_owned()).into_iter().collect()
    };
    let health = Health::bind(fixed.admin, registry, || {}, readiness).await?;
    info!(address = %health.local_addr()?, "listening for health and metrics");

    let wanted: HashMap<_, _> =
        zones.iter().map(|zone| (zone.name.clone(), zone.clone())).collect();
    let loaded = server.load(move |name| wanted.get(name).cloned()).await?;
    info!(loaded, configured = zones.len(), "zones that were kept are served");
    let mut names: HashSet<Name> = zones.iter().map(|zone| zone.name.clone()).collect();
    for zone in zones {
        handle.add(zone).await;
    }

    let stop = CancellationToken::new();
    let mut answering = tokio::spawn(server.run(stop.clone()));
    let watched = stop.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = health.run(watched).await {
            warn!(%error, "health and metrics ended");
        }
    });
    systemd::ready();
    loop {
        let request = tokio::select! {
            ended = &mut answering => return ended?,
            request = signals.next() => request,
        };
        if request == Request::Stop {
            break;
        }
        systemd::reloading();
        match Config::load(path) {
            Ok(config) => names = apply(&handle, &fixed, names, config).await,
            Err(error) => error!(%error, "reload refused; the old configuration stays"),
        }
        systemd::ready();
    }
    systemd::stopping();
    info!("stopping");
    stop.cancel();
    tokio::select! {
        ended = answering => ended?,
        () = signals.stop() => Ok(()),
    }
}

/// Brings the server to what the file says now, and returns the names of its zones.
async fn apply(
    server: &Server,
    fixed: &Fixed,
    before: HashSet<Name>,
    config: Config,
) -> HashSet<Name> {
    if config.fixed != *fixed {
        warn!("only [[zone]] and [[key]] change by a reload; the rest needs a restart");
    }
    server.set_keys(config.keys);
    let names: HashSet<Name> = config.zones.iter().map(|zone| zone.name.clone()).collect();
    let gone: Vec<_> = before.difference(&names).collect();
    for name in &gone {
        if let Err(error) = server.remove(name).await {
            warn!(zone = %name, %error, "is not served any more, but its file is still there");
        }
    }
    let (removed, added) = (gone.len(), names.difference(&before).count());
    for zone in config.zones {
        server.add(zone).await;
    }
    info!(zones = names.len(), added, removed, "reloaded");
    names
}
