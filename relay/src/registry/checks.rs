//! Repeated proofs: which are due, and what they brought.

use sealpost_tunnel::request::ProofMethod;
use sealpost_tunnel::{DomainName, Fingerprint, PublicKey};
use sqlx::{AnyConnection, Row};

use super::domains::{forget_names, life, method, text, touch};
use super::{Database, RegistryError, number, parse};
use crate::proof::life::{Life, State};

/// How soon a domain that another relay of the fleet has begun to check is looked at again, if
/// that relay died over it.
const CHECK_LEASE: u64 = 10 * 60;

/// A domain whose proof is to be repeated now.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its name.
    pub name: DomainName,
    /// What the record must name.
    pub box_key: Fingerprint,
    /// By which proof it was claimed.
    pub method: ProofMethod,
    /// Where it stands.
    pub life: Life,
}

impl Database {
    /// Up to `limit` domains whose check is due, reserved for the caller for ten minutes.
    pub async fn due(&self, now: u64, limit: u32) -> Result<Vec<Due>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query(
                "UPDATE domains SET next_check = $1 WHERE next_check <= $2 AND name IN ( \
                   SELECT d.name FROM domains d JOIN boxes b ON b.id = d.box \
                   WHERE d.next_check <= $2 AND d.state <> 'released' AND b.state = 'active' \
                   ORDER BY d.next_check LIMIT $3) \
                 RETURNING name, method, state, since, checked, failures, \
                   (SELECT key FROM boxes WHERE boxes.id = domains.box) AS box_key",
            )
            .bind(number(now + CHECK_LEASE))
            .bind(number(now))
            .bind(i64::from(limit))
            .fetch_all(lease.connection())
            .await?;
            lease.give_back();
            rows.iter()
                .map(|row| {
                    let key: PublicKey = parse(row.try_get("box_key")?)?;
                    Ok(Due {
                        name: parse(row.try_get("name")?)?,
                        box_key: key.fingerprint(),
                        method: method(row)?,
                        life: life(row)?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Notes what a check of `due` brought. Only when the names that lead to the box, or what
    /// its owner is told, change does this count as a change of the registry. A key or owner that
    /// changed in the meantime makes the check worthless.
    pub async fn checked(
        &self,
        due: &Due,
        life: Life,
        detail: &str,
        now: u64,
        next_check: u64,
    ) -> Result<(), RegistryError> {
        let proved = if life.state == State::Proved { Some(number(now)) } else { None };
        let what = "UPDATE domains SET state = $1, since = $2, failures = $3, detail = $4, \
             proved = COALESCE($5, proved), next_check = $6, checked = $10 \
             WHERE name = $7 AND state = $8 AND since = $9 RETURNING box";
        let update = sqlx::query(what)
            .bind(text(life.state))
            .bind(number(life.since))
            .bind(i64::from(life.failures))
            .bind(detail)
            .bind(proved)
            .bind(number(next_check))
            .bind(due.name.as_str())
            .bind(text(due.life.state))
            .bind(number(due.life.since))
            .bind(number(life.checked));
        Self::within(async {
            if life.state == due.life.state {
                let mut lease = self.lease().await?;
                update.execute(lease.connection()).await?;
                lease.give_back();
                return Ok(());
            }
            let mut change = self.change().await?;
            let Some(row) = update.fetch_optional(change.connection()).await? else {
                return change.undo().await;
            };
            let id = row.try_get::<i64, _>("box")?.unsigned_abs();
            if box_key(change.connection(), id).await?.map(PublicKey::fingerprint)
                != Some(due.box_key)
            {
                return change.undo().await;
            }
            if life.state == State::Released {
                forget_names(&mut change, &due.name).await?;
            }
            touch(&mut change, id).await?;
            change.commit().await
        })
        .await
    }
}

async fn box_key(
    connection: &mut AnyConnection,
    id: u64,
) -> Result<Option<PublicKey>, RegistryError> {
    let key: Option<String> = sqlx::query_scalar("SELECT key FROM boxes WHERE id = $1")
        .bind(number(id))
        .fetch_optional(connection)
        .await?;
    key.as_deref().map(parse).transpose()
}
