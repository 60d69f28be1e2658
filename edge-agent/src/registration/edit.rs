//! Adds a relay or a zone to the text of `agent.toml`, or takes one out, and leaves every other byte as
//! the owner wrote it. Pure.

use sealpost_tunnel::{DomainName, HostPort, MxName, PublicKey};
use toml_edit::{Array, Document, DocumentMut, InlineTable, Item, Table};

use super::domain::Domain;

/// A relay as it is to stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the owner calls it.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<HostPort>,
    /// The key that it must prove.
    pub key: PublicKey,
}

/// Why a text is not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// `relay` is neither tables nor a list of them, or `zone` no tables.
    #[error(
        "`{0}` in it is no list of tables as this program writes them, so it cannot be changed by it"
    )]
    Shape(&'static str),
    /// There is no such relay.
    #[error("it has no relay named `{0}`")]
    NoSuchRelay(String),
    /// There is no such zone.
    #[error("it has no zone for {0}")]
    NoSuchZone(DomainName),
}

/// `entry` as a table with comments.
pub fn table(entry: &Entry) -> String {
    let addresses: Vec<_> = entry.addresses.iter().map(|a| quoted(a.as_str())).collect();
    let (name, addresses) = (quoted(&entry.name), addresses.join(", "));
    let (key, words) = (entry.key, entry.key.fingerprint().words());
    format!(
        "[[relay]]\n\
         # What you call it.\n\
         name = {name}\n\
         # Where it listens for boxes, HOST:PORT. All are tried, the first that answers is used.\n\
         addresses = [{addresses}]\n\
         # The key that it must prove; in words: {words}\n\
         key = \"{key}\"\n"
    )
}

/// `text` with `entry` behind the relays that it has, or at its end.
pub fn add(text: &str, entry: &Entry) -> Result<String, EditError> {
    let document = parse(text)?;
    let at = match document.get("relay") {
        None => text.len(),
        Some(Item::ArrayOfTables(tables)) => {
            let last = tables.iter().map(|table| end(text, table)).max();
            last.unwrap_or(text.len())
        }
        Some(item) if item.is_array() => return add_inline(text, entry),
        Some(_) => return Err(EditError::Shape("relay")),
    };
    Ok(insert(text, at, &table(entry)))
}

/// `text` with a zone for `domain` at its end: between others it could come between one and what
/// belongs to it. `mx` are its exchangers, where the owner chose their names.
pub fn add_zone(text: &str, domain: &DomainName, mx: &[MxName]) -> Result<String, EditError> {
    match parse(text)?.get("zone") {
        None | Some(Item::ArrayOfTables(_)) => {}
        Some(_) => return Err(EditError::Shape("zone")),
    }
    let names: Vec<_> = mx.iter().map(|name| quoted(name.as_str())).collect();
    let mx = if mx.is_empty() { String::new() } else { format!("mx = [{}]\n", names.join(", ")) };
    let table = format!(
        "# This box makes and signs the zone of this domain, and the relays serve it.\n\
         [[zone]]\n\
         name = {}\n{mx}\
         # Records of your own, such as those of a web site, from zone files.\n\
         # include = [\"/etc/sealpost/{domain}.zone\"]\n",
        quoted(domain.as_str())
    );
    Ok(insert(text, text.len(), &table))
}

/// `text` with `table` at `at`, set off by empty lines.
fn insert(text: &str, at: usize, table: &str) -> String {
    let (before, behind) = text.split_at(at);
    let mut new = String::new();
    if !before.is_empty() && !before.ends_with('\n') {
        new.push('\n');
    }
    if !before.is_empty() && !ends_with_blank_line(before) {
        new.push('\n');
    }
    new.push_str(table);
    if !behind.is_empty() && !behind.starts_with(['\n', '\r']) {
        new.push('\n');
    }
    if text.contains("\r\n") {
        new = new.replace('\n', "\r\n");
    }
    [before, &new, behind].concat()
}

