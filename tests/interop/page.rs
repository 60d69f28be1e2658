//! The page of the book that a run writes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::conditions::Condition;
use crate::kinds::Kind;
use crate::lone::Row;
use crate::matrix::{Cell, Fate};
use crate::names::Route;

const PAGE: &str = include_str!("page.md");
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/reference/interop.md");

/// Writes it.
pub(crate) fn write(cells: &[Cell], rows: &[Row], took: Duration) -> Result<()> {
    let count = |what: fn(&Fate) -> bool| cells.iter().filter(|cell| what(&cell.fate)).count();
    let text = PAGE
        .replace("{messages}", &cells.len().to_string())
        .replace("{bounced}", &count(|fate| fate.bounced).to_string())
        .replace("{readable}", &count(|fate| fate.readable).to_string())
        .replace("{minutes}", &format!("{:.0}", took.as_secs_f64() / 60.0))
        .replace("{matrix}", &Route::ALL.map(|route| table(cells, route)).join("\n"))
        .replace("{rows}", &in_a_row(rows));
    fs::write(Path::new(PLACE), text).with_context(|| format!("write {PLACE}"))
}

fn table(cells: &[Cell], route: Route) -> String {
    let heads = Kind::ALL.map(Kind::title).join(" | ");
    let mut table = format!("### By {}\n\n| | {heads} |\n", route.title());
    table += &format!("|---|{}\n", "---|".repeat(Kind::ALL.len()));
    for condition in Condition::ALL {
        let fates = Kind::ALL.map(|kind| {
            let wanted =
                |cell: &&Cell| (cell.kind, cell.route, cell.condition) == (kind, route, condition);
            cells.iter().find(wanted).map_or("–".to_owned(), |cell| said(&cell.fate))
        });
        table += &format!("| {} | {} |\n", condition.title(), fates.join(" | "));
    }
    table
}

fn said(fate: &Fate) -> String {
    let seconds = |time: Duration| match time.as_secs_f64() {
        short if short < 10.0 => format!("{short:.1} s"),
        long => format!("{long:.0} s"),
    };
    match fate.arrived {
        _ if fate.readable => "**in plaintext**".to_owned(),
        _ if fate.bounced => "**bounced**".to_owned(),
        Some(_) if fate.copies > 1 => format!("**{} copies**", fate.copies),
        Some(_) if !fate.sealed => "**not sealed at home**".to_owned(),
        Some(time) if fate.deferrals == 0 => format!("at once, {}", seconds(time)),
        Some(time) => format!("retry, {}", seconds(time)),
        None if fate.deferrals > 0 => "deferred".to_owned(),
        None => "**lost**".to_owned(),
    }
}

fn in_a_row(rows: &[Row]) -> String {
    let mut table = "| | first | second | third |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let said = row.messages.iter().map(|message| match message.arrived {
            Some(time) if message.deferrals == 0 => format!("{:.2} s", time.as_secs_f64()),
            Some(time) => format!("retry, {:.0} s", time.as_secs_f64()),
            None => "deferred".to_owned(),
        });
        let said: Vec<String> = said.collect();
        table += &format!("| {} | {} |\n", row.title, said.join(" | "));
    }
    table
}
