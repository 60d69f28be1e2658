//! Which relay serves which version of one zone, and the telling of those that do not serve the
//! newest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealpost_dns::record::{Name, Record};
use sealpost_dns::transfer::query::serial_of;
use sealpost_tunnel::control::SERVES_ZONES;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info};

use super::notice::{self, NotServed};
use crate::uplink::{State, Uplink};

/// Between attempts to tell a relay: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(10 * 60);

/// What came of telling a relay.
pub struct Told {
    relay: String,
    tunnel: Instant,
    serial: u32,
    result: Result<u32, NotServed>,
}

/// The relays of one zone.
#[derive(Default)]
pub struct Relays {
    known: HashMap<String, Known>,
    telling: JoinSet<Told>,
}

/// One of them.
#[derive(Default)]
struct Known {
    /// When the tunnel came up that is up now, if it can be told of zones.
    tunnel: Option<Instant>,
    /// The serial that is being told, and what does it.
    telling: Option<(u32, AbortHandle)>,
    /// The newest serial that it was told of on this tunnel and serves, or a newer one.
    done: Option<u32>,
    /// What it was last seen to serve.
    served: Option<u32>,
    /// Why not the newest.
    error: Option<String>,
    next: Option<Instant>,
    pause: Duration,
}

/// One relay, as others are told.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What it was last seen to serve.
    pub served: Option<u32>,
    /// Whether it can be told of a new version now.
    pub reachable: bool,
    /// Why it does not serve the newest.
    pub error: Option<String>,
}

impl Relays {
    /// Tells those that have to be told of the version with the SOA record `soa`. To be called
    /// whenever a tunnel or the version may have changed.
    pub fn pursue(&mut self, uplinks: &[Arc<Uplink>], apex: &Name, soa: Option<&Record>) {
        self.known.retain(|name, known| {
            let stays = uplinks.iter().any(|uplink| uplink.relay.name == *name);
            if let (false, Some((_, telling))) = (stays, &known.telling) {
                telling.abort();
            }
            stays
        });
        for uplink in uplinks {
            let known = self.known.entry(uplink.relay.name.clone()).or_default();
            let State::Up { since, capabilities, connection, .. } = uplink.state() else {
                known.down("");
                continue;
            };
            if capabilities & SERVES_ZONES == 0 {
                known.down("it serves no zones");
                continue;
            }
            if known.tunnel != Some(since) {
                known.down("");
                *known = Known {
                    tunnel: Some(since),
                    served: known.served,
                    pause: RETRY_FIRST,
                    ..Known::default()
                };
            }
            let Some(soa) = soa else { continue };
            let serial = serial_of(soa);
            if known.done == Some(serial) {
                continue;
            }
            match &known.telling {
                Some((told, _)) if *told == serial => continue,
                Some((_, older)) => {
                    older.abort();
                    known.next = None;
                }
                None => {}
            }
            if known.next.is_some_and(|next| next > Instant::now()) {
                continue;
            }
            let (relay, apex, soa) = (uplink.relay.name.clone(), apex.clone(), soa.clone());
            let telling = self.telling.spawn(async move {
                let result = notice::tell(&connection, &apex, &soa).await;
                Told { relay, tunnel: since, serial, result }
            });
            known.telling = Some((serial, telling));
        }
    }

    /// Tells all again at once that are waited for: something changed that may help.
    pub fn hurry(&mut self) {
        for known in self.known.values_mut().filter(|known| known.next.is_some()) {
            known.pause = RETRY_FIRST;
            known.next = None;
        }
    }

    /// What came of telling one relay; never, while none is told.
    pub async fn told(&mut self) -> Option<Told> {
        loop {
            match self.telling.join_next().await {
                // One that was given up.
                Some(Err(_)) => {}
                Some(Ok(told)) => return Some(told),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes note of it; the serial that the relay serves when that is newer than what it was told.
    pub fn note(&mut self, zone: &Name, told: Told) -> Option<u32> {
        let Told { relay, tunnel, serial, result } = told;
        let known = self.known.get_mut(&relay)?;
        if known.tunnel != Some(tunnel) || known.telling.as_ref().is_none_or(|it| it.0 != serial) {
            return None;
        }
        known.telling = None;
        match result {
            Ok(served) => {
                info!(%zone, relay, serial = served, "the relay serves the zone");
                (known.served, known.done, known.error) = (Some(served), Some(serial), None);
                known.pause = RETRY_FIRST;
                (served != serial).then_some(served)
            }
            Err(error) => {
                let text = error.to_string();
                if known.error.as_ref() != Some(&text) {
                    info!(%zone, relay, serial, reason = text, "the relay does not serve the zone");
                } else {
                    debug!(%zone, relay, serial, reason = text, "the relay does not serve the zone");
                }
                match error {
                    NotServed::Behind(served) => known.served = served,
                    NotServed::Refused(_) => known.served = None,
                    NotServed::Untold(_) | NotServed::Busy => {}
                }
                known.error = Some(text);
                // Half of it at least, so that relays of one fleet are not told at once.
                known.next =
                    Some(Instant::now() + known.pause.mul_f64(0.5 + rand::random::<f64>() / 2.0));
                known.pause = (known.pause * 2).min(RETRY_MOST);
                None
            }
        }
    }

    /// When somebody is to be told next, if that is known.
    pub fn next(&self) -> Option<Instant> {
        let waiting = self.known.values().filter(|known| known.telling.is_none());
        waiting.filter_map(|known| known.tunnel.and(known.next)).min()
    }

    /// One relay.
    pub fn view(&self, relay: &str) -> View {
        let view = |known: &Known| View {
            served: known.served,
            reachable: known.tunnel.is_some(),
            error: known.error.clone(),
        };
        self.known.get(relay).map(view).unwrap_or_default()
    }
}

impl Known {
    fn down(&mut self, why: &str) {
        if let Some((_, telling)) = self.telling.take() {
            telling.abort();
        }
        (self.tunnel, self.done, self.next) = (None, None, None);
        self.error = Some(why).filter(|why| !why.is_empty()).map(str::to_owned);
    }
}
