//! Boxes in the database: join, new keys, revocation, leaving.

use sealpost_tunnel::invite::Secret;
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
    /// It left. Nothing of it comes back.
    Left,
}

/// Why a key is not accepted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retired {
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
    fn read(row: &AnyRow) -> Result<Self, RegistryError> {
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
    /// Spends the invite with `secret` for the box that proved `key`. The same key may repeat
    /// it, as an answer can be lost.
    pub async fn join(
        &self,
        secret: &Secret,
        key: PublicKey,
        recovery: Option<PublicKey>,
        now: u64,
    ) -> Result<(), RegistryError> {
        let hash = secret.hash();
        Self::within(async {
            // Without the lock: guesses and repeated clicks do not make others wait.
            let mut lease = self.lease().await?;
            let repeated = spendable(lease.connection(), &hash, key, now).await?;
            lease.give_back();
            if repeated {
                return Ok(());
            }
            let mut change = self.change().await?;
            match join(&mut change, &hash, key, recovery, now).await {
                Ok(()) => change.commit().await,
                Err(error) => {
                    change.undo().await?;
                    Err(error)
                }
            }
        })
        .await
    }

    /// Gives the box that had `old` the key `new`, which is proved. May be repeated.
    pub async fn rotate(
        &self,
        old: PublicKey,
        new: PublicKey,
        now: u64,
    ) -> Result<(), RegistryError> {
        self.replace_key(Former::Key(old), new, Retired::Rotated, now).await
    }

    /// Gives the box with the recovery key `recovery` the key `new`, which is proved, and shuts
    /// its former key out. May be repeated.
    pub async fn recover(
        &self,
        recovery: PublicKey,
        new: PublicKey,
        now: u64,
    ) -> Result<(), RegistryError> {
        self.replace_key(Former::Recovery(recovery), new, Retired::Recovered, now).await
    }

    /// Notes the public half of a recovery kit. One that is there is replaced only by who holds
    /// it: `replaces` is the former one, proved.
    pub async fn set_recovery(
        &self,
        key: PublicKey,
        recovery: PublicKey,
        replaces: Option<PublicKey>,
    ) -> Result<(), RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let Some(entry) = active_by_key(change.connection(), key).await? else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            let refused = match entry.recovery {
                Some(there) if there == recovery => {
                    return change.undo().await;
                }
                Some(there) if replaces != Some(there) => Some(RegistryError::RecoverySet),
                _ => taken_recovery(change.connection(), recovery, entry.id).await?,
            };
            if let Some(error) = refused {
                change.undo().await?;
                return Err(error);
            }
            let revision = change.revision;
            sqlx::query("UPDATE boxes SET recovery = $1, revision = $2 WHERE id = $3")
                .bind(recovery.to_string())
                .bind(revision)
                .bind(number(entry.id))
                .execute(change.connection())
                .await?;
            change.commit().await
        })
        .await
    }

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

    async fn replace_key(
        &self,
        former: Former,
        new: PublicKey,
        why: Retired,
        now: u64,
    ) -> Result<(), RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            match former.replace(&mut change, new, why, now).await {
                Ok(true) => change.commit().await,
                Ok(false) => change.undo().await,
                Err(error) => {
                    change.undo().await?;
                    Err(error)
                }
            }
        })
        .await
    }
}

/// What shows which box gets a new key.
enum Former {
    Key(PublicKey),
    Recovery(PublicKey),
}

impl Former {
    /// Whether there was anything to do.
    async fn replace(
        self,
        change: &mut Change<'_>,
        new: PublicKey,
        why: Retired,
        now: u64,
    ) -> Result<bool, RegistryError> {
        let holder = active_by_key(change.connection(), new).await?;
        let entry = match self {
            Self::Key(old) => {
                if let Some(holder) = &holder
                    && retired_from(change.connection(), old).await? == Some(holder.id)
                {
                    return Ok(false);
                }
                active_by_key(change.connection(), old).await?
            }
            Self::Recovery(recovery) => {
                let row =
                    sqlx::query("SELECT * FROM boxes WHERE recovery = $1 AND state = 'active'")
                        .bind(recovery.to_string())
                        .fetch_optional(change.connection())
                        .await?;
                row.as_ref().map(Entry::read).transpose()?
            }
        };
        let entry = entry.ok_or(RegistryError::UnknownBox)?;
        match holder {
            Some(holder) if holder.id == entry.id => return Ok(false),
            Some(_) => return Err(RegistryError::KeyTaken),
            None => {}
        }
        if retired_from(change.connection(), new).await?.is_some() {
            return Err(RegistryError::KeyRevoked);
        }
        retire(change, &entry, why, now).await?;
        let revision = change.revision;
        sqlx::query("UPDATE boxes SET key = $1, revision = $2 WHERE id = $3")
            .bind(new.to_string())
            .bind(revision)
            .bind(number(entry.id))
            .execute(change.connection())
            .await?;
        // The record in the DNS names the former key: the owner shall hear of it today.
        sqlx::query("UPDATE domains SET next_check = $1 WHERE box = $2 AND next_check > $1")
            .bind(number(now))
            .bind(number(entry.id))
            .execute(change.connection())
            .await?;
        Ok(true)
    }
}

