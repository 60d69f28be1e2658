//! The book says what the programs do: pages are reachable, links lead somewhere, and every
//! outcome, metric, configuration key, request and column of the code is explained.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sealpost_daemon::config::Source;
use sealpost_relay::ingress::Outcome;
use sealpost_tunnel::ResetCode;
use sealpost_tunnel::request::RefusalCode;

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
fn every_file_to_paste_is_shown_whole() {
    let folder = top().join("docs/src/how-to");
    let (pages, files): (Vec<_>, Vec<_>) = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .partition(|path| path.extension().is_some_and(|extension| extension == "md"));
    let text: String = pages.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(text.contains(&format!("\n{{{{#include {name}}}}}\n")), "{name} is not shown");
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

#[test]
fn every_metric_in_the_book_is_one() {
    let relay = sealpost_relay::metrics::Metrics::new().unwrap().registry().gather();
    let agent = sealpost_agent::metrics::Metrics::new().unwrap().registry().gather();
    let families: Vec<_> = [relay, agent].concat();
    let known = |name: &str| families.iter().any(|family| family.name() == name);
    let mut seen = 0;
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in text.split(|c| !word(c)) {
            // What is behind the prefix; the names of packages and targets have nothing there.
            let metric = ["sealpost_relay_", "sealpost_agent_"].iter().any(|p| name.starts_with(p));
            if !metric {
                continue;
            }
            let parts = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            assert!(known(name) || parts.is_some_and(known), "{}: no {name}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} names of metrics were found");
}

/// The keys that a configuration knows at the place of an unknown one.
fn known_keys(error: &str) -> Vec<String> {
    let list = error.split("help: known here: ").nth(1).unwrap_or_else(|| panic!("{error}"));
    list.trim().split(", ").map(str::to_owned).collect()
}

/// Of the page `text` what is between the heading `from` and the next one that begins with one of
/// `ends`.
fn section<'a>(text: &'a str, from: &str, ends: &[&str]) -> &'a str {
    let found = text.split_once(&format!("\n{from}\n"));
    let behind = found.unwrap_or_else(|| panic!("there is no {from}")).1;
    let end = ends.iter().filter_map(|end| behind.find(&format!("\n{end}"))).min();
    &behind[..end.unwrap_or(behind.len())]
}

/// Demands that the page explains every key that `error` of a file `file` names as known in
/// `table`: as a row of the table's own section, or as a section.
fn expect_explained(text: &str, file: &str, table: &str, error: &str) {
    let all = section(text, &format!("## {file}"), &["## "]);
    let own = match table.trim() {
        "" => section(text, &format!("## {file}"), &["## ", "### "]),
        table => section(all, &format!("### `{table}`"), &["### "]),
    };
    let rows = first_cells(own);
    for key in known_keys(error) {
        let headings = [format!("### `[{key}]`\n"), format!("### `[[{key}]]`\n")];
        let is_table = table.is_empty() && headings.iter().any(|heading| all.contains(heading));
        let is_row = rows.contains(format!("`{key}`").as_str());
        assert!(is_table || is_row, "{file}, {table}{key} is not explained");
    }
}

#[test]
fn every_configuration_key_is_explained() {
    let text = page("reference/configuration.md");
    let nonsense = "zzzzzzzzzzzzzzzzzzzz = 1\n";
    for table in [
        "",
        "[pairs]\n",
        "[smtp]\n",
        "[tunnel]\n",
        "[dns]\n",
        "[[dns.zone]]\n",
        "[proof]\n",
        "[admin]\n",
        "[log]\n",
        "[limits]\n",
        "[shield]\n",
    ] {
        let source = Source::from_text("relay.toml", &format!("{table}{nonsense}"));
        let error = sealpost_relay::config::Config::from_source(&source).err().unwrap();
        expect_explained(&text, "relay.toml", table, &error.to_string());
    }
    for table in [
        "",
        "[admin]\n",
        "[log]\n",
        "[limits]\n",
        "[[relay]]\n",
        "[[service]]\n",
        "[[zone]]\n",
        "[[dns.key]]\n",
        "[acme]\n",
    ] {
        let source = Source::from_text("agent.toml", &format!("{table}{nonsense}"));
        let error = sealpost_agent::config::Config::from_source(&source).unwrap_err();
        expect_explained(&text, "agent.toml", table, &error.to_string());
    }
}

/// The first cells of all table rows of `text`.
fn first_cells(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect()
}

/// `SetRecovery` as `set-recovery`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

/// The variants of `pub enum name` in `source`, as they stand on the wire.
fn variants(source: &str, name: &str) -> Vec<String> {
    let body = source.split(&format!("pub enum {name} {{\n")).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    // Variants stand four spaces deep, their fields eight.
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    variants.map(|line| kebab_case(line.split([' ', ',', '(']).next().unwrap())).collect()
}

#[test]
fn every_request_answer_and_refusal_has_its_row_in_the_protocol() {
    let text = page("reference/protocol.md");
    let rows = first_cells(&text);
    let source = fs::read_to_string(top().join("tunnel/src/request.rs")).unwrap();
    let (requests, answers) = (variants(&source, "Request"), variants(&source, "Answer"));
    assert!(requests.contains(&"set-recovery".to_owned()) && answers.contains(&"left".to_owned()));
    let codes = RefusalCode::ALL.iter().map(|code| code.label().to_owned());
    for name in requests.into_iter().chain(answers).chain(codes) {
        assert!(rows.contains(format!("`{name}`").as_str()), "{name} has no row");
    }
}

