//! Joining: an invite is spent, and a box is there.

use sealpost_tunnel::invite::Secret;
use sealpost_tunnel::{BoxName, PublicKey};
use sqlx::{AnyConnection, Row};

use super::boxes::{Entry, State, active_by_key};
use super::database::Change;
use super::keys::{other_with_recovery, retired_from};
use super::{Database, RegistryError, SECONDS_PER_DAY, number, parse};

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
    let mut recovery = recovery;
    if let Some(key) = recovery
        && let Some(other) = other_with_recovery(change.connection(), key, id).await?
    {
        if other.state == State::Active {
            return Err(RegistryError::KeyTaken);
        }
        // Whoever joins has not proved to hold the kit: it stays with the box that left.
        recovery = None;
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
