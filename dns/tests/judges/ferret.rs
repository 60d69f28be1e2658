//! The cases of the Ferret data set, on whose answers BIND, NSD, Knot and PowerDNS agree. They are
//! not part of this repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use domain::base::Rtype;
use sealpost_tests::name_server::{ZoneFiles, skipped};
use serde::Deserialize;

use crate::client::{Question, ask_all};
use crate::contestants::{Contestant, ours, references};
use crate::message::Answer;
use crate::presentation;

/// Names the file with the cases.
const GIVEN: &str = "SEALPOST_FERRET";
/// Where it is looked for otherwise, from the root of the repository.
const BESIDE: &str = "../shared/data/ferret-even.jsonl.gz";
/// So many differences are shown.
const SHOWN: usize = 10;
/// The case that no correct server can pass as it stands. Its zone was once `uni.com.` with a DNAME
/// to `com.`, below which it lay itself. Its new name no longer lies there, but the answer of the
/// case still follows that chain. RFC 6672 wants the answer below.
const BROKEN: u32 = 2624;
const BROKEN_ANSWER: [&str; 2] = ["t2624. DNAME com.", "uni.uni.t2624. CNAME uni.uni.com."];

/// One case: a small zone, a question and the answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    n: u32,
    pub(crate) zone: String,
    pub(crate) qname: String,
    qtype: String,
    pub(crate) rcode: String,
    aa: bool,
    answer: Vec<String>,
    authority: Vec<String>,
}

impl Case {
    /// The zone's name.
    pub(crate) fn apex(&self) -> String {
        format!("t{}.", self.n)
    }

    /// What the case is about, by its answer.
    fn class(&self) -> &'static str {
        let has =
            |rtype: &str| self.answer.iter().any(|record| record.split(' ').nth(1) == Some(rtype));
        let own = |record: &String| {
            let owner = record.split(' ').next();
            !self.zone.lines().any(|line| line.split(' ').next() == owner)
        };
        match () {
            () if self.rcode != "NOERROR" => "NXDOMAIN and other errors",
            () if has("DNAME") => "DNAME",
            () if self.answer.iter().any(own) => "wildcard",
            () if has("CNAME") => "CNAME",
            () if !self.answer.is_empty() => "records",
            () if self.aa => "NODATA",
            () => "delegation",
        }
    }
}

/// All cases, unless they are absent, which it says loudly.
pub(crate) fn cases() -> Result<Option<Vec<Case>>> {
    let path = match std::env::var_os(GIVEN) {
        Some(given) => PathBuf::from(given),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(BESIDE),
    };
    if !path.is_file() {
        skipped(&format!(
            "the Ferret cases are not at {}; {GIVEN} may name the file",
            path.display()
        ));
        return Ok(None);
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(&path).output().context("run gzip")?;
    ensure!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let text = String::from_utf8(unpacked.stdout)?;
    let cases = text.lines().map(serde_json::from_str);
    let mut cases: Vec<Case> =
        cases.collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    if let Some(broken) = cases.iter_mut().find(|case| case.n == BROKEN) {
        skipped(&format!(
            "Ferret case {BROKEN} is judged by RFC 6672, its own answer is impossible"
        ));
        broken.answer = BROKEN_ANSWER.map(str::to_owned).into();
    }
    Ok(Some(cases))
}

#[test]
fn ferret_cases() -> Result<()> {
    let Some(cases) = cases()? else { return Ok(()) };
    let mut zones = ZoneFiles::new()?;
    for case in &cases {
        zones.add(&case.apex(), &case.zone)?;
    }
    for reference in references(&zones)? {
        let failed = judge(&reference, &cases)?;
        ensure!(failed == 0, "{} fails {failed}: the judge is wrong", reference.name);
    }
    let failed = judge(&ours(&zones)?, &cases)?;
    ensure!(failed == 0, "{failed} of {} cases are answered otherwise", cases.len());
    Ok(())
}

/// Asks all and says what differs; how many do.
fn judge(server: &Contestant, cases: &[Case]) -> Result<usize> {
    let questions = cases.iter().map(|case| {
        let (name, rtype) = (case.qname.parse()?, case.qtype.parse()?);
        Ok(Question { name, rtype, dnssec: false })
    });
    let questions = questions.collect::<Result<Vec<_>>>()?;
    let answers = ask_all(server.address, &questions)?;
    let mut classes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failed = 0;
    for ((case, question), bytes) in cases.iter().zip(&questions).zip(&answers) {
        let class = classes.entry(case.class()).or_default();
        class.1 += 1;
        let got = Answer::parse(question, bytes);
        if got.as_ref().is_ok_and(|got| matches(case, got).unwrap_or(false)) {
            class.0 += 1;
            continue;
        }
        failed += 1;
        if failed <= SHOWN {
            let got = got.map_or_else(|error| format!("{error:#}"), |got| got.describe());
            println!(
                "{}: case {} ({}), {question}\n{}  wanted: {} aa {}\n    {:#?}\n    {:#?}\n  got: {got}",
                server.name,
                case.n,
                case.class(),
                case.zone,
                case.rcode,
                case.aa,
                case.answer,
                case.authority
            );
        }
    }
    let good = cases.len() - failed;
    println!("{}: {good} of {} Ferret cases", server.name, cases.len());
    for (class, (good, all)) in classes {
        println!("  {class}: {good} of {all}");
    }
    Ok(failed)
}

fn matches(case: &Case, got: &Answer) -> Result<bool> {
    // The records of the cases have no TTL.
    let set = |records: &[String], all: bool| {
        let records = records.iter().map(|record| {
            let (owner, rest) = record.split_once(' ').context("a record without a type")?;
            presentation::record(&format!("{owner} 0 IN {rest}"))
        });
        let records = records
            .filter(|record| all || !record.as_ref().is_ok_and(|record| record.rtype == Rtype::NS));
        records.map(|record| Ok(folded(&record?))).collect::<Result<BTreeSet<String>>>()
    };
    // "NS in the authority of a positive answer does not count."
    let all = case.answer.is_empty();
    let authority = got.authority.iter().filter(|record| all || record.rtype != Rtype::NS);
    Ok(got.rcode.to_string() == case.rcode
        && got.authoritative == case.aa
        && got.answer.iter().map(folded).collect::<BTreeSet<_>>() == set(&case.answer, true)?
        && authority.map(folded).collect::<BTreeSet<_>>() == set(&case.authority, all)?)
}

/// The answers of the cases are in lower case, also texts.
fn folded(record: &presentation::Shown) -> String {
    record.without_ttl().to_ascii_lowercase()
}
