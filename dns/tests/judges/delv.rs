//! `delv`, BIND's validating client, with the zone's own key as its trust anchor.
//!
//! It can be asked about every answer that is the zone's own. It follows aliases itself, one question
//! each, and may so come to where nothing can be validated: then what came before must be, and it must
//! say the same of the answer of NSD or of Knot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, ensure};
use domain::base::Rtype;
use domain::base::iana::Rcode;
use sealpost_tests::name_server::{Program, Signer, skipped};

use crate::client::{Question, ask_all};
use crate::contestants::Contestant;
use crate::message::Answer;

/// Has every answer validated, if it is `all`.
const GIVEN: &str = "SEALPOST_DELV";
/// Otherwise so many: each is a process of its own.
const SAMPLE: usize = 300;
/// How many run at the same time. Each waits for the network of loopback more than it works.
const AT_ONCE: usize = 4;
/// So many questions are asked at a time: bounds the memory of the answers.
const BATCH: usize = 20_000;
/// After so many answers it is said how far it is.
const PROGRESS: usize = 2_000;
/// So many objections are shown.
const SHOWN: usize = 8;

/// Lets `delv` validate the answers to the questions, or to some of them, evenly chosen.
pub(crate) fn validate(
    signer: &Signer,
    zones: &[(String, String)],
    questions: &[Question],
    references: &[Contestant],
    ours: &Contestant,
) -> Result<()> {
    let program = match Program::find("delv", None) {
        Ok(program) => program,
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
    let (fit, unfit) = fit(questions, &anchor_of, reference)?;
    let all = std::env::var_os(GIVEN).is_some_and(|given| given == "all");
    let count = fit.len();
    let chosen = if all { fit } else { sample(fit) };
    if !all {
        skipped(&format!(
            "delv validates {} of {count} answers; {GIVEN}=all has it validate every one",
            chosen.len()
        ));
    }
    let delv = Delv { program, asked: AtomicUsize::new(0), questions: chosen.len() };
    delv.expect_refused(ours, chosen.first().context("no questions")?)?;
    let mut score = Score::default();
    let said = delv.ask_all(ours, &chosen)?;
    let (good, other): (Vec<_>, Vec<_>) =
        chosen.iter().zip(said).partition(|(asked, said)| said.outcome == asked.wanted());
    for (asked, _) in good {
        *if asked.negative { &mut score.negative } else { &mut score.positive } += 1;
    }
    let again: Vec<_> = other.iter().map(|(asked, _)| **asked).collect();
    for ((asked, said), good) in other.iter().zip(delv.ask_all(reference, &again)?) {
        let mut others = vec![(reference.name, good)];
        // What is beyond the zone's end may be another zone's denial, where they need not agree.
        for other in &references[1..] {
            if others.iter().all(|(_, good)| good.essence() != said.essence()) {
                others.push((other.name, delv.ask(other, asked)?));
            }
        }
        score.compare(asked, said, &others);
    }
    let _ = writeln!(
        std::io::stderr(),
        "delv on {} zones: {} answers, {score}; not asked: {unfit:?}",
        zones.len(),
        chosen.len(),
    );
    ensure!(score.wrong.is_empty(), "delv does not validate:\n{}", {
        score.wrong.truncate(SHOWN);
        score.wrong.join("\n")
    });
    Ok(())
}

/// One question to `delv`.
#[derive(Clone, Copy)]
struct Asked<'a> {
    question: &'a Question,
    /// An answer without records; what an alias leads to does not count.
    negative: bool,
    /// The answer begins with an alias.
    alias: bool,
    apex: &'a str,
    anchor: &'a Path,
}

impl Asked<'_> {
    fn wanted(&self) -> Outcome {
        if self.negative { Outcome::Denied } else { Outcome::Validated }
    }

    /// Whether `delv` cannot be expected to validate to the end, for this reason.
    fn may_end(&self, end: End) -> bool {
        match end {
            End::Parent => {
                let own = text(self.question) == self.apex.to_lowercase();
                self.question.rtype == Rtype::DS && (self.alias || own)
            }
            End::AliasOfDs => self.alias && self.question.rtype == Rtype::DS,
            _ => self.alias,
        }
    }
}

/// What `delv` made of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All records, and where an alias ended in a denial, this too.
    Validated,
    /// The denial.
    Denied,
    /// All records up to here.
    Until(End),
    Refused,
}

