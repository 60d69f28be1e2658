//! One refresh of one zone: its primaries are asked one after the other, first for the SOA record,
//! then, if it is newer, for what changed, then, if that does not fit, for all of it.
//!
//! What carries the questions and what keeps the zones is given by others ([`Connect`], [`Keeper`]);
//! when to ask is the [`Refresher`](super::refresh::Refresher)'s.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinError, spawn_blocking};
use tracing::{debug, info};

use super::crowd::{Counted, Crowd, GaveWay, Progress};
use super::difference::{ApplyError, apply};
use super::frame::FrameError;
use super::inbound::{Inbound, Limits, Received};
use super::pull::{Ask, PullError, Pulled, pull, version};
use super::query::{newer, serial_of, soa_of};
use super::refresh::Settings;
use super::timers::{Standing, Timers};
use super::tsig::TsigKey;
use crate::record::{Name, Record};
use crate::unix_time;

/// Where a zone is to be had: from `P`, which [`Connect`] knows the way to.
#[derive(Debug, Clone, PartialEq)]
pub struct Primary<P> {
    /// The server.
    pub peer: P,
    /// Signs the questions.
    pub key: Option<Arc<TsigKey>>,
}

/// A zone that comes from elsewhere.
#[derive(Debug, Clone)]
pub struct Secondary<P> {
    /// Its name.
    pub apex: Name,
    /// Where it is to be had, the preferred one first.
    pub primaries: Vec<Primary<P>>,
    /// How much may come.
    pub limits: Limits,
}

/// What holds the zones.
pub trait Keeper: Send + Sync + 'static {
    /// The SOA record of the version at hand, expired or not.
    fn soa(&self, apex: &Name) -> Option<Record>;
    /// All records of it, for differences to be applied to.
    fn records(&self, apex: &Name) -> Option<Vec<Record>>;
    /// A new version, SOA record first: to be checked, kept on disk and served. The error tells why
    /// it is not; the old one is then kept.
    fn accept(
        &self,
        apex: &Name,
        records: Vec<Record>,
        standing: Standing,
    ) -> impl Future<Output = Result<(), String>> + Send;
    /// The primary has the version that is here.
    fn confirm(&self, apex: &Name, standing: Standing) -> impl Future<Output = ()> + Send;
    /// A primary was of no use, for this reason. Others may be asked next.
    fn failed(&self, apex: &Name, why: String);
    /// The zone may not be served any more.
    fn expire(&self, apex: &Name);
}

/// How to reach a primary. One stream carries one question, so that TCP and the streams of a tunnel
/// are alike.
pub trait Connect: Send + Sync + 'static {
    /// What carries the bytes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;
    /// What a primary is known by, for the log too.
    type Peer: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static;
    /// A new one.
    fn connect(&self, to: &Self::Peer) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl<C: Connect> Connect for Arc<C> {
    type Stream = C::Stream;
    type Peer = C::Peer;

    fn connect(&self, to: &C::Peer) -> impl Future<Output = io::Result<C::Stream>> + Send {
        (**self).connect(to)
    }
}

/// By TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp {
    /// From which address; any when not given. Only for primaries of its family.
    pub from: Option<IpAddr>,
}

