//! Boxes in the database: who is there, revocation, leaving.

use sealpost_tunnel::{BoxName, PublicKey};
use serde::Serialize;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::Change;
use super::{Database, RegistryError, SECONDS_PER_DAY, number, parse};

/// What became of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may connect.
    Active,
    /// The operator shut it out. Its name and number stay for a new invite; its domains rest, and
    /// until others may have them they are its own to claim.
    Revoked,
    /// It left. Only its recovery kit brings it back, in case a thief made it leave.
    Left,
}

/// Why a key is not accepted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retired {
    Revoked,
    Rotated,
    Recovered,
    Left,
}

/// A box as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number, from which its IPv6 address follows; never used for another box.
    pub id: u64,
    /// What the operator calls it; of a box that left, followed by `#` and its number.
    pub name: String,
    /// Its key, or the last one that it had.
    pub key: PublicKey,
    /// The public half of its recovery kit.
    pub recovery: Option<PublicKey>,
    /// What became of it.
    pub state: State,
    /// How many domains it may claim.
    pub domains_allowed: u32,
    /// The day on which it joined, counted from 1970.
    pub created_day: u64,
    /// The last day on which it was connected, counted from 1970.
    pub seen_day: Option<u64>,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Left => "left",
        }
    }
}

impl Retired {
    fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Rotated => "rotated",
            Self::Recovered => "recovered",
            Self::Left => "left",
        }
    }
}

impl Entry {
    pub(super) fn read(row: &AnyRow) -> Result<Self, RegistryError> {
        let state = match row.try_get::<&str, _>("state")? {
            "active" => State::Active,
            "revoked" => State::Revoked,
            "left" => State::Left,
            other => return Err(RegistryError::Content(format!("the state `{other}` of a box"))),
        };
        let recovery: Option<String> = row.try_get("recovery")?;
        Ok(Self {
            id: row.try_get::<i64, _>("id")?.unsigned_abs(),
            name: row.try_get("name")?,
            key: parse(row.try_get("key")?)?,
            recovery: recovery.as_deref().map(parse).transpose()?,
            state,
            domains_allowed: u32::try_from(row.try_get::<i64, _>("domains_allowed")?).unwrap_or(0),
            created_day: row.try_get::<i64, _>("created_day")?.unsigned_abs(),
            seen_day: row.try_get::<Option<i64>, _>("seen_day")?.map(i64::unsigned_abs),
        })
    }
}

impl Database {
    /// Shuts the box called `name` out, for the operator; its key. May be repeated.
    pub async fn revoke(&self, name: &BoxName, now: u64) -> Result<PublicKey, RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let row = sqlx::query("SELECT * FROM boxes WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(change.connection())
                .await?;
            let Some(entry) = row.as_ref().map(Entry::read).transpose()? else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            if entry.state == State::Active {
                super::domains::release_all(&mut change, entry.id, now).await?;
                super::pairs::free_pairs(&mut change, entry.id, now).await?;
                retire(&mut change, &entry, Retired::Revoked, now).await?;
                set_state(&mut change, &entry, State::Revoked, &entry.name).await?;
                change.commit().await?;
            } else {
                change.undo().await?;
            }
            Ok(entry.key)
        })
        .await
    }

    /// Forgets the box with `key`, at its own wish: its domains are released, its name is free.
    pub async fn leave(&self, key: PublicKey, now: u64) -> Result<(), RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let Some(entry) = active_by_key(change.connection(), key).await? else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            super::domains::release_all(&mut change, entry.id, now).await?;
            super::pairs::free_pairs(&mut change, entry.id, now).await?;
            sqlx::query("DELETE FROM addresses WHERE box = $1")
                .bind(number(entry.id))
                .execute(change.connection())
                .await?;
            retire(&mut change, &entry, Retired::Left, now).await?;
            let name = format!("{}#{}", entry.name, entry.id);
            set_state(&mut change, &entry, State::Left, &name).await?;
            change.commit().await
        })
        .await
    }

    /// The active box with `key`.
    pub async fn box_by_key(&self, key: PublicKey) -> Result<Option<Entry>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let entry = active_by_key(lease.connection(), key).await?;
            lease.give_back();
            Ok(entry)
        })
        .await
    }

    /// All boxes by name, also those that were revoked or left.
    pub async fn boxes(&self) -> Result<Vec<Entry>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query("SELECT * FROM boxes ORDER BY name")
                .fetch_all(lease.connection())
                .await?;
            lease.give_back();
            rows.iter().map(Entry::read).collect()
        })
        .await
    }

    /// Notes that these boxes were connected today. Nothing that routes depends on it.
    pub async fn seen(&self, keys: &[PublicKey], now: u64) -> Result<(), RegistryError> {
        let today = number(now / SECONDS_PER_DAY);
        Self::within(async {
            let mut lease = self.lease().await?;
            for key in keys {
                sqlx::query(
                    "UPDATE boxes SET seen_day = $1 \
                     WHERE key = $2 AND (seen_day IS NULL OR seen_day < $1)",
                )
                .bind(today)
                .bind(key.to_string())
                .execute(lease.connection())
                .await?;
            }
            lease.give_back();
            Ok(())
        })
        .await
    }
}

pub(super) async fn active_by_key(
    connection: &mut AnyConnection,
    key: PublicKey,
) -> Result<Option<Entry>, RegistryError> {
    let row = sqlx::query("SELECT * FROM boxes WHERE key = $1 AND state = 'active'")
        .bind(key.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(Entry::read).transpose()
}

pub(super) async fn retire(
    change: &mut Change<'_>,
    entry: &Entry,
    why: Retired,
    now: u64,
) -> Result<(), RegistryError> {
    let revision = change.revision;
    sqlx::query(
        "INSERT INTO revocations (key, box, reason, day, revision) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(entry.key.to_string())
    .bind(number(entry.id))
    .bind(why.as_str())
    .bind(number(now / SECONDS_PER_DAY))
    .bind(revision)
    .execute(change.connection())
    .await?;
    Ok(())
}

async fn set_state(
    change: &mut Change<'_>,
    entry: &Entry,
    state: State,
    name: &str,
) -> Result<(), RegistryError> {
    let revision = change.revision;
    // The kit must not undo what the operator did.
    let recovery = entry.recovery.filter(|_| state != State::Revoked);
    sqlx::query(
        "UPDATE boxes SET state = $1, name = $2, recovery = $3, revision = $4 WHERE id = $5",
    )
    .bind(state.as_str())
    .bind(name)
    .bind(recovery.map(|key| key.to_string()))
    .bind(revision)
    .bind(number(entry.id))
    .execute(change.connection())
    .await?;
    Ok(())
}
