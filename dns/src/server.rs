//! Puts the name server together: zones, sockets, transfers and what its operator sees.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use prometheus::Registry;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sealpost_daemon::health::Health;
use sealpost_daemon::signals::{Request, Signals};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{self, Config, RateLimit};
use crate::cookie::{Cookies, Secret};
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::rate_limit::{Rate, Rates};
use crate::secondaries::{Secondaries, Shelf, unix_now};
use crate::store::Store;
use crate::stream::{self, Messages, QuicListener, StreamListener, Streams, tls_config};
use crate::transfer::attempt::Tcp;
use crate::transfer::notifier::Notifier;
use crate::transfer::refresh::{self, Refresher};
use crate::transfer::serve::{Over, Reply, Server};
use crate::transport::{Carrier, Clock, Transfer};
use crate::udp::{self, Handed, Serving, Udp};

/// Over how many seconds a network may save up answers.
const BURST: u32 = 2;

/// A name server whose sockets are bound.
pub struct NameServer {
    config: Config,
    engine: Arc<Engine>,
    udp: Udp,
    tcp: Vec<StreamListener>,
    quic: Vec<QuicListener>,
    store: Store,
}

impl NameServer {
    /// Binds all sockets.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let threads = u32::try_from(config.threads.get()).unwrap_or(u32::MAX);
        let engine =
            Engine::new(cookies(&config.cookies)?, Some(rates(config.rate_limit)), threads);
        let store = Store::open(config.state.join("zones")).context("the kept zones")?;
        let listen = |address: &SocketAddr| format!("cannot listen on {address}");
        let udp = Udp::bind(&config.listen, config.threads)
            .context("cannot listen for datagrams on the addresses of `listen`")?;
        let mut tcp = Vec::new();
        // With port 0 both get the same.
        for address in udp.local_addrs() {
            tcp.push(StreamListener::bind(*address).with_context(|| listen(address))?);
        }
        let mut quic = Vec::new();
        if let Some(tls) = &config.tls {
            let certificate = Arc::new(certificate(tls)?);
            let idle = stream::Settings::default().idle;
            for address in &tls.listen {
                let dot = tls_config(Carrier::Tls, certificate.clone())?;
                let dot = StreamListener::bind_tls(*address, dot);
                tcp.push(dot.with_context(|| listen(address))?);
                let doq = tls_config(Carrier::Quic, certificate.clone())?;
                let doq = QuicListener::bind(*address, doq, idle);
                quic.push(doq.with_context(|| listen(address))?);
            }
        }
        Ok(Self { config, engine: Arc::new(engine), udp, tcp, quic, store })
    }

    /// Serves until it is told to stop.
    pub async fn run(self, mut signals: Signals) -> anyhow::Result<()> {
        let Self { config, engine, udp, tcp, quic, store } = self;
        let addresses = udp.local_addrs().to_vec();
        let clock = Clock::start();
        let (notices, notifier) = Notifier::bind(None, None).await.context("sockets for NOTIFY")?;
        let zones = Secondaries::new(engine.clone(), store, config.limits, config.zones, notices);
        let zones = Arc::new(zones);
        let loading = zones.clone();
        let threads = config.threads.get();
        let loaded =
            tokio::task::spawn_blocking(move || loading.load(threads, unix_now())).await??;
        info!(loaded, configured = zones.count(0).0, "zones that were kept are served");

        let shelf = Shelf(zones.clone());
        let settings = refresh::Settings {
            at_once: config.limits.transfers_in,
            ..refresh::Settings::default()
        };
        let (refresher, refreshing) =
            Refresher::new(Arc::new(shelf.clone()), Tcp::default(), settings);
        let desk =
            Desk { server: Arc::new(Server::new(shelf, config.keys)), engine: engine.clone() };
        let settings = stream::Settings {
            transfers: config.limits.transfers_out,
            ..stream::Settings::default()
        };
        let streams = Streams::new(&engine, desk.clone(), settings, clock);

        let registry = Registry::new();
        let metrics = Metrics::new(&registry)?;
        let (transfers, mut handed) = mpsc::channel(udp::HANDED);
        // Its threads begin when all else is there.
        let serving =
            Arc::new(Mutex::new(Some(udp.run(&Arc::new(engine.clone()), &transfers, clock)?)));
        let counted = (engine.clone(), streams.clone(), serving.clone(), zones.clone());
        let refresh = move || {
            let (engine, streams, serving, zones) = &counted;
            let lock = serving.lock().unwrap_or_else(PoisonError::into_inner);
            let datagrams = lock.as_ref().map(Serving::counts).unwrap_or_default();
            let [tcp, tls, quic] = streams.counts().queries;
            let queries = [datagrams.queries, tcp, tls, quic];
            metrics.refresh(&engine.counts(), queries, datagrams.panics);
            let (all, served) = zones.count(unix_now());
            metrics.zones(all, served);
        };
        let ready = zones.clone();
        let readiness = move || {
            let (all, served) = ready.count(unix_now());
            if all > 0 && served == 0 { vec!["no zone is served".to_owned()] } else { Vec::new() }
        };
        let health = Health::bind(config.admin, registry, refresh, readiness).await?;

        for address in &addresses {
            info!(%address, "listening");
        }
        info!(address = %health.local_addr()?, "listening for health and metrics");
        let stop = CancellationToken::new();
        let (connections, mut tasks) = (TaskTracker::new(), JoinSet::new());
        tasks.spawn(notifier.run());
        tasks.spawn(refreshing.run());
        zones.follow(refresher).await;
        for listener in tcp {
            tasks.spawn(listener.run(streams.clone(), connections.clone()));
        }
        for listener in quic {
            tasks.spawn(listener.run(streams.clone(), connections.clone()));
        }
        let of_datagrams = desk.clone();
        tasks.spawn(async move {
            while let Some(handed) = handed.recv().await {
                of_datagrams.answer(&handed);
            }
        });
        let stopped = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = health.run(stopped).await {
                warn!(%error, "health and metrics ended");
            }
        });

        while signals.next().await == Request::Reload {
            warn!("the configuration is read at the start only; restart to apply changes");
        }
        info!("stopping");
        stop.cancel();
        streams.shutdown();
        connections.close();
        let serving = serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            // Ends its threads, and waits for them.
            tokio::task::spawn_blocking(move || serving.shutdown()).await?;
        }
        tokio::select! {
            () = connections.wait() => {}
            () = signals.stop() => {}
        }
        tasks.shutdown().await;
        Ok(())
    }
}

