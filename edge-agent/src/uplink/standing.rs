//! Keeps what the relay holds about this box: asked when a tunnel came up and when the relay says
//! that there is news. Information alone: nothing is decided by it.

use std::time::Duration;

use quinn::Connection;
use sealpost_tunnel::ask::ask;
use sealpost_tunnel::request::{DomainStanding, DomainState, Standing};
use sealpost_tunnel::{Answer, PublicKey, Request};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// For an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Before the first question of an agent that just started.
const AT_START: Duration = Duration::from_secs(1);
/// Before the first question on a further tunnel: thousands of boxes come back at once to a relay
/// that was away.
const COME_BACK: Duration = Duration::from_secs(30);
/// Before a question about news, which may be for many boxes too: at least, and what is added at
/// most. A relay that says nothing but news is not asked more often.
const AT_NEWS: Duration = Duration::from_millis(500);
const AT_NEWS_SPREAD: Duration = Duration::from_millis(1500);
/// After a question that was not answered: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MOST: Duration = Duration::from_secs(30 * 60);

/// Asks on the tunnel `connection` now and whenever there is `news`, and hands `keep` what it
/// hears about the box with the key `us`. Never ends by itself.
pub(super) async fn follow(
    connection: &Connection,
    us: PublicKey,
    news: &Notify,
    first: bool,
    keep: impl Fn(Standing),
) {
    sleep(spread(if first { AT_START } else { COME_BACK })).await;
    loop {
        let mut pause = RETRY_FIRST;
        while let Err(reason) = ask_once(connection, us, &keep).await {
            debug!(reason, "the relay does not say what it holds about this box");
            // Half of it at least, and no question before that, whatever news there are.
            sleep(pause / 2 + spread(pause / 2)).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
        news.notified().await;
        sleep(AT_NEWS + spread(AT_NEWS_SPREAD)).await;
    }
}

/// `Err` when it is worth asking again.
async fn ask_once(
    connection: &Connection,
    us: PublicKey,
    keep: &impl Fn(Standing),
) -> Result<(), String> {
    match timeout(ANSWER, ask(connection, &Request::Standing)).await {
        Ok(Ok(Answer::Standing(standing))) if standing.key == us => keep(*standing),
        Ok(Ok(Answer::Refused(refusal))) if refusal.code.may_pass() => {
            return Err(refusal.message);
        }
        Ok(Ok(other)) => debug!(?other, "no answer to what was asked; it is not repeated"),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".into()),
    }
    Ok(())
}

fn spread(most: Duration) -> Duration {
    most.mul_f64(rand::random())
}

/// Logs what changed of the domains at `relay`.
pub(super) fn tell(relay: &str, before: Option<&Standing>, now: &Standing) {
    if before.is_none_or(|before| before.name != now.name) {
        info!(relay, name = %now.name, "this box's name at the relay");
    }
    for domain in &now.domains {
        let same = |old: &&DomainStanding| old.domain == domain.domain && old.state == domain.state;
        if before.is_some_and(|before| before.domains.iter().any(|old| same(&old))) {
            continue;
        }
        let (name, detail) = (&domain.domain, &domain.detail);
        match domain.state {
            DomainState::Proved => info!(relay, domain = %name, "the domain is proved"),
            DomainState::Warned => warn!(
                relay, domain = %name, detail,
                "the proof of the domain is missing; its mail stops unless it comes back"
            ),
            DomainState::Suspended => warn!(
                relay, domain = %name, detail,
                "the proof of the domain is missing; the relay takes no mail for it"
            ),
        }
    }
}
