//! The program `sealpost-dns`: a name server with zones from primaries by TCP.

use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;
use sealpost_daemon::health::Health;
use sealpost_daemon::signals::{Request, Signals, systemd};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::server::NameServer;
use crate::transfer::attempt::Tcp;
use crate::trust::NoParent;
use crate::wanted::Wanted;

/// Does what the file at `path` says, which has this content, until a signal ends it.
pub(crate) async fn run(path: &Path, config: Config, mut signals: Signals) -> anyhow::Result<()> {
    let (fixed, registry) = (config.fixed.clone(), Registry::new());
    let settings = fixed.settings(config.keys.clone());
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

    let wanted = Wanted::load(&server, fixed.limits, &config).await?;

    let stop = CancellationToken::new();
    let mut answering = tokio::spawn(server.run(stop.clone()));
    let watched = stop.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = health.run(watched).await {
            warn!(%error, "health and metrics ended");
        }
    });
    let files = watch::Sender::new(Arc::new(config));
    tasks.spawn(wanted.follow(files.subscribe()));
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
            Ok(config) => {
                if config.fixed != fixed {
                    warn!(
                        "only [[zone]], [[catalog]] and [[key]] change by a reload; the rest needs a restart"
                    );
                }
                files.send_replace(Arc::new(config));
            }
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
