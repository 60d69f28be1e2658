//! New keys for boxes: put in place by the old one, or by the recovery kit.

use sealpost_tunnel::PublicKey;
use sqlx::AnyConnection;

use super::boxes::{Entry, Retired, State, active_by_key, retire};
use super::database::Change;
use super::{Database, RegistryError, number, parse};

impl Database {
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
                _ => other_with_recovery(change.connection(), recovery, entry.id)
                    .await?
                    .map(|_| RegistryError::KeyTaken),
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
                // A revoked box has none; one that left may come back with it.
                let row = sqlx::query("SELECT * FROM boxes WHERE recovery = $1")
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
        let name = match entry.state {
            State::Left => free_name(change.connection(), &entry).await?,
            // The key of one that left is retired already.
            _ => {
                retire(change, &entry, why, now).await?;
                entry.name.clone()
            }
        };
        let revision = change.revision;
        sqlx::query(
            "UPDATE boxes SET key = $1, name = $2, state = 'active', revision = $3 WHERE id = $4",
        )
        .bind(new.to_string())
        .bind(name)
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

/// The name that a box had before it left, unless another box has it now.
async fn free_name(connection: &mut AnyConnection, entry: &Entry) -> Result<String, RegistryError> {
    let name = entry.name.split('#').next().unwrap_or_default();
    let taken: Option<i64> = sqlx::query_scalar("SELECT id FROM boxes WHERE name = $1")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    match taken {
        None => Ok(name.into()),
        Some(_) => Err(RegistryError::NameTaken(parse(name)?)),
    }
}

/// The number of the box that once had `key`, if the key is not accepted any more.
pub(super) async fn retired_from(
    connection: &mut AnyConnection,
    key: PublicKey,
) -> Result<Option<u64>, RegistryError> {
    let id: Option<i64> = sqlx::query_scalar("SELECT box FROM revocations WHERE key = $1")
        .bind(key.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(id.map(i64::unsigned_abs))
}

/// Which other box than `id` has this recovery key, which nobody has by chance.
pub(super) async fn other_with_recovery(
    connection: &mut AnyConnection,
    recovery: PublicKey,
    id: u64,
) -> Result<Option<Entry>, RegistryError> {
    let row = sqlx::query("SELECT * FROM boxes WHERE recovery = $1 AND id <> $2")
        .bind(recovery.to_string())
        .bind(number(id))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(Entry::read).transpose()
}
