//! What is newer in the database than a revision, read as one consistent state.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use futures_util::TryStreamExt;
use sealpost_tunnel::{DomainName, MxName, PublicKey};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use sqlx::{Executor, Row};

use super::pairs::GivenPair;
use super::{BoxRecord, Database, Kind, RegistryError, number, parse};

/// What changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// The revision that is reached with these changes.
    pub revision: u64,
    /// Whether this is everything, and what is not in it is gone.
    pub whole: bool,
    /// Boxes as they are now.
    pub boxes: Vec<Changed>,
    /// Keys that are not accepted any more.
    pub retired: Vec<Retired>,
}

/// A key that is not accepted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// The key.
    pub key: PublicKey,
    /// Whether its own holder put another in its place: nobody has to be shut out in haste.
    pub rotated: bool,
}

/// A box that changed.
#[derive(Debug)]
pub enum Changed {
    /// It may connect.
    Active(BoxRecord),
    /// The box with this number may not.
    Gone(u64),
}

impl Database {
    /// The newest revision, on a connection of the caller's.
    pub(super) async fn revision(connection: &mut AnyConnection) -> Result<u64, RegistryError> {
        let revision: i64 = sqlx::query_scalar("SELECT revision FROM registry WHERE id = 1")
            .fetch_one(connection)
            .await?;
        Ok(revision.unsigned_abs())
    }

    /// What is newer than `since`, and with `with_domains` which domains boxes have; everything if
    /// `since` is 0.
    pub(super) async fn changes(
        &self,
        connection: &mut AnyConnection,
        since: u64,
        with_domains: bool,
    ) -> Result<Changes, RegistryError> {
        let begin = match self.kind() {
            Kind::Sqlite => "BEGIN",
            Kind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        connection.execute(begin).await?;
        let revision = Self::revision(connection).await?;
        // CROSS JOIN: SQLite then begins with the boxes that changed, as the order says, and does
        // not walk through all names. PostgreSQL takes the best order by itself.
        let mut names: HashMap<i64, Vec<MxName>> = group(
            connection,
            "SELECT b.id, m.name AS value FROM boxes b CROSS JOIN domains d CROSS JOIN mx_names m \
             WHERE d.box = b.id AND m.domain = d.name AND b.revision > $1 \
             AND b.state = 'active' AND d.state IN ('proved', 'warned')",
            since,
        )
        .await?;
        let mut domains: HashMap<i64, Vec<DomainName>> = if with_domains {
            group(
                connection,
                "SELECT b.id, d.name AS value FROM boxes b CROSS JOIN domains d \
                 WHERE d.box = b.id AND b.revision > $1 \
                 AND b.state = 'active' AND d.state <> 'released'",
                since,
            )
            .await?
        } else {
            HashMap::new()
        };
        let mut addresses: HashMap<i64, Vec<IpAddr>> = group(
            connection,
            "SELECT b.id, a.address AS value FROM boxes b CROSS JOIN addresses a \
             WHERE a.box = b.id AND b.revision > $1 AND b.state = 'active'",
            since,
        )
        .await?;
        let mut pairs: HashMap<i64, Vec<GivenPair>> = group(
            connection,
            "SELECT b.id, p.first || ' ' || p.second AS value FROM boxes b CROSS JOIN pairs p \
             WHERE p.box = b.id AND p.freed IS NULL AND b.revision > $1 AND b.state = 'active'",
            since,
        )
        .await?;
        let mut boxes = Vec::new();
        let mut rows = sqlx::query("SELECT id, name, key, state FROM boxes WHERE revision > $1")
            .bind(number(since))
            .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            boxes.push(read_box(&row, &mut names, &mut domains, &mut addresses, &mut pairs)?);
        }
        drop(rows);
        let mut retired = Vec::new();
        let mut rows = sqlx::query("SELECT key, reason FROM revocations WHERE revision > $1")
            .bind(number(since))
            .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            let rotated = row.try_get::<&str, _>("reason")? == "rotated";
            retired.push(Retired { key: parse(row.try_get("key")?)?, rotated });
        }
        drop(rows);
        connection.execute("COMMIT").await?;
        Ok(Changes { revision, whole: since == 0, boxes, retired })
    }
}

fn read_box(
    row: &AnyRow,
    names: &mut HashMap<i64, Vec<MxName>>,
    domains: &mut HashMap<i64, Vec<DomainName>>,
    addresses: &mut HashMap<i64, Vec<IpAddr>>,
    pairs: &mut HashMap<i64, Vec<GivenPair>>,
) -> Result<Changed, RegistryError> {
    let id: i64 = row.try_get("id")?;
    if row.try_get::<&str, _>("state")? != "active" {
        return Ok(Changed::Gone(id.unsigned_abs()));
    }
    Ok(Changed::Active(BoxRecord {
        id: id.unsigned_abs(),
        name: row.try_get("name")?,
        key: parse(row.try_get("key")?)?,
        mx: names.remove(&id).unwrap_or_default(),
        domains: domains.remove(&id).unwrap_or_default(),
        addresses: addresses.remove(&id).unwrap_or_default(),
        pairs: pairs
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .map(|GivenPair(pair)| pair)
            .collect(),
    }))
}

/// The values of each box, in one order always, as records are compared. Read row by row: all
/// rows together would need many times the memory of what is kept.
async fn group<T: FromStr + Ord>(
    connection: &mut AnyConnection,
    query: &'static str,
    since: u64,
) -> Result<HashMap<i64, Vec<T>>, RegistryError> {
    let mut grouped = HashMap::<i64, Vec<T>>::new();
    let mut rows = sqlx::query(query).bind(number(since)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        grouped.entry(row.try_get("id")?).or_default().push(parse(row.try_get("value")?)?);
    }
    for values in grouped.values_mut() {
        values.sort();
        values.shrink_to_fit();
    }
    Ok(grouped)
}
