//! The task that keeps the certificate: does one step after the other as [`super::progress`] says,
//! and remembers each before the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sealpost_tunnel::{DomainName, MxName, private_file};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::account::Accounts;
use super::chain;
use super::https::Https;
use super::install::{self, Files};
use super::memory::{Current, Issued, Memory, Next, OpenOrder, Retiring, Trouble};
use super::order::{self, Authority, Failure};
use super::pair::{self, Pair};
use super::progress::{self, Step, Wanted, step};
use super::renewal;
use super::report::Report;
use super::servers::{Expected, NameServers, What};
use super::settings::{MAX_NAMES, Settings};
use crate::config::Service;
use crate::deliver::certificate::shown;
use crate::publish::{Wishes, hex};
use crate::zone::certificate_roll::NotYet;
use crate::zone::content;
use crate::zone::plan::Challenge;

/// The folder beneath the agent's state.
const FOLDER: &str = "acme";
/// A file there by which a command asks for a new certificate. Who can write there owns the box.
const RENEW: &str = "renew";
/// How often that file and the date are looked at. Timers do not run while a machine sleeps, and the
/// waits for keys go by the date.
const GLANCE: Duration = Duration::from_secs(10);
/// As long as no name is known: at the start tunnels come up one after the other.
const FIRST_GLANCE: Duration = Duration::from_secs(2);
/// Whatever comes, the loop turns no faster.
const SHORTEST_REST: Duration = Duration::from_millis(100);
/// Between two runs of the owner's command for a mail server that does not show the new key.
const RELOAD_AGAIN: u64 = 3600;
/// How often an attempt goes on at once where only a nonce was stale, and after which pause.
const MAX_STALE: usize = 5;
const STALE: Duration = Duration::from_secs(1);
/// How long resolvers' memory of the zone without a challenge is waited out at most, in seconds.
const MOST_KEPT: u32 = 3600;
/// The most names for which the mail server is asked what it shows.
const MAX_LOOKS: usize = 16;
/// The most replaced keys whose records are kept.
const MAX_RETIRING: usize = 8;

/// What the keeper works with.
pub struct Keeper {
    /// `[acme]` of the owner's file.
    pub settings: Settings,
    /// The agent's directory.
    pub state: PathBuf,
    /// The way into the zones.
    pub wishes: Wishes,
    /// The domains whose zones are made here.
    pub zones: Vec<DomainName>,
    /// The mail servers that show the certificate.
    pub services: Vec<Service>,
    /// How name servers are found.
    pub name_servers: NameServers,
}

/// The owner's side of a keeper; clones share it.
#[derive(Clone)]
pub struct Certificate {
    report: watch::Receiver<Report>,
    renew: Arc<Notify>,
}

impl Certificate {
    /// How it is.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Waits until the report is as `wanted` says.
    pub async fn until(&mut self, wanted: impl FnMut(&Report) -> bool) -> Option<Report> {
        self.report.wait_for(wanted).await.ok().map(|report| report.clone())
    }

    /// Wants a new certificate now.
    pub fn renew(&self) {
        self.renew.notify_one();
    }
}

/// Has the agent that runs on `state` obtain a new certificate within a minute.
pub fn ask_for_renewal(state: &Path) -> std::io::Result<()> {
    let folder = state.join(FOLDER);
    std::fs::metadata(&folder)?;
    // Root types the command, and the folder is the service's: what is there may be a link.
    private_file::replace(&folder.join(RENEW), &[])
}

impl Keeper {
    /// Reads what is remembered; the work is done by the future, until `stop`.
    pub fn start(
        self,
        stop: CancellationToken,
    ) -> anyhow::Result<(Certificate, impl Future<Output = ()> + Send + 'static)> {
        let folder = self.state.join(FOLDER);
        private_file::make_directory(&folder)?;
        let https = Https::new(self.settings.ca.as_deref())?;
        let (report, reports) = watch::channel(Report::default());
        let renew = Arc::new(Notify::new());
        let work = Work {
            memory: Memory::load(&folder)?,
            accounts: Accounts::load(&folder)?,
            files: Files::of(&self.settings, &self.state),
            folder,
            https,
            report,
            renew: renew.clone(),
            waited_for: Vec::new(),
            waiting: None,
            stumbled: None,
            keeper: self,
        };
        // Before anything signs a zone: a key that were missing in it for a moment could be missing
        // in a resolver for an hour.
        work.publish();
        Ok((Certificate { report: reports, renew }, work.run(stop)))
    }
}

