//! Invites: who may join, under which name, and with how many domains.

use std::time::Duration;

use sealpost_tunnel::BoxName;
use sealpost_tunnel::invite::Secret;
use serde::Serialize;
use sqlx::Row;

use super::boxes::State;
use super::{Database, RegistryError, number, parse};

/// An invite as the operator sees it; the secret is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invited {
    /// The name that the box will have.
    pub name: BoxName,
    /// How many domains it may claim.
    pub domains: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub expires: u64,
    /// When it was spent, in seconds since 1970.
    pub spent: Option<u64>,
}

impl Database {
    /// Makes an invite for a box that will be called `name`. An open invite for the same name is
    /// void from now on. The name of a revoked box brings that box back, with a new key and
    /// without its domains, which it may claim again.
    pub async fn invite(
        &self,
        name: &BoxName,
        domains: u32,
        lifetime: Duration,
        now: u64,
    ) -> Result<Secret, RegistryError> {
        let secret = Secret::random();
        Self::within(async {
            let mut change = self.change().await?;
            let state: Option<String> =
                sqlx::query_scalar("SELECT state FROM boxes WHERE name = $1")
                    .bind(name.as_str())
                    .fetch_optional(change.connection())
                    .await?;
            if state.is_some_and(|state| state == State::Active.as_str()) {
                change.undo().await?;
                return Err(RegistryError::NameTaken(name.clone()));
            }
            sqlx::query("DELETE FROM invites WHERE name = $1 AND spent_by IS NULL")
                .bind(name.as_str())
                .execute(change.connection())
                .await?;
            sqlx::query(
                "INSERT INTO invites (hash, name, domains, created, expires) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(secret.hash())
            .bind(name.as_str())
            .bind(i64::from(domains))
            .bind(number(now))
            .bind(number(now.saturating_add(lifetime.as_secs())))
            .execute(change.connection())
            .await?;
            change.commit().await
        })
        .await?;
        Ok(secret)
    }

    /// Makes the open invite for `name` void; whether there was one.
    pub async fn withdraw_invite(&self, name: &BoxName) -> Result<bool, RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let gone = sqlx::query("DELETE FROM invites WHERE name = $1 AND spent_by IS NULL")
                .bind(name.as_str())
                .execute(change.connection())
                .await?
                .rows_affected();
            change.commit().await?;
            Ok(gone > 0)
        })
        .await
    }

    /// All invites, the newest first; the spent ones too, as long as they are kept.
    pub async fn invites(&self) -> Result<Vec<Invited>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query(
                "SELECT name, domains, created, expires, spent FROM invites \
                 ORDER BY created DESC, name",
            )
            .fetch_all(lease.connection())
            .await?;
            lease.give_back();
            rows.iter()
                .map(|row| {
                    Ok(Invited {
                        name: parse(row.try_get("name")?)?,
                        domains: u32::try_from(row.try_get::<i64, _>("domains")?).unwrap_or(0),
                        created: row.try_get::<i64, _>("created")?.unsigned_abs(),
                        expires: row.try_get::<i64, _>("expires")?.unsigned_abs(),
                        spent: row.try_get::<Option<i64>, _>("spent")?.map(i64::unsigned_abs),
                    })
                })
                .collect()
        })
        .await
    }
}
