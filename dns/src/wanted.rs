//! The zones of `sealpost-dns`: those of its file, and those that catalogs name. They come and go by the
//! task here, so that whoever ends the program need not wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::catalog_zone::membership::{Change, Listed, Membership};
use crate::config::{Catalog, Config, Limits, Zone};
use crate::handle::Handle;
use crate::record::Name;
use crate::server::NameServer;
use crate::transfer::attempt::Tcp;
use crate::trust::NoParent;

/// Names of zones that one line of the log has.
const NAMED: usize = 5;

/// Over which time removals are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// Removals that may still be made in this minute.
struct Allowance {
    each: u32,
    left: u32,
    until: Instant,
}

impl Allowance {
    /// When the next one may be.
    fn next(&self) -> Instant {
        if self.left > 0 { Instant::now() } else { self.until }
    }

    fn take(&mut self) {
        if self.until <= Instant::now() {
            (self.left, self.until) = (self.each, Instant::now() + MINUTE);
        }
        self.left = self.left.saturating_sub(1);
    }
}

/// What is wanted, and brought about by the handle.
pub(crate) struct Wanted {
    server: Handle<Tcp, NoParent>,
    zones: HashSet<Name>,
    catalogs: HashMap<Name, Catalog>,
    membership: Membership,
    removals: Allowance,
}

impl Wanted {
    /// Reads what was kept of the zones and catalogs of the file, and serves it.
    pub(crate) async fn load(
        server: &NameServer<Tcp, NoParent>,
        limits: Limits,
        config: &Config,
    ) -> anyhow::Result<Self> {
        let handle = server.handle();
        let each = limits.catalog_removals.get();
        let removals = Allowance { each, left: each, until: Instant::now() };
        let mut this = Self {
            server: handle,
            zones: HashSet::new(),
            catalogs: HashMap::new(),
            membership: Membership::default(),
            removals,
        };
        this.know(config);
        for catalog in &config.catalogs {
            let name = &catalog.zone.name;
            if let Some(members) = server.load_catalog(catalog.zone.clone()).await? {
                let listed = this.membership.list(name, members);
                said(Some(name), &listed);
            }
        }
        let mut wanted = this.members();
        wanted.extend(config.zones.iter().map(|zone| (zone.name.clone(), zone.clone())));
        let loaded = server.load(move |name, _| wanted.get(name).cloned()).await?;
        info!(loaded, configured = config.zones.len(), "zones that were kept are served");
        for zone in config.zones.iter().cloned().chain(this.members().into_values()) {
            this.server.add(zone).await;
        }
        for catalog in &config.catalogs {
            this.server.add_catalog(catalog.zone.clone()).await;
        }
        Ok(this)
    }

    /// Follows the catalogs, and the file as it is read anew, until there is nobody who reads it.
    pub(crate) async fn follow(mut self, mut file: watch::Receiver<Arc<Config>>) {
        let mut leaving = true;
        loop {
            let (server, turn) = (self.server.clone(), self.removals.next());
            tokio::select! {
                read = file.changed() => {
                    let Ok(()) = read else { return };
                    let config = file.borrow_and_update().clone();
                    self.apply(&config).await;
                    leaving = true;
                }
                () = server.catalog_changed() => {
                    self.list().await;
                    leaving = true;
                }
                () = sleep_until(turn), if leaving => leaving = self.remove_one().await,
            }
        }
    }

    fn know(&mut self, config: &Config) -> Listed {
        self.zones = config.zones.iter().map(|zone| zone.name.clone()).collect();
        let named = |catalog: &Catalog| (catalog.zone.name.clone(), catalog.clone());
        self.catalogs = config.catalogs.iter().map(named).collect();
        let catalogs: Vec<_> = config.catalogs.iter().map(|it| it.zone.name.clone()).collect();
        // No catalog has the zone of another.
        let fixed = self.zones.iter().chain(&catalogs).cloned().collect();
        self.membership.configure(fixed, &catalogs)
    }

    /// Brings the server to what the file says now.
    async fn apply(&mut self, config: &Config) {
        self.server.set_keys(config.keys.clone());
        let before = std::mem::take(&mut self.zones);
        let catalogs: Vec<_> = self.catalogs.keys().cloned().collect();
        let listed = self.know(config);
        let gone: Vec<_> = before.difference(&self.zones).collect();
        for name in &gone {
            // What a catalog names too is that catalog's from now on.
            if !self.membership.has(name) {
                self.remove(name).await;
            }
        }
        for name in catalogs.iter().filter(|name| !self.catalogs.contains_key(*name)) {
            self.remove(name).await;
        }
        let (removed, added) = (gone.len(), self.zones.difference(&before).count());
        for catalog in &config.catalogs {
            self.server.add_catalog(catalog.zone.clone()).await;
        }
        // What did not change costs a look.
        for zone in config.zones.iter().cloned().chain(self.members().into_values()) {
            self.server.add(zone).await;
        }
        said(None, &listed);
        info!(zones = self.zones.len(), catalogs = self.catalogs.len(), added, removed, "reloaded");
    }

    /// Takes what the catalogs say now.
    async fn list(&mut self) {
        let names: Vec<_> = self.catalogs.keys().cloned().collect();
        for name in names {
            let Some(members) = self.server.members(&name) else { continue };
            let listed = self.membership.list(&name, members);
            said(Some(&name), &listed);
            self.obey(listed.changes).await;
        }
    }

    /// Whether somebody may still wait.
    async fn remove_one(&mut self) -> bool {
        let Some(changes) = self.membership.next_leaving() else { return false };
        self.removals.take();
        self.obey(changes).await;
        true
    }

    async fn obey(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Remove(zone) => self.remove(&zone).await,
                Change::Add { zone, catalog } => {
                    if let Some(catalog) = self.catalogs.get(&catalog) {
                        self.server.add(catalog.member(zone)).await;
                    }
                }
            }
        }
    }

    async fn remove(&self, zone: &Name) {
        if let Err(error) = self.server.remove(zone).await {
            warn!(%zone, %error, "is not served any more, but its file is still there");
        }
    }

    fn members(&self) -> HashMap<Name, Zone> {
        let zone = |(zone, catalog): (&Name, &Name)| {
            Some((zone.clone(), self.catalogs.get(catalog)?.member(zone.clone())))
        };
        self.membership.all().filter_map(zone).collect()
    }
}

/// Tells the operator.
fn said(catalog: Option<&Name>, listed: &Listed) {
    let Listed { changes, clashes, leaving } = listed;
    let catalog = catalog.map(tracing::field::display);
    let added = changes.len();
    if added + leaving > 0 {
        info!(catalog, added, leaving, "the zones of catalogs changed");
    }
    if !clashes.is_empty() {
        let first: Vec<_> = clashes.iter().take(NAMED).map(ToString::to_string).collect();
        let (zones, first) = (clashes.len(), first.join(" "));
        warn!(catalog, zones, first, "not taken: they are of the file or of another catalog");
    }
}
