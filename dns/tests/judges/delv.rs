//! `delv`, BIND's validating client, with the zone's own key as its trust anchor.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, ensure};
use domain::base::Rtype;
use sealpost_tests::name_server::{Program, Signer, skipped};

use crate::client::{Question, ask_all};
use crate::contestants::Contestant;
use crate::message::Answer;

/// How many run at the same time. Each waits for the network of loopback more than it works.
const AT_ONCE: usize = 4;
/// Most of the questions must be fit for the judge, or it would judge nothing.
const FIT_AT_LEAST: f64 = 0.9;

/// Lets `delv` validate the answers to some of the questions, evenly chosen: those which it
/// validates when a reference answers must be validated when ours does.
pub(crate) fn validate(
    signer: &Signer,
    zones: &[(String, String)],
    questions: &[Question],
    references: &[Contestant],
    ours: &Contestant,
    at_most: usize,
) -> Result<()> {
    let delv = match Program::find("delv", None) {
        Ok(delv) => delv,
        Err(error) => {
            skipped(&format!("without delv: {error:#}"));
            return Ok(());
        }
    };
    let Some(reference) = references.first() else { return Ok(()) };
    let anchors = tempfile::tempdir()?;
    let mut anchor_of = HashMap::new();
    for (at, (apex, _)) in zones.iter().enumerate() {
        let path = anchors.path().join(at.to_string());
        std::fs::write(&path, signer.anchor(apex)?)?;
        anchor_of.insert(apex.as_str(), path);
    }
    // The DS of a zone is in its parent, and delv asks there.
    let own = |question: &Question| {
        question.rtype != Rtype::DS
            || !anchor_of.contains_key(question.name.fmt_with_dot().to_string().as_str())
    };
    let questions: Vec<Question> =
        questions.iter().filter(|question| own(question)).cloned().collect();
    let fit = fit(&questions, reference)?;
    // Most are negative; a third of the chosen are not.
    let (negative, positive): (Vec<_>, Vec<_>) =
        fit.into_iter().partition(|(_, negative)| *negative);
    let evenly = |all: Vec<(_, _)>, at_most: usize| {
        let step = all.len().div_ceil(at_most.max(1)).max(1);
        all.into_iter().step_by(step)
    };
    let chosen: Vec<Asked<'_>> = evenly(positive, at_most / 3)
        .chain(evenly(negative, at_most - at_most / 3))
        .map(|(question, negative)| {
            let apex = apex_of(question, &anchor_of).context("a question outside all zones")?;
            Ok(Asked { question, negative, anchor: anchor_of[apex.as_str()].clone(), apex })
        })
        .collect::<Result<_>>()?;
    let good = ask(&delv, reference, &chosen)?;
    let validated = good.iter().filter(|said| said.is_ok()).count();
    let negative = chosen.iter().filter(|asked| asked.negative).count();
    for (asked, said) in chosen.iter().zip(&good) {
        if let Err(said) = said {
            println!("delv on {}: {}: {said}", reference.name, asked.question);
        }
    }
    println!(
        "delv validates {validated} of {} answers of {}, {negative} of them negative",
        chosen.len(),
        reference.name
    );
    ensure!(
        validated as f64 >= chosen.len() as f64 * FIT_AT_LEAST,
        "delv refuses too much of {}: {:?}",
        reference.name,
        good.iter().find_map(|said| said.as_ref().err())
    );
    let mut bogus = Vec::new();
    for ((asked, good), got) in chosen.iter().zip(good).zip(ask(&delv, ours, &chosen)?) {
        if let (Ok(()), Err(said)) = (good, got) {
            bogus.push(format!("{}: {said}", asked.question));
        }
    }
    println!("delv validates {} of {validated} answers of ours", validated - bogus.len());
    ensure!(bogus.is_empty(), "delv does not validate:\n{}", bogus.join("\n"));
    Ok(())
}

/// One question to `delv`.
struct Asked<'a> {
    question: &'a Question,
    negative: bool,
    apex: String,
    anchor: PathBuf,
}

/// The questions that end in one answer of the zone itself, and whether it is negative: `delv`
/// cannot follow a delegation or an alias to servers that are not there.
fn fit<'a>(questions: &'a [Question], server: &Contestant) -> Result<Vec<(&'a Question, bool)>> {
    let answers = ask_all(server.address, questions)?;
    let mut fit = Vec::new();
    for (question, bytes) in questions.iter().zip(answers) {
        let answer = Answer::parse(question, &bytes)?;
        let has = |rtype| answer.answer.iter().any(|record| record.rtype == rtype);
        let alias = question.rtype != Rtype::CNAME && has(Rtype::CNAME) || has(Rtype::DNAME);
        if answer.authoritative && !alias && !answer.truncated {
            fit.push((question, answer.answer.is_empty()));
        }
    }
    Ok(fit)
}

/// The longest zone name that the question ends in.
fn apex_of(question: &Question, zones: &HashMap<&str, PathBuf>) -> Option<String> {
    let suffixes = question.name.iter_suffixes();
    suffixes
        .map(|name| name.fmt_with_dot().to_string().to_ascii_lowercase())
        .find(|name| zones.contains_key(name.as_str()))
}

/// What `delv` finds wrong, in the order of the questions.
fn ask(
    delv: &Program,
    server: &Contestant,
    asked: &[Asked<'_>],
) -> Result<Vec<Result<(), String>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut said = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(asked) = asked.get(at) else { return anyhow::Ok(said) };
            said.push((at, one(delv, server, asked)?));
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(said) => said,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        anyhow::Ok(ended.collect::<Result<Vec<_>>>()?.concat())
    })?;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, said)| said).collect())
}

fn one(delv: &Program, server: &Contestant, asked: &Asked<'_>) -> Result<Result<(), String>> {
    let Question { name, rtype, .. } = asked.question;
    let output = delv
        .command()
        .arg(format!("@{}", server.address.ip()))
        .args(["-p", &server.address.port().to_string(), "-a", path(&asked.anchor)?])
        .arg(format!("+root={}", asked.apex))
        .args(["-q", &name.fmt_with_dot().to_string(), "-t", &rtype.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let wanted =
        if asked.negative { "; negative response, fully validated" } else { "; fully validated" };
    Ok(if said.contains(wanted) { Ok(()) } else { Err(said) })
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