/// Answers what is not a plain query: transfers, notices, and what is signed.
#[derive(Clone)]
struct Desk {
    server: Arc<Server<Shelf>>,
    engine: Arc<Engine>,
}

impl Desk {
    fn handle(&self, query: &[u8], client: SocketAddr, over: Over) -> Reply {
        let plain = |query: &[u8], out: &mut Vec<u8>| self.engine.answer_stream(query, out);
        self.server.handle(query, client.ip(), over, unix_now(), plain)
    }

    fn answer(&self, handed: &Handed) {
        if let Reply::One(message) =
            self.handle(&handed.query, handed.reply.client(), Over::Datagram)
        {
            // Who gets none asks again.
            let _ = handed.reply.send(&message);
        }
    }
}

impl Transfer for Desk {
    async fn serve(
        &self,
        query: &[u8],
        client: SocketAddr,
        _: Carrier,
        to: &mut Messages<'_>,
    ) -> io::Result<()> {
        match self.handle(query, client, Over::Stream) {
            Reply::Nothing => Ok(()),
            Reply::One(message) => to.send(&message).await,
            Reply::Transfer(mut transfer) => {
                while let Some(message) = transfer.next(unix_now()) {
                    to.send(&message.map_err(io::Error::other)?).await?;
                    // A fast reader must not keep the thread for a whole zone.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }
}

fn cookies(config: &config::Cookies) -> anyhow::Result<Cookies> {
    let read = |path: &std::path::PathBuf| {
        let text = config::secret(path).map_err(anyhow::Error::msg)?;
        Secret::from_hex(&text).with_context(|| path.display().to_string())
    };
    let current = config.secret_file.as_ref().map(read).transpose()?;
    let other = config.other_secret_file.as_ref().map(read).transpose()?;
    Ok(Cookies::new(current.unwrap_or_else(Secret::random), other))
}

fn rates(config: RateLimit) -> Rates {
    let rate = |per_second| Rate::new(per_second, BURST);
    Rates {
        answer: rate(config.answers),
        referral: rate(config.referrals),
        no_data: rate(config.no_data),
        nx_domain: rate(config.nx_domain),
        error: rate(config.errors),
        slip: NonZeroU32::new(config.slip),
    }
}

fn certificate(tls: &config::Tls) -> anyhow::Result<SingleCertAndKey> {
    let read = || format!("cannot read {}", tls.certificate.display());
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(read)?;
    if chain.is_empty() {
        bail!("{} has no certificate", tls.certificate.display());
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .with_context(|| format!("cannot read {}", tls.key.display()))?;
    let certified = CertifiedKey::from_der(chain, key, &default_provider())
        .with_context(|| format!("{} and its key do not fit", tls.certificate.display()))?;
    Ok(certified.into())
}