/// Where `delv` cannot go on, and not for the answer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// An alias leads to a name of no zone that is here.
    AliasToNowhere,
    /// An alias leads below a delegation to servers that do not exist.
    AliasToDelegation,
    /// An alias leads to another zone that is here, whose key `delv` does not take besides.
    AliasToOtherZone,
    /// An alias leads back to itself, or on without an end.
    EndlessAlias,
    /// DS records behind a DNAME: `delv` takes the DNAME as it is. Asked for other types of the same name
    /// it validates that.
    AliasOfDs,
    /// An alias makes a name that is too long (YXDOMAIN, RFC 6672 section 2.2).
    AliasTooLong,
    /// The DS records of a zone are its parent's, and `delv` asks there.
    Parent,
}

struct Said {
    outcome: Outcome,
    text: String,
}

impl Said {
    /// Reads what `delv` printed: before records of one trust, how they are trusted.
    fn new(text: String) -> Said {
        /// How records are trusted, by delv's source.
        const LESS: [&str; 9] = [
            "untrusted",
            "signed additional data, pending validation",
            "signed answer, pending validation",
            "unsigned additional data",
            "glue data",
            "unsigned answer",
            "answer not validated",
            "authority data",
            "authoritative",
        ];
        /// How those of zones are of which `delv` knows no key.
        const UNKNOWN: [&str; 2] = ["authoritative", "negative response, unsigned answer"];
        const NEGATIVE: &str = "negative response, ";
        const FULLY: &str = "fully validated";
        let mut trusts = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("; ")) {
            let trust = line.strip_prefix(NEGATIVE).unwrap_or(line);
            if trust == FULLY || LESS.contains(&trust) {
                trusts.push(line);
            }
        }
        let failed = text.lines().find_map(|line| line.strip_prefix(";; resolution failed: "));
        let denied = failed.is_some_and(|why| why.starts_with("ncache "));
        let outcome = match (&trusts[..], failed) {
            ([FULLY, elsewhere @ ..], _)
                if !elsewhere.is_empty()
                    && elsewhere.iter().all(|trust| UNKNOWN.contains(trust)) =>
            {
                Outcome::Until(End::AliasToOtherZone)
            }
            (["authoritative"] | ["authoritative", "negative response, unsigned answer"], _) => {
                Outcome::Until(End::AliasOfDs)
            }
            ([one], _) if *one == format!("{NEGATIVE}{FULLY}") && denied => Outcome::Denied,
            ([FULLY], None) => Outcome::Validated,
            ([FULLY], Some(_)) if denied => Outcome::Validated,
            ([FULLY], Some("quota reached")) => Outcome::Until(End::EndlessAlias),
            ([FULLY], Some("failure")) if text.contains(";; REFUSED unexpected RCODE") => {
                Outcome::Until(End::AliasToNowhere)
            }
            ([FULLY], Some("failure")) if text.contains(": non-improving referral") => {
                Outcome::Until(End::AliasToDelegation)
            }
            ([FULLY], Some("YXDOMAIN")) => Outcome::Until(End::AliasTooLong),
            ([] | [FULLY], Some("SERVFAIL")) if text.contains(";; chase DS servers") => {
                Outcome::Until(End::Parent)
            }
            _ => Outcome::Refused,
        };
        Said { outcome, text }
    }

    /// What is to be the same from two servers, at whatever port and in whatever order.
    fn essence(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.text.lines().map(str::to_lowercase).collect();
        lines.sort_unstable();
        lines
    }
}

#[derive(Default)]
struct Score {
    positive: usize,
    negative: usize,
    ends: BTreeMap<End, usize>,
    wrong: Vec<String>,
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Score { positive, negative, ends, wrong } = self;
        write!(
            f,
            "validated {positive} with records and {negative} negative, {} wrong; validated up to \
             where it ends, as of NSD or Knot: {ends:?}",
            wrong.len()
        )
    }
}

impl Score {
    /// Judges an answer of ours that was not validated to its end.
    fn compare(&mut self, asked: &Asked<'_>, said: &Said, others: &[(&str, Said)]) {
        if let Outcome::Until(end) = said.outcome
            && asked.may_end(end)
            && others.iter().any(|(_, good)| said.essence() == good.essence())
        {
            *self.ends.entry(end).or_default() += 1;
            return;
        }
        let mut text = format!("{}: {:?}\n{}", asked.question, said.outcome, said.text);
        for (name, good) in others {
            text += &format!("\nof {name}: {:?}\n{}", good.outcome, good.text);
        }
        self.wrong.push(text);
    }
}

