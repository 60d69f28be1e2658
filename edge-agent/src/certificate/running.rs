//! The keeper that runs, as the owner's file has it now: begun, replaced and ended.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use sealpost_tunnel::DomainName;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::https::Https;
use super::install;
use super::keeper::{Certificate, Keeper};
use super::report::Report;
use super::servers::NameServers;
use super::settings::Settings;
use crate::config::Service;
use crate::publish::Wishes;

/// Why `settings` cannot work on this machine, for who checks a configuration.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    Https::new(settings.ca.as_deref())?;
    install::owner(settings)?;
    Ok(())
}

/// The agent's certificate, if it keeps one.
pub struct Running {
    state: PathBuf,
    wishes: Wishes,
    now: Mutex<Option<Now>>,
}

/// What the owner's file said, and what runs by it.
struct Now {
    wanted: (Settings, Vec<DomainName>, Vec<Service>),
    certificate: Result<Certificate, String>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// Nothing yet; `state` is the agent's directory.
    pub fn new(state: PathBuf, wishes: Wishes) -> Self {
        Self { state, wishes, now: Mutex::default() }
    }

    /// Brings the keeper in line with the owner's file. One that has not changed goes on. To be
    /// called within a tokio runtime, and before the zones themselves are brought in line.
    pub fn apply(
        &self,
        settings: Option<Settings>,
        zones: Vec<DomainName>,
        services: Vec<Service>,
    ) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = settings.map(|settings| (settings, zones, services));
        if now.as_ref().map(|now| &now.wanted) == wanted.as_ref() {
            return;
        }
        let previous = now.take().and_then(|old| {
            old.stop.cancel();
            for domain in old.wanted.1.iter().filter(|_| wanted.is_none()) {
                // Keys stay where they are, as the mail server may show them.
                self.wishes.set_authorities(domain, Vec::new());
                self.wishes.set_challenges(domain, Vec::new());
            }
            old.task
        });
        let Some(wanted) = wanted else { return };
        let (settings, zones, services) = wanted.clone();
        let keeper = Keeper {
            settings,
            state: self.state.clone(),
            wishes: self.wishes.clone(),
            zones,
            services,
            name_servers: NameServers::Delegated,
        };
        let stop = CancellationToken::new();
        let (certificate, task) = match keeper.start(stop.clone()) {
            Ok((certificate, work)) => {
                let task = tokio::spawn(async move {
                    // Two would write the same files. How the one before ended does not matter.
                    if let Some(previous) = previous {
                        let _ = previous.await;
                    }
                    work.await;
                });
                (Ok(certificate), Some(task))
            }
            Err(why) => {
                error!(why = format!("{why:#}"), "no certificate is kept");
                (Err(format!("{why:#}")), None)
            }
        };
        *now = Some(Now { wanted, certificate, stop, task });
    }

    /// How it is; `None` when the owner's file wants none.
    pub fn report(&self) -> Option<Report> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.as_ref().map(|now| match &now.certificate {
            Ok(certificate) => certificate.report(),
            Err(why) => Report { error: Some(why.clone()), ..Report::default() },
        })
    }

    /// Ends it. What it has begun goes on at the next start.
    pub async fn stop(&self) {
        let last = self.now.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(last) = last else { return };
        last.stop.cancel();
        if let Some(task) = last.task {
            let _ = task.await;
        }
    }
}