/// `text` without the relay called `name`, and without the comments that stand directly at it.
pub fn remove(text: &str, name: &str) -> Result<String, EditError> {
    let missing = || EditError::NoSuchRelay(name.into());
    let document = parse(text)?;
    let named = |table: &&Table| table.get("name").and_then(Item::as_str) == Some(name);
    let table = match document.get("relay") {
        None => return Err(missing()),
        Some(Item::ArrayOfTables(tables)) => tables.iter().find(named).ok_or_else(missing)?,
        Some(item) if item.is_array() => return remove_inline(text, name),
        Some(_) => return Err(EditError::Shape("relay")),
    };
    Ok(without(text, table))
}

/// `text` without the zone for `domain`, and without the comments that stand directly at it.
pub fn remove_zone(text: &str, domain: &DomainName) -> Result<String, EditError> {
    let missing = || EditError::NoSuchZone(domain.clone());
    let document = parse(text)?;
    // The owner may have written it in another script, or in capitals.
    let named = |table: &&Table| {
        let name = table.get("name").and_then(Item::as_str);
        name.and_then(|name| name.parse::<Domain>().ok()).is_some_and(|it| it.name == *domain)
    };
    match document.get("zone") {
        None => Err(missing()),
        Some(Item::ArrayOfTables(tables)) => {
            Ok(without(text, tables.iter().find(named).ok_or_else(missing)?))
        }
        Some(_) => Err(EditError::Shape("zone")),
    }
}

fn without(text: &str, table: &Table) -> String {
    let before = &text[..start(text, table)];
    let mut behind = &text[end(text, table)..];
    if before.is_empty() || ends_with_blank_line(before) {
        while let Some((line, rest)) = behind.split_once('\n')
            && line.trim().is_empty()
        {
            behind = rest;
        }
    }
    [before, behind].concat()
}

fn parse(text: &str) -> Result<Document<&str>, EditError> {
    Document::parse(text).map_err(|error| EditError::Syntax(error.message().into()))
}

/// Where the entry `table` begins: with the comment lines directly above its header.
fn start(text: &str, table: &Table) -> usize {
    let header = table.span().map_or(0, |span| span.start);
    let mut start = text[..header].rfind('\n').map_or(0, |at| at + 1);
    while start > 0 {
        let above = text[..start - 1].rfind('\n').map_or(0, |at| at + 1);
        if !is_comment(&text[above..start]) {
            break;
        }
        start = above;
    }
    start
}

/// Where it ends: behind the line of its last value, and the comment lines directly beneath,
/// unless these stand directly above the next header.
fn end(text: &str, table: &Table) -> usize {
    let last = last(table);
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let end = line_end(last);
    let mut beneath = end;
    while beneath < text.len() && is_comment(&text[beneath..line_end(beneath)]) {
        beneath = line_end(beneath);
    }
    let next = &text[beneath..line_end(beneath)];
    if next.trim_start().starts_with('[') { end } else { beneath }
}

/// The end of its last value. Tables beneath it, such as `[[zone.dkim]]`, are its own.
fn last(table: &Table) -> usize {
    let values = table.iter().flat_map(|(_, item)| match item {
        Item::Table(table) => vec![last(table)],
        Item::ArrayOfTables(tables) => tables.iter().map(last).collect(),
        item => item.span().map(|span| span.end).into_iter().collect(),
    });
    values.chain(table.span().map(|span| span.end)).max().unwrap_or(0)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn ends_with_blank_line(text: &str) -> bool {
    let last = text.strip_suffix('\n').map(|text| text.rsplit('\n').next().unwrap_or_default());
    last.is_some_and(|line| line.trim().is_empty())
}

/// `text` as a TOML string.
pub fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// The list of a file that has `relay = [{ … }]`.
fn inline(document: &mut DocumentMut) -> Result<&mut Array, EditError> {
    document.get_mut("relay").and_then(Item::as_array_mut).ok_or(EditError::Shape("relay"))
}

fn parse_mut(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error: toml_edit::TomlError| EditError::Syntax(error.message().into()))
}

