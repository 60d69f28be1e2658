//! Domains in the database: whose they are, since when, and which MX names they give.
//!
//! Only a proof from the DNS brings one in (`crate::proof`); this file decides whether it is free.

use sealpost_tunnel::request::{DomainStanding, DomainState, ProofMethod};
use sealpost_tunnel::{DomainName, Fingerprint, MxName, PublicKey};
use serde::{Serialize, Serializer};
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::boxes::active_by_key;
use super::database::Change;
use super::{Database, RegistryError, SECONDS_PER_DAY, number, parse};
use crate::proof::life::{Life, State};

/// How long a domain that was released belongs to nobody else: whoever had it may still stand in
/// MX records and in the queues of senders.
pub const REST: u64 = 90 * SECONDS_PER_DAY;
/// MX names of one domain.
pub const MAX_MX: usize = 16;
/// How soon a domain that another relay of the fleet has begun to check is looked at again, if
/// that relay died over it.
const CHECK_LEASE: u64 = 10 * 60;

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

/// A domain whose proof is to be repeated now.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its name.
    pub name: DomainName,
    /// What the record must name.
    pub box_key: Fingerprint,
    /// Where it stands.
    pub life: Life,
}

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
        if mx.is_empty() || mx.len() > MAX_MX {
            let message = format!("a domain needs 1 to {MAX_MX} MX names");
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

    /// Up to `limit` domains whose check is due, reserved for the caller for ten minutes.
    pub async fn due(&self, now: u64, limit: u32) -> Result<Vec<Due>, RegistryError> {
        Self::within(async {
            let mut lease = self.lease().await?;
            let rows = sqlx::query(
                "UPDATE domains SET next_check = $1 WHERE next_check <= $2 AND name IN ( \
                   SELECT d.name FROM domains d JOIN boxes b ON b.id = d.box \
                   WHERE d.next_check <= $2 AND d.state <> 'released' AND b.state = 'active' \
                   ORDER BY d.next_check LIMIT $3) \
                 RETURNING name, state, since, checked, failures, \
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
        let revision = change.revision;
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
        sqlx::query("UPDATE boxes SET revision = $1 WHERE id = $2")
            .bind(revision)
            .bind(number(owner.id))
            .execute(change.connection())
            .await?;
        Ok(())
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

async fn forget_names(change: &mut Change<'_>, domain: &DomainName) -> Result<(), RegistryError> {
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

fn life(row: &AnyRow) -> Result<Life, RegistryError> {
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

fn text(state: State) -> &'static str {
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

fn method(row: &AnyRow) -> Result<ProofMethod, RegistryError> {
    match row.try_get::<&str, _>("method")? {
        "txt" => Ok(ProofMethod::Txt),
        "ds" => Ok(ProofMethod::Ds),
        other => Err(RegistryError::Content(format!("the proof `{other}` of a domain"))),
    }
}

fn method_text(method: ProofMethod) -> &'static str {
    match method {
        ProofMethod::Txt => "txt",
        ProofMethod::Ds => "ds",
    }
}
