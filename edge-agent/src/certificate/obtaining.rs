//! One attempt to have a certificate issued: the challenges come into the zones, the CA is told when
//! the world sees them, and what it issues is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use instant_acme::OrderStatus;
use sealpost_tunnel::{DomainName, MxName, private_file};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::chain;
use super::keeper::{GLANCE, Work, now};
use super::memory::{Issued, OpenOrder, Trouble};
use super::order::{self, Authority, Failure};
use super::pair;
use super::progress::Wanted;
use super::renewal;
use super::servers::{Expected, Found, What};
use crate::zone::content;
use crate::zone::plan::Challenge;

/// How often an attempt goes on at once where only a nonce was stale, and after which pause.
const MAX_STALE: usize = 5;
const STALE: Duration = Duration::from_secs(1);
/// How long resolvers' memory of the zone without a challenge is waited out at most, in seconds.
const MOST_KEPT: u32 = 3600;

impl Work {
    /// One attempt to have a certificate issued. That it fails is no failure of the step: it is
    /// remembered, with the time of the next attempt.
    pub(super) async fn obtain(&mut self, wanted: &Wanted) -> Result<(), String> {
        let mut attempt = Box::pin(self.attempt(wanted)).await;
        for _ in 0..MAX_STALE {
            if !attempt.as_ref().is_err_and(|failure| failure.stale_nonce) {
                break;
            }
            sleep(STALE).await;
            attempt = Box::pin(self.attempt(wanted)).await;
        }
        self.waited_for.clear();
        self.show_nothing();
        let at = now();
        let told = self.https.told_to_wait();
        match attempt {
            Ok(issued) => {
                let names = issued.names.join(" ");
                info!(names, until = issued.not_after, "a certificate was issued");
                if let Some(next) = &mut self.memory.next {
                    next.issued = Some(issued);
                }
                self.memory.issued_at = Some(at);
                self.memory.forced = false;
                self.memory.order = None;
                self.memory.trouble = None;
            }
            Err(failure) => {
                if failure.order_ended {
                    self.memory.order = None;
                }
                if failure.account_unknown {
                    self.accounts.remove(&wanted.directory);
                    let saved = self.accounts.save(&self.folder);
                    saved.map_err(|error| format!("the account: {error}"))?;
                }
                if failure.not_replaceable
                    && let Some(current) = &mut self.memory.current
                {
                    current.issued.renewal_id = None;
                }
                let failures = self.memory.trouble.as_ref().map_or(0, |it| it.failures);
                let told = told.map(|until| until.saturating_sub(at));
                let wait = renewal::order_again(failures, told, rand::random());
                error!(why = failure.why, wait, "no certificate was issued");
                self.memory.trouble = Some(Trouble {
                    why: failure.why,
                    at,
                    failures: failures.saturating_add(1),
                    until: at + wait,
                    by_ca: told.is_some(),
                });
                self.memory.forced = false;
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, wanted: &Wanted) -> Result<Issued, Failure> {
        let next = self.memory.next.clone().ok_or_else(|| Failure::other("no key is prepared"))?;
        let request = self
            .next_pair(&next.key)
            .and_then(|pair| pair.request(&wanted.names))
            .map_err(|error| Failure::other(error.to_string()))?;
        let settings = self.keeper.settings.clone();
        let ca = Authority::meet(&settings, &mut self.accounts, &self.folder, &self.https).await?;
        self.publish();
        let fits = |it: &&OpenOrder| it.directory == wanted.directory && it.names == wanted.names;
        let open = self.memory.order.clone();
        let open = open.as_ref().filter(fits);
        let replaces = self.memory.current.as_ref().map(|it| &it.issued);
        let replaces = replaces.filter(|it| it.directory == wanted.directory);
        let replaces = replaces.and_then(|it| it.renewal_id.clone());
        let mut order = ca.order(&settings, open, &wanted.names, replaces.as_deref()).await?;
        self.memory.order = Some(OpenOrder {
            url: order.url().to_owned(),
            directory: wanted.directory.clone(),
            names: wanted.names.clone(),
        });
        self.save().map_err(Failure::other)?;
        let challenges = match order.state().status {
            OrderStatus::Invalid => {
                return Err(order::ended("the CA gave the order up".into()));
            }
            OrderStatus::Pending => order::challenges(&mut order, &wanted.names).await?,
            _ => Vec::new(),
        };
        if !challenges.is_empty() {
            self.show(&challenges).await?;
        }
        if order.state().status == OrderStatus::Pending {
            order::prove(&mut order).await?;
        }
        let text = order::finish(&mut order, &request).await?;
        let useless = |error: chain::ChainError| order::ended(error.to_string());
        let leaf = chain::read(&text).map_err(useless)?;
        leaf.check(&next.key, &wanted.names, now()).map_err(useless)?;
        let path = pair::chain_file(&self.folder, &next.key);
        private_file::replace(&path, text.as_bytes())
            .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
        Ok(Issued {
            names: leaf.names,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            renewal_id: leaf.renewal_id,
            directory: wanted.directory.clone(),
        })
    }

    /// Takes challenges out of the zones.
    pub(super) fn show_nothing(&self) {
        for domain in &self.keeper.zones {
            self.keeper.wishes.set_challenges(domain, Vec::new());
        }
    }

    /// Puts challenges into the zones, and waits until every name server that answers shows them, and no
    /// resolver can still say that they are not there. It may have learned that without having been asked for
    /// one: from whatever else it knows to be absent beside it (RFC 8198).
    async fn show(&mut self, challenges: &[order::Wanted]) -> Result<(), Failure> {
        let mut zones: BTreeMap<DomainName, (Vec<Challenge>, Vec<Expected>)> = BTreeMap::new();
        for (name, digest) in challenges {
            let unknown = || Failure::other(format!("{name} is in no zone of this box any more"));
            let mx: MxName = name.parse().map_err(|_| unknown())?;
            let zone = zones.entry(self.zone_of(&mx).ok_or_else(unknown)?).or_default();
            let absolute = format!("{name}.").parse().map_err(|_| unknown())?;
            zone.0.push(Challenge { name: absolute, digest: digest.clone() });
            zone.1.push(Expected {
                name: format!("_acme-challenge.{name}."),
                what: What::Text(digest.clone()),
            });
        }
        let mut kept = 0;
        for (domain, (challenges, expected)) in &zones {
            // Before they are there: how long the answer without them is remembered.
            kept = kept.max(self.keeper.name_servers.ask(domain, expected).await.ttl);
            self.keeper.wishes.set_challenges(domain, challenges.clone());
        }
        if kept == 0 {
            kept = content::SHORT_TTL.as_secs();
        }
        let limit = self.keeper.settings.challenge_timeout;
        let deadline = Instant::now() + limit;
        // An attempt that goes on has waited already.
        let waited = challenges.iter().all(|it| self.waited_for.contains(it));
        let mut tries = 0;
        loop {
            let (mut found, mut refused) = (Vec::new(), Vec::new());
            for (domain, (_, expected)) in &zones {
                found.push(self.keeper.name_servers.ask(domain, expected).await);
                let error = self.keeper.wishes.published(domain).and_then(|it| it.error);
                refused.extend(error.map(|error| format!("{domain}: {error}")));
            }
            let found = Found::all(found);
            let late = Instant::now() >= deadline;
            // A CA asks another server where one does not answer, and so a dead one is waited for only
            // so long. One that answers without the challenge would end the order.
            let enough = found.everywhere() || (found.wherever_answered() && (late || waited));
            if enough && refused.is_empty() {
                if !found.silent.is_empty() {
                    let servers = found.silent.join("; ");
                    warn!(servers, "passed over: the CA is told of the challenge all the same");
                }
                if !waited {
                    self.until_forgotten(kept.min(MOST_KEPT)).await;
                    self.waited_for = challenges.to_vec();
                }
                return Ok(());
            }
            let wrong = [found.lacking, found.silent, refused].concat();
            let lacking = wrong.join("; ");
            self.tell_waiting(format!("the CA is not told of the challenge yet: {lacking}"));
            if late {
                return Err(Failure::other(format!(
                    "not every name server served the challenge within {} s, so the CA was not told: \
                     {lacking}",
                    limit.as_secs()
                )));
            }
            // At a tenth of the pace at most at which a zone changes.
            let pause = Duration::from_secs(renewal::look_again(tries).min(30));
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            tries += 1;
        }
    }

    /// Waits until resolvers have forgotten what they knew for `kept` seconds at most. Time that the
    /// machine slept counts, and a clock that is set back makes it no longer.
    async fn until_forgotten(&self, kept: u32) {
        self.tell_waiting(format!(
            "the CA is not told of the challenge yet: resolvers may know the zone without it for \
             {kept} s"
        ));
        let (began, until) = (Instant::now(), now() + u64::from(kept));
        let most = Duration::from_secs(kept.into());
        while now() < until && began.elapsed() < most {
            sleep(most.saturating_sub(began.elapsed()).min(GLANCE)).await;
        }
    }
}
