//! The book says what the programs do: pages are reachable, links lead somewhere, and every
//! outcome, metric and configuration key of the code is explained.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sealpost_daemon::config::Source;
use sealpost_relay::ingress::Outcome;
use sealpost_tunnel::ResetCode;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(path: &str) -> String {
    let path = top().join("docs/src").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages of the book and the texts at the top, by path.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![top().join("README.md"), top().join("CONTRIBUTING.md")];
    let mut folders = vec![top().join("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The targets of all Markdown links in `text` that are files.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_to_a_file() {
    let summary = page("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&summary)
        .into_iter()
        .map(|link| fs::canonicalize(top().join("docs/src").join(link)).unwrap())
        .collect();
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let target = path.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
        }
        let path = fs::canonicalize(path).unwrap();
        let in_book = path.components().any(|part| part.as_os_str() == "src");
        if in_book && !path.ends_with("SUMMARY.md") {
            assert!(listed.contains(&path), "{} is not in SUMMARY.md", path.display());
        }
    }
}

#[test]
fn every_outcome_is_explained() {
    let text = page("reference/outcomes.md");
    let agent = ["carried", "home-reset", "relay-reset", "idle", "tunnel-lost", "aborted"];
    let labels = Outcome::ALL.iter().map(|outcome| outcome.label()).chain(agent);
    for label in labels.chain(ResetCode::ALL.iter().map(|code| code.label())) {
        assert!(text.contains(&format!("`{label}`")), "{label} is not explained");
    }
}

#[test]
fn every_metric_is_explained() {
    let text = page("reference/metrics.md");
    let relay = sealpost_relay::metrics::Metrics::new().unwrap();
    let agent = sealpost_agent::metrics::Metrics::new().unwrap();
    agent.session_ended("carried");
    let families = [relay.registry().gather(), agent.registry().gather()].concat();
    assert!(families.len() > 10);
    for family in families {
        assert!(text.contains(family.name()), "{} is not explained", family.name());
    }
}

/// The keys that a configuration knows at the place of an unknown one.
fn known_keys(error: &str) -> Vec<String> {
    let list = error.split("help: known here: ").nth(1).unwrap_or_else(|| panic!("{error}"));
    list.trim().split(", ").map(str::to_owned).collect()
}

/// Whether `text` has `key` as a key or as a table.
fn explained(text: &str, key: &str) -> bool {
    [format!("`{key}`"), format!("`[{key}]`"), format!("`[[{key}]]`")]
        .iter()
        .any(|form| text.contains(form))
}

#[test]
fn every_configuration_key_is_explained() {
    let text = page("reference/configuration.md");
    let nonsense = "zzzzzzzzzzzzzzzzzzzz = 1\n";
    for table in ["", "[smtp]\n", "[tunnel]\n", "[admin]\n", "[log]\n", "[limits]\n", "[[box]]\n"] {
        let source = Source::from_text("relay.toml", &format!("{table}{nonsense}"));
        let error = sealpost_relay::config::Config::from_source(&source).err().unwrap();
        for key in known_keys(&error.to_string()) {
            assert!(explained(&text, &key), "relay, {table}{key} is not explained");
        }
    }
    for table in ["", "[admin]\n", "[log]\n", "[limits]\n", "[[relay]]\n", "[[service]]\n"] {
        let source = Source::from_text("agent.toml", &format!("{table}{nonsense}"));
        let error = sealpost_agent::config::Config::from_source(&source).unwrap_err();
        for key in known_keys(&error.to_string()) {
            assert!(explained(&text, &key), "agent, {table}{key} is not explained");
        }
    }
}

/// The names of the fields in all log macros of `source`.
fn logged_fields(source: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for call in source.split(level).skip(1) {
            let call = call.split(");\n").next().unwrap_or_default();
            // The message, and values behind `=`, are no names.
            for part in call.split(',') {
                let name = part.split('=').next().unwrap_or_default().trim();
                let name = name.trim_start_matches(['%', '?']).trim_start_matches("r#");
                let plain = |c: char| c.is_ascii_lowercase() || c == '_';
                if !name.is_empty() && name.chars().all(plain) {
                    fields.insert(name.to_owned());
                }
            }
        }
    }
    fields
}

#[test]
fn what_a_relay_logs_and_tells_boxes_is_in_the_table_of_what_it_learns() {
    let text = page("explanation/trust.md");
    let mut fields = BTreeSet::new();
    let mut folders = vec![top().join("relay/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                fields.extend(logged_fields(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(["session", "client", "outcome", "duration_ms"].iter().all(|f| fields.contains(*f)));
    let header = fs::read_to_string(top().join("tunnel/src/header.rs")).unwrap();
    let header = header.split("pub struct StreamHeader {").nth(1).unwrap();
    let header = header.split("\n}").next().unwrap();
    fields.extend(
        header.lines().filter_map(|line| {
            Some(line.trim().strip_prefix("pub ")?.split(':').next()?.to_owned())
        }),
    );
    assert!(fields.contains("ehlo"));
    for field in fields {
        assert!(text.contains(&format!("`{field}`")), "{field} is not in the table");
    }
}

#[test]
fn the_sample_configurations_load() {
    let samples = top().join("ops/config");
    sealpost_relay::config::Config::load(&samples.join("relay.toml")).unwrap();
    sealpost_agent::config::Config::load(&samples.join("agent.toml")).unwrap();
}

#[test]
fn every_file_of_the_programs_is_in_the_description_of_the_house() {
    let text = page("explanation/house.md");
    let mut folders: Vec<PathBuf> = [
        "tunnel/src",
        "relay/src",
        "edge-agent/src",
        "dns/src",
        "ops/daemon/src",
        "ops/demo/src",
        "tests/src",
    ]
    .iter()
    .map(|folder| top().join(folder))
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(text.contains(name), "{} is not described", path.display());
        }
    }
}
