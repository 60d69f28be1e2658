//! Domains in the database: whose they are, since when, and which MX names they give.
//!
//! Only a proof from the DNS brings one in (`crate::proof`); `claims` decides whether it is free.

use sealpost_tunnel::request::{DomainStanding, DomainState, ProofMethod};
use sealpost_tunnel::{DomainName, MxName, PublicKey};
use serde::{Serialize, Serializer};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::boxes::active_by_key;
use super::database::Change;
use super::{Database, RegistryError, SECONDS_PER_DAY, number, parse};
use crate::proof::life::{Life, State};

/// How long a domain that was released belongs to nobody else: whoever had it may still stand in
/// MX records and in the queues of senders.
pub const REST: u64 = 90 * SECONDS_PER_DAY;

/// A domain as the operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Domain {
    /// Its name.
    pub name: DomainName,
    /// The box that has it.
    pub r#box: String,
    /// By which proof.
    pub method: ProofMethod,
    /// Where it stands.
    #[serde(serialize_with = "state_name", rename = "state")]
    pub life: Life,
    /// Why, in words.
    pub detail: String,
    /// The last proof, in seconds since 1970.
    pub proved: u64,
    /// The next check, in seconds since 1970.
    pub next_check: u64,
    /// Names that lead to the box.
    pub mx: Vec<MxName>,
}

impl Database {
    /// Gives a domain up. It rests before another box may have it.
    pub async fn release(
        &self,
        key: PublicKey,
        domain: &DomainName,
        now: u64,
    ) -> Result<(), RegistryError> {
        Self::within(async {
            let mut change = self.change().await?;
            let Some(owner) = active_by_key(change.connection(), key).await? else {
                change.undo().await?;
                return Err(RegistryError::UnknownBox);
            };
            let gone = sqlx::query(
                "UPDATE domains SET state = 'released', since = $1, checked = $1, failures = 0, detail = '' \
                 WHERE name = $2 AND box = $3 AND state <> 'released'",
            )
            .bind(number(now))
            .bind(domain.as_str())
            .bind(number(owner.id))
            .execute(change.connection())
            .await?
            .rows_affected();
            if gone == 0 {
                // Already, or never its own: the same to it.
                return change.undo().await;
            }
            forget_names(&mut change, domain).await?;
            touch(&mut change, owner.id).await?;
            change.commit().await
        })
        .await
    }

    /// Ends the rest of a released domain, for an operator who knows that the next owner is the
    /// right one; whether there was such a domain.
    pub async fn end_rest(&self, domain: &DomainName) -> Result<bool, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let ended = sqlx::query("DELETE FROM domains WHERE name = $1 AND state = 'released'")
                .bind(domain.as_str())
                .execute(lease.connection())
                .await?
                .rows_affected();
            lease.give_back();
            Ok(ended > 0)
        })
        .await
    }

    /// Forgets what is no longer needed: domains whose rest is over, and invites that nobody can
    /// use, 90 days after that.
    pub async fn tidy(&self, now: u64) -> Result<(), RegistryError> {
        let long_ago = number(now.saturating_sub(REST));
        Self::within(async {
            let mut lease = self.lease().await?;
            for old in [
                "DELETE FROM domains WHERE state = 'released' AND since < $1",
                "DELETE FROM invites WHERE spent < $1",
                "DELETE FROM invites WHERE spent_by IS NULL AND expires < $1",
            ] {
                sqlx::query(old).bind(long_ago).execute(lease.connection()).await?;
            }
            lease.give_back();
            Ok(())
        })
        .await
    }

    /// What a box is told of its domains.
    pub async fn domains_of(&self, key: PublicKey) -> Result<Vec<DomainStanding>, RegistryError> {
        let domains = self.select_domains(Some(key)).await?;
        let told = domains.into_iter().filter_map(|domain| {
            Some(DomainStanding {
                state: match domain.life.state {
                    State::Proved => DomainState::Proved,
                    State::Warned => DomainState::Warned,
                    State::Suspended => DomainState::Suspended,
                    State::Released => return None,
                },
                suspends_on: domain.life.suspends_on(),
                domain: domain.name,
                mx: domain.mx,
                method: domain.method,
                detail: domain.detail,
            })
        });
        Ok(told.collect())
    }

    /// All domains by name, the released ones too.
    pub async fn domains(&self) -> Result<Vec<Domain>, RegistryError> {
        self.select_domains(None).await
    }

    async fn select_domains(&self, key: Option<PublicKey>) -> Result<Vec<Domain>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let key = key.map(|key| key.to_string());
            let rows = sqlx::query(
                "SELECT d.*, b.name AS box_name FROM domains d JOIN boxes b ON b.id = d.box \
                 WHERE $1 IS NULL OR b.key = $1 ORDER BY d.name",
            )
            .bind(key.clone())
            .fetch_all(lease.connection())
            .await?;
            let names = sqlx::query(
                "SELECT m.name, m.domain FROM mx_names m JOIN domains d ON d.name = m.domain \
                 JOIN boxes b ON b.id = d.box WHERE $1 IS NULL OR b.key = $1 \
                 ORDER BY m.domain, m.name",
            )
            .bind(key)
            .fetch_all(lease.connection())
            .await?;
            lease.give_back();
            let mut names_of = std::collections::HashMap::<String, Vec<MxName>>::new();
            for row in &names {
                let name = parse(row.try_get("name")?)?;
                names_of.entry(row.try_get("domain")?).or_default().push(name);
            }
            rows.iter()
                .map(|row| {
                    let name: DomainName = parse(row.try_get("name")?)?;
                    Ok(Domain {
                        mx: names_of.remove(name.as_str()).unwrap_or_default(),
                        name,
                        r#box: row.try_get("box_name")?,
                        method: method(row)?,
                        life: life(row)?,
                        detail: row.try_get("detail")?,
                        proved: row.try_get::<i64, _>("proved")?.unsigned_abs(),
                        next_check: row.try_get::<i64, _>("next_check")?.unsigned_abs(),
                    })
                })
                .collect()
        })
        .await
    }
}

