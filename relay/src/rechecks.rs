//! Repeats the proofs of domains, each once a day, a few at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sealpost_tunnel::DomainName;
use sealpost_tunnel::request::ProofMethod;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::proof::Prover;
use crate::proof::life::State;
use crate::proof::verdict::Verdict;
use crate::registrar::now;
use crate::registry::{Database, Due};
use crate::zones::Zones;

/// Domains that are checked at once.
const AT_ONCE: u32 = 16;
/// How often the database is asked what is due.
const ASK: Duration = Duration::from_secs(10);
/// How often old rows are removed.
const TIDY: Duration = Duration::from_secs(60 * 60);
/// A proof that is missing, or could not be looked at, is looked for more often: whoever repaired
/// it shall not wait for a day.
const SOONER: u64 = 4;

/// What repeating takes.
pub struct Rechecks {
    /// Where domains are kept.
    pub database: Arc<Database>,
    /// Who looks them up.
    pub prover: Arc<Prover>,
    /// The zones of boxes, if the relay serves them.
    pub zones: Option<Arc<Zones>>,
    /// What is counted.
    pub metrics: Metrics,
    /// How often each domain is checked.
    pub every: Duration,
}

impl Rechecks {
    /// Checks what is due until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut tidied: Option<Instant> = None;
        while !stop.is_cancelled() {
            if tidied.is_none_or(|last| last.elapsed() > TIDY) {
                tidied = Some(Instant::now());
                if let Err(error) = this.database.tidy(now()).await {
                    debug!(%error, "old rows of the registry stay for now");
                }
            }
            let due = this.database.due(now(), AT_ONCE).await.unwrap_or_else(|error| {
                debug!(%error, "the registry could not be asked for what is to be checked");
                Vec::new()
            });
            if due.is_empty() {
                let _ = stop.run_until_cancelled(sleep(ASK)).await;
                continue;
            }
            let mut checks = JoinSet::new();
            for due in due {
                let this = this.clone();
                checks.spawn(async move { this.check(due).await });
            }
            // Leaving drops the set, which ends them: they are due again in ten minutes.
            let _ = stop.run_until_cancelled(checks.join_all()).await;
        }
    }

    async fn check(&self, due: Due) {
        let mut verdict = self.prover.check(&due.name, due.box_key).await;
        // What all name servers say of it now outweighs what the box gave this relay once: an owner who
        // takes the record away shall not have to wait until old signatures end.
        if matches!(verdict, Verdict::Unclear(_)) && self.is_proved_by_zone(&due).await {
            verdict = Verdict::Found;
        }
        let now = now();
        let life = due.life.after(&verdict, now);
        let (label, detail) = match &verdict {
            Verdict::Found => ("found", String::new()),
            Verdict::Absent(reason) => ("absent", reason.clone()),
            Verdict::Unclear(reason) => ("unclear", reason.clone()),
        };
        self.metrics.proof(label);
        let every = if (verdict == Verdict::Found) && life.state == State::Proved {
            self.every.as_secs()
        } else {
            self.every.as_secs() / SOONER
        };
        // Spread, so that domains that were claimed together are not checked together for ever.
        let next = now + every - rand::random_range(0..=every / 8);
        if let Err(error) = self.database.checked(&due, life, &detail, now, next).await {
            debug!(%error, "the result of a check could not be written");
            return;
        }
        tell(&due.name, due.life.state, life.state, &detail);
    }

    /// Whether a claim that was proved by the zone and its parent still is, by the zone that is served
    /// here. A relay that does not serve it goes by what it can see.
    async fn is_proved_by_zone(&self, due: &Due) -> bool {
        match &self.zones {
            Some(zones) if due.method == ProofMethod::Ds => {
                zones.proves(&due.name, due.box_key).await
            }
            _ => false,
        }
    }
}

fn tell(domain: &DomainName, before: State, after: State, reason: &str) {
    let domain = domain.as_str();
    match after {
        _ if before == after => {}
        State::Proved => info!(domain, "the proof of a domain is back"),
        State::Warned => info!(domain, reason, "the proof of a domain is missing"),
        State::Suspended => warn!(domain, reason, "a domain is suspended: no proof for two weeks"),
        State::Released => warn!(domain, reason, "a domain is released: no proof for long"),
    }
}
