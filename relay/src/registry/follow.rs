//! Brings what changes in the database into the snapshot: at once where the database tells, by
//! asking for the revision every second where it does not, and by reading everything now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::AnyConnection;
use sqlx::postgres::PgListener;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::database::{CHANNEL, LONG_PATIENCE};
use super::{Database, Effects, Kind, Registry, RegistryError};

/// How often the revision is asked for: one row, whatever the number of boxes.
const ASK: Duration = Duration::from_millis(500);
/// How often everything is read again, so that an error of ours would not last.
const WHOLE: Duration = Duration::from_secs(60 * 60);
/// For one look at the revision.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps a [`Registry`] in line with a [`Database`].
pub struct Follower {
    database: Arc<Database>,
    registry: Arc<Registry>,
    trouble: Mutex<Option<Trouble>>,
}

/// What keeps the database from being followed.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// What is wrong.
    pub reason: String,
}

/// What is kept between two looks.
#[derive(Default)]
struct Lines {
    connection: Option<AnyConnection>,
    listener: Option<PgListener>,
}

impl Follower {
    /// Reads everything; the relay starts only with a registry that it has seen.
    pub async fn start(
        database: Arc<Database>,
        registry: Arc<Registry>,
    ) -> Result<Self, RegistryError> {
        let follower = Self { database, registry, trouble: Mutex::default() };
        let effects = follower.look(&mut Lines::default(), true).await?;
        complain(&effects);
        Ok(follower)
    }

    /// Why the database is not followed now; routing goes on with what was known.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows until `stop`. `concern` is told what a change means for connected boxes.
    pub async fn run(&self, stop: CancellationToken, concern: impl Fn(&Effects)) {
        let mut lines = Lines::default();
        let mut made = self.database.made();
        let mut read_all = Instant::now();
        loop {
            let whole = read_all.elapsed() >= WHOLE;
            match self.look(&mut lines, whole).await {
                Ok(effects) => {
                    if whole {
                        read_all = Instant::now();
                    }
                    complain(&effects);
                    concern(&effects);
                    self.note(None);
                }
                Err(error) => {
                    // What was half read on it must not be taken for the next answer.
                    lines = Lines::default();
                    self.note(Some(error.to_string()));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = made.changed() => {}
                () = told(&mut lines.listener) => {}
                () = sleep(ASK) => {}
            }
        }
    }

    async fn look(&self, lines: &mut Lines, whole: bool) -> Result<Effects, RegistryError> {
        let snapshot = self.registry.snapshot();
        let (known, with_domains) = (snapshot.revision(), snapshot.has_domains());
        let revision = timeout(PATIENCE, self.revision(lines))
            .await
            .unwrap_or_else(|_| Err(RegistryError::slow()))?;
        if revision == known && !whole {
            return Ok(Effects::default());
        }
        if revision < known {
            error!(
                before = known,
                after = revision,
                "the registry went back in time, as after a restored backup or a failover that \
                 lost changes; keys that were shut out stay shut out here, look through the boxes"
            );
        }
        if whole || revision < known {
            return self.read_all().await;
        }
        let Some(connection) = &mut lines.connection else { return Ok(Effects::default()) };
        let changes =
            timeout(LONG_PATIENCE, self.database.changes(connection, known, with_domains))
                .await
                .unwrap_or_else(|_| Err(RegistryError::slow()))?;
        debug!(revision, boxes = changes.boxes.len(), "registry read");
        Ok(self.registry.apply(changes))
    }

    /// Reads everything on a thread of its own: for a hundred thousand boxes it takes a good part
    /// of a second, in which this one has mail to carry.
    async fn read_all(&self) -> Result<Effects, RegistryError> {
        let (database, registry) = (self.database.clone(), self.registry.clone());
        let (here, with_domains) = (Handle::current(), registry.snapshot().has_domains());
        let reading = spawn_blocking(move || {
            let read = async {
                let mut connection = database.connect().await?;
                let changes = database.changes(&mut connection, 0, with_domains).await?;
                Ok(registry.apply(changes))
            };
            here.block_on(timeout(LONG_PATIENCE, read))
                .unwrap_or_else(|_| Err(RegistryError::slow()))
        });
        reading.await.unwrap_or_else(|error| Err(RegistryError::unavailable(error)))
    }

    async fn revision(&self, lines: &mut Lines) -> Result<u64, RegistryError> {
        if self.database.kind() == Kind::Postgres && lines.listener.is_none() {
            // Before the first look, so that nothing can happen between look and listening.
            let mut listener = PgListener::connect(self.database.url()).await?;
            listener.listen(CHANNEL).await?;
            lines.listener = Some(listener);
        }
        if lines.connection.is_none() {
            lines.connection = Some(self.database.connect().await?);
        }
        match &mut lines.connection {
            Some(connection) => Database::revision(connection).await,
            None => Err(RegistryError::slow()),
        }
    }

    fn note(&self, reason: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *trouble, reason) {
            (None, Some(reason)) => {
                warn!(error = reason, "the registry is away; known boxes are routed as before");
                *trouble = Some(Trouble { since: Instant::now(), reason });
            }
            (Some(trouble), Some(reason)) => trouble.reason = reason,
            (Some(was), None) => {
                info!(duration_ms = was.since.elapsed().as_millis(), "the registry is back");
                *trouble = None;
            }
            (None, None) => {}
        }
    }
}

/// Waits for word of a change; for ever if nobody tells.
async fn told(listener: &mut Option<PgListener>) {
    match listener {
        Some(line) => {
            if !matches!(line.try_recv().await, Ok(Some(_))) {
                // Lost, maybe with words on it. A new one is made before the next look.
                *listener = None;
            }
        }
        None => std::future::pending().await,
    }
}

fn complain(effects: &Effects) {
    for conflict in &effects.conflicts {
        error!(reason = conflict, "the registry contradicts itself; this leads nowhere");
    }
}
