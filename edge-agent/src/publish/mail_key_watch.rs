//! Sees within a minute or so that the mail server shows another key.
//!
//! One task asks for all zones, one connection each minute, as each leaves a line in the mail server's
//! log: for one name after the other, as a sender that knows all kinds of keys. Mail servers mostly have
//! one certificate for all names, so whichever is asked for tells. What it shows to all senders, each
//! zone finds out when a key is new to it, and every half hour.

use std::sync::Arc;
use std::time::Duration;

use sealpost_tunnel::{MxName, ServiceName};
use tokio::time::sleep;

use super::{Shared, hex};
use crate::deliver::certificate::glimpse;
use crate::zone::plan::KeyDigest;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(60);

/// What the mail server showed to one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glimpse {
    /// The name that was asked for.
    pub name: MxName,
    /// The key.
    pub key: KeyDigest,
}

/// Asks until told to stop.
pub(super) async fn watch(shared: Arc<Shared>) {
    let work = async {
        let mut turn = 0_usize;
        loop {
            sleep(PAUSE).await;
            let names = shared.exchangers();
            let Some(name) = names.get(turn % names.len().max(1)) else { continue };
            turn = turn.wrapping_add(1);
            let service = shared.deliveries.services.by_name(&ServiceName::smtp());
            let Some(service) = service else { continue };
            // One that is away or busy says nothing about its keys; zones that look themselves say so.
            let Ok(shown) = glimpse(&service.config, name).await else { continue };
            let Some(key) = hex::parse(&shown.key) else { continue };
            shared.glimpses.send_replace(Some(Glimpse { name: name.clone(), key }));
        }
    };
    shared.stop.run_until_cancelled(work).await;
}
