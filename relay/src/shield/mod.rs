//! What stands before a box whose owner wants it, and never looks at mail: who connects, how often,
//! and what others say of them.
//!
//! The operator decides what the shield consists of ([`ShieldSettings`]), the owner of each box
//! whether it stands before it. `bucket` and `dnsbl` are the pure parts; `lists` asks.

mod bucket;
mod dnsbl;
mod lists;
mod settings;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use sealpost_tunnel::PublicKey;

pub(crate) use bucket::Buckets;
pub use bucket::Rate;
pub use dnsbl::List;
pub use settings::ShieldSettings;

use lists::Lists;

use crate::metrics::Metrics;

/// What the shield remembers. It costs nothing where nothing is configured.
pub struct Shield {
    lists: ArcSwapOption<Lists>,
    prefixes: OnceLock<Buckets>,
    boxes: OnceLock<Buckets>,
    metrics: Metrics,
}

impl Shield {
    /// A shield of these `settings`.
    pub fn new(settings: &ShieldSettings, metrics: Metrics) -> Self {
        let shield = Self {
            lists: ArcSwapOption::empty(),
            prefixes: OnceLock::new(),
            boxes: OnceLock::new(),
            metrics,
        };
        shield.apply(settings);
        shield
    }

    /// From now on the lists of these settings are asked, and nothing is remembered of answers. How
    /// often who connected is not forgotten.
    pub fn apply(&self, settings: &ShieldSettings) {
        let ShieldSettings { lists, resolvers, .. } = settings;
        let lists = (!lists.is_empty())
            .then(|| Arc::new(Lists::new(lists, resolvers, self.metrics.clone())));
        self.lists.store(lists);
    }

    /// Whether the network `prefix` may connect to the box once more. Counted for each box by
    /// itself: what one box gets from a big sender is not taken from another.
    pub(crate) fn admits_prefix(
        &self,
        prefix: IpAddr,
        home: PublicKey,
        rate: Option<Rate>,
        now: Instant,
    ) -> bool {
        admits(&self.prefixes, (home, prefix), rate, now)
    }

    /// Whether anybody may connect to the box once more.
    pub(crate) fn admits_box(&self, home: PublicKey, rate: Option<Rate>, now: Instant) -> bool {
        admits(&self.boxes, home, rate, now)
    }

    /// A list on which `client` stands.
    pub(crate) async fn listing(&self, client: IpAddr) -> Option<List> {
        let lists = self.lists.load_full()?;
        lists.listing(client).await.cloned()
    }
}

fn admits(
    buckets: &OnceLock<Buckets>,
    key: impl std::hash::Hash,
    rate: Option<Rate>,
    now: Instant,
) -> bool {
    rate.is_none_or(|rate| buckets.get_or_init(|| Buckets::new(now)).take(key, rate, now))
}
