//! Address pairs in the database: each box gets one of each relay that has some.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr;

use sealpost_tunnel::{AddressPair, PublicKey};
use sqlx::Row;

use super::boxes::active_by_key;
use super::database::Change;
use super::domains::{REST, touch};
use super::{Database, RegistryError, number, parse};
use crate::pairs::PairRoles;

/// A pair as one text, as a query can put it together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GivenPair(pub(super) AddressPair);

impl FromStr for GivenPair {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, second) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Self(AddressPair { first: first.parse()?, second: second.parse()? }))
    }
}

/// A pair that is or was somebody's.
struct Taken {
    pair: AddressPair,
    r#box: u64,
    freed: Option<u64>,
}

impl Database {
    /// Gives the active box with `key` one of the pairs of `roles`, unless it has one; `None` when
    /// all are taken. May be repeated.
    pub async fn give_pair(
        &self,
        key: PublicKey,
        roles: &PairRoles,
        now: u64,
    ) -> Result<Option<AddressPair>, RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let Some(entry) = active_by_key(change.connection(), key).await? else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            let mut rows = Vec::new();
            for first in &roles.first {
                rows.extend(with_first(&mut change, *first).await?);
            }
            rows.retain(|row| roles.have(&row.pair));
            let own = rows.iter().find(|row| row.r#box == entry.id);
            if let Some(Taken { pair, freed: None, .. }) = own {
                let pair = *pair;
                change.undo().await?;
                return Ok(Some(pair));
            }
            let Some(pair) = own.map(|row| row.pair).or_else(|| free(roles, &rows, now)) else {
                change.undo().await?;
                return Ok(None);
            };
            sqlx::query(
                "INSERT INTO pairs (first, second, box) VALUES ($1, $2, $3) \
                 ON CONFLICT (first, second) DO UPDATE SET box = $3, freed = NULL",
            )
            .bind(pair.first.to_string())
            .bind(pair.second.to_string())
            .bind(number(entry.id))
            .execute(change.connection())
            .await?;
            touch(&mut change, entry.id).await?;
            change.commit().await?;
            Ok(Some(pair))
        })
        .await
    }
}

impl Database {
    /// The pairs that boxes have, with the boxes' names.
    pub async fn given_pairs(&self) -> Result<Vec<(String, AddressPair)>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query(
                "SELECT b.name, p.first, p.second FROM pairs p JOIN boxes b ON b.id = p.box \
                 WHERE p.freed IS NULL ORDER BY b.name, p.first, p.second",
            )
            .fetch_all(lease.connection())
            .await?;
            lease.give_back();
            rows.iter()
                .map(|row| {
                    let first = parse(row.try_get("first")?)?;
                    let pair = AddressPair { first, second: parse(row.try_get("second")?)? };
                    Ok((row.try_get("name")?, pair))
                })
                .collect()
        })
        .await
    }
}

/// The pairs of the box `id` are of no more use to it.
pub(super) async fn free_pairs(
    change: &mut Change<'_>,
    id: u64,
    now: u64,
) -> Result<(), RegistryError> {
    sqlx::query("UPDATE pairs SET freed = $1 WHERE box = $2 AND freed IS NULL")
        .bind(number(now))
        .bind(number(id))
        .execute(change.connection())
        .await?;
    Ok(())
}

async fn with_first(change: &mut Change<'_>, first: IpAddr) -> Result<Vec<Taken>, RegistryError> {
    let rows = sqlx::query("SELECT second, box, freed FROM pairs WHERE first = $1")
        .bind(first.to_string())
        .fetch_all(change.connection())
        .await?;
    rows.iter()
        .map(|row| {
            let freed: Option<i64> = row.try_get("freed")?;
            Ok(Taken {
                pair: AddressPair { first, second: parse(row.try_get("second")?)? },
                r#box: row.try_get::<i64, _>("box")?.unsigned_abs(),
                freed: freed.map(i64::unsigned_abs),
            })
        })
        .collect()
}

/// A pair that nobody has, or had within [`REST`]. One whose second address the fewest others have:
/// between those a sender that writes to both at once cannot be told apart.
fn free(roles: &PairRoles, rows: &[Taken], now: u64) -> Option<AddressPair> {
    let taken = |row: &&Taken| row.freed.is_none_or(|freed| freed + REST > now);
    let taken: HashSet<_> = rows.iter().filter(taken).map(|row| row.pair).collect();
    let mut uses = HashMap::<IpAddr, usize>::new();
    for pair in &taken {
        *uses.entry(pair.first).or_default() += 1;
        *uses.entry(pair.second).or_default() += 1;
    }
    let uses = |address| uses.get(&address).copied().unwrap_or_default();
    let free = roles.all().filter(|pair| !taken.contains(pair));
    free.min_by_key(|pair| (uses(pair.second), uses(pair.first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> PairRoles {
        let parse = |list: [&str; 2]| list.iter().map(|a| a.parse().unwrap()).collect();
        PairRoles {
            first: parse(["192.0.2.1", "192.0.2.2"]),
            second: parse(["192.0.2.3", "192.0.2.4"]),
        }
    }

    #[test]
    fn pairs_spread_over_the_second_addresses_until_none_is_left() {
        let roles = roles();
        let mut rows = Vec::new();
        for id in 0..4 {
            let pair = free(&roles, &rows, 0).unwrap();
            rows.push(Taken { pair, r#box: id, freed: None });
        }
        assert_ne!(rows[0].pair.second, rows[1].pair.second);
        let different: HashSet<_> = rows.iter().map(|row| row.pair).collect();
        assert_eq!((different.len(), free(&roles, &rows, 0)), (4, None));
        rows[2].freed = Some(1000);
        assert_eq!(free(&roles, &rows, 1000 + REST - 1), None);
        assert_eq!(free(&roles, &rows, 1000 + REST), Some(rows[2].pair));
    }
}
