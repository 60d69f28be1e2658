//! `sealpost-agent dns check`: what the world says about domains, beside what it should say.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use sealpost_tunnel::DomainName;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::judge::{Line, State, Wanted, all_well, judge};
use super::registrar::Entry;
use crate::command::{table, terminal};
use crate::lookup::delegation::Resolvers;
use crate::lookup::resolvers::{FILE, for_way, world};
use crate::lookup::survey::{Request, survey};
use crate::registration::domain::Domain as Name;

/// A domain, and what was found.
pub(super) struct Checked {
    domain: DomainName,
    wanted: Wanted,
    lines: Vec<Line>,
}

/// Asks about all of `wanted` at once. `named` are resolvers in place of the public ones.
pub(super) async fn check(wanted: Vec<(DomainName, Wanted)>, named: &[IpAddr]) -> Vec<Checked> {
    let resolvers = world(named);
    let way = Arc::new(Resolvers::new(for_way(named, Path::new(FILE))));
    let mut tasks = JoinSet::new();
    for (place, (domain, wanted)) in wanted.into_iter().enumerate() {
        let (way, resolvers) = (Arc::clone(&way), resolvers.clone());
        tasks.spawn(async move { (place, one(domain, wanted, way, resolvers).await) });
    }
    let all = async {
        let mut all = tasks.join_all().await;
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, checked)| checked).collect()
    };
    terminal::patiently("asking the parent zone, the name servers and resolvers", all).await
}

async fn one(
    domain: DomainName,
    wanted: Wanted,
    way: Arc<Resolvers>,
    resolvers: Vec<SocketAddr>,
) -> Checked {
    let mut zone = wanted.apex.clone();
    // Who keeps the DNS elsewhere may have the domain in the middle of a zone.
    if wanted.made_here.is_none()
        && let Ok(with) = way.zone_with(&zone).await
    {
        zone = with;
    }
    let here = wanted.made_here.as_ref();
    let request = Request {
        domain: zone,
        name_servers: here.map(|here| here.name_servers.clone()).unwrap_or_default(),
        sets: wanted.sets.iter().map(|set| (set.name.clone(), set.rtype)).collect(),
        resolvers,
    };
    let lines = judge(&wanted, &survey(way, request).await);
    Checked { domain, wanted, lines }
}

impl Checked {
    pub(super) fn all_well(&self) -> bool {
        all_well(&self.lines)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "domain": self.domain,
            "written": Name::from(self.domain.clone()).written,
            "ok": self.all_well(),
            "made_here": self.wanted.made_here.is_some(),
            "lines": self.lines,
            "registrar": self.entry().map(|entry| entry.json()),
        })
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![Name::from(self.domain.clone()).to_string(), String::new()];
        let rows: Vec<_> = self.lines.iter().map(row).collect();
        lines.extend(table::lines(["", "WHERE", "WANT", "HAVE", "WHAT TO DO"], &rows));
        lines.push(String::new());
        let wrong = self.lines.iter().filter(|line| line.state == State::Wrong).count();
        let unknown = self.lines.iter().filter(|line| line.state == State::Unknown).count();
        lines.push(match (wrong, unknown) {
            (0, 0) => "All is as it should be.".into(),
            (0, unknown) => format!("Nothing is wrong, but {unknown} could not be found out."),
            (wrong, _) => format!("NOT as it should be: {wrong}"),
        });
        let parent = self.lines.iter().any(|line| line.of_parent && line.state == State::Wrong);
        if let Some(entry) = self.entry().filter(|_| parent) {
            lines.push(String::new());
            lines.extend(entry.lines());
        }
        lines
    }

    fn entry(&self) -> Option<Entry<'_>> {
        let here = self.wanted.made_here.as_ref()?;
        Some(Entry {
            apex: &self.wanted.apex,
            name_servers: &here.name_servers,
            keys: &here.announced,
        })
    }
}

/// The longest cell in a table but for its last column, in characters. The whole is in the JSON.
const MAX_CELL: usize = 60;

fn row(line: &Line) -> [String; 5] {
    let short = |text: &str| match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let Line { state, place, want, have, advice, .. } = line;
    [state.word().into(), short(place), short(want), short(have), advice.clone()]
}