impl Connect for Tcp {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn connect(&self, to: &SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(from) = self.from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let stream = socket.connect(*to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What a refresh came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A new version is served.
    Transferred(Timers),
    /// The version at hand is the newest.
    Confirmed(Timers),
    /// No primary had anything that may be served.
    Failed,
}

/// Why a primary was of no use.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot connect within {0:?}")]
    ConnectLate(Duration),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("its serial {theirs} is behind {ours}, which is served here; it has to go beyond that")]
    Behind { theirs: u32, ours: u32 },
    #[error("its differences do not fit: {0}")]
    Apply(#[from] ApplyError),
    #[error("its zone is refused: {0}")]
    Admission(String),
    #[error("it brought no SOA record")]
    NoSoa,
    #[error(transparent)]
    GaveWay(#[from] GaveWay),
    #[error("its differences could not be applied by a fault of this program: {0}")]
    Fault(#[from] JoinError),
}

/// Asks the primaries of a zone, one after the other. One that is slow gives way to a `crowd`.
pub(super) async fn refresh<K: Keeper, C: Connect>(
    keeper: Arc<K>,
    connect: Arc<C>,
    settings: Settings,
    crowd: Arc<Crowd>,
    zone: Arc<Secondary<C::Peer>>,
    timers: Timers,
) -> Outcome {
    for primary in &zone.primaries {
        let ask = Ask {
            apex: zone.apex.clone(),
            key: primary.key.clone(),
            limits: zone.limits,
            pace: settings.pace,
        };
        let to = &primary.peer;
        let progress = Progress::default();
        let progress = &progress;
        let refresh = One { keeper: &keeper, connect: &*connect, settings, ask, to, progress };
        let refreshed = tokio::select! {
            refreshed = refresh.run(timers.clone()) => refreshed,
            gave_way = progress.gives_way(&crowd) => Err(gave_way.into()),
        };
        match refreshed {
            Ok(outcome) => return outcome,
            Err(error) => {
                debug!(zone = %zone.apex, primary = %to, %error, "refresh failed");
                keeper.failed(&zone.apex, format!("{to}: {error}"));
            }
        }
    }
    Outcome::Failed
}

/// A refresh from one primary.
struct One<'a, K, C: Connect> {
    keeper: &'a Arc<K>,
    connect: &'a C,
    settings: Settings,
    ask: Ask,
    to: &'a C::Peer,
    progress: &'a Progress,
}

impl<K: Keeper, C: Connect> One<'_, K, C> {
    async fn run(&self, mut timers: Timers) -> Result<Outcome, Failure> {
        let mut have = self.keeper.soa(&self.ask.apex);
        if let Some(soa) = &have {
            let version = version(&mut self.stream().await?, &self.ask).await?;
            let (theirs, ours) = (serial_of(&version.soa), serial_of(soa));
            if theirs == ours {
                return self.confirm(timers, soa, version.expire).await;
            }
            if !newer(theirs, ours) {
                if !timers.expired(unix_time::seconds()) {
                    return Err(Failure::Behind { theirs, ours });
                }
                // Nobody is served what expired, so the zone may begin anew: as its primary lost
                // its serial, or is another one by now.
                have = None;
            }
        }
        match self.incremental(have.as_ref()).await {
            Ok(Some((records, expire))) => return self.accept(&mut timers, records, expire).await,
            Ok(None) => {}
            Err(Failure::Pull(error)) if !error.is_about_content() => return Err(error.into()),
            Err(error) => {
                debug!(zone = %self.ask.apex, primary = %self.to, %error, "IXFR failed; trying AXFR");
            }
        }
        let Pulled { received, expire } = pull(&mut self.stream().await?, &self.ask, None).await?;
        match received {
            Received::Zone(records) => self.accept(&mut timers, records, expire).await,
            // Not an answer to AXFR; `Inbound` does not give it.
            Received::Differences(_) | Received::UpToDate(_) => Err(Failure::NoSoa),
        }
    }

    /// The zone by IXFR; `None` where there is nothing to begin with.
    async fn incremental(
        &self,
        have: Option<&Record>,
    ) -> Result<Option<(Vec<Record>, Option<u32>)>, Failure> {
        let Some(have) = have else { return Ok(None) };
        let mut stream = self.stream().await?;
        let Pulled { received, expire } = pull(&mut stream, &self.ask, Some(have)).await?;
        match received {
            Received::Zone(records) => Ok(Some((records, expire))),
            Received::Differences(steps) => {
                self.progress.arrived();
                let (keeper, ask) = (self.keeper.clone(), self.ask.clone());
                // A zone is looked at whole, and others want their turn meanwhile.
                let applied = spawn_blocking(move || {
                    let Some(old) = keeper.records(&ask.apex) else { return Ok(None) };
                    let records = apply(&old, &steps)?;
                    Inbound::check_zone(ask.limits, &records).map_err(PullError::from)?;
                    Ok(Some((records, expire)))
                });
                applied.await?
            }
            // It said otherwise a moment ago: AXFR has the last word.
            Received::UpToDate(_) => Ok(None),
        }
    }

    async fn accept(
        &self,
        timers: &mut Timers,
        records: Vec<Record>,
        expire: Option<u32>,
    ) -> Result<Outcome, Failure> {
        let soa = records.first().and_then(soa_of).ok_or(Failure::NoSoa)?.clone();
        let count = records.len();
        let standing = timers.transferred(&soa, expire, unix_time::seconds());
        let apex = &self.ask.apex;
        self.progress.arrived();
        self.keeper.accept(apex, records, standing).await.map_err(Failure::Admission)?;
        let serial = soa.serial().into_int();
        info!(zone = %apex, primary = %self.to, serial, records = count, "new version");
        Ok(Outcome::Transferred(timers.clone()))
    }

    async fn confirm(
        &self,
        mut timers: Timers,
        have: &Record,
        expire: Option<u32>,
    ) -> Result<Outcome, Failure> {
        let soa = soa_of(have).ok_or(Failure::NoSoa)?;
        let standing = timers.confirmed(soa, expire, unix_time::seconds());
        self.progress.arrived();
        self.keeper.confirm(&self.ask.apex, standing).await;
        Ok(Outcome::Confirmed(timers))
    }

    async fn stream(&self) -> Result<Counted<'_, C::Stream>, Failure> {
        let wait = self.settings.connect;
        let connected = tokio::time::timeout(wait, self.connect.connect(self.to)).await;
        let stream = connected.map_err(|_| Failure::ConnectLate(wait))?;
        Ok(self.progress.count(stream.map_err(Failure::Connect)?))
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::Pull(error.into())
    }
}