fn add_inline(text: &str, entry: &Entry) -> Result<String, EditError> {
    let mut document = parse_mut(text)?;
    let mut table = InlineTable::new();
    table.insert("name", entry.name.as_str().into());
    table.insert("addresses", entry.addresses.iter().map(HostPort::as_str).collect());
    table.insert("key", entry.key.to_string().into());
    inline(&mut document)?.push(table);
    Ok(document.to_string())
}

fn remove_inline(text: &str, name: &str) -> Result<String, EditError> {
    let mut document = parse_mut(text)?;
    let list = inline(&mut document)?;
    let at = list.iter().position(|relay| {
        let table = relay.as_inline_table();
        table.and_then(|table| table.get("name")).and_then(|value| value.as_str()) == Some(name)
    });
    list.remove(at.ok_or_else(|| EditError::NoSuchRelay(name.into()))?);
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealpost_tunnel::Identity;

    const FILE: &str = "# top\nstate = \"/tmp/x\"  # here\n\n# All relays.\n\n# The first.\n\
        [[relay]]\nname = \"a\"\naddresses = [\n  \"a.example:1\", # home\n]\nkey = \"K\"\n\
        # private_senders = true\n\n[[service]]\nname = \"smtp\"\naddress = \"127.0.0.1:25\"\n\
        # The second.\n  [[relay]] # odd place\n  name = 'b'\n  addresses = ['b.example:1']\n  \
        key = 'K'\n# About the log.\n[log]\n# quiet\n";

    fn file() -> String {
        FILE.replace("\"K\"", &format!("\"{}\"", Identity::ephemeral().public()))
            .replace("'K'", &format!("'{}'", Identity::ephemeral().public()))
    }

    fn entry() -> Entry {
        Entry {
            name: "new \"one\"".into(),
            addresses: vec!["r.example:4433".parse().unwrap(), "[::1]:1".parse().unwrap()],
            key: Identity::ephemeral().public(),
        }
    }

    fn names(text: &str) -> Vec<String> {
        let source = sealpost_daemon::config::Source::from_text("agent.toml", text);
        let config = crate::config::Config::from_source(&source).unwrap();
        config.relays.into_iter().map(|relay| relay.name).collect()
    }

    #[test]
    fn an_added_relay_stands_behind_the_others_and_goes_without_a_trace() {
        let (file, entry) = (file(), entry());
        let added = add(&file, &entry).unwrap();
        assert_eq!(names(&added), ["a", "b", "new \"one\""]);
        let (before, behind) = file.split_at(file.find("# About the log.").unwrap());
        assert!(added.starts_with(before) && added.ends_with(behind), "{added}");
        let removed = remove(&added, &entry.name).unwrap();
        assert_eq!(removed.replace("\n\n# About", "\n# About"), file);
    }

    #[test]
    fn a_removed_zone_takes_what_belongs_to_it_and_leaves_no_trace() {
        let file = file();
        let domain = "b.example".parse().unwrap();
        let missing = remove_zone(&file, &domain).unwrap_err();
        assert_eq!(missing, EditError::NoSuchZone(domain.clone()));
        let added = add_zone(&file, &domain, &[]).unwrap();
        assert_eq!(remove_zone(&added, &domain).unwrap().trim_end(), file.trim_end());
        let zones = "# The first.\n[[zone]]\nname = \"a.example\"\n\n# About b.\n[[zone]]\n\
            name = \"B.example\"\nspf = \"v=spf1 -all\"\n[[zone.dkim]]\nselector = \"s\"\n\
            file = \"/x\" # key\n\n# The last.\n[[zone]]\nname = \"c.example\"\n";
        let left = remove_zone(zones, &domain).unwrap();
        assert_eq!(
            left,
            "# The first.\n[[zone]]\nname = \"a.example\"\n\n# The last.\n[[zone]]\nname = \"c.example\"\n"
        );
    }

    #[test]
    fn a_removed_relay_takes_its_own_comments_alone() {
        let file = file();
        let removed = remove(&file, "a").unwrap();
        assert_eq!(names(&removed), ["b"]);
        assert!(removed.contains("# All relays.\n\n[[service]]"), "{removed}");
        for gone in ["The first", "private_senders", "a.example", "home"] {
            assert!(!removed.contains(gone), "{removed}");
        }
        let removed = remove(&file, "b").unwrap();
        assert_eq!(names(&removed), ["a"]);
        assert!(
            removed.contains("127.0.0.1:25\"\n# About the log.\n[log]\n# quiet\n"),
            "{removed}"
        );
        assert!(!removed.contains("The second") && !removed.contains("odd place"));
        assert_eq!(remove(&file, "c"), Err(EditError::NoSuchRelay("c".into())));
    }

    #[test]
    fn files_of_other_shapes_are_met() {
        for (text, wanted) in [
            ("state = \"/x\"", vec!["new \"one\""]),
            ("state = \"/x\"\r\n[log]\r\n", vec!["new \"one\""]),
            (
                &format!(
                    "relay = [{{ name = \"i\", addresses = [\"i:1\"], key = \"{}\" }}] # list\n\
                     state = \"/x\"\n",
                    Identity::ephemeral().public()
                ),
                vec!["i", "new \"one\""],
            ),
        ] {
            let added = add(text, &entry()).unwrap();
            assert_eq!(names(&added), wanted, "{added}");
            assert_eq!(added.contains('\r'), text.contains('\r'));
            assert_eq!(added.matches("\r\n").count() > 4, text.contains('\r'));
            assert_eq!(names(&remove(&added, &entry().name).unwrap()).len(), wanted.len() - 1);
        }
        assert!(matches!(add("relay = [", &entry()), Err(EditError::Syntax(_))));
        assert_eq!(add("relay = 1\n", &entry()), Err(EditError::Shape("relay")));
        assert_eq!(remove("relay = 1\n", "a"), Err(EditError::Shape("relay")));
    }

    #[test]
    fn a_zone_comes_behind_everything_and_spoils_nothing() {
        let zones = |text: &str| {
            let source = sealpost_daemon::config::Source::from_text("agent.toml", text);
            let config = crate::config::Config::from_source(&source).unwrap();
            config.zones.into_iter().map(|zone| zone.name.to_string()).collect::<Vec<_>>()
        };
        let first = "a.example".parse().unwrap();
        for text in [&file(), "state = \"/x\"", "state = \"/x\"\r\n[log]\r\n"] {
            let added = add_zone(text, &first, &[]).unwrap();
            assert!(added.starts_with(text), "{added}");
            let twice = add_zone(&added, &"b.example".parse().unwrap(), &[]).unwrap();
            assert_eq!(zones(&twice), ["a.example", "b.example"]);
            assert_eq!(names(&twice), names(text));
        }
        let nested = "state = \"/x\"\n[[zone]]\nname = \"z.example\"\n[[zone.dkim]]\n\
            selector = \"s\"\nfile = \"/f\"\n";
        assert_eq!(zones(&add_zone(nested, &first, &[]).unwrap()), ["z.example", "a.example"]);
        assert_eq!(add_zone("zone = []\n", &first, &[]), Err(EditError::Shape("zone")));
    }

    #[test]
    fn the_sample_file_keeps_its_comments() {
        let sample = include_str!("../../../ops/config/agent.toml");
        let added = add(sample, &entry()).unwrap();
        assert_eq!(names(&added), ["r1", "new \"one\""]);
        assert_eq!(remove(&added, &entry().name).unwrap(), sample);
        let bare = remove(sample, "r1").unwrap();
        assert!(names(&bare).is_empty() && bare.contains("# One entry for each service"));
    }
}