/// The columns of all tables in `sql`, as `table.column`. A statement that it does not know is an
/// error, as it might add one.
fn columns(sql: &str) -> BTreeSet<String> {
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    let sql: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut columns = BTreeSet::new();
    for statement in sql.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words.as_slice() {
            ["CREATE", "TABLE", table, ..] => {
                let body = statement.split_once('(').unwrap().1;
                for line in body.lines().map(str::trim) {
                    let word = line.split(' ').next().unwrap_or_default();
                    // Constraints of a table begin with capitals, and the last line with `)`.
                    if word.starts_with(|c: char| c.is_ascii_lowercase()) {
                        columns.insert(format!("{table}.{word}"));
                    }
                }
            }
            ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => {
                columns.insert(format!("{table}.{column}"));
            }
            ["CREATE", "INDEX", ..]
            | ["CREATE", "UNIQUE", "INDEX", ..]
            | ["INSERT", "INTO", ..]
            | ["UPDATE", ..] => {}
            other => panic!("what columns does this make? {other:?}"),
        }
    }
    columns
}

#[test]
fn every_column_of_the_registry_is_in_the_table_of_what_it_keeps() {
    let mut made = BTreeSet::new();
    for entry in fs::read_dir(top().join("relay/src/registry/migrations")).unwrap() {
        made.extend(columns(&fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    assert!(made.contains("boxes.seen_day") && made.contains("invites.spent_by"));
    let text = page("explanation/trust.md");
    let section = section(&text, "### What the registry keeps", &["### ", "## "]);
    let plain = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let mut told = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [table, names, why, how_long] = cells[..] else { panic!("four cells in {row}") };
        assert!(!why.trim().is_empty() && !how_long.trim().is_empty(), "{row}");
        told.extend(names.split(',').map(|name| format!("{}.{}", plain(table), plain(name))));
    }
    // Both ways: what is gone from the registry must go from the table.
    assert_eq!(made, told);
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
    // Fields of the variants stand eight spaces deep.
    let carried = header.split("pub enum Carries {").nth(1).unwrap().split("\n}").next().unwrap();
    let carried = carried.lines().filter_map(|line| line.strip_prefix("        "));
    let carried = carried.filter_map(|line| Some(line.split_once(": ")?.0.to_owned()));
    let carried: Vec<_> = carried.filter(|name| !name.starts_with("///")).collect();
    let header = header.split("pub struct StreamHeader {").nth(1).unwrap();
    let header = header.split("\n}").next().unwrap();
    fields.extend(
        header.lines().filter_map(|line| {
            Some(line.trim().strip_prefix("pub ")?.split(':').next()?.to_owned())
        }),
    );
    fields.extend(carried);
    assert!(fields.contains("service") && fields.contains("ehlo"));
    for field in fields {
        assert!(text.contains(&format!("`{field}`")), "{field} is not in the table");
    }
}

#[test]
fn the_labels_of_a_relays_metrics_are_in_the_table_of_what_it_learns() {
    let text = page("explanation/trust.md");
    let row = text.lines().find(|line| line.starts_with("| metrics | ")).unwrap();
    let metrics = sealpost_relay::metrics::Metrics::new().unwrap();
    let families = metrics.registry().gather();
    let pairs = families.iter().flat_map(|family| family.get_metric()).flat_map(|m| m.get_label());
    let labels: BTreeSet<&str> = pairs.map(|pair| pair.name()).collect();
    assert!(labels.contains("outcome"));
    for label in labels {
        assert!(row.contains(&format!("`{label}`")), "{label} is not in the table");
    }
}

#[test]
fn the_sample_configurations_load() {
    let samples = top().join("ops/config");
    sealpost_relay::config::Config::load(&samples.join("relay.toml")).unwrap();
    sealpost_agent::config::Config::load(&samples.join("agent.toml")).unwrap();
    sealpost_dns::config::Config::load(&samples.join("dns.toml")).unwrap();
}

/// The paths in the first cells of the tables of `text`, each behind the folder in its section's
/// heading. In `src/a/b.rs`, `c.rs` the second is beside the first.
fn described(text: &str) -> BTreeSet<PathBuf> {
    let (mut described, mut base) = (BTreeSet::new(), PathBuf::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("##") {
            base = heading.split('`').nth(1).unwrap_or_default().into();
        }
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cell = row.split(" | ").next().unwrap_or_default();
        let mut beside = PathBuf::new();
        for name in cell.split(',').map(|name| name.trim().trim_matches('`')) {
            if name.trim_end_matches('/').contains('/') || beside.as_os_str().is_empty() {
                beside = base.join(name).parent().unwrap_or(&base).to_owned();
                described.insert(base.join(name));
            } else {
                described.insert(beside.join(name));
            }
        }
    }
    described
}

#[test]
fn every_file_of_the_programs_is_in_the_description_of_the_house() {
    let described = described(&page("explanation/house.md"));
    for path in &described {
        assert!(top().join(path).exists(), "{} is described and not there", path.display());
    }
    let mut folders: Vec<PathBuf> = [
        "tunnel/src",
        "tunnel/tests",
        "relay/src",
        "relay/tests",
        "edge-agent/src",
        "edge-agent/tests",
        "dns/src",
        "dns/tests",
        "dns/benches",
        "ops/daemon/src",
        "ops/demo/src",
        "tests/src",
        "tests/tests",
        "tests/benches",
        "tests/interop",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(top().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            // A folder may be described as a whole.
            if described.contains(&path) {
                continue;
            }
            assert!(entry.path().is_dir(), "{} is not described", path.display());
            folders.push(path);
        }
    }
}
