//! The services of this box, and which of them may be delivered to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sealpost_tunnel::{ResetCode, ServiceName};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::self_test::{Verdict, self_test};
use crate::config;

/// How long a stream waits for a self-test that is under way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between self-tests of a service that has not passed: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// One service with the verdict about it.
pub struct Service {
    /// From the owner's file.
    pub config: config::Service,
    verdict: watch::Sender<Option<Verdict>>,
    wanted: Notify,
}

/// All services; replaced whole on reload.
#[derive(Default)]
pub struct Services {
    current: ArcSwap<Current>,
}

#[derive(Default)]
struct Current {
    by_name: HashMap<ServiceName, Arc<Service>>,
    /// Ends the self-tests of a replaced set.
    _testing: Option<DropGuard>,
}

impl Services {
    /// Replaces all services; each is tested anew before anything is delivered to it.
    pub fn replace(&self, configs: Vec<config::Service>) {
        let stop = CancellationToken::new();
        let mut by_name = HashMap::new();
        for config in configs {
            let service = Arc::new(Service {
                config,
                verdict: watch::Sender::new(None),
                wanted: Notify::new(),
            });
            let (tested, stop) = (service.clone(), stop.clone());
            // Ends with `stop`, which the set owns.
            tokio::spawn(async move { stop.run_until_cancelled(tested.test_until_passed()).await });
            by_name.insert(service.config.name.clone(), service);
        }
        self.current.store(Arc::new(Current { by_name, _testing: Some(stop.drop_guard()) }));
    }

    /// The service called `name`.
    pub fn by_name(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.current.load().by_name.get(name).cloned()
    }

    /// All services in the order of their names.
    pub fn all(&self) -> Vec<Arc<Service>> {
        let mut all: Vec<_> = self.current.load().by_name.values().cloned().collect();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }
}

impl Service {
    /// What the last test found; `None` while the first is under way.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.borrow().clone()
    }

    /// Whether mail may be delivered now, or why not. A service that has not passed yet is tested
    /// again first, as its mail server may just have come up.
    pub async fn may_deliver(&self) -> Result<(), ResetCode> {
        let mut verdicts = self.verdict.subscribe();
        if matches!(*verdicts.borrow_and_update(), Some(Verdict::Passed(_))) {
            return Ok(());
        }
        self.wanted.notify_one();
        // The sender of the verdicts lives in `self`, so a change comes or the time is over.
        let _ = timeout(PATIENCE, verdicts.changed()).await;
        match &*verdicts.borrow() {
            Some(Verdict::Passed(_)) => Ok(()),
            Some(Verdict::Unproven(_, code)) => Err(*code),
            Some(Verdict::Failed(_)) | None => Err(ResetCode::ServiceWithheld),
        }
    }

    async fn test_until_passed(&self) {
        let name = self.config.name.as_str();
        let mut pause = RETRY_FIRST;
        loop {
            let verdict = self_test(&self.config).await;
            let (result, detail) = (verdict.label(), verdict.detail().to_owned());
            let news = self.verdict().as_ref() != Some(&verdict);
            let passed = matches!(verdict, Verdict::Passed(_));
            self.verdict.send_replace(Some(verdict));
            match (passed, news) {
                (true, _) => info!(service = name, result, detail, "self-test"),
                (false, true) => {
                    warn!(service = name, result, detail, "self-test");
                }
                (false, false) => {}
            }
            if passed {
                return;
            }
            // A stream that wants the service brings the next test forward, but not the pace of
            // the first: whoever sends mail must not be able to hammer the mail server.
            sleep(RETRY_FIRST).await;
            let _ = timeout(pause, self.wanted.notified()).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }
}