/// Releases all domains of a box that leaves or is shut out.
pub(super) async fn release_all(
    change: &mut Change<'_>,
    owner: u64,
    now: u64,
) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM mx_names WHERE domain IN (SELECT name FROM domains WHERE box = $1)")
        .bind(number(owner))
        .execute(change.connection())
        .await?;
    sqlx::query(
        "UPDATE domains SET state = 'released', since = $1, checked = $1, failures = 0, detail = '' \
         WHERE box = $2 AND state <> 'released'",
    )
    .bind(number(now))
    .bind(number(owner))
    .execute(change.connection())
    .await?;
    Ok(())
}

pub(super) async fn forget_names(
    change: &mut Change<'_>,
    domain: &DomainName,
) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM mx_names WHERE domain = $1")
        .bind(domain.as_str())
        .execute(change.connection())
        .await?;
    Ok(())
}

/// Marks a box as changed, so that all relays read it again.
pub(super) async fn touch(change: &mut Change<'_>, id: u64) -> Result<(), RegistryError> {
    let revision = change.revision;
    sqlx::query("UPDATE boxes SET revision = $1 WHERE id = $2")
        .bind(revision)
        .bind(number(id))
        .execute(change.connection())
        .await?;
    Ok(())
}

pub(super) fn life(row: &AnyRow) -> Result<Life, RegistryError> {
    let state: &str = row.try_get("state")?;
    let known = [State::Proved, State::Warned, State::Suspended, State::Released];
    let unknown = || RegistryError::Content(format!("the state `{state}` of a domain"));
    Ok(Life {
        state: known.into_iter().find(|known| text(*known) == state).ok_or_else(unknown)?,
        since: row.try_get::<i64, _>("since")?.unsigned_abs(),
        checked: row.try_get::<i64, _>("checked")?.unsigned_abs(),
        failures: u32::try_from(row.try_get::<i64, _>("failures")?).unwrap_or(0),
    })
}

pub(super) fn text(state: State) -> &'static str {
    match state {
        State::Proved => "proved",
        State::Warned => "warned",
        State::Suspended => "suspended",
        State::Released => "released",
    }
}

fn state_name<S: Serializer>(life: &Life, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text(life.state))
}

pub(super) fn method(row: &AnyRow) -> Result<ProofMethod, RegistryError> {
    match row.try_get::<&str, _>("method")? {
        "txt" => Ok(ProofMethod::Txt),
        "ds" => Ok(ProofMethod::Ds),
        other => Err(RegistryError::Content(format!("the proof `{other}` of a domain"))),
    }
}

pub(super) fn method_text(method: ProofMethod) -> &'static str {
    match method {
        ProofMethod::Txt => "txt",
        ProofMethod::Ds => "ds",
    }
}
