//! Puts the name server together: sockets, zones and transfers. It is a part of a program, which brings
//! the way to primaries ([`Connect`]) and what parents say ([`Parent`]), and keeps the zones as it likes by a
//! [`Handle`].
//!
//! What strangers ask is answered on threads of the name server, so that they cannot keep the program from
//! its own work: datagrams on those of `udp`, streams on `own_thread`. On the runtime of the program is what
//! it asks for itself, as it may know the way there: transfers from primaries, and notices to secondaries.
//! Between the two are channels that are bounded and, where strangers fill them, drop what is too much.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, anyhow, bail};
use prometheus::Registry;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::catalog_zone::read::Members;
use crate::config::{self, Limits, RateLimit};
use crate::cookie::{Cookies, Secret};
use crate::desk::Desk;
use crate::engine::Engine;
use crate::handle::Handle;
use crate::metrics::{Metrics, Reading};
use crate::own_thread::OwnThread;
use crate::rate_limit::{Rate, Rates};
use crate::record::Name;
use crate::secondaries::{Secondaries, Shelf, Zone};
use crate::store::Store;
use crate::stream::{self, QuicListener, StreamListener, Streams, tls_config};
use crate::transfer::attempt::Connect;
use crate::transfer::notifier::Notifier;
use crate::transfer::refresh::{self, Refresher};
use crate::transfer::serve::Server;
use crate::transfer::tsig::Keys;
use crate::transport::{Carrier, Clock};
use crate::trust::Parent;
use crate::udp::{self, Serving, Udp};

/// Over how many seconds a network may save up answers.
const BURST: u32 = 2;

/// What a name server is told when it is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory where zones are kept, in `zones/`.
    pub state: PathBuf,
    /// Where UDP and TCP listen.
    pub listen: Vec<SocketAddr>,
    /// Threads that answer datagrams, for each address.
    pub threads: NonZeroUsize,
    /// DNS over TLS and QUIC.
    pub tls: Option<config::Tls>,
    /// The secrets of cookies.
    pub cookies: config::Cookies,
    /// Answers a second to one network.
    pub rate_limit: RateLimit,
    /// What zones and transfers may take.
    pub limits: Limits,
    /// The TSIG keys of all who sign.
    pub keys: Keys,
}

/// Where a name server answers.
struct Sockets {
    udp: Udp,
    streams: Vec<StreamListener>,
    quic: Vec<QuicListener>,
}

/// A name server whose sockets are bound.
pub struct NameServer<C: Connect, P: Parent> {
    sockets: Sockets,
    engine: Arc<Engine>,
    zones: Arc<Secondaries<C, P>>,
    handle: Handle<C, P>,
    desk: Desk<C, P>,
    streams: Arc<Streams<Arc<Engine>, Desk<C, P>>>,
    serving: Arc<Mutex<Option<Serving>>>,
    clock: Clock,
    threads: NonZeroUsize,
    tasks: JoinSet<()>,
    own: OwnThread,
}

impl<C: Connect, P: Parent> NameServer<C, P> {
    /// Binds all sockets, and enters the metrics into `registry`.
    pub async fn bind(
        settings: Settings,
        connect: C,
        parent: P,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let own = OwnThread::start("dns-streams").context("a thread for TCP, TLS and QUIC")?;
        let sockets = Sockets::bind(&settings, own.runtime())?;
        let Settings { state, threads, cookies, rate_limit, limits, keys, .. } = settings;
        let per_address = u32::try_from(threads.get()).unwrap_or(u32::MAX);
        let engine = Engine::new(self::cookies(&cookies)?, Some(rates(rate_limit)), per_address);
        let engine = Arc::new(engine);
        let store = Store::open(state.join("zones")).context("the kept zones")?;
        let (notices, notifier) = Notifier::bind(None, None).await.context("sockets for NOTIFY")?;
        let connect = Arc::new(connect);
        let zones =
            Secondaries::new(connect.clone(), parent, engine.clone(), store, limits, notices);
        let zones = Arc::new(zones);
        let refreshing = refresh::Settings {
            at_once: limits.transfers_in.get(),
            at_once_of_primary: limits.transfers_in_of_primary.get(),
            ..refresh::Settings::default()
        };
        let keeper = Arc::new(Shelf(zones.clone()));
        let (refresher, refreshing) = Refresher::new(keeper, connect, refreshing);
        zones.follow_with(refresher);
        let server = Arc::new(Server::new(Shelf(zones.clone()), keys));
        let desk = Desk { server: server.clone(), engine: engine.clone() };
        let clock = Clock::start();
        let carried =
            stream::Settings { transfers: limits.transfers_out.get(), ..Default::default() };
        let streams = Streams::new(&engine, desk.clone(), carried, clock);
        let serving = Arc::<Mutex<Option<Serving>>>::default();
        let reading = {
            let (engine, streams) = (engine.clone(), streams.clone());
            let (serving, zones) = (serving.clone(), zones.clone());
            move || {
                let serving = serving.lock().unwrap_or_else(PoisonError::into_inner);
                let datagrams = serving.as_ref().map(Serving::counts).unwrap_or_default();
                let [tcp, tls, quic] = streams.counts().queries;
                let queries = [datagrams.queries, tcp, tls, quic];
                let (answers, panics) = (engine.counts(), datagrams.panics);
                let unheard = zones.unheard();
                Reading { answers, queries, panics, unheard, zones: zones.count() }
            }
        };
        Metrics::register(registry, reading)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(notifier.run());
        tasks.spawn(refreshing.run());
        let handle = Handle::new(zones.clone(), server);
        Ok(Self {
            sockets,
            engine,
            zones,
            handle,
            desk,
            streams,
            serving,
            clock,
            threads,
            tasks,
            own,
        })
    }

