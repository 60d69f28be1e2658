//! `sealpost-agent dns rollover`: begins a change of a zone's key, takes it on, shows how far it is,
//! gives it up.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use sealpost_tunnel::spoken::spoken;
use serde_json::json;

use super::made_here::Kept;
use super::registrar::Entry;
use crate::command::{print_json, terminal};
use crate::lookup::delegation::Resolvers;
use crate::lookup::resolvers::{FILE, for_way};
use crate::publish::roll::{GivenUp, Roll};
use crate::publish::roll_watch::{Progress, look, step, waits_for};
use crate::publish::{now as seconds, trust_anchors};
use crate::status::date;

/// The longest text of others that is shown, in characters.
const MAX_REASON: usize = 300;

/// What to do with the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Go,
    Status,
    Abort,
}

pub(super) async fn rollover(
    kept: &Kept<'_>,
    wish: Wish,
    resolvers: &[IpAddr],
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let (store, domain) = (&kept.store, kept.domain());
    if let Some(primary) = kept.zone.primary {
        bail!("the keys of {domain} are at its primary, {primary}: change them there");
    }
    match wish {
        Wish::Go => {
            store.begin_roll(kept.records(), seconds())?;
        }
        Wish::Status => {}
        Wish::Abort => {
            let given_up = store.abort_roll()?;
            if given_up == GivenUp::Nothing {
                bail!("no change of the key is under way");
            }
            if given_up == GivenUp::AtOnce {
                let said = format!(
                    "{domain}: given up. The old key was the only one that anybody relied on, so \
                     nothing is left to do"
                );
                return told(&said, &json!({ "domain": domain, "state": "none" }), as_json);
            }
        }
    }
    let way = Arc::new(Resolvers::new(for_way(resolvers, Path::new(FILE))));
    let anchors = Arc::new(trust_anchors(kept.config.fixed.dns.as_ref())?);
    let what = "asking the name servers and the parent zone";
    let progress = match wish {
        Wish::Status => terminal::patiently(what, look(store, &kept.apex, way, &anchors)).await?,
        _ => terminal::patiently(what, step(store, &kept.apex, way, &anchors)).await?,
    };
    let Some(progress) = progress else {
        let said = format!("{domain}: the key is not being changed");
        return told(&said, &json!({ "domain": domain, "state": "none" }), as_json);
    };
    let parent = kept.for_parent()?;
    let keys = [progress.pair.stays.clone()];
    let entry = Entry { apex: &kept.apex, name_servers: &parent.name_servers, keys: &keys };
    if as_json {
        let roll = &progress.roll;
        return told(
            "",
            &json!({
                "domain": domain,
                "state": if progress.ended { "ended" } else { "under-way" },
                "roll": roll,
                "old_key_tag": progress.pair.goes.tag(),
                "new_key_tag": progress.pair.stays.tag(),
                "unproved": progress.seen.unproved,
                "waits_for": waits_for(roll.next(seconds()), roll.announced),
                "registrar": roll.announced.then(|| entry.json()),
            }),
            true,
        );
    }
    told(&lines(&domain.to_string(), &progress, &entry).join("\n"), &json!(null), false)
}

pub(super) fn told(
    words: &str,
    value: &serde_json::Value,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    if as_json {
        print_json(value)?;
    } else {
        terminal::print(words)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(domain: &str, progress: &Progress, entry: &Entry<'_>) -> Vec<String> {
    let Progress { roll, pair, ended, .. } = progress;
    let Roll { began, back, both_served, announced, at_parent, .. } = *roll;
    if *ended {
        return vec![format!(
            "{domain}: done. The key with the tag {} is gone, and {} signs alone from the next \
             version on",
            pair.goes.tag(),
            pair.stays.tag()
        )];
    }
    let what = if back { "back to the old key" } else { "to a new key" };
    let mark = |done: bool| if done { "done" } else { "    " };
    let mut lines = vec![
        format!("{domain}: from the key {} {what}, {}", pair.goes.tag(), pair.stays.tag()),
        format!("begun on {}", date(began)),
        String::new(),
        format!("1  {}  all name servers have both keys", mark(both_served.is_some())),
        format!("2  {}  the parent is asked for the key {}", mark(announced), pair.stays.tag()),
        format!("3  {}  the parent names that key alone", mark(at_parent.is_some())),
        format!("4  {}  the key {} goes", mark(false), pair.goes.tag()),
        String::new(),
        format!("It waits for {}.", waits_for(roll.next(seconds()), announced)),
        "The running agent goes on by itself; so does this command, whenever it is typed.".into(),
    ];
    if let Some(why) = progress.seen.unproved.as_ref().filter(|_| announced) {
        let why = spoken(why, MAX_REASON);
        lines.push(format!(
            "What the parent's name servers say is not proved by its signatures: {why}."
        ));
    }
    if announced && at_parent.is_none() {
        lines.extend([
            String::new(),
            "What is for you to do, unless your registry looks for it itself (CDS): at the registrar \
             replace the DS."
                .into(),
            String::new(),
        ]);
        lines.extend(entry.ds_lines());
    }
    lines
}