struct Work {
    keeper: Keeper,
    folder: PathBuf,
    files: Files,
    https: Https,
    memory: Memory,
    accounts: Accounts,
    report: watch::Sender<Report>,
    renew: Arc<Notify>,
    /// Challenges that all resolvers see by now.
    waited_for: Vec<order::Wanted>,
    /// What is waited for, for people.
    waiting: Option<String>,
    /// A step other than an order failed: why, and how many times in a row.
    stumbled: Option<(String, u32)>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        // What a keeper before this one wrote while it ended.
        if let (Ok(memory), Ok(accounts)) =
            (Memory::load(&self.folder), Accounts::load(&self.folder))
        {
            (self.memory, self.accounts) = (memory, accounts);
        }
        // And what it showed, if it ended in the middle of a proof.
        self.show_nothing();
        loop {
            self.heed_the_owner();
            self.publish();
            let (wanted, now) = (self.wanted(), now());
            progress::heed_clock(&mut self.memory, now);
            // One that waits for its installation is as new as can be.
            let waits = self.memory.next.as_ref().and_then(|next| progress::issued(next, &wanted));
            self.memory.forced &= waits.is_none();
            let next = step(&self.memory, &wanted, now);
            self.tell(&wanted);
            let work = async {
                let done = match next {
                    Step::Rest(until) => {
                        self.rest(Duration::from_secs(until.saturating_sub(now))).await;
                        return;
                    }
                    Step::Prepare => self.prepare(&wanted).await,
                    Step::Ask => self.ask().await,
                    Step::Obtain => self.obtain(&wanted).await,
                    Step::Install => self.install(&wanted).await,
                    Step::Look => self.look(&wanted).await,
                    Step::Poll => self.poll().await,
                };
                let Err(why) = done.and_then(|()| self.save()) else {
                    self.stumbled = None;
                    return;
                };
                let times = self.stumbled.take().map_or(0, |(_, times)| times);
                error!(step = ?next, why, "the certificate cannot be kept");
                self.stumbled = Some((why, times.saturating_add(1)));
                self.tell(&wanted);
                self.rest(Duration::from_secs(renewal::look_again(times))).await;
            };
            // What a step has not remembered yet is done again after a start.
            if stop.run_until_cancelled(Box::pin(work)).await.is_none() {
                return;
            }
        }
    }

    /// For `time` at the longest, as the owner, the zones or the clock may end it.
    async fn rest(&mut self, time: Duration) {
        let glance = if self.exchangers().is_empty() { FIRST_GLANCE } else { GLANCE };
        tokio::select! {
            () = sleep(time.min(glance).max(SHORTEST_REST)) => {}
            () = self.renew.notified() => self.memory.forced = true,
        }
    }

    fn heed_the_owner(&mut self) {
        if std::fs::remove_file(self.folder.join(RENEW)).is_ok() {
            self.memory.forced = true;
        }
    }

    fn save(&self) -> Result<(), String> {
        self.memory
            .save(&self.folder)
            .map_err(|error| format!("{} cannot be written: {error}", self.folder.display()))
    }

    /// The zone in which `name` stands.
    fn zone_of(&self, name: &MxName) -> Option<DomainName> {
        let covering = self.keeper.zones.iter().filter(|domain| domain.covers(name));
        covering.max_by_key(|domain| domain.as_str().len()).cloned()
    }

    /// The mail exchangers of all domains, each with the zone in which its keys stand.
    fn exchangers(&self) -> BTreeMap<DomainName, Vec<MxName>> {
        let mut found: BTreeMap<DomainName, Vec<MxName>> = BTreeMap::new();
        for domain in &self.keeper.zones {
            let published = self.keeper.wishes.published(domain).unwrap_or_default();
            for name in published.exchangers {
                let Some(zone) = self.zone_of(&name) else { continue };
                let names = found.entry(zone).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        found
    }

    fn wanted(&self) -> Wanted {
        let exchangers: Vec<_> = self.exchangers().into_values().flatten().collect();
        let further = self.keeper.settings.names.iter().filter(|name| self.zone_of(name).is_some());
        let mut names: Vec<_> =
            exchangers.iter().chain(further).map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names.dedup();
        names.truncate(MAX_NAMES);
        // Names of the owner's choice make no certificate before the mail server has a name.
        if exchangers.is_empty() {
            names.clear();
        }
        Wanted {
            names,
            directory: self.keeper.settings.directory.clone(),
            algorithm: self.keeper.settings.key_type,
            margin: self.keeper.settings.margin.as_secs(),
        }
    }

    /// Says to all zones what they have to have.
    fn publish(&self) {
        let settings = &self.keeper.settings;
        for domain in &self.keeper.zones {
            self.keeper.wishes.set_next_keys(domain, self.memory.keys());
            let authorities = match settings.caa {
                true => self.accounts.authorities(&settings.directory),
                false => Vec::new(),
            };
            self.keeper.wishes.set_authorities(domain, authorities);
        }
    }

    fn tell(&self, wanted: &Wanted) {
        let (memory, settings) = (&self.memory, &self.keeper.settings);
        let trouble = memory.trouble.as_ref();
        let stumbled = self.stumbled.as_ref().map(|(why, _)| why.clone());
        let mut notes = Vec::new();
        for name in settings.names.iter().filter(|name| self.zone_of(name).is_none()) {
            notes.push(format!("{name} is left out: no [[zone]] of this box has it"));
        }
        let report = Report {
            names: wanted.names.clone(),
            directory: wanted.directory.clone(),
            account: self.accounts.uri(&wanted.directory).map(str::to_owned),
            not_after: memory.current.as_ref().map(|it| it.issued.not_after),
            renew_at: memory.current.as_ref().map(|it| it.renew_at),
            key: memory.current.as_ref().map(|it| hex::text(&it.key)),
            next_key: memory.next.as_ref().map(|it| hex::text(&it.key)),
            waiting: self.waiting(wanted),
            retry_at: trouble.map(|it| it.until).filter(|_| stumbled.is_none()),
            error: stumbled.or(trouble.map(|it| it.why.clone())),
            notes,
        };
        self.report.send_if_modified(|last| {
            let news = *last != report;
            *last = report;
            news
        });
    }

    fn waiting(&self, wanted: &Wanted) -> Option<String> {
        let gate = self.memory.next.as_ref().filter(|it| progress::issued(it, wanted).is_some());
        let gate = gate.and_then(|it| progress::may_use(it, wanted.margin, now()).err());
        let cached = gate.filter(|it| matches!(it, NotYet::Cached(_))).map(|it| {
            format!("a certificate is there and is installed when its key may be used: {it}")
        });
        self.waiting.clone().or(cached)
    }

    /// Makes the next pair and puts it into the zones.
    async fn prepare(&mut self, wanted: &Wanted) -> Result<(), String> {
        let algorithm = wanted.algorithm;
        let made = tokio::task::spawn_blocking(move || Pair::generate(algorithm)).await;
        let pair = made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let key = pair.digest();
        // Before it is there: how long resolvers may know that it is not.
        let mut kept = 0;
        for (domain, expected) in self.expected(&key) {
            kept = kept.max(self.keeper.name_servers.ask(&domain, &expected).await.ttl);
        }
        if kept == 0 {
            kept = content::TTL.as_secs();
        }
        pair.save(&self.folder).map_err(|error| error.to_string())?;
        if let Some(unused) = self.memory.next.take() {
            pair::forget(&self.folder, &unused.key);
        }
        let (ask_at, asked) = (now(), 0);
        self.memory.next =
            Some(Next { key, algorithm, since: None, kept, ask_at, asked, issued: None });
        info!(
            key = hex::text(&key),
            "the next key of the mail server's certificate comes into the zone"
        );
        Ok(())
    }

    /// The TLSA records of `key`, by zone.
    fn expected(&self, key: &crate::zone::plan::KeyDigest) -> Vec<(DomainName, Vec<Expected>)> {
        let record =
            |name: &MxName| Expected { name: format!("_25._tcp.{name}."), what: What::Key(*key) };
        let zones = self.exchangers().into_iter();
        zones.map(|(domain, names)| (domain, names.iter().map(record).collect())).collect()
    }

    /// Asks all name servers for the next key. Returns who lacks it.
    async fn asked(&mut self) -> Vec<String> {
        let Some(next) = self.memory.next.clone() else { return Vec::new() };
        let (mut lacking, mut ttl) = (Vec::new(), 0);
        for (domain, expected) in self.expected(&next.key) {
            let found = self.keeper.name_servers.ask(&domain, &expected).await;
            let error = self.keeper.wishes.published(&domain).and_then(|it| it.error);
            lacking.extend(found.lacking);
            lacking.extend(error.map(|error| format!("{domain}: {error}")));
            ttl = ttl.max(found.ttl);
        }
        let at = now();
        if let Some(next) = &mut self.memory.next {
            next.kept = next.kept.max(ttl);
            if lacking.is_empty() {
                next.since = next.since.filter(|since| *since <= at).or(Some(at));
                (next.asked, next.ask_at) = (0, at);
            } else {
                next.since = None;
                next.ask_at = at + renewal::look_again(next.asked);
                next.asked = next.asked.saturating_add(1);
            }
        }
        lacking
    }

    async fn ask(&mut self) -> Result<(), String> {
        let lacking = self.asked().await;
        self.waiting = match lacking.is_empty() {
            true => None,
            false => Some(format!("the next key is not everywhere yet: {}", lacking.join("; "))),
        };
        Ok(())
    }

    /// The pair that the mail server gets next. Of one whose file has gone nothing will come: another
    /// is prepared.
    fn next_pair(&mut self, key: &crate::zone::plan::KeyDigest) -> Result<Pair, pair::PairError> {
        let loaded = Pair::load(&self.folder, key);
        if let Err(pair::PairError::Missing(_)) = &loaded {
            self.memory.next = None;
        }
        loaded
    }

    /// One attempt to have a certificate issued. That it fails is no failure of the step: it is
    /// remembered, with the time of the next attempt.
    async fn obtain(&mut self, wanted: &Wanted) -> Result<(), String> {
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
            instant_acme::OrderStatus::Invalid => {
                return Err(order::ended("the CA gave the order up".into()));
            }
            instant_acme::OrderStatus::Pending => {
                order::challenges(&mut order, &wanted.names).await?
            }
            _ => Vec::new(),
        };
        if !challenges.is_empty() {
            self.show(&challenges).await?;
        }
        if order.state().status == instant_acme::OrderStatus::Pending {
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
    fn show_nothing(&self) {
        for domain in &self.keeper.zones {
            self.keeper.wishes.set_challenges(domain, Vec::new());
        }
    }

    /// Puts challenges into the zones, and waits until every name server shows them, and no resolver
    /// can still say that they are not there. It may have learned that without having been asked for
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
        let mut tries = 0;
        loop {
            let mut lacking = Vec::new();
            for (domain, (_, expected)) in &zones {
                lacking.extend(self.keeper.name_servers.ask(domain, expected).await.lacking);
                let error = self.keeper.wishes.published(domain).and_then(|it| it.error);
                lacking.extend(error.map(|error| format!("{domain}: {error}")));
            }
            if lacking.is_empty() {
                // An attempt that goes on has waited already.
                if !challenges.iter().all(|it| self.waited_for.contains(it)) {
                    self.until_forgotten(kept.min(MOST_KEPT)).await;
                    self.waited_for = challenges.to_vec();
                }
                return Ok(());
            }
            let lacking = lacking.join("; ");
            self.tell_waiting(format!("the CA is not told of the challenge yet: {lacking}"));
            if Instant::now() >= deadline {
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

    fn tell_waiting(&self, waiting: String) {
        self.report.send_if_modified(|report| {
            let news = report.waiting.as_ref() != Some(&waiting);
            report.waiting = Some(waiting);
            news
        });
    }

    /// Gives the next pair to the mail server, if it is still at every name server.
    async fn install(&mut self, wanted: &Wanted) -> Result<(), String> {
        let lacking = self.asked().await;
        if !lacking.is_empty() {
            self.waiting = Some(format!("the next key left the zone: {}", lacking.join("; ")));
            return Ok(());
        }
        self.waiting = None;
        let Some(next) = self.memory.next.clone() else { return Ok(()) };
        let Some(issued) = progress::issued(&next, wanted).cloned() else { return Ok(()) };
        let pair = self.next_pair(&next.key).map_err(|error| error.to_string())?;
        let path = pair::chain_file(&self.folder, &next.key);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let written = self.files.write(&self.keeper.settings, &pair.pem(), &text);
        written.map_err(|error| error.to_string())?;
        let at = now();
        if let Some(old) = self.memory.current.take() {
            self.memory.retiring.insert(0, Retiring { key: old.key, kept: old.kept });
            self.memory.retiring.truncate(MAX_RETIRING);
        }
        info!(
            key = hex::text(&next.key),
            certificate = %self.files.certificate.display(),
            until = issued.not_after,
            "a certificate was installed"
        );
        self.memory.current = Some(Current {
            key: next.key,
            renew_at: renewal::by_lifetime(issued.not_before, issued.not_after, rand::random()),
            poll_at: issued.renewal_id.as_ref().map(|_| at),
            issued,
            kept: next.kept,
            shown_since: None,
            look_at: at,
            looked: 0,
            reloaded_at: at,
        });
        self.memory.next = None;
        self.save()?;
        self.reload().await;
        Ok(())
    }

    async fn reload(&mut self) {
        let settings = &self.keeper.settings;
        let Some(program) = settings.reload.first().cloned() else { return };
        match install::reload(&settings.reload, settings.reload_timeout).await {
            Ok(said) => info!(program, said, "the mail server was told of its certificate"),
            Err(why) => error!(why, "the mail server was not told of its certificate"),
        }
        if let Some(current) = &mut self.memory.current {
            current.reloaded_at = now();
        }
    }

    /// Sees whether the mail server shows the installed key and none before it.
    async fn look(&mut self, wanted: &Wanted) -> Result<(), String> {
        let Some(current) = self.memory.current.clone() else { return Ok(()) };
        let wrong = self.wrong(&current).await;
        let old: Vec<_> = self.memory.retiring.iter().map(|it| it.key).collect();
        let at = now();
        let first = current.shown_since.is_none();
        let done = progress::looked(&mut self.memory, wrong.is_none(), wanted.margin, at);
        match &wrong {
            Some(why) => {
                warn!(why, "both keys stay in the zone: the mail server does not show its new key");
                if at.saturating_sub(current.reloaded_at) >= RELOAD_AGAIN {
                    self.reload().await;
                }
            }
            None if first => {
                info!(key = hex::text(&current.key), "the mail server shows its new key")
            }
            None => {}
        }
        self.waiting = wrong.map(|why| {
            format!("the mail server does not show the installed key, so old ones stay: {why}")
        });
        if done {
            for key in old {
                info!(key = hex::text(&key), "an old key leaves the zone");
                pair::forget(&self.folder, &key);
            }
        }
        Ok(())
    }

    /// Why what the mail server shows is not right, if it is not.
    async fn wrong(&self, current: &Current) -> Option<String> {
        let names: Vec<_> = self.exchangers().into_values().flatten().take(MAX_LOOKS).collect();
        if self.keeper.services.is_empty() {
            return Some("no [[service]] is configured, so it cannot be asked".into());
        }
        let ours = hex::text(&current.key);
        let old: Vec<_> = self.memory.retiring.iter().map(|it| hex::text(&it.key)).collect();
        for service in &self.keeper.services {
            let found = match shown(service, names.clone()).await {
                Ok(found) => found,
                Err(why) => return Some(format!("{}: {why}", service.name)),
            };
            for (name, shown) in found {
                if !shown.iter().any(|it| it.key == ours) {
                    return Some(format!("{} shows another key for {name}", service.name));
                }
                if shown.iter().any(|it| old.contains(&it.key)) {
                    return Some(format!("{} shows an old key too for {name}", service.name));
                }
            }
        }
        None
    }

    /// Asks the CA when to renew (RFC 9773).
    async fn poll(&mut self) -> Result<(), String> {
        let Some(mut current) = self.memory.current.clone() else { return Ok(()) };
        let id = current.issued.renewal_id.clone();
        let id = id.filter(|_| current.issued.directory == self.keeper.settings.directory);
        let Some(id) = id else {
            current.poll_at = None;
            self.memory.current = Some(current);
            return Ok(());
        };
        let settings = self.keeper.settings.clone();
        let asked = async {
            let met =
                Authority::meet(&settings, &mut self.accounts, &self.folder, &self.https).await;
            met?.window(&id).await
        };
        let (asked, at) = (Box::pin(asked).await, now());
        match asked {
            Ok(Some((window, again))) => {
                let (chosen, end) = (current.renew_at, current.issued.not_after);
                current.renew_at = renewal::by_window(window, chosen, end, rand::random());
                current.poll_at = Some(at + renewal::poll_again(Some(again)));
            }
            Ok(None) => current.poll_at = None,
            Err(failure) => {
                warn!(why = failure.why, "the CA does not tell when to renew");
                current.poll_at = Some(at + renewal::poll_again(None));
            }
        }
        self.memory.current = Some(current);
        Ok(())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}