/// The questions whose answers are the zone's own, each once, and how many of the others there are.
fn fit<'a>(
    questions: &'a [Question],
    anchor_of: &'a HashMap<&'a str, PathBuf>,
    server: &Contestant,
) -> Result<(Vec<Asked<'a>>, BTreeMap<&'static str, usize>)> {
    let mut seen = HashSet::new();
    let mut fit = Vec::new();
    let mut unfit = BTreeMap::new();
    for batch in questions.chunks(BATCH) {
        for (question, bytes) in batch.iter().zip(ask_all(server.address, batch)?) {
            if !seen.insert((text(question), question.rtype)) {
                *unfit.entry("the same again").or_default() += 1;
                continue;
            }
            let answer = Answer::parse(question, &bytes)?;
            if answer.rcode == Rcode::REFUSED {
                *unfit.entry("refused").or_default() += 1;
                continue;
            }
            if !answer.authoritative {
                ensure!(answer.is_referral(), "{question}: {}", answer.describe());
                *unfit.entry("referral").or_default() += 1;
                continue;
            }
            let has = |rtype| answer.answer.iter().any(|record| record.rtype == rtype);
            let alias = question.rtype != Rtype::CNAME && has(Rtype::CNAME) || has(Rtype::DNAME);
            let negative = answer.answer.is_empty();
            let (apex, anchor) = zone_of(question, anchor_of).context("outside all zones")?;
            fit.push(Asked { question, negative, alias, apex, anchor });
        }
    }
    Ok((fit, unfit))
}

/// Some of the questions, evenly. Most are negative; a third of the chosen are not.
fn sample(fit: Vec<Asked<'_>>) -> Vec<Asked<'_>> {
    let (negative, positive): (Vec<_>, Vec<_>) = fit.into_iter().partition(|asked| asked.negative);
    let evenly = |all: Vec<_>, at_most: usize| {
        let step = all.len().div_ceil(at_most).max(1);
        all.into_iter().step_by(step)
    };
    evenly(positive, SAMPLE / 3).chain(evenly(negative, SAMPLE - SAMPLE / 3)).collect()
}

/// The zone that answers the question, with its anchor: the DS records of a zone are its parent's, if
/// that is here.
fn zone_of<'a>(
    question: &Question,
    zones: &'a HashMap<&'a str, PathBuf>,
) -> Option<(&'a str, &'a Path)> {
    let mut found = question
        .name
        .iter_suffixes()
        .filter_map(|name| zones.get_key_value(&*name.fmt_with_dot().to_string().to_lowercase()))
        .map(|(apex, anchor)| (*apex, anchor.as_path()));
    let nearest = found.next()?;
    let of_parent = question.rtype == Rtype::DS && text(question) == nearest.0;
    if of_parent { found.next().or(Some(nearest)) } else { Some(nearest) }
}

fn text(question: &Question) -> String {
    question.name.fmt_with_dot().to_string().to_lowercase()
}

/// The program, and how far it is.
struct Delv {
    program: Program,
    asked: AtomicUsize,
    questions: usize,
}

impl Delv {
    /// What it says to each of the questions, in their order.
    fn ask_all(&self, server: &Contestant, asked: &[Asked<'_>]) -> Result<Vec<Said>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut said = Vec::new();
            loop {
                let at = next.fetch_add(1, Relaxed);
                let Some(asked) = asked.get(at) else { return anyhow::Ok(said) };
                said.push((at, self.ask(server, asked)?));
            }
        };
        let mut all = Vec::new();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                match thread.join() {
                    Ok(said) => all.extend(said?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            anyhow::Ok(())
        })?;
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, said)| said).collect())
    }

    /// It believes nothing when it is told another key than the zone's.
    fn expect_refused(&self, server: &Contestant, asked: &Asked<'_>) -> Result<()> {
        let anchor = tempfile::NamedTempFile::new()?;
        std::fs::write(&anchor, Signer::new()?.anchor(asked.apex)?)?;
        let said = self.ask(server, &Asked { anchor: anchor.path(), ..*asked })?;
        ensure!(said.outcome == Outcome::Refused, "by another key: {:?}", said.text);
        Ok(())
    }

    fn ask(&self, server: &Contestant, asked: &Asked<'_>) -> Result<Said> {
        let rtype = asked.question.rtype;
        let output = self
            .program
            .command()
            .arg(format!("@{}", server.address.ip()))
            .args(["-p", &server.address.port().to_string(), "-a"])
            .arg(asked.anchor)
            .arg(format!("+root={}", asked.apex))
            // It counts them down.
            .arg("+nottl")
            .args(["-q", &asked.question.name.fmt_with_dot().to_string(), "-t", &rtype.to_string()])
            .output()?;
        let done = self.asked.fetch_add(1, Relaxed) + 1;
        if done.is_multiple_of(PROGRESS) {
            let _ = writeln!(std::io::stderr(), "delv: {done} of {}", self.questions);
        }
        let both = [output.stdout, output.stderr].concat();
        let port = format!("#{}", server.address.port());
        Ok(Said::new(String::from_utf8_lossy(&both).replace(&port, "")))
    }
}
