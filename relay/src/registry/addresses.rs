//! Addresses of the relay that belong to one box alone, given by the operator.

use std::net::IpAddr;

use sealpost_tunnel::BoxName;
use serde::Serialize;
use sqlx::Row;

use super::domains::touch;
use super::{Database, RegistryError};

/// An address and the box that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assigned {
    /// An address of the relay.
    pub address: IpAddr,
    /// The box's name.
    pub r#box: String,
}

impl Database {
    /// Gives `address` to the active box called `name` alone. May be repeated.
    pub async fn assign(&self, name: &BoxName, address: IpAddr) -> Result<(), RegistryError> {
        let text = address.to_canonical().to_string();
        Self::within(async {
            let mut change = self.change().await?;
            let id: Option<i64> =
                sqlx::query_scalar("SELECT id FROM boxes WHERE name = $1 AND state = 'active'")
                    .bind(name.as_str())
                    .fetch_optional(change.connection())
                    .await?;
            let Some(id) = id else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            let owner = sqlx::query(
                "SELECT b.id, b.name FROM addresses a JOIN boxes b ON b.id = a.box \
                 WHERE a.address = $1",
            )
            .bind(&text)
            .fetch_optional(change.connection())
            .await?;
            if let Some(owner) = owner {
                change.undo().await?;
                if owner.try_get::<i64, _>("id")? == id {
                    return Ok(());
                }
                let owner = owner.try_get("name")?;
                return Err(RegistryError::AddressTaken { address: text, owner });
            }
            sqlx::query("INSERT INTO addresses (address, box) VALUES ($1, $2)")
                .bind(&text)
                .bind(id)
                .execute(change.connection())
                .await?;
            touch(&mut change, id.unsigned_abs()).await?;
            change.commit().await
        })
        .await
    }

    /// Takes `address` from the box that has it; whether one had it.
    pub async fn unassign(&self, address: IpAddr) -> Result<bool, RegistryError> {
        let text = address.to_canonical().to_string();
        Self::within(async {
            let mut change = self.change().await?;
            let id: Option<i64> =
                sqlx::query_scalar("DELETE FROM addresses WHERE address = $1 RETURNING box")
                    .bind(&text)
                    .fetch_optional(change.connection())
                    .await?;
            let Some(id) = id else {
                change.undo().await?;
                return Ok(false);
            };
            touch(&mut change, id.unsigned_abs()).await?;
            change.commit().await?;
            Ok(true)
        })
        .await
    }

    /// All addresses that belong to one box alone.
    pub async fn assigned(&self) -> Result<Vec<Assigned>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query(
                "SELECT a.address, b.name FROM addresses a JOIN boxes b ON b.id = a.box \
                 ORDER BY b.name, a.address",
            )
            .fetch_all(lease.connection())
            .await?;
            lease.give_back();
            rows.iter()
                .map(|row| {
                    Ok(Assigned {
                        address: super::parse(row.try_get("address")?)?,
                        r#box: row.try_get("name")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Changes how many domains the active box called `name` may claim.
    pub async fn allow(&self, name: &BoxName, domains: u32) -> Result<(), RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let id: Option<i64> = sqlx::query_scalar(
                "UPDATE boxes SET domains_allowed = $1 WHERE name = $2 AND state = 'active' \
                 RETURNING id",
            )
            .bind(i64::from(domains))
            .bind(name.as_str())
            .fetch_optional(change.connection())
            .await?;
            let Some(id) = id else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            touch(&mut change, id.unsigned_abs()).await?;
            change.commit().await
        })
        .await
    }
}
