//! Claims: whether a domain that was proved is free, and with which names it comes.

use sealpost_tunnel::request::{MAX_CLAIMED, ProofMethod};
use sealpost_tunnel::{DomainName, MxName, PublicKey};
use sqlx::{AnyConnection, Row};

use super::boxes::active_by_key;
use super::database::Change;
use super::domains::{REST, forget_names, method_text, text, touch};
use super::{Database, RegistryError, number};
use crate::proof::life::State;

impl Database {
    /// Gives `domain`, proved just now, with the names `mx` to the active box with `key`.
    pub async fn claim(
        &self,
        key: PublicKey,
        domain: &DomainName,
        mx: &[MxName],
        method: ProofMethod,
        now: u64,
        next_check: u64,
    ) -> Result<(), RegistryError> {
        if let Some(outside) = mx.iter().find(|mx| !domain.covers(mx)) {
            let (mx, domain) = (outside.clone(), domain.clone());
            return Err(RegistryError::MxOutside { mx, domain });
        }
        if mx.is_empty() || mx.len() > MAX_CLAIMED {
            let message = format!("a domain needs 1 to {MAX_CLAIMED} MX names");
            return Err(RegistryError::TooMany(message));
        }
        Self::within(async {
            let mut change = self.change().await?;
            let claim = Claim { key, domain, mx, method, now, next_check };
            match claim.enter(&mut change).await {
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

struct Claim<'a> {
    key: PublicKey,
    domain: &'a DomainName,
    mx: &'a [MxName],
    method: ProofMethod,
    now: u64,
    next_check: u64,
}

impl Claim<'_> {
    async fn enter(&self, change: &mut Change<'_>) -> Result<(), RegistryError> {
        let owner =
            active_by_key(change.connection(), self.key).await?.ok_or(RegistryError::UnknownBox)?;
        // Beneath somebody else's domain is somebody else's word; above, the names that are
        // taken are refused one by one, below. What the box has itself came first: whoever claims
        // above it later does not keep it from changing its names, or from coming back.
        let domain = self.domain.as_str();
        if self.holder(change.connection(), domain).await? != Some(owner.id) {
            for name in std::iter::once(domain).chain(ancestors(domain)) {
                if self.held_by_other(change.connection(), name, owner.id).await? {
                    return Err(RegistryError::NotAvailable(self.domain.clone()));
                }
            }
        }
        self.check_count(change, owner.id, owner.domains_allowed).await?;
        sqlx::query(
            "INSERT INTO domains \
               (name, box, method, state, since, checked, failures, detail, proved, next_check) \
             VALUES ($1, $2, $3, 'proved', $4, $4, 0, '', $4, $5) \
             ON CONFLICT (name) DO UPDATE SET box = $2, method = $3, state = 'proved', \
               since = $4, checked = $4, failures = 0, detail = '', proved = $4, next_check = $5",
        )
        .bind(self.domain.as_str())
        .bind(number(owner.id))
        .bind(method_text(self.method))
        .bind(number(self.now))
        .bind(number(self.next_check))
        .execute(change.connection())
        .await?;
        forget_names(change, self.domain).await?;
        for mx in self.mx {
            self.enter_name(change, mx, owner.id).await?;
        }
        touch(change, owner.id).await
    }

    async fn enter_name(
        &self,
        change: &mut Change<'_>,
        mx: &MxName,
        owner: u64,
    ) -> Result<(), RegistryError> {
        let not_available = || RegistryError::MxNotAvailable(mx.clone());
        // Somebody else's claim between this domain and the name has the name.
        let between = std::iter::once(mx.as_str())
            .chain(ancestors(mx.as_str()))
            .take_while(|name| *name != self.domain.as_str());
        for name in between {
            if self.held_by_other(change.connection(), name, owner).await? {
                return Err(not_available());
            }
        }
        let entered = sqlx::query(
            "INSERT INTO mx_names (name, domain) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        )
        .bind(mx.as_str())
        .bind(self.domain.as_str())
        .execute(change.connection())
        .await?;
        if entered.rows_affected() == 1 { Ok(()) } else { Err(not_available()) }
    }

    /// Whether another box than `owner` has the domain `name`, or had it until lately.
    async fn held_by_other(
        &self,
        connection: &mut AnyConnection,
        name: &str,
        owner: u64,
    ) -> Result<bool, RegistryError> {
        Ok(self.holder(connection, name).await?.is_some_and(|holder| holder != owner))
    }

    /// The box that has the domain `name`, or had it until lately.
    async fn holder(
        &self,
        connection: &mut AnyConnection,
        name: &str,
    ) -> Result<Option<u64>, RegistryError> {
        let row = sqlx::query("SELECT box, state, since FROM domains WHERE name = $1")
            .bind(name)
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let free = row.try_get::<&str, _>("state")? == text(State::Released)
            && row.try_get::<i64, _>("since")?.unsigned_abs().saturating_add(REST) <= self.now;
        let holder = row.try_get::<i64, _>("box")?.unsigned_abs();
        Ok((!free).then_some(holder))
    }

    async fn check_count(
        &self,
        change: &mut Change<'_>,
        owner: u64,
        allowed: u32,
    ) -> Result<(), RegistryError> {
        let others: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM domains WHERE box = $1 AND state <> 'released' AND name <> $2",
        )
        .bind(number(owner))
        .bind(self.domain.as_str())
        .fetch_one(change.connection())
        .await?;
        if others < i64::from(allowed) {
            return Ok(());
        }
        Err(RegistryError::TooMany(format!(
            "this box may have {allowed} domains here and has them; remove one, or ask the \
             relay's operator for more (sealpost-relay boxes allow)"
        )))
    }
}

/// `b.c` and `c` for `a.b.c`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, above)| above)).skip(1)
}
