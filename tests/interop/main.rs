//! The interop lab: real mail servers send by every route to a box behind a relay, under every
//! condition, and no message may bounce or be readable on its way.
//!
//! `quick` is a slice of it for every day. The whole of it is `ops/interop`, which writes the page
//! `docs/src/reference/interop.md`.

mod arrivals;
mod conditions;
mod kinds;
mod lab;
mod lone;
mod matrix;
mod names;
mod page;
mod wire;

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::conditions::Condition;
use crate::kinds::{Kind, Pace};
use crate::lab::Lab;
use crate::lone::Row;
use crate::matrix::Cell;

/// Opens a lab for `play`, and shows the ends of all logs if that fails.
fn with_lab<T>(kinds: &[Kind], pace: Pace, play: impl FnOnce(&mut Lab) -> Result<T>) -> Result<T> {
    let mut lab = Lab::open(kinds, pace)?;
    play(&mut lab).map_err(|error| anyhow!("{error:#}\n{}", lab.tails()))
}

/// Proves that the lab would notice a failure, then runs these conditions.
fn run(kinds: &[Kind], conditions: &[Condition]) -> Result<Vec<Cell>> {
    with_lab(kinds, Pace::Hurried, |lab| {
        matrix::prove_the_lab(lab)?;
        let mut cells = Vec::new();
        for condition in conditions {
            cells.extend(matrix::run(lab, *condition)?);
        }
        Ok(cells)
    })
}

/// Demands that every message did as it must.
fn judge(cells: &[Cell]) -> Result<()> {
    let wrong = cells.iter().filter(|cell| !cell.is_right()).count();
    ensure!(wrong == 0, "{wrong} of {} messages did not do as they must", cells.len());
    Ok(())
}

#[test]
fn quick() -> Result<()> {
    if !sealpost_tests::scene::allowed()? {
        return Ok(());
    }
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Haraka).collect();
    judge(&run(&kinds, &[Condition::Fine])?)
}

#[test]
#[ignore = "takes minutes and writes a page of the book: see ops/interop"]
fn whole() -> Result<()> {
    ensure!(sealpost_tests::scene::allowed()?, "only root can make machines");
    let began = Instant::now();
    let rows: Vec<Row> = with_lab(&lone::KINDS, Pace::Own, lone::run)?;
    let cells = run(&Kind::ALL, &Condition::ALL)?;
    page::write(&cells, &rows, began.elapsed())?;
    judge(&cells)?;
    let late: Vec<&Row> = rows.iter().filter(|row| !row.is_in_time()).collect();
    ensure!(late.is_empty(), "too late by a pair: {late:?}");
    Ok(())
}
