//! The task that keeps the certificate: does one step after the other as [`super::progress`] says,
//! remembers each before the next, and rests between them. What a step does is in `steps` and
//! `obtaining`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sealpost_tunnel::{DomainName, MxName, private_file};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::account::Accounts;
use super::https::Https;
use super::install::Files;
use super::memory::Memory;
use super::order;
use super::progress::{self, Step, Wanted, step};
use super::renewal;
use super::report::Report;
use super::servers::NameServers;
use super::settings::{MAX_NAMES, Settings};
use crate::config::Service;
use crate::publish::{Wishes, hex};
use crate::zone::certificate_roll::NotYet;

/// The folder beneath the agent's state.
const FOLDER: &str = "acme";
/// A file there by which a command asks for a new certificate. Who can write there owns the box.
const RENEW: &str = "renew";
/// How often that file and the date are looked at. Timers do not run while a machine sleeps, and the
/// waits for keys go by the date.
pub(super) const GLANCE: Duration = Duration::from_secs(10);
/// As long as no name is known: at the start tunnels come up one after the other.
const FIRST_GLANCE: Duration = Duration::from_secs(2);
/// Whatever comes, the loop turns no faster.
const SHORTEST_REST: Duration = Duration::from_millis(100);

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
            silent: Vec::new(),
            stumbled: None,
            keeper: self,
        };
        // Before anything signs a zone: a key that were missing in it for a moment could be missing
        // in a resolver for an hour.
        work.publish();
        Ok((Certificate { report: reports, renew }, work.run(stop)))
    }
}

/// The keeper at work.
pub(super) struct Work {
    pub(super) keeper: Keeper,
    pub(super) folder: PathBuf,
    pub(super) files: Files,
    pub(super) https: Https,
    pub(super) memory: Memory,
    pub(super) accounts: Accounts,
    report: watch::Sender<Report>,
    renew: Arc<Notify>,
    /// Challenges that all resolvers see by now.
    pub(super) waited_for: Vec<order::Wanted>,
    /// What is waited for, for people.
    pub(super) waiting: Option<String>,
    /// The name servers that did not answer when they were asked for the next key, a sentence each.
    pub(super) silent: Vec<String>,
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
                    Step::Ask => self.ask(&wanted).await,
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

    pub(super) fn save(&self) -> Result<(), String> {
        self.memory
            .save(&self.folder)
            .map_err(|error| format!("{} cannot be written: {error}", self.folder.display()))
    }

    /// The zone in which `name` stands.
    pub(super) fn zone_of(&self, name: &MxName) -> Option<DomainName> {
        let covering = self.keeper.zones.iter().filter(|domain| domain.covers(name));
        covering.max_by_key(|domain| domain.as_str().len()).cloned()
    }

    /// The mail exchangers of all domains, each with the zone in which its keys stand.
    pub(super) fn exchangers(&self) -> BTreeMap<DomainName, Vec<MxName>> {
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
            pass_over: self.keeper.settings.pass_over.as_secs(),
        }
    }

    /// Says to all zones what they have to have.
    pub(super) fn publish(&self) {
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
        if self.passes_over(wanted) {
            let silent = self.silent.join("; ");
            notes.push(format!("passed over, as all others serve the next key: {silent}"));
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
        let gate = gate.and_then(|it| progress::may_use(&self.memory, it, wanted, now()).err());
        let timed = gate.filter(|it| *it != NotYet::Spreading).map(|it| {
            format!("a certificate is there and is installed when its key may be used: {it}")
        });
        self.waiting.clone().or(timed)
    }

    /// Whether the next key may be used although name servers do not answer.
    pub(super) fn passes_over(&self, wanted: &Wanted) -> bool {
        let may = |next| progress::may_use(&self.memory, next, wanted, now()).is_ok();
        !self.silent.is_empty() && self.memory.next.as_ref().is_some_and(may)
    }

    pub(super) fn tell_waiting(&self, waiting: String) {
        self.report.send_if_modified(|report| {
            let news = report.waiting.as_ref() != Some(&waiting);
            report.waiting = Some(waiting);
            news
        });
    }
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}
