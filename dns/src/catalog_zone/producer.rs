//! Keeps a catalog of the zones that are here, for the servers that are to have them too.
//!
//! All zones are looked at once, at the start. Then changes are gathered for a second, and cost what
//! changed.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use super::edition::{Edition, LONGEST_NAME};
use crate::record::Name;
use crate::secondaries::Secondaries;
use crate::transfer::access::Rule;
use crate::transfer::attempt::Connect;
use crate::transfer::notifier::Recipient;
use crate::trust::Parent;
use crate::unix_time;

/// Between two versions. The serial is the time in seconds, so that no shorter time will do; it is waited
/// for before the first version too, which another process may have made just now.
const EVERY: Duration = Duration::from_secs(1);

/// A catalog that is made here.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    name: Name,
    transfer_to: Arc<[Rule]>,
    notify: Vec<Recipient>,
}

/// Why a catalog cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Of the names of its members.
    #[error("the name of the catalog is too long")]
    LongName,
    /// An address alone is nobody.
    #[error("nobody may transfer the catalog: only those with a key get it")]
    NoKey,
}

impl Catalog {
    /// With this name, for those of the rules that have a key, and with word of changes to `notify`.
    pub fn new(name: Name, transfer_to: &[Rule], notify: Vec<Recipient>) -> Result<Self, Unfit> {
        if name.as_slice().len() > LONGEST_NAME {
            return Err(Unfit::LongName);
        }
        let signs = |rule: &&Rule| matches!(rule, Rule::Key(_) | Rule::KeyFrom(..));
        let transfer_to: Arc<[Rule]> = transfer_to.iter().filter(signs).cloned().collect();
        if transfer_to.is_empty() {
            return Err(Unfit::NoKey);
        }
        Ok(Self { name, transfer_to, notify })
    }
}

/// Makes it, for ever.
pub(crate) async fn run<C: Connect, P: Parent>(zones: &Arc<Secondaries<C, P>>, catalog: Catalog) {
    let Catalog { name, transfer_to, notify } = catalog;
    zones.touched.watch();
    tokio::time::sleep(EVERY).await;
    let (all, apex) = (zones.clone(), name.clone());
    let first = move || Edition::first(apex, all.origins(), unix_time::seconds());
    // It fails when the runtime ends.
    let Ok(mut edition) = tokio::task::spawn_blocking(first).await else { return };
    info!(catalog = %name, zones = edition.members(), "a catalog of the zones is given to others");
    loop {
        zones.give(&name, Arc::new(edition.clone()), transfer_to.clone(), &notify).await;
        edition = loop {
            tokio::time::sleep(EVERY).await;
            let touched = zones.touched.take().await;
            let changes = touched.into_iter().map(|zone| {
                let origin = zones.origin(&zone);
                (zone, origin)
            });
            if let Some(next) = edition.next(changes, unix_time::seconds()) {
                break next;
            }
        };
        debug!(catalog = %name, zones = edition.members(), "a new version of the catalog");
    }
}