/// Whether the invite was spent by this very key; an error when it cannot be spent.
async fn spendable(
    connection: &mut AnyConnection,
    hash: &str,
    key: PublicKey,
    now: u64,
) -> Result<bool, RegistryError> {
    let row = sqlx::query("SELECT spent_by, expires FROM invites WHERE hash = $1")
        .bind(hash)
        .fetch_optional(&mut *connection)
        .await?
        .ok_or(RegistryError::InviteUnknown)?;
    match row.try_get::<Option<String>, _>("spent_by")? {
        Some(spent_by) if spent_by != key.to_string() => Err(RegistryError::InviteSpent),
        Some(_) => match active_by_key(connection, key).await? {
            Some(_) => Ok(true),
            None => Err(RegistryError::KeyRevoked),
        },
        None if row.try_get::<i64, _>("expires")? <= number(now) => {
            Err(RegistryError::InviteExpired)
        }
        None => Ok(false),
    }
}

async fn join(
    change: &mut Change<'_>,
    hash: &str,
    key: PublicKey,
    recovery: Option<PublicKey>,
    now: u64,
) -> Result<(), RegistryError> {
    let (revision, today) = (change.revision, number(now / SECONDS_PER_DAY));
    let spent = sqlx::query(
        "UPDATE invites SET spent_by = $1, spent = $2 \
         WHERE hash = $3 AND spent_by IS NULL AND expires > $2 RETURNING name, domains",
    )
    .bind(key.to_string())
    .bind(number(now))
    .bind(hash)
    .fetch_optional(change.connection())
    .await?;
    let Some(invite) = spent else {
        // Somebody was quicker; this very box, if its answer was lost.
        return spendable(change.connection(), hash, key, now).await.map(drop);
    };
    if retired_from(change.connection(), key).await?.is_some() {
        return Err(RegistryError::KeyRevoked);
    }
    if active_by_key(change.connection(), key).await?.is_some() {
        return Err(RegistryError::KeyTaken);
    }
    let name: BoxName = parse(invite.try_get("name")?)?;
    let domains: i64 = invite.try_get("domains")?;
    let former = sqlx::query("SELECT * FROM boxes WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(change.connection())
        .await?;
    let former = former.as_ref().map(Entry::read).transpose()?;
    let id = match &former {
        Some(entry) if entry.state == State::Active => return Err(RegistryError::NameTaken(name)),
        Some(entry) => entry.id,
        None => sqlx::query_scalar::<_, i64>(
            "UPDATE registry SET next_box = next_box + 1 WHERE id = 1 RETURNING next_box - 1",
        )
        .fetch_one(change.connection())
        .await?
        .unsigned_abs(),
    };
    if let Some(recovery) = recovery
        && let Some(error) = taken_recovery(change.connection(), recovery, id).await?
    {
        return Err(error);
    }
    let statement = if former.is_some() {
        "UPDATE boxes SET key = $2, recovery = $3, state = 'active', domains_allowed = $4, \
         created_day = $5, seen_day = NULL, revision = $6 WHERE id = $1 AND name = $7"
    } else {
        "INSERT INTO boxes (id, key, recovery, state, domains_allowed, created_day, revision, name) \
         VALUES ($1, $2, $3, 'active', $4, $5, $6, $7)"
    };
    sqlx::query(statement)
        .bind(number(id))
        .bind(key.to_string())
        .bind(recovery.map(|key| key.to_string()))
        .bind(domains)
        .bind(today)
        .bind(revision)
        .bind(name.as_str())
        .execute(change.connection())
        .await?;
    Ok(())
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

/// The number of the box that once had `key`, if the key is not accepted any more.
async fn retired_from(
    connection: &mut AnyConnection,
    key: PublicKey,
) -> Result<Option<u64>, RegistryError> {
    let id: Option<i64> = sqlx::query_scalar("SELECT box FROM revocations WHERE key = $1")
        .bind(key.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(id.map(i64::unsigned_abs))
}

/// An error when another box than `id` has this recovery key, which nobody has by chance.
async fn taken_recovery(
    connection: &mut AnyConnection,
    recovery: PublicKey,
    id: u64,
) -> Result<Option<RegistryError>, RegistryError> {
    let owner: Option<i64> = sqlx::query_scalar("SELECT id FROM boxes WHERE recovery = $1")
        .bind(recovery.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(owner.filter(|owner| owner.unsigned_abs() != id).map(|_| RegistryError::KeyTaken))
}

async fn retire(
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
    sqlx::query(
        "UPDATE boxes SET state = $1, name = $2, recovery = NULL, revision = $3 WHERE id = $4",
    )
    .bind(state.as_str())
    .bind(name)
    .bind(revision)
    .bind(number(entry.id))
    .execute(change.connection())
    .await?;
    Ok(())
}