    /// Reads the zones that were kept, so that they are served without their primaries. `wanted` says for each
    /// by its name and by whose it was, if that is known, whether that version is still to be served and as what;
    /// the files of others are left as they are, and [`Handle::remove`] deletes them. Returns how many there are
    /// now.
    pub async fn load<W>(&self, wanted: W) -> anyhow::Result<usize>
    where
        W: Fn(&Name, Option<u64>) -> Option<Zone<C::Peer>> + Send + Sync + 'static,
    {
        self.zones.load(self.threads.get(), wanted).await
    }

    /// Reads what was kept of a catalog, before [`Self::load`]: what it names is wanted. `None` if nothing
    /// was; it is then to be [added](Handle::add_catalog).
    pub async fn load_catalog(&self, zone: Zone<C::Peer>) -> anyhow::Result<Option<Arc<Members>>> {
        self.zones.load_catalog(zone).await
    }

    /// What the server is told and asked by. It can be used before the server runs.
    pub fn handle(&self) -> Handle<C, P> {
        self.handle.clone()
    }

    /// The addresses where UDP and TCP are answered.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.sockets.udp.local_addrs()
    }

    /// Answers until `stop`, then ends what is under way. Transfers to slow clients can take long; whoever does
    /// not wait for them drops this. An error is a part of it that failed: then nothing answers any more.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { sockets, engine, desk, streams, serving, clock, mut tasks, own, .. } = self;
        let connections = TaskTracker::new();
        for address in sockets.udp.local_addrs() {
            info!(%address, "listening");
        }
        for listener in sockets.streams {
            tasks.spawn_on(listener.run(streams.clone(), connections.clone()), own.runtime());
        }
        for listener in sockets.quic {
            tasks.spawn_on(listener.run(streams.clone(), connections.clone()), own.runtime());
        }
        let (transfers, mut handed) = mpsc::channel(udp::HANDED);
        // Anybody can send such datagrams as fast as he likes, and an answer may wait for its socket:
        // nothing for a runtime that may have one thread for all. It ends with the last who sends to it.
        let answer = move || {
            while let Some(handed) = handed.blocking_recv() {
                if catch_unwind(AssertUnwindSafe(|| desk.answer(&handed))).is_err() {
                    error!("answering a notice failed inside; please report it");
                }
            }
        };
        thread::Builder::new().name("dns-desk".to_owned()).spawn(answer)?;
        let threads = sockets.udp.run(&Arc::new(engine), &transfers, clock)?;
        *serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(threads);

        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            why = first_to_end(&mut tasks) => Err(why),
        };
        streams.shutdown();
        connections.close();
        let threads = serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            // Ends its threads, and waits for them.
            tokio::task::spawn_blocking(move || threads.shutdown()).await?;
        }
        // Nobody is to hear late of what failed.
        if ended.is_ok() {
            connections.wait().await;
        }
        tasks.shutdown().await;
        own.end().await;
        ended
    }
}

/// Why a task ended that should not. A name server that answers in part alone is worse for resolvers than one
/// that is away, and is easily overlooked.
async fn first_to_end(tasks: &mut JoinSet<()>) -> anyhow::Error {
    match tasks.join_next().await {
        Some(Err(error)) => anyhow!(error).context("a part of the name server failed inside"),
        Some(Ok(())) | None => anyhow!("a part of the name server ended"),
    }
}

impl Sockets {
    /// Binds them; those for streams are served by `runtime`.
    fn bind(settings: &Settings, runtime: &tokio::runtime::Handle) -> anyhow::Result<Self> {
        let _within = runtime.enter();
        let udp = Udp::bind(&settings.listen, settings.threads)
            .context("cannot listen for datagrams on the addresses of `listen`")?;
        let listen = |address: &SocketAddr| format!("cannot listen on {address}");
        let mut bound = Self { udp, streams: Vec::new(), quic: Vec::new() };
        // With port 0 both get the same.
        for address in bound.udp.local_addrs() {
            let tcp = StreamListener::bind(*address).with_context(|| listen(address))?;
            bound.streams.push(tcp);
        }
        let Some(tls) = &settings.tls else { return Ok(bound) };
        let certificate = Arc::new(certificate(tls)?);
        let idle = stream::Settings::default().idle;
        for address in &tls.listen {
            let dot = tls_config(Carrier::Tls, certificate.clone())?;
            let dot = StreamListener::bind_tls(*address, dot);
            bound.streams.push(dot.with_context(|| listen(address))?);
            let doq = tls_config(Carrier::Quic, certificate.clone())?;
            let doq = QuicListener::bind(*address, doq, idle);
            bound.quic.push(doq.with_context(|| listen(address))?);
        }
        Ok(bound)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_fails_is_heard_of() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("a fault") });
        let why = format!("{:#}", first_to_end(&mut tasks).await);
        assert!(why.contains("failed inside") && why.contains("a fault"), "{why}");
    }
}
