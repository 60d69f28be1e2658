//! The database behind the registry: SQLite in the state directory, or PostgreSQL for a fleet.
//!
//! A few connections of our own instead of a pool: one that met any error or ran out of time is
//! closed, never used again, so that nothing of a failed change can come through later.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use sealpost_tunnel::private_file;
use sqlx::AnyConnection;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use super::RegistryError;

/// For one change or one answer of the database. Agents wait 10 s for an answer of the relay.
const PATIENCE: Duration = Duration::from_secs(8);
/// For making the tables or reading everything at the start.
pub(super) const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Connections in use at once. Changes wait for each other anyway.
const CONNECTIONS: usize = 4;
/// On this channel PostgreSQL tells all relays that there is something new.
pub(super) const CHANNEL: &str = "sealpost_registry";

const SCHEMA: [(i64, &str, &str); 2] = [
    (1, "registry", include_str!("migrations/0001_registry.sql")),
    (2, "pairs", include_str!("migrations/0002_pairs.sql")),
];

/// What a writer must not leave behind in PostgreSQL when it is cut off, with its lock held.
const POSTGRES_SESSION: &str = "SET statement_timeout = '7s'; SET lock_timeout = '7s'; \
     SET idle_in_transaction_session_timeout = '8s'";
/// FULL: a commit is on the disk before it is answered.
const SQLITE_SESSION: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON";

/// Where the registry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file of this relay alone.
    Sqlite,
    /// A server that several relays share.
    Postgres,
}

/// Connections to the database.
pub struct Database {
    url: String,
    kind: Kind,
    idle: Mutex<Vec<AnyConnection>>,
    permits: Semaphore,
    /// The newest revision that was made here; whoever follows waits for it to move.
    made: watch::Sender<u64>,
}

/// A connection that goes back to the others only if all went well.
pub(super) struct Lease<'a> {
    connection: Option<AnyConnection>,
    database: &'a Database,
    _permit: SemaphorePermit<'a>,
}

impl Database {
    /// Opens the database at `url` and brings its tables up to date. Without a URL it is the
    /// file `registry.sqlite` in `state`, made when it is not there.
    pub async fn open(url: Option<&str>, state: &Path) -> Result<Self, RegistryError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (url, kind) = match url {
            Some(url) => (url.to_owned(), Kind::Postgres),
            None => (sqlite_url(state)?, Kind::Sqlite),
        };
        let database = Self {
            url,
            kind,
            idle: Mutex::default(),
            permits: Semaphore::new(CONNECTIONS),
            made: watch::Sender::new(0),
        };
        let migrate = async {
            let mut lease = database.lease().await?;
            let schema = SCHEMA.map(|(version, name, sql)| {
                let kind = MigrationType::Simple;
                Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
            });
            let migrator = Migrator::with_migrations(schema.to_vec());
            migrator
                .run_direct(None, lease.connection(), false)
                .await
                .map_err(RegistryError::migration)?;
            lease.give_back();
            Ok(())
        };
        timeout(LONG_PATIENCE, migrate).await.unwrap_or_else(|_| Err(RegistryError::slow()))?;
        Ok(database)
    }

    /// Which database it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The newest revision that was made through this object, and what follows.
    pub fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Runs `work` for at most [`PATIENCE`]. When the time is up nothing is known of a change
    /// that was under way; all changes are made so that they can be repeated.
    pub(super) async fn within<T>(
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(RegistryError::slow()))
    }

    /// A connection to read with.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, RegistryError> {
        let _permit = self.permits.acquire().await.map_err(|_| RegistryError::slow())?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // It may have died while it lay there.
        if let Some(connection) = &mut idle
            && connection.ping().await.is_err()
        {
            idle = None;
        }
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lease { connection: Some(connection), database: self, _permit })
    }

    /// A connection of one's own.
    pub(super) async fn connect(&self) -> Result<AnyConnection, RegistryError> {
        let mut connection = AnyConnection::connect(&self.url).await?;
        let session = match self.kind {
            Kind::Sqlite => SQLITE_SESSION,
            Kind::Postgres => POSTGRES_SESSION,
        };
        connection.execute(sqlx::raw_sql(session)).await?;
        Ok(connection)
    }

    /// Begins a change: waits for all others, and counts the revision up.
    pub(super) async fn change(&self) -> Result<Change<'_>, RegistryError> {
        let mut lease = self.lease().await?;
        let begin = match self.kind {
            // Takes the lock now; a later upgrade from reading to writing could fail.
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgres => "BEGIN",
        };
        lease.connection().execute(begin).await?;
        let revision: i64 = sqlx::query_scalar(
            "UPDATE registry SET revision = revision + 1 WHERE id = 1 RETURNING revision",
        )
        .fetch_one(lease.connection())
        .await?;
        Ok(Change { lease, revision })
    }
}

/// The file of a registry that has no URL.
pub fn registry_file(state: &Path) -> PathBuf {
    state.join("registry.sqlite")
}

/// The URL of the file, with what may not stand in a URL escaped.
fn sqlite_url(state: &Path) -> Result<String, RegistryError> {
    let file = registry_file(state);
    // Made by us, so that nobody else may read it; an empty file is an empty database. One that
    // is there is left alone: on a full disk not even an empty file can be made.
    let made = match file.try_exists() {
        Ok(false) => private_file::create(&file, b""),
        known => known.map(drop),
    };
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(RegistryError::State { path: file, source: error });
        }
        _ => {}
    }
    let path = file.to_str().ok_or_else(|| {
        RegistryError::unavailable("the path of the state directory is not readable text")
    })?;
    let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    Ok(format!("sqlite://{escaped}?mode=rw"))
}

impl Lease<'_> {
    /// To ask with.
    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        self.connection.as_mut().expect("taken only by give_back, which consumes")
    }

    /// Keeps the connection for the next one; without this call it is closed.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.database.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

/// A change under way. Dropping it closes the connection, so the database forgets the change.
pub(super) struct Change<'a> {
    lease: Lease<'a>,
    /// What all rows get that are changed.
    pub(super) revision: i64,
}

impl Change<'_> {
    /// To ask and write with.
    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        self.lease.connection()
    }

    /// Makes the change last, and tells all relays. When this fails the change may have been
    /// made or not: repeating it is safe.
    pub(super) async fn commit(mut self) -> Result<(), RegistryError> {
        if self.lease.database.kind == Kind::Postgres {
            let tell = format!("NOTIFY {CHANNEL}");
            self.connection().execute(AssertSqlSafe(tell)).await?;
        }
        self.connection().execute("COMMIT").await?;
        let made = self.revision.unsigned_abs();
        self.lease.database.made.send_modify(|newest| *newest = made.max(*newest));
        self.lease.give_back();
        Ok(())
    }

    /// Leaves everything as it was.
    pub(super) async fn undo(mut self) -> Result<(), RegistryError> {
        self.connection().execute("ROLLBACK").await?;
        self.lease.give_back();
        Ok(())
    }
}
