//! Tables for people: no borders and no colours, so that they can be copied and piped. Pure.

use comfy_table::{Table, presets};
use sealpost_tunnel::spoken::spoken;

/// Longest text of a cell.
const MAX_CELL: usize = 400;

/// `rows` under `head`, or `none` where there are no rows.
pub(super) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>, none: &str) -> String {
    if rows.is_empty() {
        return none.into();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    // Some words come from agents and from name servers.
    table.add_rows(rows.iter().map(|row| row.each_ref().map(|cell| spoken(cell, MAX_CELL))));
    align(&mut table)
}

/// What is known of one thing, a line each. A text of several lines stands in one column.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in facts {
        let value: Vec<_> = value.lines().map(|line| spoken(line, MAX_CELL)).collect();
        table.add_row([(*name).to_owned(), value.join("\n")]);
    }
    align(&mut table)
}

/// What is not there.
pub(super) fn or_dash(cell: Option<impl ToString>) -> String {
    cell.map_or_else(|| "-".into(), |cell| cell.to_string())
}

fn align(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_beneath_each_other_and_nothing_else_is_there() {
        let rows = vec![["a".into(), "x y".into()], ["bücher".into(), "-".into()]];
        assert_eq!(table(["ONE", "TWO"], rows, ""), "ONE     TWO\na       x y\nbücher  -");
        assert_eq!(table(["ONE"], vec![], "There is none."), "There is none.");
    }

    #[test]
    fn what_others_say_cannot_steer_the_terminal_or_break_a_line() {
        let text = table(["A"], vec![["\u{1b}[31mred\nB".into()]], "");
        assert_eq!(text, "A\n[31mredB");
    }

    #[test]
    fn facts_of_several_lines_stay_in_their_column() {
        let text = facts(&[("name", "alice".into()), ("at", "one\ntwo".into())]);
        assert_eq!(text, "name  alice\nat    one\n      two");
    }
}
